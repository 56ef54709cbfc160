"""Films: labels and margins say what is so, colours are those of the images, and the files open."""

import io
from pathlib import Path
from typing import Any

import cv2
import gymnasium
import numpy as np
import pytest
import runs
import torch
from gymnasium import spaces
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import envs
import evaluate
from agents.imagination import Dream, horizon_errors
from training.reporting import films, videos
from training.reporting.films import CLOSED, LINE, MARGIN, OPEN, PANE
from worldmodel.replay.episodes import Episode

RED = (255, 40, 40)


def a_dream(channels: int = 3, videos: int = 2, rows: int = 9, size: int = 16, context: int = 5) -> Dream:
    images = torch.rand(3, videos, rows, channels, size, size, generator=torch.Generator().manual_seed(0))
    return Dream(images[0], images[1], images[2], torch.zeros(videos, rows), torch.ones(videos, rows), context)


def images_with_red(rows: int = 6, size: int = 32) -> np.ndarray:
    """(T, 3, Y, X) uint8: 4 red pixels that move over all shades of blue and green."""
    ramp = np.linspace(0, 255, size).astype(np.uint8)
    images = np.zeros((rows, 3, size, size), np.uint8)
    images[:, 1], images[:, 2] = ramp[:, None], ramp
    for t in range(rows):
        images[t, :, 7:9, t + 5 : t + 7] = np.array(RED, np.uint8)[:, None, None]
    return images


def frames_of(content: bytes) -> list[np.ndarray]:
    """Of a PNG or GIF, (Y, X, 3) each."""
    image, frames = Image.open(io.BytesIO(content)), []
    for number in range(getattr(image, "n_frames", 1)):
        image.seek(number)
        frames.append(np.asarray(image.convert("RGB")))
    return frames


def frames_of_mp4(path: Path) -> list[np.ndarray]:
    video, frames = cv2.VideoCapture(str(path)), []
    while (read := video.read())[0]:
        frames.append(read[1][..., ::-1])
    return frames


def distance_to_red(frame: np.ndarray) -> int:
    """Of the pixel that is nearest to it; what counts is the channel that is farthest off."""
    return int(np.abs(frame.astype(int) - RED).max(-1).min())


# ---- frames ----


@pytest.mark.parametrize(("channels", "size"), [(1, 16), (3, 64), (3, 100), (1, 200)])
def test_dream_frames_show_four_columns_and_a_line_per_video(channels: int, size: int) -> None:
    frames = films.dream_frames(a_dream(channels, videos=2, rows=7, size=size))
    pane = size * max(1, round(PANE / size))
    high, wide = 2 * LINE + 2 * (pane + MARGIN), 4 * (pane + MARGIN) + MARGIN
    assert len(frames) == 7
    assert {frame.shape for frame in frames} == {(high + high % 2, wide + wide % 2, 3)}


def test_the_margin_turns_red_when_the_eyes_close() -> None:
    frames = films.dream_frames(a_dream(rows=9, context=5))
    assert [tuple(frame[-1, -1]) for frame in frames] == [OPEN] * 5 + [CLOSED] * 4


def test_the_columns_are_real_reconstruction_imagined_and_error() -> None:
    grey = [torch.full((1, 6, 1, 64, 64), value) for value in (0.2, 0.4, 0.9)]
    frame = films.dream_frames(Dream(*grey, torch.zeros(1, 6), torch.zeros(1, 6), 5))[0]
    panes = [frame[LINE : LINE + PANE, x : x + PANE] for x in range(MARGIN, 4 * (PANE + MARGIN), PANE + MARGIN)]
    assert [int(np.ptp(pane)) for pane in panes] == [0, 0, 0, 0]  # nothing is written over a picture
    assert np.allclose([pane[0, 0, 0] / 255 for pane in panes], [0.2, 0.4, 0.9, 0.7], atol=1 / 255)


def test_what_is_written_is_what_the_model_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(films, "write", lambda draw, x, y, width, text: said.append(text))
    films.dream_frames(a_dream(videos=1, rows=4, context=2), temperature=0.5)
    assert said[:4] == ["real", "reconstruction", "dream, temperature 0.5", "error"]
    assert said[4::5] == [
        "step 0   eyes open: it sees every image",
        "step 1   eyes open: it sees every image",
        "step 2   eyes closed: 1 steps from actions alone",
        "step 3   eyes closed: 2 steps from actions alone",
    ]
    said.clear()
    list(films.episode_frames(iter(images_with_red(6)), np.array([0, 1, -0.5, 0, 2, 1], np.float32), every=4))
    assert [text.split() for text in said] == [
        ["step", "0", "reward", "0", "return", "0"],
        ["step", "4", "reward", "2", "return", "2.5"],
        ["step", "5", "reward", "1", "return", "3.5"],
    ]


def test_text_fits_into_its_column() -> None:
    """Longer than any: in the smallest letters it may be cut, but not run into the next column."""
    assert all(films.font(size).getlength("dream, temperature 0.75") > 0 for size in (6, 18))
    frame = films.framed(np.zeros((1, 2, 64, 64, 3), np.uint8), ["dream, temperature 0.75", ""], "", OPEN)
    assert (frame[:LINE, MARGIN + PANE + MARGIN :] == OPEN).all()
    assert (frame[:LINE, : MARGIN + PANE] != OPEN).any()


# ---- files ----


def test_a_png_is_lossless_and_runs_for_ever() -> None:
    frames = films.dream_frames(a_dream(rows=9))
    content = films.png(frames, milliseconds=80)
    image: Any = Image.open(io.BytesIO(content))
    assert (image.format, image.n_frames, image.info["loop"], image.info["duration"]) == ("PNG", 9, 0, 80)
    assert all(np.array_equal(*pair) for pair in zip(frames_of(content), frames, strict=True))


def test_a_png_of_one_frame_is_a_picture() -> None:
    frames = films.dream_frames(a_dream(rows=1, context=1))
    assert np.array_equal(frames_of(films.png(frames))[0], frames[0])


def test_a_gif_has_all_frames_and_runs_for_ever() -> None:
    frames = films.dream_frames(a_dream(channels=1, rows=9))
    content = films.gif(frames, milliseconds=80)
    image: Any = Image.open(io.BytesIO(content))
    assert (image.format, image.n_frames, image.info["loop"], image.info["duration"]) == ("GIF", 9, 0, 80)


def test_a_gif_of_up_to_256_colours_is_exact() -> None:
    codes = np.arange(256, dtype=np.uint8).reshape(16, 16)
    frames = [np.stack([codes, codes.T, 255 - codes], -1), np.stack([codes, codes.T, 255 - codes], -1)[::-1]]
    assert all(np.array_equal(*pair) for pair in zip(frames_of(films.gif(frames)), frames, strict=True))


def test_a_gif_of_many_colours_loses_no_small_object() -> None:
    frames = list(films.episode_frames(iter(images_with_red()), np.zeros(6, np.float32)))
    assert len(np.unique(films.packed(np.stack(frames)))) > 900
    for frame, shown in zip(frames, frames_of(films.gif(frames)), strict=True):
        assert distance_to_red(shown) <= 8
        assert np.abs(frame.astype(int) - shown).max() <= 16


def test_a_gif_of_very_many_colours_takes_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The palette is then chosen among groups of colours that are nearly the same."""
    monkeypatch.setattr(films, "MOST", 100)
    frames = list(films.episode_frames(iter(images_with_red()), np.zeros(6, np.float32)))
    assert all(distance_to_red(shown) <= 8 for shown in frames_of(films.gif(frames)))


def test_an_mp4_loses_no_small_object(tmp_path: Path) -> None:
    frames = list(films.episode_frames(iter(images_with_red()), np.zeros(6, np.float32), videos.PANE))
    content = films.mp4(iter(frames))
    assert content is not None, "OpenCV cannot write VP9 here"
    (tmp_path / "film.mp4").write_bytes(content)
    shown = frames_of_mp4(tmp_path / "film.mp4")
    assert len(shown) == 6 and {frame.shape for frame in shown} == {frames[0].shape}
    assert all(distance_to_red(frame) <= 8 for frame in shown)


def test_without_an_encoder_there_is_no_mp4(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2.VideoWriter, "fourcc", lambda *letters: cv2.VideoWriter_fourcc(*"none"))
    assert films.mp4(films.episode_frames(iter(images_with_red()), np.zeros(6, np.float32))) is None


def test_horizon_errors_by_hand() -> None:
    """Context 2 of 4 rows, 2 videos: image errors are squares over videos and pixels, reward errors sizes."""
    real = torch.zeros(2, 4, 1, 1, 2)
    imagined = real.clone()
    imagined[:, :2] = 100  # while looking: not counted
    imagined[0, 2, 0, 0] = torch.tensor([1.0, 2.0])  # (1 + 4 + 0 + 9) / 4
    imagined[1, 2, 0, 0] = torch.tensor([0.0, -3.0])
    imagined[1, 3, 0, 0] = torch.tensor([2.0, 2.0])  # (0 + 0 + 4 + 4) / 4
    reward = torch.tensor([[0.0, 0, 1, 2], [0, 0, 1, 2]])
    dreamt = torch.tensor([[9.0, 9, 2, 2], [9, 9, -2, 1]])
    image, rewards = horizon_errors(Dream(real, real, imagined, reward, dreamt, 2))
    assert image == [3.5, 2.0]
    assert rewards == [2.0, 0.5]


# ---- every film that the program writes ----


class SmallRed(gymnasium.Env):
    """4 red pixels on a picture of many colours."""

    observation_space = spaces.Box(0, 255, (16, 16, 3), np.uint8)
    action_space = spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.steps, self.seen = 0, images_with_red(rows=6, size=16).transpose(0, 2, 3, 1)
        self.unlucky = self.np_random.random() if repeats else np.random.default_rng().random()
        return self.seen[0], {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.steps += 1
        return self.seen[self.steps], self.unlucky, self.steps == 5, False, {}


repeats = True  # whether SmallRed's rewards are a function of the seed


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    gymnasium.register("SmallRed-v0", entry_point=SmallRed)
    folder = tmp_path_factory.mktemp("films")
    env = ("env=gym", "env.id=SmallRed-v0", "env.size=[16,16]", "env.action_repeat=1", "env.num_envs=1")
    assert runs.go(folder, *env, "train.env_steps=20") == 0
    return folder / "r"


def test_films_of_a_run_show_true_colours(run: Path) -> None:
    events = EventAccumulator(str(run), size_guidance={"images": 0}).Reload()
    for name in ("dream", "episode"):
        kept = (run / f"{name}.png").read_bytes()
        shown = [event.encoded_image_string for event in events.Images(f"evaluate/rollout/{name}")]
        assert shown[-1] == kept
        for content in shown:
            assert all(distance_to_red(frame) == 0 for frame in frames_of(content))


def test_films_of_an_evaluation_show_true_colours(run: Path) -> None:
    assert evaluate.main([str(run), "--device", "cpu", "--episodes", "1", "--video"]) == 0
    shown = frames_of_mp4(run / "videos" / "episode-0.mp4")
    assert len(shown) == 6 and min(shown[0].shape[:2]) >= videos.PANE
    assert all(distance_to_red(frame) <= 8 for frame in shown)
    dreamt = frames_of((run / "videos" / "dream.png").read_bytes())
    assert len(dreamt) == 6 and all(distance_to_red(frame) == 0 for frame in dreamt)


def test_an_episode_that_is_not_repeated_is_shown_as_the_agent_saw_it(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(globals(), "repeats", False)
    assert evaluate.main([str(run), "--device", "cpu", "--episodes", "1", "--video"]) == 0
    said = capsys.readouterr().out
    assert "episode 0 is shown as the agent saw it: the environment does not repeat itself for the same seed" in said
    assert len(frames_of_mp4(run / "videos" / "episode-0.mp4")) == 6


@pytest.mark.parametrize(("size", "wanted"), [((16, 16), (256, 256)), ((64, 96), (256, 384)), ((300, 300), (300, 300)),
                                              ((16, 1024), (16, 1024)), ((50, 500), (100, 1000))])  # fmt: skip
def test_the_size_that_a_renderer_is_asked_for(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    config = runs.composed(*runs.TINY, f"env.size=[{size[0]},{size[1]}]").env
    assert videos.drawn_larger(config).size == wanted


def test_an_episode_is_drawn_anew_and_larger() -> None:
    """The dot of a replayed episode is where it was."""
    config = runs.composed(*runs.TINY).env
    vector = envs.vector(config)
    images, rewards, actions = [vector.reset({0: 3})[0]], [0.0], np.full((6, 2), 0.5, np.float32)
    for action in actions[1:]:
        image, reward, *_ = vector.step(action[None])
        images, rewards = [*images, image[0]], [*rewards, float(reward[0])]
    episode = Episode(np.stack(images), actions, np.array(rewards, np.float32), np.zeros(6, bool))
    larger = list(videos.replayed(videos.drawn_larger(config), 3, episode))
    assert [image.shape for image in larger] == [(3, 256, 256)] * 6
    for small, large in zip(episode.image, larger, strict=True):
        y, x = np.unravel_index(small[0].argmax(), (16, 16))
        assert large[0, 16 * y : 16 * y + 16, 16 * x : 16 * x + 16].max() > 240

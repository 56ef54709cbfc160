"""Pictures: what the colours say is so, the files open, and TensorBoard gets what the docs promise."""

import io
from pathlib import Path

import numpy as np
import pytest
import runs
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents.imagination import Dream, horizon_errors
from training import pictures
from training.run import Run
from training.tensorboard import tag_of
from worldmodel.base import Spec

GREEN, RED = ([round(255 * part) for part in colour] for colour in (pictures.OPEN, pictures.CLOSED))


def opened(path: Path) -> tuple[str | None, tuple[int, int], int]:
    """Format, size and number of frames of a picture."""
    with Image.open(path) as image:
        return image.format, image.size, getattr(image, "n_frames", 1)


def a_dream(channels: int = 3, videos: int = 2, rows: int = 9, size: int = 16, context: int = 5) -> Dream:
    images = torch.rand(3, videos, rows, channels, size, size, generator=torch.Generator().manual_seed(0))
    return Dream(images[0], images[1], images[2], torch.zeros(videos, rows), torch.ones(videos, rows), context)


@pytest.mark.parametrize(("channels", "size"), [(1, 16), (3, 64), (3, 100), (1, 200)])
def test_dream_frames_show_four_columns_and_a_line_per_video(channels: int, size: int) -> None:
    frames = pictures.dream_frames(a_dream(channels, videos=2, rows=7, size=size))
    pane = size * max(1, round(pictures.MIN_FRAME / size))
    wanted = (2 * (pane + pictures.MARGIN) + pictures.MARGIN, 4 * (pane + pictures.MARGIN) + pictures.MARGIN, 3)
    assert len(frames) == 7
    assert {(frame.shape, frame.dtype) for frame in frames} == {(wanted, np.dtype(np.uint8))}


def test_the_margin_turns_red_when_the_eyes_close() -> None:
    frames = pictures.dream_frames(a_dream(rows=9, context=5))
    corners = [frame[0, 0].tolist() for frame in frames]
    assert corners == [GREEN] * 5 + [RED] * 4


def test_without_context_the_margin_stays_green() -> None:
    frames = pictures.video_frames([a_dream().real])
    assert all(frame[0, 0].tolist() == GREEN for frame in frames)


def test_the_columns_are_real_reconstruction_imagined_and_error() -> None:
    grey = [torch.full((1, 6, 1, 48, 48), value) for value in (0.2, 0.4, 0.9)]
    frame = pictures.dream_frames(Dream(*grey, torch.zeros(1, 6), torch.zeros(1, 6), 5))[0]
    inside, step = pictures.MARGIN + 10, 96 + pictures.MARGIN
    shown = [frame[inside, inside + column * step, 0] / 255 for column in range(4)]
    assert np.allclose(shown, [0.2, 0.4, 0.9, 0.7], atol=1 / 255)


def test_a_black_picture_is_not_taken_for_the_margin() -> None:
    frame = pictures.video_frames([torch.zeros(1, 1, 3, 16, 16)])[0]
    assert (frame[pictures.MARGIN : -pictures.MARGIN, pictures.MARGIN : -pictures.MARGIN] == 0).all()


def test_a_gif_has_all_frames_and_runs_for_ever() -> None:
    content = pictures.gif(pictures.dream_frames(a_dream(rows=9)), milliseconds=80)
    image = Image.open(io.BytesIO(content))
    assert (image.format, image.n_frames, image.info["loop"], image.info["duration"]) == ("GIF", 9, 0, 80)
    image.seek(8)
    corner = image.convert("RGB").getpixel((0, 0))
    assert np.abs(np.subtract(corner, RED)).max() < 30  # of 128 colours


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


@pytest.mark.parametrize("rows", [[], [{"step": 5, "collect/return": -1.0}], [{"step": 5, "learn/model/loss": 1.0}]])
def test_a_curve_can_be_drawn_at_any_time(tmp_path: Path, rows: list[dict[str, float]]) -> None:
    pictures.curve(tmp_path / "curve.png", rows, "a run")
    assert opened(tmp_path / "curve.png") == ("PNG", (840, 480), 1)


# ---- a whole run ----

SCALARS = [
    "learn/model/loss", "learn/model/loss_image", "learn/model/loss_reward", "learn/model/loss_kl", "learn/model/kl",
    "learn/model/entropy_prior", "learn/model/entropy_posterior", "learn/model/gradient_norm",
    "learn/model/reward_mae", "learn/model/skipped",
    "collect/return", "collect/episode_length", "collect/planned_return", "collect/obtained_return",
    "collect/planned_minus_obtained", "evaluate/return", "evaluate/ci95", "evaluate/episode_length", "evaluate/act_ms",
    "evaluate/planned_return", "evaluate/obtained_return", "evaluate/planned_minus_obtained",
    "dream/image_mse_01", "dream/reward_mae_01", "dream/image_mse_05", "dream/reward_mae_05",
    "seconds/collect", "seconds/learn", "seconds/render", "seconds/wall_clock", "seconds/cpu",
    "rate/updates_per_second",
    "count/env_steps", "count/agent_steps", "count/episodes", "count/updates",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    assert (
        runs.go(folder, "env.time_limit=12", "train.env_steps=60", "train.eval_every=2", "train.eval_episodes=2") == 0
    )
    return folder / "r"


@pytest.fixture(scope="module")
def events(run: Path) -> EventAccumulator:
    return EventAccumulator(str(run), size_guidance={"scalars": 0, "images": 0, "tensors": 0}).Reload()


def test_tensorboard_has_every_curve(events: EventAccumulator, run: Path) -> None:
    tags = [tag_of(name) for name in SCALARS]
    assert set(tags) <= set(events.Tags()["scalars"])
    for name, tag in zip(SCALARS, tags, strict=True):
        written = [(event.step, pytest.approx(event.value)) for event in events.Scalars(tag)]
        assert written == [(step, value) for step, found, value in runs.logged(run, name) if found == name]
        if not tag.startswith("run/"):
            rows = [row for row in Run.read(run).metrics.history() if name in row]
            over_updates = [(event.step, pytest.approx(event.value)) for event in events.Scalars(f"over_updates/{tag}")]
            assert over_updates == [(row["updates"], row[name]) for row in rows]


def test_losses_add_up(events: EventAccumulator) -> None:
    """The parts, weighted as in the config (10 for the reward), are the whole."""
    parts = [
        [event.value for event in events.Scalars(f"learn/model/loss{part}")]
        for part in ("", "_image", "_reward", "_kl")
    ]
    assert np.allclose(parts[0], np.sum(parts[1:], 0), rtol=1e-4)


def test_tensorboard_has_dreams_that_move(events: EventAccumulator) -> None:
    dreams = events.Images("evaluate/dream")
    assert [event.step for event in dreams] == [24, 48, 60]
    for event in dreams:
        image = Image.open(io.BytesIO(event.encoded_image_string))
        assert (image.format, image.n_frames) == ("GIF", 13)
        assert image.size == (event.width, event.height)


def test_the_run_has_pictures_to_open(run: Path) -> None:
    assert opened(run / "curve.png") == ("PNG", (840, 480), 1)
    kind, _, frames = opened(run / "dream.gif")
    assert (kind, frames) == ("GIF", 13)


def test_tensorboard_shows_no_overlap_after_a_crash(tmp_path: Path) -> None:
    """What was logged after the checkpoint that is resumed is purged: one value per step."""
    made = Run.create(tmp_path / "r", {"seed": 0, "plugins": []}, Spec((1, 4, 4), 2, False), "cpu")
    sizes = {}
    for step in range(0, 50, 10):
        made.metrics.log(step, 1000 * step, {"learn/a": float(step)})
        sizes[step] = made.metrics.size(), made.metrics.tensorboard.sizes()
    made.close()
    again = Run.read(tmp_path / "r")
    again.metrics.rewind(*sizes[20], 20)
    for step in (30, 40):
        again.metrics.log(step, 1000 * step, {"learn/a": -float(step)})
    again.close()
    assert [row["learn/a"] for row in again.metrics.history()] == [0, 10, 20, -30, -40]
    events = EventAccumulator(str(tmp_path / "r")).Reload()
    for tag, scale in (("learn/a", 1), ("over_updates/learn/a", 1000)):
        points = [(event.step, event.value) for event in events.Scalars(tag)]
        assert points == list(zip(np.arange(5) * 10 * scale, [0, 10, 20, -30, -40], strict=True))


def test_a_run_of_an_earlier_version_is_resumed_without_overlap(tmp_path: Path) -> None:
    """Its checkpoints do not say how long TensorBoard's files were: points after their step are replaced."""
    made = Run.create(tmp_path / "r", {"seed": 0, "plugins": []}, Spec((1, 4, 4), 2, False), "cpu")
    for step in range(0, 50, 10):
        made.metrics.log(step, step, {"learn/a": float(step)})
    size = made.metrics.size()
    made.close()
    (tmp_path / "r" / "by_updates").mkdir()  # earlier versions had the curves over updates there
    again = Run.read(tmp_path / "r")
    again.metrics.rewind(size, None, 20)
    again.metrics.log(30, 30, {"learn/a": -30.0})
    again.close()
    points = EventAccumulator(str(tmp_path / "r")).Reload().Scalars("learn/a")
    assert [(event.step, event.value) for event in points] == [(0, 0), (10, 10), (20, 20), (30, -30)]
    assert list((tmp_path / "r" / "by_updates").iterdir()) == []

"""Curves can be drawn at any time, and TensorBoard gets what the docs promise."""

import io
from pathlib import Path

import numpy as np
import pytest
import runs
import yaml
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from training.reporting import pictures
from training.reporting.tensorboard import tag_of
from training.run_folder.run import Run
from worldmodel.base import Spec


def opened(path: Path) -> tuple[str | None, tuple[int, int], int]:
    """Format, size and number of frames of a picture."""
    with Image.open(path) as image:
        return image.format, image.size, getattr(image, "n_frames", 1)


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
    "rate/updates_per_second", "rate/env_steps_per_second",
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


def test_tensorboard_has_films(events: EventAccumulator) -> None:
    for name, frames in (("dream", 13), ("episode", 13)):
        shown = events.Images(f"evaluate/rollout/{name}")
        assert [event.step for event in shown] == [24, 48, 60]
        for event in shown:
            image = Image.open(io.BytesIO(event.encoded_image_string))
            assert (image.format, image.n_frames) == ("PNG", frames)  # type: ignore[attr-defined]
            assert image.size == (event.width, event.height)


def test_tensorboard_opens_on_what_matters(events: EventAccumulator, run: Path) -> None:
    """Groups in the page's order, by name: it opens the first two. A run is one entry."""
    tags = [tag for kind in ("scalars", "images", "histograms") for tag in events.Tags()[kind]]
    assert sorted({tag.partition("/")[0] for tag in tags}) == ["evaluate", "learn", "over_updates", "run"]
    first = sorted(tag for tag in tags if tag.startswith("evaluate/"))
    assert first == [f"evaluate/{name}" for name in
                     ("return", "rollout/dream", "rollout/episode", "value/obtained_return",
                      "value/planned_minus_obtained", "value/planned_return")]  # fmt: skip
    assert {path.parent for path in run.rglob("events.out.*")} == {run}


def test_tensorboard_has_actions_config_and_hyper_parameters(events: EventAccumulator, run: Path) -> None:
    for prefix in ("collect", "evaluate"):
        for number in range(2):
            for event in events.Histograms(f"run/{prefix}/actions/{number}"):
                value = event.histogram_value
                assert -1 <= value.min <= value.max <= 1 and value.num >= 12
    text = events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert yaml.safe_load(text) == yaml.safe_load((run / "config.yaml").read_text())
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    found = HParamsPluginData.FromString(content).session_start_info.hparams
    assert found["actor.horizon"].number_value == 3 and found["actor.name"].string_value == "cem"
    content = events.SummaryMetadata("_hparams_/experiment").plugin_data.content
    scores = [info.name.tag for info in HParamsPluginData.FromString(content).experiment.metric_infos]
    assert scores[0] == "evaluate/return" and set(scores) <= set(events.Tags()["scalars"])


def test_the_run_has_pictures_to_open(run: Path) -> None:
    assert opened(run / "curve.png") == ("PNG", (840, 480), 1)
    for name in ("dream.png", "episode.png"):
        kind, _, frames = opened(run / name)
        assert (kind, frames) == ("PNG", 13)


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

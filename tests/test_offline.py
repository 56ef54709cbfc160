"""A run learns from recordings of any project, and a run's replay becomes recordings of others."""

from pathlib import Path

import layouts
import numpy as np
import pytest
import runs

from training import recordings
from training.configuration.components import ROOT
from training.run_folder.run import Run
from worldmodel.base import ConfigError
from worldmodel.replay.layouts import LAYOUTS
from worldmodel.replay.recorded import Options, read

SMALL = [word for word in runs.TINY if word.startswith(("model.", "replay.", "agent."))]
OFFLINE = ["exp=offline", "model=rssm_tiny", "actor=cem_tiny", *SMALL, "train.learn.model={updates: 2, eval_every: 2}"]


def trained(folder: Path, *words: str) -> Run:
    assert runs.go(folder, *words, recipe=OFFLINE) == 0
    return Run.read(folder / "r")


@pytest.mark.slow
@pytest.mark.parametrize("writer", layouts.WRITERS)
def test_every_layout_teaches(writer: str, tmp_path: Path) -> None:
    layouts.WRITERS[writer](tmp_path / "data")
    run = trained(
        tmp_path, f"data={tmp_path / 'data'}", "data_size=[16,16]", "data_gray=true", "model.continue_weight=1"
    )
    assert run.spec.image_shape == (1, 16, 16) and runs.digests(tmp_path / "r")["updates"] == 2
    losses = {name: value for _, name, value in runs.logged(tmp_path / "r")}
    assert losses["learn/model/loss_continue"] > 0 and np.isfinite(list(losses.values())).all()


def test_what_is_found_and_what_is_not_learned_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layouts.dreamer_v2(tmp_path / "data")
    trained(tmp_path, f"data={tmp_path / 'data'}", "data_size=[16,16]")
    said = capsys.readouterr().out
    assert (
        "is read as dreamer_v2, because of the names of files and arrays, and first rows are zero: action[t] led"
        in said
    )
    assert "resized from 32 x 32 to 16 x 16" in said
    assert "2 of 4 episodes end in a terminal, which is not learned: add model.continue_weight=1" in said


def test_pictures_that_speak_against_a_layout_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files that claim to be PlaNet's by their names and zero rows, with actions that were taken at their image."""
    for number, episode in enumerate(layouts.dots(-1)):
        episode.action[0] = 0
        layouts.save(tmp_path / "data" / f"20190803T120000-{number:032x}.npz", **episode._asdict())
    trained(tmp_path, f"data={tmp_path / 'data'}", "data_size=[16,16]")
    said = capsys.readouterr().out
    assert "is read as planet" in said and "the pictures speak against that: of the actions" in said
    trained(tmp_path / "named", f"data={tmp_path / 'data'}", "data_size=[16,16]", "data_layout=action_follows_image")
    assert "speak against" not in capsys.readouterr().out


def refused(*words: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        runs.composed(*words, "runs=nowhere")
    return caught.value.lines


def test_keys_that_would_do_nothing_are_refused_all_at_once() -> None:
    lines = refused("data=F", "env.size=[32,32]", "env.gray=true", "env.num_envs=2", "data_layout=planett", "seed=-1")
    assert lines[:3] == [
        "env.size: there is no environment. Images of recordings: data_size=[32,32]",
        "env.gray: there is no environment. Images of recordings: data_gray=true",
        "env.num_envs: recorded episodes need no environment: leave it out, or choose one by env=...",
    ]
    assert len(lines) == 5 and lines[3].startswith("seed: ")
    assert lines[4].startswith("data_layout: choose one of ") and lines[4].endswith(
        "did you mean 'planet'?, not 'planett'"
    )
    assert refused("exp=smoke", "data_size=[32,32]") == [
        "data_layout, data_size, data_gray: there are no recordings: name some, data=..."
    ]
    assert refused("data=F", "data_size=[2,32]") == ["data_size.0: input should be greater than or equal to 4, not 2"]


def test_images_that_do_not_fit_say_what_to_type(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layouts.planet(tmp_path / "data")
    data = f"data={tmp_path / 'data'}"
    assert runs.go(tmp_path, data, "model=rssm", recipe=["exp=offline"]) == 2
    assert "error: data_size: images of 32x32 pixels are too small" in capsys.readouterr().err
    assert runs.go(tmp_path, data, "env=dot", "env.size=[16,16]", recipe=OFFLINE) == 1
    assert capsys.readouterr().err.rstrip().endswith(": add data_size=[16,16] data_gray=true")
    assert not (tmp_path / "r").exists()


@pytest.fixture(scope="module", params=["episodes", "steps"])
def collected(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose replay has whole episodes, or pieces of those of two environments, cut by saves."""
    words = ["train.collect.unit=steps", "train.prefill=12", "train.collect.per_round=6", "train.save_every=7",
             "env.num_envs=2"] if request.param == "steps" else []  # fmt: skip
    folder = tmp_path_factory.mktemp(request.param)
    assert runs.go(folder, *words, "train.eval_every=1000") == 0
    return folder / "r"


@pytest.mark.parametrize("form", ["dreamer_v2", "minari"])
def test_a_replay_is_written_and_read_back(
    form: str, collected: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "dot-v0"
    assert recordings.main([str(collected), str(out), "--format", form]) == 0
    assert "read back equal" in capsys.readouterr().out
    run = Run.read(collected)
    ours = list(run.episodes(run.newest()))
    assert [one.digest() for one in read(out)] == [one.digest() for one in ours]
    assert read(out, Options(None if form == "minari" else form)).layout.name == form
    # whole episodes of 5 decisions, also where saves have cut them; only those that were open at the end are shorter
    rows = [len(episode.reward) for episode in ours]
    assert max(rows) == 6 and sum(row != 6 for row in rows) <= 2 and len(rows) > 10
    assert recordings.main([str(collected), str(out)]) == 1
    assert "is not empty" in capsys.readouterr().err


def test_the_page_lists_every_layout() -> None:
    page = (ROOT / "docs" / "recordings.md").read_text("utf8")
    assert all(f"`{name}`" in page for name in LAYOUTS)

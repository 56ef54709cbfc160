"""A run survives its simulator: episodes that fail are dropped, counted and told; too many in a row end it, saved, and
resuming does not meet the same seeds again. What is suspicious is told once. Episodes may have any length.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bad_envs
import gymnasium
import numpy as np
import pytest
import runs
import tiny
from gymnasium import spaces
from test_collector import collector, gather, planner
from test_rollout import Actor

from training.collecting import rollout
from training.collecting.watch import Watch
from training.reporting import pictures
from training.run_folder.run import Run
from worldmodel.replay.episodes import Episode

BY = {"episodes": [], "steps": ["train.collect.unit=steps", "train.collect.per_round=8", "train.prefill=10"]}


class Flaky(bad_envs.Odd):
    """Fails at step 3 for some seeds."""

    fails: Callable[[int], bool] = staticmethod(lambda seed: False)
    seeds: list[int] = []  # noqa: RUF012 - of all episodes that began

    def reset(self, **options: Any) -> Any:
        self.seeds.append(options["seed"] or 0)
        return super().reset(**options)

    def step(self, action: Any) -> Any:
        if self.steps == 2 and self.fails(self.seeds[-1]):
            raise RuntimeError("physics state is invalid")
        return super().step(action)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "curves", lambda *_: None)
    monkeypatch.setattr(Flaky, "seeds", [])
    for name, kwargs in {"Flaky": dict(length=6), "Endless": dict(length=10**9)}.items():
        gymnasium.registry.pop(f"{name}-v0", None)
        gymnasium.register(f"{name}-v0", entry_point=Flaky, kwargs=kwargs)


def go(folder: Path, *words: str, name: str = "Flaky", **options: Any) -> int:
    recipe = [word for word in runs.TINY if not word.startswith("env.")]
    chosen = ["env=gym", f"env.id={name}-v0", "env.size=[16,16]"]
    return runs.go(folder, *chosen, *words, recipe=recipe, **options)


def counted(folder: Path) -> dict[str, Any]:
    return Run.read(folder / "r").newest().state["counters"]


@pytest.mark.parametrize("envs", [1, 2])
@pytest.mark.parametrize("unit", BY)
def test_a_failing_episode_is_dropped_counted_and_told(
    tmp_path: Path, unit: str, envs: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Flaky, "fails", staticmethod(lambda seed: seed % 3 == 0))
    assert go(tmp_path, f"env.num_envs={envs}", *BY[unit]) == 0
    out = capsys.readouterr().out
    found = counted(tmp_path)
    told = out.count("warning: an episode is dropped: Flaky-v0")
    assert found["env_steps"] >= 60 and found["failed_episodes"] > 0
    assert told >= found["failed_episodes"] and "RuntimeError: physics state is invalid" in out  # evaluations have some
    newest = Run.read(tmp_path / "r").newest()
    lengths = [len(episode.reward) for episode in Run.read(tmp_path / "r").episodes(newest)]
    assert sum(lengths) == found["agent_steps"] + sum(not chunk.continuation for chunk in newest.chunks)
    if unit == "episodes":
        assert lengths == [7] * found["episodes"]  # whole ones only


@pytest.mark.parametrize("unit", BY)
def test_too_many_in_a_row_end_the_run_and_resuming_takes_other_seeds(
    tmp_path: Path, unit: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = [False]
    monkeypatch.setattr(Flaky, "fails", staticmethod(lambda seed: broken[0]))
    words = ["train.max_failures=3", "train.env_steps=30", *BY[unit]]
    assert go(tmp_path, *words) == 0
    saved = counted(tmp_path)
    broken[0] = True
    Flaky.seeds.clear()
    words[1] = "train.env_steps=90"
    assert go(tmp_path, *words) == 1
    assert "3 episodes in a row have failed (train.max_failures)" in capsys.readouterr().err
    found, tried = counted(tmp_path), set(Flaky.seeds[-3:])
    assert found["failed_episodes"] > saved["failed_episodes"] and len(tried) == 3
    assert found["env_steps"] >= saved["env_steps"]
    broken[0] = False
    Flaky.seeds.clear()
    assert go(tmp_path, *words) == 0
    assert counted(tmp_path)["env_steps"] >= 90
    assert not tried & set(Flaky.seeds)


@pytest.mark.slow
def test_an_interrupted_round_fails_in_the_same_way_after_resuming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Flaky, "fails", staticmethod(lambda seed: seed % 3 == 0))
    assert go(tmp_path / "whole") == 0
    question, code = 0, 143
    while code == 143:
        question += 7
        code = go(tmp_path / "pieces", stop=runs.StopAt(question))
    assert code == 0 and question > 14
    assert runs.digests(tmp_path / "pieces" / "r") == runs.digests(tmp_path / "whole" / "r")


class Fails(tiny.Worlds):
    """Of episodes with these seeds, the second step fails."""

    def __init__(self, count: int, bad: set[int], length: int = 4) -> None:
        super().__init__(count, lambda seed, step, action: 10 * seed + step, lambda seed, *_: seed, lambda seed: length)
        self.bad = bad

    def reset(self, seeds: dict[int, int]) -> np.ndarray:
        self.failed = {}
        return super().reset(seeds)

    def step(self, actions: np.ndarray) -> Any:
        self.failed = {
            row: "lost"
            for row in range(self.num_envs)
            if self.live[row] and self.seed[row] in self.bad and self.clock[row] == 1
        }
        for row in self.failed:
            self.live[row] = False
        return super().step(actions)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_another_seed_takes_the_place_of_one_that_fails(count: int) -> None:
    envs = Fails(count, {1, 3, 20})
    results, _ = rollout.rollout(Actor().act, envs, range(4), "evaluate", another=lambda number: 20 + number)
    seeds = [int(result.episode.reward[1]) for result in results]
    assert [seeds[0], seeds[2]] == [0, 2] and sorted([seeds[1], seeds[3]]) == [21, 22]
    for seed, result in zip(seeds, results):
        assert result.episode.image[:, 0, 0, 0].tolist() == [(10 * seed + t) % 256 for t in range(5)]


def test_collecting_by_steps_drops_the_rows_of_an_episode_that_fails() -> None:
    who = collector(Fails(2, {1, 2}))
    rows, ended = gather(who, planner(), [3, 4, 4])
    for row in rows:
        seeds, steps = np.divmod(row.episode.image[:, 0, 0, 0], 10)
        assert len(set(seeds)) == 1 and (seeds[0] not in (1, 2) or steps.max() <= 1)  # handed over before it failed
    assert who.started >= 5 and not ended[0].episode.terminal.any()


def test_an_endless_environment_is_learned_from_by_steps_and_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rollout, "UNKNOWN_LIMIT", 12)
    monkeypatch.setattr("training.evaluation.UNKNOWN_LIMIT", 12)
    assert go(tmp_path, *BY["steps"], name="Endless") == 0
    out = capsys.readouterr().out
    assert counted(tmp_path)["episodes"] == 0 and counted(tmp_path)["updates"] > 0
    assert out.count("warning: Endless-v0: no time limit is known") == 1 and "env.time_limit=1000" in out
    assert "warning: evaluated episodes are cut after 12 decisions: set env.time_limit" in out


def test_whole_episodes_of_an_endless_environment_are_cut_where_replay_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("training.collecting.watch.LONG", 15)
    monkeypatch.setattr(rollout, "UNKNOWN_LIMIT", 12)
    assert go(tmp_path, "replay.capacity=30", name="Endless") == 0
    out = capsys.readouterr().out
    assert "nothing is learned before one has: train.collect.unit=steps, or env.time_limit=1000" in out
    assert out.count("warning: Endless-v0: an episode is 15 decisions long, and nothing is learned") == 1
    assert out.count("warning: Endless-v0: an episode is cut after 29 decisions, which fill replay") == 1
    assert counted(tmp_path)["agent_steps"] == 29 * counted(tmp_path)["episodes"] > 0


def test_an_episode_longer_than_anyone_said_finds_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The room is what the config allows; estimates from a declared limit are none."""
    gymnasium.registry.pop("Flaky-v0", None)
    gymnasium.register("Flaky-v0", entry_point=Flaky, kwargs=dict(length=1100))
    quick = ["actor.horizon=1", "actor.iterations=1", "actor.candidates=2", "actor.elites=1", "train.eval_every=99"]
    assert go(tmp_path, "train.prefill=1", "train.env_steps=1100", "replay.capacity=500000", *quick) == 0
    assert counted(tmp_path)["agent_steps"] == 1100


# ---- what is suspicious ----


def rows(length: int = 8, seed: int = 0, **changes: Any) -> Episode:
    return tiny.episode(length, seed=seed)._replace(**changes)


def watched(*episodes: Episode, words: tuple[str, ...] = (), pieces: int = 100) -> list[str]:
    """What is said of some episodes, given in pieces of so many rows."""
    told: list[str] = []
    watch = Watch(runs.composed(*runs.TINY, *words), None, told.append)
    for episode in episodes:
        for begin in range(0, len(episode.reward), pieces):
            watch.rows(0, Episode(*(part[begin : begin + pieces] for part in episode)), begin > 0)
    watch.end(0)
    return told


BLACK, SAME = np.zeros((9, 1, 16, 16), np.uint8), np.full((9, 1, 16, 16), 7, np.uint8)
LARGE, DEAD = np.full(9, 2e3, np.float32), np.arange(9) == 8
SUSPICIOUS: dict[str, tuple[dict[str, Any], tuple[str, ...], str]] = {
    "black": (dict(image=BLACK), (), "all images are black in an episode"),
    "still": (dict(image=SAME), (), "the image never changes in an episode"),
    "large": (dict(reward=LARGE), (), "rewards are as large as 2000.*: model.reward_divisor=10000$"),
    "death": (dict(terminal=DEAD), (), "no continue head.*: model.continue_weight=1, in a new run"),
}


@pytest.mark.parametrize("pieces", [1, 2, 100])
@pytest.mark.parametrize("case", SUSPICIOUS)
def test_what_is_suspicious_is_told_once_with_the_key_to_set(case: str, pieces: int) -> None:
    changes, words, message = SUSPICIOUS[case]
    odd = [rows(seed=seed, **changes) for seed in range(3)]
    told = watched(rows(seed=9), *odd, words=words, pieces=pieces)
    assert len(told) == 1 and told[0].startswith("warning: dot: ") and "\n" not in told[0]
    assert re.search(message, told[0])


def test_what_is_usual_is_not_told() -> None:
    usual = [rows(seed=seed) for seed in range(9)]
    assert watched(*usual) == []
    assert watched(rows(reward=LARGE), words=("model.reward_divisor=1000",)) == []
    assert watched(rows(terminal=DEAD), words=("model.continue_weight=1",)) == []
    assert watched(rows(2, image=BLACK[:3]), rows(2, image=SAME[:3])) == []  # too short to say


def test_a_seed_that_changes_nothing_is_told() -> None:
    start = rows().image[0]
    alike = [rows(seed=seed, image=np.concatenate([start[None], rows(seed=seed).image[1:]])) for seed in range(7)]
    assert [line for line in watched(*alike) if "begins with the same image, whatever the seed" in line]
    assert watched(*alike[:4]) == [] and watched(*alike[:4], rows(seed=50), *alike[4:]) == []


def test_notes_of_the_environment_are_told_at_the_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gymnasium.registry.pop("Flaky-v0", None)
    gymnasium.register("Flaky-v0", entry_point=Flaky, kwargs=dict(length=6, action=spaces.MultiDiscrete([3, 2])))
    assert go(tmp_path, "actor=cem_tiny", "train.env_steps=12") == 0
    out = capsys.readouterr().out
    assert out.count("note: Flaky-v0: the action MultiDiscrete([3 2]) is one of 6 choices") == 1
    assert out.count("warning: Flaky-v0: episodes end in death, but the model has no continue head") == 1

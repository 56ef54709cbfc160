"""The agents in pretrained/: small files that load and act as their recorded score says."""

import math
from pathlib import Path

import pytest
from scipy import stats

from envs import rendering
from training.configuration.components import ROOT
from training.run_folder import agent_file
from training.run_folder.trained import TrainedRun

FILES = sorted((ROOT / "pretrained").glob("*.agent"))
each = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def test_there_are_some_and_all_are_small() -> None:
    assert {"cartpole_swingup", "dot", "pendulum"} <= {path.stem for path in FILES}
    assert max(path.stat().st_size for path in FILES) <= 3_000_000
    assert sum(path.stat().st_size for path in FILES) <= 15_000_000


def score(path: Path, episodes: int) -> tuple[list[float], list[float]]:
    """Returns now, and as recorded."""
    run, stored = agent_file.read(path)
    if run.config["env"]["name"] == "dmc" and not (rendering.works("egl") or rendering.works("osmesa")):
        pytest.skip("no EGL or OSMesa on this machine")
    trained = TrainedRun(path, "cpu", seed=1)  # other episodes than those that were recorded
    results, _ = trained.evaluate(trained.agent, episodes)
    return [result.episode_return for result in results], stored.evaluation["returns"]


def differs(now: list[float], recorded: list[float]) -> float:
    """The p value of the difference of two means. A single return is one more draw of the recorded ones' normal."""
    n, m = len(now), len(recorded)
    pooled = sum((x - sum(group) / len(group)) ** 2 for group in (now, recorded) for x in group) / (n + m - 2)
    apart = (sum(now) / n - sum(recorded) / m) / math.sqrt(pooled * (1 / n + 1 / m) + 1e-12)
    return 2 * float(stats.t.sf(abs(apart), n + m - 2))


def test_the_difference_of_means_by_hand() -> None:
    """1, 3 and 2: variance 1, so (10 - 2) / sqrt(4 / 3) = 6.928 of 2 degrees of freedom; and scipy's own for groups."""
    assert differs([10.0], [1.0, 3.0, 2.0]) == pytest.approx(2 * stats.t.sf(6.9282, 2), rel=1e-3)
    groups = [4.0, 6.0, 5.0], [1.0, 3.0, 2.5, 2.0]
    assert differs(*groups) == pytest.approx(stats.ttest_ind(*groups).pvalue)


@each
def test_an_episode_is_as_recorded(path: Path) -> None:
    assert differs(*score(path, 1)) > 0.001


@pytest.mark.slow
@each
def test_many_episodes_are_as_recorded(path: Path) -> None:
    """Ten; of those that make most decisions, by a planner, five: they take minutes."""
    env = agent_file.read(path)[0].config["env"]
    long = env["name"] == "dmc" and env["action_repeat"] <= 2
    assert differs(*score(path, 5 if long else 10)) > 0.001

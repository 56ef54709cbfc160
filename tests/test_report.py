"""What is reported of many updates: means over those that counted, part by part."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from training.reporting import report
from training.reporting.report import Reporter, read_clocks
from training.schedule import Counters


def reporter(said: list[dict[str, float]]) -> Any:
    """Without a run."""
    made = Reporter.__new__(Reporter)
    made.sums, made.counts, made.seconds = {}, {}, {"learn": 1.0}
    made.clocks, made.reported_steps = read_clocks(), 0
    made.schedule = SimpleNamespace(counters=Counters())  # type: ignore[assignment]
    made.log = said.append  # type: ignore[assignment, method-assign]
    made.lines = []  # type: ignore[attr-defined]
    made.show = lambda **newest: made.lines.append(newest["learned"])  # type: ignore[attr-defined, method-assign]
    return made


def update(part: str, loss: float, skipped: bool) -> dict[str, torch.Tensor]:
    return {f"{part}/loss": torch.tensor(0.0 if skipped else loss), f"{part}/skipped": torch.tensor(float(skipped))}


@pytest.mark.parametrize("saved", [False, True])
def test_means_are_over_the_updates_that_counted_part_by_part(saved: bool) -> None:
    said: list[dict[str, float]] = []
    made = reporter(said)
    for number in range(8):  # four of each; of vision two are skipped, of memory one
        made.add(update("vision", 10.0, number < 2))
        made.add(update("memory", 4.0 + number, number == 0))
        if saved and number == 3:
            state = json.loads(json.dumps(made.state()))
            made = reporter(said)
            made.restore(state)
    for _ in range(5):
        made.add(update("actor", 1.0, True))
    made.report()
    values = said[0]
    assert values["learn/vision/loss"] == 10 and values["learn/memory/loss"] == 8
    assert [values[f"learn/{part}/skipped"] for part in ("vision", "memory", "actor")] == [2, 1, 5]
    assert "learn/actor/loss" not in values  # 0 would look like a loss
    assert "actor: 5 updates skipped" in made.lines[0]
    assert not made.sums and not made.counts


def test_what_earlier_versions_saved_had_one_count() -> None:
    said: list[dict[str, float]] = []
    made = reporter(said)
    made.restore({"sums": {"model/loss": 6.0, "model/skipped": 1.0, "updates": 4.0}})
    made.report()
    assert said[0]["learn/model/loss"] == 2


def test_seconds_that_were_not_reported_yet_are_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was stopped took as long as it took, and its updates are not those of the moments since."""
    clocks = {"wall_clock": 100.0, "cpu": 50.0}
    monkeypatch.setattr(report, "read_clocks", lambda: dict(clocks))
    said: list[dict[str, float]] = []
    made = reporter(said)
    made.seconds, made.clocks = {"learn": 6.0, "collect": 2.0}, dict(clocks)
    for _ in range(3):
        made.add(update("actor", 1.0, False))
    clocks |= {"wall_clock": 110.0, "cpu": 57.0}
    state = json.loads(json.dumps(made.state()))
    clocks |= {"wall_clock": 1000.0, "cpu": 1.0}  # in another process
    again = reporter(said)
    again.seconds = {}
    again.restore(state)
    again.add(update("actor", 1.0, False))
    again.took(learn=2.0)
    clocks |= {"wall_clock": 1003.0, "cpu": 3.0}
    again.report()
    wanted = {"learn": 8.0, "collect": 2.0, "wall_clock": 13.0, "cpu": 9.0}
    assert {name: said[-1][f"seconds/{name}"] for name in wanted} == wanted
    assert said[-1]["rate/updates_per_second"] == 0.5

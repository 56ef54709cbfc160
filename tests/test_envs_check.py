"""`python -m envs.check`: a good environment passes, a bad one fails with the reason and what to do."""

import gymnasium
import numpy as np
import pytest
from bad_envs import HWC, Odd, fill
from gymnasium import spaces

from envs import check


@pytest.fixture(autouse=True)
def registered() -> None:
    shared = fill(HWC, 0)

    def reuse(step: int) -> np.ndarray:
        shared[:] = step
        return shared

    cases = {
        "Good": {},
        "Nan": {"reward": float("nan")},
        "Int": {"terminated": 0},
        "Wild": {"action": spaces.Box(-np.inf, np.inf, (2,))},
        "Black": {"make": lambda step: fill(HWC, 0)},
        "One": {"length": 1},
        "Reuse": {"make": reuse},
        "Chance": {"make": lambda step: np.random.default_rng().integers(0, 255, HWC.shape, np.uint8)},
    }
    for name, kwargs in cases.items():
        gymnasium.registry.pop(f"Checked{name}-v0", None)
        gymnasium.register(f"Checked{name}-v0", entry_point=Odd, kwargs=kwargs)


CASES = [
    ("Good", 0, "10 .. 10 decisions"),
    ("One", 0, "some episodes last one decision only"),
    ("Reuse", 0, "buffer is reused"),
    ("Chance", 0, "not reproducible"),
    ("Nan", 1, "reward nan (float) is not finite\n      -> find what overflows"),
    ("Int", 1, "is not a bool\n      -> return bool(terminated)"),
    ("Wild", 1, "has no finite bounds low < high"),
    ("Black", 1, "all images are black"),
]


@pytest.mark.parametrize("name, status, text", CASES)
def test_the_report(name: str, status: int, text: str, capsys: pytest.CaptureFixture) -> None:
    assert check.main([f"Checked{name}-v0", "--steps", "30"]) == status
    output = capsys.readouterr().out
    assert text in output
    assert ("BAD" in output) == bool(status)


def test_an_unknown_id_names_the_nearest(capsys: pytest.CaptureFixture) -> None:
    assert check.main(["ChekedGood-v0"]) == 1
    assert "nearest: CheckedGood-v0" in capsys.readouterr().out

"""`python -m envs.check`: a good environment passes, a bad one fails with the reason and what to do."""

import shlex
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import runs
from bad_envs import HWC, Odd, fill
from gymnasium import spaces
from PIL import Image

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


class Exits(Odd):
    """Calls exit(0) in one of its methods, as scripts without a licence or a display do."""

    def __init__(self, where: str, **kwargs) -> None:
        super().__init__(**kwargs)
        self.where = where
        self.leave("__init__")

    def leave(self, method: str) -> None:
        if method == self.where:
            raise SystemExit(0)

    def reset(self, **kwargs):
        self.leave("reset")
        return super().reset(**kwargs)

    def step(self, action):
        self.leave("step")
        return super().step(action)

    def close(self) -> None:
        self.leave("close")


@pytest.mark.parametrize("where, line", [("__init__", "BAD"), ("reset", "BAD"), ("step", "BAD"), ("close", "note")])
def test_an_environment_that_calls_exit_does_not_end_the_check(
    where: str, line: str, capsys: pytest.CaptureFixture
) -> None:
    gymnasium.register("CheckedExits-v0", entry_point=Exits, kwargs={"where": where})
    assert check.main(["CheckedExits-v0", "--steps", "20"]) == int(line == "BAD")
    gymnasium.registry.pop("CheckedExits-v0")
    said = capsys.readouterr().out.splitlines()
    assert any(text.startswith(line) and "SystemExit: 0" in text for text in said), said


class Unspoken(Odd):
    """Has forgotten to say what its actions are."""

    def __init__(self, **words) -> None:
        super().__init__(**words)
        del self.action_space


class Unclosable(gymnasium.Env):
    """A state that can be rendered, and a window that was never opened."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    observation_space, action_space = gymnasium.spaces.Box(-1, 1, (3,)), gymnasium.spaces.Discrete(2)
    viewer = None

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(3, np.float32), {}

    def step(self, action):
        return np.zeros(3, np.float32), 0.0, False, False, {}

    def render(self):
        return self.np_random.integers(0, 256, (16, 16, 3), np.uint8)

    def close(self) -> None:
        self.viewer.close()


@pytest.mark.parametrize(
    ("entry", "status", "said"),
    [(Unspoken, 1, "BAD   AttributeError"), (Unclosable, 0, "note  close() failed: AttributeError")],
)
def test_mistakes_outside_reset_and_step_are_told_in_a_line(
    entry: type, status: int, said: str, capsys: pytest.CaptureFixture
) -> None:
    gymnasium.register("CheckedMistake-v0", entry_point=entry, max_episode_steps=9)
    try:
        assert check.main(["CheckedMistake-v0", "--steps", "20"]) == status
    finally:
        gymnasium.registry.pop("CheckedMistake-v0")
    assert any(line.startswith(said) for line in capsys.readouterr().out.splitlines())


def test_an_unknown_id_names_the_nearest(capsys: pytest.CaptureFixture) -> None:
    assert check.main(["ChekedGood-v0"]) == 1
    assert "nearest: CheckedGood-v0" in capsys.readouterr().out


def test_the_options_are_those_of_training(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    gymnasium.register("CheckedWide-v0", entry_point=Odd, kwargs={"render_mode": "rgb_array"}, max_episode_steps=7)
    words = [
        "CheckedWide-v0",
        "--kwargs",
        '{"length": 5, "reward": 2.5}',
        "--size",
        "16",
        "20",
        "--gray",
        "--repeat",
        "2",
    ]
    words += ["--fit", "crop", "--image", "render", "--time-limit", "4", "--steps", "12"]
    assert check.main(words) == 0
    out = capsys.readouterr().out
    assert "agents see uint8 (1, 16, 20)" in out and "image: rendered" in out and "time limit 4 simulator steps" in out
    assert "6 episodes truncated, after 2 .. 2 decisions" in out and "reward per decision 5 .. 5" in out
    hint = out.splitlines()[-1].removeprefix("CheckedWide-v0: can be used: ")
    config = runs.composed("exp=smoke", *shlex.split(hint)).env  # can be pasted
    assert (config.id, config.kwargs, config.size) == ("CheckedWide-v0", {"length": 5, "reward": 2.5}, (16, 20))
    assert (config.gray, config.action_repeat, config.time_limit) == (True, 2, 4)
    assert (config.fit, config.image) == ("crop", "render")
    gymnasium.registry.pop("CheckedWide-v0")


def test_the_picture_is_what_the_agent_sees_enlarged(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """A small red object is found, where it is and in its colour, in every image."""
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[4:6, 20:22] = 255, 40, 40
    space = spaces.Box(0, 255, picture.shape, np.uint8)
    gymnasium.register("CheckedRed-v0", entry_point=Odd, kwargs={"make": lambda step: picture, "observation": space})
    path = tmp_path / "out.png"
    check.main(["CheckedRed-v0", "--size", "32", "32", "--picture", str(path), "--steps", "8"])
    seen = np.asarray(Image.open(path))
    by = 512 // 32
    assert seen.shape == (512 + 16, 4 * (512 + 16), 3)
    red = (seen == (255, 40, 40)).all(-1)
    for number in range(4):
        rows, columns = np.nonzero(red[:, number * 528 : (number + 1) * 528])
        assert (rows.min(), rows.max() + 1) == (8 + 4 * by, 8 + 6 * by)
        assert (columns.min(), columns.max() + 1) == (8 + 20 * by, 8 + 22 * by)
    assert f"{path}: what the agent sees" in capsys.readouterr().out
    for wrong in (tmp_path / "no" / "out.png", tmp_path / "out.nothing"):
        assert check.main(["CheckedRed-v0", "--picture", str(wrong), "--steps", "8"]) == 1
        assert f"--picture: {wrong}" in capsys.readouterr().out
    gymnasium.registry.pop("CheckedRed-v0")


NOTED = {
    "large": ({"reward": 5e3}, "rewards are as large as 5000"),
    "never ends": ({"length": 10**6}, "no time limit is known: its episodes may never end: set env.time_limit"),
    "deaths": ({"length": 4}, "episodes end in death: the model knows it with model.continue_weight=1"),
    "seeds": ({}, "the seed changes nothing: with other seeds, the same actions give the same episode"),
    "choices": ({"action": spaces.MultiBinary(3)}, "is one of 8 choices"),
}


@pytest.mark.parametrize("case", NOTED)
def test_what_is_worth_knowing_is_noted_and_no_fault(case: str, capsys: pytest.CaptureFixture) -> None:
    kwargs, text = NOTED[case]
    gymnasium.register("CheckedNoted-v0", entry_point=Odd, kwargs=kwargs)
    assert check.main(["CheckedNoted-v0", "--steps", "20"]) == 0
    gymnasium.registry.pop("CheckedNoted-v0")
    assert any(line.startswith("note") and text in line for line in capsys.readouterr().out.splitlines())


@pytest.mark.parametrize("kwargs", ["{", "[1]", "length=5"])
def test_kwargs_that_are_no_json_object_are_refused(kwargs: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        check.main(["CheckedGood-v0", "--kwargs", kwargs])
    assert "--kwargs: " in capsys.readouterr().err


def test_options_that_make_no_sense_are_refused_in_a_line(capsys: pytest.CaptureFixture) -> None:
    assert check.main(["CheckedGood-v0", "--size", "2", "2000", "--repeat", "0"]) == 2
    err = capsys.readouterr().err
    assert err.count("error: --size.") == 2 and err.count("error: --action_repeat") == 1 and err.count("\n") == 3

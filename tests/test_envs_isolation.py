"""What an environment does to the process that it lives in stays with it: whatever it changes, at whatever call."""

import os
import random
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import bad_envs
import gymnasium
import numpy as np
import pytest
import torch

import envs
from envs import adapter, isolation
from envs.errors import EnvError


@pytest.fixture(autouse=True)
def process() -> Iterator[None]:
    """Whatever a test breaks is mended."""
    before = [get() for get in SHARED.values()]
    variables, filters = dict(os.environ), list(warnings.filters)
    handler = signal.getsignal(signal.SIGUSR2)
    yield
    os.chdir(before[0])
    for name in set(os.environ) - set(variables):
        del os.environ[name]
    os.environ.update(variables)
    warnings.filters[:] = filters  # type: ignore[index]
    signal.signal(signal.SIGUSR2, handler)
    np.seterr(**before[5])
    torch.set_grad_enabled(True)
    torch.set_default_dtype(torch.float32)
    torch.set_num_threads(before[8])


SHARED: dict[str, Callable[[], Any]] = {
    "folder": os.getcwd,
    "variables": lambda: dict(os.environ),
    "filters": lambda: list(warnings.filters),
    "handler": lambda: signal.getsignal(signal.SIGUSR2),
    "numpy": lambda: str(np.random.get_state()),
    "float errors": np.geterr,
    "python": random.getstate,
    "torch": lambda: torch.get_rng_state().tolist(),
    "threads": torch.get_num_threads,
    "dtype": torch.get_default_dtype,
    "gradients": torch.is_grad_enabled,
}


def meddle() -> None:
    """All of it at once."""
    os.chdir("/")
    os.environ["A_SIMULATORS"] = "1"
    os.environ.pop("HOME", None)
    warnings.filterwarnings("ignore", "a simulator's")
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    np.random.seed(1), random.seed(1), torch.manual_seed(1)
    np.random.rand(), random.random(), torch.rand(1)
    np.seterr(all="raise")
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    torch.set_num_threads(3)


class Meddler(bad_envs.Odd):
    """Meddles at one call, and notes what it then finds at each."""

    def __init__(self, at: str) -> None:
        super().__init__(length=1000)
        self.at, self.found = at, dict[str, Any]()
        self.call("made")

    def call(self, name: str) -> None:
        self.found[name] = {kind: get() for kind, get in SHARED.items()}
        if name == self.at:
            meddle()

    def reset(self, **options: Any) -> Any:
        self.call("reset")
        return super().reset(**options)

    def step(self, action: Any) -> Any:
        self.call("step")
        return super().step(action)

    def close(self) -> None:
        self.call("closed")


def config(**changes: Any) -> adapter.Config:
    values = dict(name="odd", size=(16, 16), gray=True, action_repeat=1, time_limit=None, num_envs=1)
    return adapter.Config(**{**values, "vectorization_mode": "sync", "timeout": 10.0, **changes})


def isolated(env: Callable[[], gymnasium.Env]) -> gymnasium.Env:
    return isolation.build(lambda config: adapter.wrap_env(env(), config), config())


@pytest.mark.parametrize("at", ["made", "reset", "step", "closed"])
def test_everything_is_as_before_after_every_call(at: str) -> None:
    before = {kind: get() for kind, get in SHARED.items()}
    filters = warnings.filters
    env = isolated(lambda: Meddler(at))
    env.reset(seed=0)
    env.step(np.zeros(2, np.float32))
    env.close()
    after = {kind: get() for kind, get in SHARED.items()}
    assert [kind for kind in SHARED if before[kind] != after[kind]] == []
    assert warnings.filters is filters


def test_the_environment_finds_what_it_left() -> None:
    env = isolated(lambda: Meddler("made"))
    env.reset(seed=0)
    env.step(np.zeros(2, np.float32))
    for call in ("reset", "step"):
        found = env.unwrapped.found[call]
        assert found["folder"] == "/" and found["variables"]["A_SIMULATORS"] == "1" and "HOME" not in found["variables"]
        assert "a simulator's" in str(found["filters"]) and set(found["float errors"].values()) == {"raise"}
        assert (found["threads"], found["dtype"], found["gradients"]) == (3, torch.float64, False)


def test_what_the_process_changes_later_is_seen_by_the_environment_unless_it_has_its_own() -> None:
    env = isolated(lambda: Meddler("nothing"))
    os.environ["OUR_OWN"] = "2"
    warnings.filterwarnings("ignore", "our own")
    os.chdir("/tmp")
    env.reset(seed=0)
    found = env.unwrapped.found["reset"]
    assert found["variables"]["OUR_OWN"] == "2" and "our own" in str(found["filters"]) and found["folder"] == "/tmp"


class Dice(bad_envs.Odd):
    """Draws its pictures from the global generators, as old environments do."""

    def observe(self) -> np.ndarray:
        numbers = [np.random.randint(256), random.randrange(256), int(torch.randint(256, ()))]
        return np.full((bad_envs.SIDE, bad_envs.SIDE, 3), numbers, np.uint8)


def test_global_generators_are_functions_of_the_episodes_seed_and_go_on_within_it() -> None:
    env = isolated(Dice)

    def episode(seed: int) -> list[int]:
        images = [env.reset(seed=seed)[0]]
        for _ in range(5):
            np.random.rand(), random.random(), torch.rand(3)  # what others draw meanwhile
            images.append(env.step(np.zeros(2, np.float32))[0])
        return [int(image[0, 0, 0]) for image in images]

    first = episode(1)
    assert len(set(first)) > 3
    assert episode(2) != first and episode(1) == first


def test_an_environment_that_seeds_torch_leaves_the_agents_noise_alone() -> None:
    class Seeds(bad_envs.Odd):
        def reset(self, **options: Any) -> Any:
            torch.manual_seed(0)
            return super().reset(**options)

    vector = envs.Vector(config(), lambda config: adapter.wrap_env(Seeds(), config))
    noise = []
    for seed in range(3):
        vector.reset({0: seed})
        noise.append(torch.rand(1).item())
    assert len(set(noise)) == 3
    vector.close()


def test_a_folder_that_is_gone_is_no_failure(tmp_path: Path) -> None:
    class Temporary(bad_envs.Odd):
        def __init__(self) -> None:
            super().__init__()
            (tmp_path / "assets").mkdir()
            os.chdir(tmp_path / "assets")

    here = os.getcwd()
    env = isolated(Temporary)
    (tmp_path / "assets").rmdir()
    env.reset(seed=0)
    assert os.getcwd() == here


def test_what_fails_leaves_everything_as_it_was_too() -> None:
    class Fails(bad_envs.Odd):
        def reset(self, **options: Any) -> Any:
            meddle()
            raise RuntimeError("no display")

    before = {kind: get() for kind, get in SHARED.items()}
    env = isolated(Fails)
    with pytest.raises(EnvError, match="no display"):
        env.reset(seed=0)
    assert before == {kind: get() for kind, get in SHARED.items()}


def test_rendering_stays_in_the_thread_that_made_the_environment() -> None:
    """In another one MuJoCo draws black, without a word."""
    env = isolated(lambda: bad_envs.Odd())
    said = []

    def elsewhere() -> None:
        for call in (lambda: env.reset(seed=0), lambda: env.step(np.zeros(2, np.float32)), env.render):
            with pytest.raises(EnvError) as error:
                call()
            said.append(str(error.value))
        env.close()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert len(said) == 3 and all("another thread than the one that made it" in text for text in said)


def test_variables_for_drawing_without_a_screen_are_the_users_or_the_environments(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from envs import rendering

    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("SDL_VIDEODRIVER", "x11")
    monkeypatch.delenv("SDL_AUDIODRIVER", raising=False)
    monkeypatch.setattr(rendering.sys, "platform", "linux")
    found: dict[str, Any] = {}

    def make(config: adapter.Config) -> gymnasium.Env:
        rendering.without_screen()
        found.update(os.environ)
        return adapter.wrap_env(bad_envs.Odd(), config)

    isolation.build(make, config())
    assert (found["SDL_VIDEODRIVER"], found["SDL_AUDIODRIVER"], found["PYGLET_HEADLESS"]) == ("x11", "dummy", "true")
    assert "SDL_AUDIODRIVER" not in os.environ
    monkeypatch.delenv("SDL_VIDEODRIVER")
    isolation.build(make, config())
    assert found["SDL_VIDEODRIVER"] == "offscreen" and "SDL_VIDEODRIVER" not in os.environ
    monkeypatch.setenv("DISPLAY", ":0")
    rendering.without_screen()
    assert "SDL_VIDEODRIVER" not in os.environ


def test_what_is_drawn_when_an_environment_is_made_is_the_same_every_time() -> None:
    """Else workers, resumed runs and evaluations would play in different worlds."""

    class Drawn(gymnasium.Env):
        def __init__(self) -> None:
            self.map = np.random.rand(), random.random(), float(torch.rand(()))

    class Named(NamedTuple):
        label: str

    np.random.seed(5), random.seed(5), torch.manual_seed(5)
    made = [isolation.build(lambda _: Drawn(), Named("drawn")) for _ in range(2)]
    after = np.random.rand(), random.random(), float(torch.rand(()))
    np.random.seed(5), random.seed(5), torch.manual_seed(5)
    assert after == (np.random.rand(), random.random(), float(torch.rand(())))
    assert made[0].unwrapped.map == made[1].unwrapped.map  # type: ignore[attr-defined]

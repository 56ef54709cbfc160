"""Keeps what an environment does to the process to itself: simulators change the working directory, seed global random
generators, install signal handlers, filter warnings, set environment variables.

An environment sees its own such settings, as it left them at its last call; everybody else sees them as they were. Its
global generators begin anew with every episode's seed, so that an environment that draws from `np.random`, `random` or
torch's generator is a function of its seed as well. Environments in processes of their own are no exception.

torch is not imported for this; if it is there, its generator, dtype, gradient mode and threads are kept, too."""

import contextlib
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from envs.errors import EnvError

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM")
           if hasattr(signal, name)]  # fmt: skip
VARIABLES: Mapping[Any, Any] = os.environ._data  # type: ignore[attr-defined]  # a copy by its interface takes 45 us


class Setting(NamedTuple):
    """Something that a whole process shares."""

    get: Callable[[], Any]
    set: Callable[[Any], Any]
    same: Callable[[Any, Any], bool] = lambda a, b: a == b


def set_variables(wanted: Mapping[Any, Any]) -> None:
    """wanted: as VARIABLES has them."""
    decode = os.fsdecode if isinstance(next(iter(wanted), ""), bytes) else str
    for name in [name for name in VARIABLES if name not in wanted]:
        del os.environ[decode(name)]
    for name, value in wanted.items():
        if VARIABLES.get(name) != value:
            os.environ[decode(name)] = decode(value)


def set_folder(folder: str | None) -> None:
    if folder is not None:
        with contextlib.suppress(OSError):  # it was deleted
            os.chdir(folder)


def folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was deleted
        return None


def torch_settings(torch: Any) -> list[Setting]:
    return [
        Setting(torch.is_grad_enabled, torch.set_grad_enabled),
        Setting(torch.get_default_dtype, torch.set_default_dtype),
        Setting(torch.get_num_threads, torch.set_num_threads),
    ]


# Of these an environment has its own value from the moment on when it has set one.
SETTINGS = [
    Setting(folder, set_folder),
    Setting(lambda: dict(VARIABLES), set_variables),
    Setting(np.geterr, lambda errors: np.seterr(**errors)),
]


class Generators:
    """The states of the global generators, here those of an environment."""

    def __init__(self) -> None:
        self.numpy: np.random.BitGenerator = np.random.MT19937()
        self.python = random.Random().getstate()
        self.torch: list[Any] = []

    def seed(self, seed: int) -> None:
        """Inside: as an episode begins."""
        random.seed(seed)
        np.random.seed(seed % 2**32)
        if hasattr(sys.modules.get("torch"), "default_generator"):
            sys.modules["torch"].default_generator.manual_seed(seed)

    def exchange(self) -> None:
        """The environment's for the process's, or back."""
        ours = np.random.get_bit_generator()  # type: ignore[attr-defined]
        np.random.set_bit_generator(self.numpy)  # type: ignore[attr-defined]
        self.numpy = ours
        python = random.getstate()
        random.setstate(self.python)
        self.python = python
        torch = sys.modules.get("torch")
        if torch is None or not hasattr(torch, "default_generator"):
            return
        generators = [torch.default_generator]
        if torch.cuda.is_initialized() and not torch.cuda.is_current_stream_capturing():
            generators += torch.cuda.default_generators
        states = [generator.get_state() for generator in generators]
        for generator, state in zip(generators, self.torch):  # the first time there are none
            generator.set_state(state)
        self.torch = states


class Sphere:
    """What one environment has changed. `with sphere:` around every call into it, from the thread that made it:
    OpenGL's contexts belong to a thread, and in another one MuJoCo would draw black pictures.
    """

    def __init__(self, label: str) -> None:
        self.label, self.thread = label, threading.get_ident()
        self.own: dict[int, Any] = {}  # by the number of the setting
        self.filters: list[Any] | None = None  # its own, of warnings
        self.generators = Generators()
        self.depth = 0

    def __enter__(self) -> "Sphere":
        if threading.get_ident() != self.thread:
            raise EnvError(
                f"{self.label}: called from another thread than the one that made it, where OpenGL would draw black "
                "pictures: make and use it in one thread, or in a process of its own (env.vectorization_mode=async)"
            )
        self.depth += 1
        if self.depth > 1:
            return self
        torch = sys.modules.get("torch")
        self.settings = SETTINGS + (torch_settings(torch) if hasattr(torch, "default_generator") else [])
        self.outside = [setting.get() for setting in self.settings]
        for number, value in self.own.items():
            self.settings[number].set(value)
        self.inside = [setting.get() for setting in self.settings]
        self.filters_outside = warnings.filters  # replaced, not changed
        self.filters_inside = list(self.filters if self.filters is not None else warnings.filters)
        warnings.filters = list(self.filters_inside)
        self.generators.exchange()
        self.signals = (
            [(number, signal.getsignal(number)) for number in SIGNALS]
            if threading.current_thread() is threading.main_thread()
            else []
        )
        return self

    def __exit__(self, *_: Any) -> None:
        self.depth -= 1
        if self.depth:
            return
        self.generators.exchange()
        if warnings.filters != self.filters_inside:
            self.filters = list(warnings.filters)
        warnings.filters = self.filters_outside
        for number, setting in enumerate(self.settings):
            now = setting.get()
            if not setting.same(now, self.inside[number]):
                self.own[number] = now
            if not setting.same(now, self.outside[number]):
                setting.set(self.outside[number])
        for name, handler in self.signals:
            if handler is not None and signal.getsignal(name) is not handler:
                signal.signal(name, handler)


class Isolated(gymnasium.Wrapper):
    """An environment inside its sphere."""

    def __init__(self, env: gymnasium.Env, sphere: Sphere) -> None:
        super().__init__(env)
        self.sphere = sphere

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        with self.sphere:
            if seed is not None:
                self.sphere.generators.seed(seed)
            return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        with self.sphere:
            return self.env.step(action)

    def render(self) -> Any:
        with self.sphere:
            return self.env.render()

    def close(self) -> None:
        if threading.get_ident() != self.sphere.thread:  # too late to be particular
            self.env.close()
            return
        with self.sphere:
            self.env.close()


def build(make: Callable[[Any], gymnasium.Env], config: Any) -> gymnasium.Env:
    """make(config), isolated from its first line on. What it draws from the global generators when it is made is the
    same every time: a run that is resumed, or evaluated, must not go on in another world.
    """
    sphere = Sphere(config.label)
    with sphere:
        sphere.generators.seed(0)
        env = make(config)
    return Isolated(env, sphere)

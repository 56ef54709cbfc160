"""ViZDoom's TakeCover, the second environment of World Models (Ha & Schmidhuber 2018): step aside from fireballs.

Actions: 0 left, 1 stay, 2 right, for one tic (1/35 s). Reward 1 per tic, the last one included, so that the return is
the episode's length; solved is a mean of 750 over 100 episodes. Death is `terminated`, the limit of 2,100 tics
`truncated`. The same seed gives the same episode. A dead player sees nothing: the last image stays (ViZDoom's own
Gymnasium wrapper turns it black, which a world model would have to imagine).

The simulator is a process of its own. `LAUNCHER` starts it so that it leaves nothing behind, whatever happens here."""

import contextlib
import os
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from envs import adapter
from envs.errors import EnvError

BUTTONS = ([1, 0], [0, 0], [0, 1])  # MOVE_LEFT, MOVE_RIGHT
ROWS, COLUMNS = 120, 160  # the smallest picture that ViZDoom renders; three times as fast as the scenario's 240 x 320

LAUNCHER = """
import ctypes, os, signal, sys
folder, parent, program, *rest = sys.argv[1:]
signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the trainer, which saves before it ends the simulator
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: ends with its parent, even with one that is killed
if os.getppid() == int(parent):  # else it died meanwhile
    os.chdir(folder)  # here it makes folders of its own
    os.execv(program, [program, *rest])
"""


class Config(adapter.Config):
    """Nothing beyond what all have."""


class TakeCover(gymnasium.Env):
    """The scenario as a Gymnasium environment without a time limit. Errors: EnvError when the package is missing."""

    def __init__(self) -> None:
        try:
            import vizdoom
        except ImportError as error:
            raise EnvError(
                f"take_cover: {error}; install the simulator: pip install vizdoom (or this project's extra 'vizdoom')"
            ) from error
        self.observation_space = spaces.Box(0, 255, (ROWS, COLUMNS, 3), np.uint8)
        self.action_space = spaces.Discrete(len(BUTTONS))
        self.image = np.zeros((ROWS, COLUMNS, 3), np.uint8)
        self.game = vizdoom.DoomGame()
        self.game.load_config(os.path.join(vizdoom.scenarios_path, "take_cover.cfg"))
        self.game.set_screen_resolution(vizdoom.ScreenResolution.RES_160X120)
        self.game.set_screen_format(vizdoom.ScreenFormat.RGB24)
        self.game.set_window_visible(False)
        self.program = vizdoom.exe_path

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.game.set_seed(int(self.np_random.integers(2**32)))  # counts from the next episode, or from `init`
        if self.game.is_running():
            self.game.new_episode()
        else:
            self._start()
        self.image = self.game.get_state().screen_buffer
        return self.image, {}

    def get_action_meanings(self) -> list[str]:
        """As Atari's environments name theirs."""
        return ["LEFT", "NOOP", "RIGHT"]

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        reward = self.game.make_action(BUTTONS[action], 1)
        dead = self.game.is_episode_finished()
        if not dead:
            self.image = self.game.get_state().screen_buffer
        return self.image, reward, dead, False, {}

    def close(self) -> None:
        self.game.close()

    def _start(self) -> None:
        """Starts the simulator. Its folder and the names of its shared memory go as soon as it has opened them."""
        with tempfile.TemporaryDirectory(prefix="take_cover-") as folder:
            launcher = Path(folder) / "launcher"
            words = [sys.executable, "-I", "-S", "-c", LAUNCHER, folder, str(os.getpid()), self.program]
            launcher.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
            launcher.chmod(0o700)
            self.game.set_vizdoom_path(str(launcher))
            self.game.set_doom_config_path(os.devnull)
            self.game.init()
        for name in ("SM", "MQCtr", "MQDoom"):
            with contextlib.suppress(FileNotFoundError):
                os.remove(f"/dev/shm/ViZDoom{name}{self.game.get_instance_id()}")


def build(config: Config) -> gymnasium.Env:
    """One environment with the fixed interface. Errors: EnvError."""
    return adapter.wrap_env(TakeCover(), config)

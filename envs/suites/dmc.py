"""DeepMind control suite from pixels: six tasks of PlaNet's paper and all others, through Shimmy.

Rendered at the size that the agent sees, or at a multiple of it. The suite's time limit (1000 simulator steps) arrives
as `truncated` with discount 1, never as `terminated` (trap 31).
"""

import difflib
import math
import warnings
from typing import Annotated

import gymnasium
import pydantic

from envs import adapter, rendering
from envs.errors import EnvError

Repeat = Annotated[int, pydantic.Field(ge=1, le=1000)]


class Config(adapter.Config):
    """task: `cartpole_swingup`, `ball_in_cup_catch` (or `cup_catch`), ...: domain and task as in
    dm_control.suite.

    supersample: render at so many times the size and average down: what is thinner than a pixel stays visible.
    camera: None takes 0, for the quadruped 2. shadows, multisampling: cost most of the time when rendered on
    the CPU. action_repeats: the published table (PlaNet, appendix A); configs/env/dmc.yaml reads
    `action_repeat` from it."""

    task: str
    supersample: int = pydantic.Field(ge=1, le=8)
    camera: int | None = pydantic.Field(ge=-1, le=1000)
    shadows: bool
    multisampling: bool
    action_repeats: dict[str, Repeat] = pydantic.Field(max_length=1000)

    @property
    def label(self) -> str:
        return f"dmc {self.task}"


def build(config: Config) -> gymnasium.Env:
    """One environment with the fixed interface. Errors: EnvError for an unknown task or a missing package."""
    rendering.choose()  # before anything imports mujoco
    try:
        import shimmy  # registers the ids
        from dm_control import suite
    except ImportError as error:
        raise EnvError(
            f"{config.label}: {error}; install the control suite: "
            "pip install 'shimmy[dm-control]' (or this project's extra 'dmc')"
        ) from error
    gymnasium.register_envs(shimmy)
    # dm_control 1.0.50 asks to see every DeprecationWarning and earns one from NumPy 2.5 at every step.
    warnings.filterwarnings("ignore", "Setting the shape", DeprecationWarning, r"dm_control\.mujoco\.index")
    domain, task = _split(config, [(str(domain), str(task)) for domain, task in suite.ALL_TASKS])
    camera = config.camera if config.camera is not None else 2 if domain == "quadruped" else 0
    height, width = (side * config.supersample for side in config.size)  # the adapter averages it down
    env = gymnasium.make(
        f"dm_control/{domain}-{task}-v0",
        render_mode="rgb_array",
        render_kwargs={"height": height, "width": width, "camera_id": camera},
        task_kwargs=None if config.time_limit is None else {"time_limit": math.inf},  # ours takes its place
        disable_env_checker=True,
    )
    model = env.unwrapped.physics.model  # type: ignore[attr-defined]  # Shimmy passes it through
    # MuJoCo reads these when the first frame is rendered.
    canvas = model.vis.global_
    canvas.offwidth, canvas.offheight = max(width, canvas.offwidth), max(height, canvas.offheight)
    if not config.multisampling:
        model.vis.quality.offsamples = 0
    if not config.shadows:
        model.light_castshadow[:] = False
    limit = getattr(env.unwrapped, "_step_limit", math.inf)  # dm_control tells it nowhere else
    return adapter.wrap_env(env, config, own_limit=int(limit) if math.isfinite(limit) else None)


def _split(config: Config, tasks: list[tuple[str, str]]) -> tuple[str, str]:
    """ "ball_in_cup_catch" -> ("ball_in_cup", "catch"); a table, as both parts may contain underscores."""
    names = {f"{domain}_{task}": (domain, task) for domain, task in tasks}
    name = {"cup_catch": "ball_in_cup_catch"}.get(config.task, config.task)
    if name not in names:
        close = difflib.get_close_matches(name, names, 5, cutoff=0.5) or sorted(names)[:5]
        raise EnvError(f"{config.label}: no such task; nearest: {', '.join(close)}")
    return names[name]

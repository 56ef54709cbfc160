"""Opens a trained run, to be played with."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np

import envs
from agents.base import Actor
from envs import EnvError
from training.build import build_actor
from training.run_folder.trained import TrainedRun
from viewer.session import Session
from viewer.world import Rebuilt
from worldmodel.base import Batch

CONTEXT = 8  # recorded rows that are looked at before a dream
GENERATIONS = 100  # of an actor that learns, and is not the run's own


class Opened(NamedTuple):
    """A session, and what its page says about it."""

    session: Session
    facts: dict[str, Any]
    # The same planner with another horizon; None of an actor that does not plan: it is only followed further
    with_horizon: Callable[[int], Actor | None]


def open_run(
    folder: Path,
    device: str = "auto",
    seed: int = 0,
    plugins: Sequence[str] = (),
    actor: str | None = None,
    overrides: Sequence[str] = (),
    use_env: bool = True,
) -> Opened:
    """The environment is made in the thread that calls: only that one may step it. Errors: RunError, ConfigError,
    EnvError.
    """
    trained = TrainedRun(folder, device, seed, plugins, needs_env=False)
    agent = trained.agent
    if actor or overrides:
        agent, _ = trained.prepare_agent(actor, GENERATIONS, overrides)
    section, objective = trained.section(actor, overrides), trained.objective(overrides)
    config = agent.env
    env = Rebuilt(lambda: make_env(config), config.label) if use_env and config else None
    session = Session(agent, env, None if env else recordings(trained), seed)
    plans = hasattr(section, "horizon") and not agent.actor.learns

    def with_horizon(horizon: int) -> Actor | None:
        changed = section.model_copy(update={"horizon": horizon})
        parts = changed, objective, agent.model, agent.spec, trained.plugins, trained.agent.actor
        return build_actor(*parts) if plans else None

    session.horizon = section.horizon if plans else session.horizon
    facts = {
        "run": folder.stem if folder.is_file() else folder.name,
        "environment": agent.env.label if agent.env else "recordings",
        "has_env": env is not None,
        "waits": "waits" if env else "recorded" if session.recorded else "none",  # what is beside a dream
        "model": trained.run.config["model"]["name"],
        "actor": section.name,
        "size": list(agent.spec.image_shape),
        "actions": agent.spec.action_dim,
        "discrete": agent.spec.discrete,
        "meanings": meanings(env, agent.spec.action_dim) if env and agent.spec.discrete else [],
        "env_steps": trained.state["counters"]["env_steps"],
        "device": f"{agent.device}, {agent.precision}",
    }
    return Opened(session, facts, with_horizon)


def make_env(config: envs.Config) -> gymnasium.Env:
    try:
        return envs.make(config)
    except EnvError as error:
        raise EnvError(f"{error}; to walk in the dream alone, without the environment: --no-env") from error


def recordings(trained: TrainedRun) -> Callable[[int], Batch] | None:
    """Rows of the run's replay, from which a dream may start."""
    if not trained.checkpoint.chunks:
        return None
    return lambda seed: trained.replay.sample(np.random.default_rng(seed), 1, CONTEXT)


def meanings(env: gymnasium.Env, actions: int) -> list[str]:
    """What the environment itself calls its actions, if it does, as Atari's do."""
    name = "get_action_meanings"
    words = [str(word) for word in env.get_wrapper_attr(name)()] if env.has_wrapper_attr(name) else []
    return words if len(words) == actions else []

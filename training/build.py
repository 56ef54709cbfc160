"""Builds agents from checked configs, and trained ones from runs and agents' files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from agents.agent import Agent
from agents.base import Actor
from agents.device import mind_fork
from agents.reward_and_value import RewardAndValue
from training.configuration import config
from training.configuration.components import build
from training.configuration.config import Config
from training.preflight import LimitedMemory, working_bytes
from training.run_folder.agent_file import PARTS, StoredAgent, open_trained
from training.run_folder.checkpoint import Checkpoint, Damaged
from training.run_folder.run import Run, refusing
from training.threads import use_threads
from worldmodel.base import ConfigError, Spec, WorldModel


def build_agent(checked: Config, spec: Spec) -> Agent:
    """An untrained agent."""
    mind_fork()
    plugins = checked.root.plugins
    with LimitedMemory():
        model: WorldModel = build("model", checked.model.name, plugins, checked.model, spec)
        actor = build_actor(checked.actor, checked.objective, model, spec, plugins)
    return Agent(checked.agent, model, actor, spec)


def build_actor(
    section: Any,
    objective: Any,
    model: WorldModel,
    spec: Spec,
    plugins: Sequence[str] = (),
    trained: Actor | None = None,
) -> Actor:
    """An actor on a model, from its checked section and its objective's. trained: the run's own actor, whose critic may
    be asked what lies beyond the horizon. Errors: ConfigError, if there is no such critic, or nobody would ask it.
    """
    goal = build("objective", objective.name, plugins, objective, model, spec)
    if getattr(objective, "value_at_horizon", False):
        if not hasattr(trained, "expected_return"):
            raise ConfigError([
                "objective.value_at_horizon: there is no trained critic: it is for planners on a trained Dreamer, "
                "evaluate.py <run> --actor cem objective.value_at_horizon=true"
            ])  # fmt: skip
        goal = RewardAndValue(goal, trained)  # type: ignore[arg-type]
    actor: Actor = build("actor", section.name, plugins, section, model, spec, goal)
    if isinstance(goal, RewardAndValue) and actor.has_loss:
        raise ConfigError([f"objective.value_at_horizon: {section.name} has a critic of its own and does not plan"])
    return actor


class Loaded(NamedTuple):
    """A trained agent, and what it was loaded from."""

    run: Run
    checkpoint: Checkpoint | StoredAgent
    state: dict[str, Any]  # the checkpoint's
    agent: Agent


def load_trained(place: Path, device: str = "auto", plugins: Sequence[str] = ()) -> Loaded:
    """The newest checkpoint of a run, or an agent's file. Errors: RunError, ConfigError, OSError."""
    while True:
        run, checkpoint = open_trained(place)
        try:
            return Loaded(run, checkpoint, checkpoint.state, trained_agent(run, checkpoint, device, plugins))
        except Damaged:
            if checkpoint.folder.exists():
                raise
            # It was deleted: training goes on, and has written a newer one.


def load_agent(place: Path, device: str = "auto", plugins: Sequence[str] = ()) -> Agent:
    """See agents.load."""
    return load_trained(place, device, plugins).agent


def trained_agent(run: Run, checkpoint: Checkpoint | StoredAgent, device: str, plugins: Sequence[str] = ()) -> Agent:
    """The agent of a run as a checkpoint has it. Errors: RunError, ConfigError."""
    run.require_plugins(plugins)
    own = run.config.get("agent")
    plain = run.config | {
        "agent": {**own, "device": device} if isinstance(own, dict) else own,
        "plugins": list(plugins),
    }
    checked = config.check(plain)
    with refusing(f"{run.folder}: its config"):
        agent = build_agent(checked, run.spec)
    working_bytes(checked, agent, envs=1, learns=False)
    use_threads(checked.agent.threads, agent.num_model_parameters(), run.info.get("threads"))
    names: tuple[str, ...] = PARTS
    if isinstance(checkpoint, Checkpoint):
        names = (*PARTS, "optim")
        for line in run.edited(checkpoint):
            print(f"warning: {line}")
    with refusing(f"{run.folder}: what was learned in {checkpoint.folder.name}"):
        agent.restore({name: checkpoint.tensors(name) for name in names})
    agent.env = checked.env
    return agent

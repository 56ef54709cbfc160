"""What several processes cannot do, said before anything is started."""

import os

from agents.agent import Agent
from training.configuration.config import Config
from training.distributed import cluster
from training.distributed.split_schedule import split
from worldmodel.base import ConfigError

NEEDS_RAY = "needs the package ray: pip install 'ray>=2.60' (or this project's extra 'ray')"


def uses_processes(config: Config) -> bool:
    return bool(modes(config))


def modes(config: Config) -> list[str]:
    """The keys that ask for other processes."""
    train = config.train
    keys = {"train.collect.mode": train.collect.mode, "train.learn.mode": train.learn.mode}
    return [f"{key}=async" for key, mode in keys.items() if mode == "async"]


def refuse(config: Config) -> None:
    """Errors: ConfigError."""
    asked = modes(config)
    if not asked:
        return
    lines = []
    if not cluster.installed():
        lines.append(f"{' and '.join(asked)} {NEEDS_RAY}")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        lines.append(f"{' and '.join(asked)}: not under torchrun, which starts this run several times: leave one out")
    if config.train.collect.mode == "async" and config.env is None:
        lines.append("train.collect.mode=async: there is no environment to collect in: choose one, env=..., or sync")
    if lines:
        raise ConfigError(lines)


def refuse_unsplit(config: Config, agent: Agent) -> None:
    """Errors: ConfigError, if model and actor cannot learn beside each other."""
    if config.train.learn.mode != "async":
        return
    model, actors = split(config.train.learn)
    key = "train.learn.mode=async"
    if not agent.actor.learns:
        raise ConfigError([f"{key}: {config.actor.name} does not learn, so that there is nothing beside the model"])
    if not actors or not model:
        missing = "the actor" if not actors else "the model"
        raise ConfigError([f"{key}: no stage of train.learn has updates of {missing}: nothing learns beside the other"])
    if getattr(config.actor, "evaluate_in", "model") == "env":
        raise ConfigError([f"{key}: the actor learns in the environments: set actor.evaluate_in=model"])

"""Checks that need the built components: whether each part that should learn can, and has data to learn from."""

from agents.agent import Agent
from training.configuration.components import nearest
from training.configuration.config import Config
from training.configuration.idle_keys import idle_optimizers
from training.data_parallel.world import world
from training.reporting.progress import console
from worldmodel.base import ConfigError


def check_learning(config: Config, agent: Agent, has_data: bool) -> None:
    """Errors: ConfigError, if a stage names what this agent does not have, or there is nothing to learn from."""
    train, known = config.train, [*dict.fromkeys(["model", *agent.model.parts(), "actor"])]
    lines = []
    for name, stage in train.learn.stages.items():
        for part in stage.parts or [name]:
            if part not in known:
                lines.append(
                    f"train.learn.{name}: this agent has no part {part!r} that learns; it has "
                    f"{', '.join(known)}{nearest(part, known)}; several together are named by `parts`"
                )
        if "actor" in (stage.parts or [name]) and stage.updates and not agent.actor.learns:
            lines.append(
                f"train.learn.{name}: {config.actor.name} has nothing to learn: choose actor=evolution, or set "
                f"train.learn.{name}.updates=0"
            )
        elif "actor" in (stage.parts or [name]) and stage.updates and not agent.actor.has_loss and world().size > 1:
            lines.append(
                f"train.learn.{name}: {config.actor.name} learns by its own means, in one process: leave out torchrun, "
                f"or set train.learn.{name}.updates=0"
            )
    if config.replay.context and not agent.model.takes_context:
        lines.append(f"replay.context: {config.model.name} has no use for stored states: set replay.context=false")
    evaluates_in_env = getattr(config.actor, "evaluate_in", "model") == "env"
    if config.env is None and train.env_steps + train.prefill > 0:
        lines.append(
            "train: env_steps and prefill ask for episodes, but there is no environment: choose one, env=..., or set "
            "both to 0"
        )
    learn = [part for name, stage in train.learn.stages.items() if stage.updates for part in stage.parts or [name]]
    if config.env is None and "actor" in learn and evaluates_in_env:
        lines.append(
            "actor.evaluate_in: there is no environment to play in: choose one, env=..., or actor.evaluate_in=model"
        )
    if not has_data and train.env_steps + train.prefill == 0:
        lines.append(
            "train.prefill: there is nothing to learn from: collect episodes, or name some by data=..., or a trained "
            "run by model_from=... (of another environment with keep_episodes=true)"
        )
    lines += idle_optimizers(config, agent)
    if lines:
        raise ConfigError(lines)
    if agent.actor.learns and "actor" not in learn:
        console.print(
            f"note: {config.actor.name} can learn, but does not here: to train it, train.learn.actor.updates=..."
        )

"""Keys that were asked for and would do nothing, because of what else was chosen. Each is an error: whoever sets a key
expects it to change something. Values that a recipe's file brings may lie idle.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from agents.agent import Agent
from training.configuration.components import ROOMS
from training.configuration.config import Config
from training.schedule import Counters, Schedule


class Idle(NamedTuple):
    """A key, or all below it, and why it does nothing."""

    key: str
    why: str


def idle_keys(config: Config) -> list[str]:
    """A line for each key on the command line that does nothing, as far as the config tells; and for those that
    would leave a run without what they are for, wherever they come from.
    """
    found = lines(
        config.asked, [*of_collecting(config), *of_processes(config), *of_stages(config), *of_components(config)]
    )
    return [*found, *(line for line in of_ratio(config) if line.partition(":")[0] not in config.asked)]


def of_ratio(config: Config) -> Iterator[str]:
    train = config.train
    if train.ratio is None:
        return
    if train.env_steps == 0 and not train.pretrain:
        yield (
            "train.ratio: it counts decisions after the prefill, and train.env_steps=0 makes none, so nothing would be "
            "learned: set train.ratio=null, or raise train.env_steps"
        )
    elif config.env is not None and not train.pretrain:
        replay, steps = config.replay, train.env_steps - (train.prefill if train.collect.unit == "steps" else 0)
        needed = Schedule(train, Counters(), False, (replay.batch_size, replay.batch_length)).round_rows
        rows = max(0, steps) / config.env.action_repeat * train.ratio
        if rows < needed:
            yield (
                f"train.ratio: {train.ratio:g} rows a decision are {rows:,.0f} rows over the whole run, and a round of "
                f"learning takes {needed:,}, so nothing would be learned: raise train.env_steps or train.ratio, or "
                "make batches smaller"
            )
    for name, stage in train.learn.stages.items():
        if stage.eval_every and stage.eval_every > stage.updates:
            yield (
                f"train.learn.{name}.eval_every: with train.ratio a round of this stage has {stage.updates} updates, "
                f"so that {stage.eval_every} are never reached: set it to null; train.eval_every evaluates"
            )


def idle_optimizers(config: Config, agent: Agent) -> list[str]:
    """The same, of optimisers, once it is known what learns by gradient."""
    why = f"{config.actor.name} does not learn by gradient"
    parts = agent.actor.parts()
    owned = [] if parts else [Idle("agent.optimizers.actor", why)]
    covered = [part for part, owner in agent.owners.items() if owner != part]
    for owner in ("model", "actor"):
        own = [part for part in covered if agent.owners[part] == owner]
        if own and all(part in config.agent.optimizers for part in own):
            owned.append(Idle(f"agent.optimizers.{owner}", f"{', '.join(own)} have settings of their own"))
    return lines(config.asked, owned)


def lines(asked: Sequence[str], idle: Sequence[Idle]) -> list[str]:
    found: dict[str, str] = {}
    for key in asked:
        for rule in idle:
            if key == rule.key or key.startswith(f"{rule.key}."):
                found.setdefault(key, f"{key}: does nothing here, {rule.why}: leave it out")
    return list(found.values())


def of_collecting(config: Config) -> Iterator[Idle]:
    train, why = config.train, "without an environment nothing is collected; choose one by env=..."
    if config.env is None:
        for key in ("env", "explorer", "train.collect", "train.ratio", "train.eval_every", "train.save_every"):
            yield Idle(key, why)
        return
    if config.env.vectorization_mode == "sync" and train.collect.mode == "sync":
        yield Idle("env.timeout", "it is for workers, env.vectorization_mode=async")
    if train.prefill == 0:
        yield Idle("explorer", "it collects the prefill, and train.prefill is 0")
    if train.env_steps == 0:
        for key in ("train.collect.per_round", "train.ratio", "train.eval_every"):
            yield Idle(key, "after the prefill nothing is collected, for train.env_steps is 0")
    if train.ratio is not None and train.collect.unit == "episodes":
        yield Idle("train.collect.per_round", "train.ratio says when it learns")


def of_processes(config: Config) -> Iterator[Idle]:
    """Keys of processes that there are none of."""
    collects, learns = config.train.collect.mode == "async", config.train.learn.mode == "async"
    if not collects:
        for key in ("train.collect.workers", "train.collect.max_staleness", "ray.collector_gpus"):
            yield Idle(key, "it is for train.collect.mode=async")
    if not learns:
        for key in ("train.learn.max_staleness", "ray.controller_gpus"):
            yield Idle(key, "it is for train.learn.mode=async")
    if not (collects or learns):
        yield Idle("ray", "it is for train.collect.mode=async and train.learn.mode=async")
    elif config.ray.address is not None:
        yield Idle("ray.object_store_mb", "the cluster at ray.address has its own")


def of_stages(config: Config) -> Iterator[Idle]:
    stages = config.train.learn.stages
    for name, stage in stages.items():
        path = f"train.learn.{name}"
        if not stage.updates:
            for key in ("parts", "batch_size", "batch_length", "eval_every"):
                yield Idle(f"{path}.{key}", f"{path}.updates is 0")
        elif stage.eval_every and stage.eval_every > stage.updates:
            yield Idle(f"{path}.eval_every", f"a round of this stage has only {stage.updates} updates")
        if (stage.parts or [name]) == ["actor"] and getattr(config.actor, "evaluate_in", "model") == "env":
            for key in ("batch_size", "batch_length"):
                yield Idle(f"{path}.{key}", "the actor learns from episodes, actor.evaluate_in=env")
    for key in ("batch_size", "batch_length"):
        if all(getattr(stage, key) for stage in stages.values() if stage.updates):
            yield Idle(f"replay.{key}", f"every stage of train.learn has a {key} of its own")


def of_components(config: Config) -> Iterator[Idle]:
    """What a component's own config says of its keys."""
    for section in ROOMS:
        values = getattr(config, section)
        own = values.idle_keys() if hasattr(values, "idle_keys") else {}
        for key, why in own.items():
            yield Idle(key if "." in key else f"{section}.{key}", why)

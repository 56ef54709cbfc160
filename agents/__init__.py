"""Agents: what decides. `agents.load(run)` gives a trained one, ready to act."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agents.agent import Agent, Config
from agents.base import Actor
from worldmodel import config
from worldmodel.base import Spec, WorldModel
from worldmodel.run import Run

__all__ = ["Agent", "build", "build_actor", "load"]


def build(sections: Mapping[str, Any], spec: Spec) -> Agent:
    """An untrained agent from the checked sections `agent`, `model` and `actor`."""
    model = config.part("worldmodel", sections["model"].name).build(sections["model"], spec)
    return Agent(sections["agent"], model, build_actor(sections["actor"], model, spec), spec)


def build_actor(section: Any, model: WorldModel, spec: Spec) -> Actor:
    """An actor on a model, from its checked section."""
    actor: Actor = config.part("agents", section.name).build(section, model, spec)
    return actor


def load(folder: str | Path, device: str = "auto") -> Agent:
    """The trained agent of a run's folder, from its newest complete checkpoint.

        agent = agents.load("runs/cartpole1")
        env = envs.make(agent.env)  # the environment that it was trained in
        action, memory = agent.act(memory, image)

    Raises RunError if the folder is not a run or has no complete checkpoint.
    """
    run = Run.read(Path(folder))
    kinds: config.Kinds = {"agent": Config, "model": "worldmodel", "actor": "agents"}
    raw = {key: run.config.get(key, {}) for key in kinds}
    sections = config.check(raw | {"agent": {**raw["agent"], "device": device}}, kinds)
    agent = build(sections, run.spec)
    checkpoint = run.newest()
    agent.restore({name: checkpoint.tensors(name) for name in ("model", "actor", "optim")})
    agent.env = run.config["env"] or {}  # a run on recorded episodes has none
    return agent

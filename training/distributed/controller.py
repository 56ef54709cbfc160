"""What the controller's process does: the actor learns in it, with a copy of the model, while the model goes on
learning in train.py's.
"""

import sys
from typing import Any

import numpy as np
import torch

from agents.agent import Agent
from agents.optimizers import Diverged
from training import streams
from training.collecting.rollout import episode_seed
from training.configuration import config
from training.distributed.messages import pack, unpack, unpacked_batch
from training.start import build_agents
from worldmodel.base import Spec


class Controller:
    """Everything is built at the first request."""

    def __init__(self, plain: dict[str, Any], spec: dict[str, Any], path: list[str]) -> None:
        """As of Collector."""
        sys.path += [folder for folder in path if folder not in sys.path]
        self.plain, self.spec = plain, Spec(**spec)
        self.agent: Agent | None = None

    def learn(
        self, done: int, model: np.ndarray, state: np.ndarray | None, batches: list[list[np.ndarray]]
    ) -> dict[str, Any]:
        """One update for each batch -> `state`, the actor and its optimisers' states as messages.pack() gives them, and
        `metrics` of every update; or `diverged`, why it did.

        done: the actor's updates before. model: the weights to learn in. state: what to begin from; None: what it has.
        """
        if self.agent is None:
            checked = config.check(self.plain)
            self.seed = checked.root.seed
            self.agent, _ = build_agents(checked, self.spec)
        agent = self.agent
        agent.model.load_state_dict(unpack(model)["model"])
        if state is not None:
            take_actor(agent, state)
        metrics = []
        try:
            for number, columns in enumerate(batches, done):
                torch.manual_seed(episode_seed(self.seed, streams.ACTOR_NOISE, number))
                found = agent.learn(unpacked_batch(columns), ("actor",))
                metrics.append({name: float(value) for name, value in found.items()})
        except Diverged as error:
            return {"diverged": str(error)}
        return {"state": actor_state(agent), "metrics": metrics}


def actor_state(agent: Agent) -> np.ndarray:
    """What an agent's actor has learned, and where its optimisers are."""
    return pack({"actor": agent.actor.state_dict(), "optim": agent.optimizers.tensors(agent.actor.parts())})


def take_actor(agent: Agent, state: np.ndarray) -> None:
    """The reverse, in place: the model and its optimisers stay as they are."""
    parts = unpack(state)
    agent.actor.load_state_dict(parts.get("actor", {}))
    agent.optimizers.restore(parts.get("optim", {}), agent.actor.parts())

"""The DOT world under the same CEM with the true simulator:  python benchmarks/dot_oracle.py [run]

Prints the mean return of random actions, of CEM on the true simulator, and, for a run's folder with an
evaluation.json, how far the learned agent got between the two (0: random, 1: true simulator). The episodes are those
of evaluate.py with --seed 0.
"""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from agents.objectives.reward import Reward  # noqa: E402
from agents.planners import cem  # noqa: E402
from envs.suites import dot  # noqa: E402
from training.collecting.rollout import episode_seed  # noqa: E402
from training.configuration.command_line import component_section  # noqa: E402
from training.streams import EVALUATE  # noqa: E402
from worldmodel.base import Batch, Spec, WorldModel  # noqa: E402

STEPS = 50


class State(NamedTuple):
    """The simulator's state (N, 4) and the reward (N,) of arriving in it."""

    dot: Tensor
    gained: Tensor


class Simulator(WorldModel):
    """The DOT world's own equations as a world model: what a learned one can reach at best."""

    def initial(self, n: int) -> State:
        return State(torch.zeros(n, 4), torch.zeros(n))

    def imagine(self, state: State, action: Tensor, temperature: float = 1.0) -> State:
        moved, reward = dot.step(state.dot.numpy(), action.numpy())
        return State(torch.from_numpy(moved), torch.from_numpy(reward))

    def reward(self, state: State) -> Tensor:
        return state.gained

    def continues(self, state: State) -> Tensor:
        return torch.ones_like(state.gained)

    def features(self, state: State) -> Tensor:
        return state.dot

    def observe(self, state: State, action: Tensor, image: Tensor, first: Tensor) -> State:
        raise NotImplementedError("the simulator is told its state")

    def decode(self, state: State) -> Tensor:
        raise NotImplementedError("nobody looks")

    def loss(self, batch: Batch, part: str = "model") -> tuple[Tensor, Any, dict[str, Tensor]]:
        raise NotImplementedError("there is nothing to learn")


def start_states(episodes: int, seed: int = 0) -> np.ndarray:
    """The initial states (N, 4) of evaluate.py's episodes."""
    worlds = [dot.Dot((16, 16), gray=True) for _ in range(episodes)]
    for number, world in enumerate(worlds):
        world.reset(seed=episode_seed(seed, EVALUATE, number))
    return np.stack([world.state for world in worlds])


def oracle(settings: dict[str, Any], episodes: int = 20) -> float:
    """The mean return of CEM with the true simulator."""
    model = Simulator()
    actor = cem.build(cem.Config(**settings), model, Spec((1, 16, 16), 2, False), Reward())
    state, total, carry = start_states(episodes), np.zeros(episodes), actor.initial(episodes)
    for _ in range(STEPS):
        with torch.no_grad():
            here = State(torch.from_numpy(state), torch.zeros(episodes))
            action, carry, _ = actor.act(here, carry, "evaluate")
        state, reward = dot.step(state, action.numpy())
        total += reward
    return float(total.mean())


def random(episodes: int = 20) -> float:
    """The mean return of uniformly random actions."""
    rng, state, total = np.random.default_rng(0), start_states(episodes), np.zeros(episodes)
    for _ in range(STEPS):
        state, reward = dot.step(state, rng.uniform(-1, 1, (episodes, 2)))
        total += reward
    return float(total.mean())


def main() -> None:
    torch.manual_seed(0)
    settings = component_section(("actor",), "cem_dot")
    low, high = random(), oracle(settings)
    print(f"random {low:.2f}   CEM with the true simulator {high:.2f}")
    if len(sys.argv) > 1:
        learned = json.loads((Path(sys.argv[1]) / "evaluation.json").read_text())["return"]
        print(f"learned {learned:.2f}: {(learned - low) / (high - low):.1%} of the way")


if __name__ == "__main__":
    main()

"""How good an agent is, and what it dreams: shared by train.py while learning and by evaluate.py afterwards."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.agent import Agent
from agents.imagination import Dream, dream, horizon_errors, returns, starts
from agents.rollout import Environments, Trial, confidence, promise_kept, rollout
from worldmodel.base import Batch, each
from worldmodel.replay import Episode, Replay

CONTEXT, FILMS, LENGTH = 5, 3, 50  # of the dreams that are shown: looks, sequences, rows
PRACTICE = 16, 16  # sequences and rows of replay from which an actor's practice starts


def evaluate(
    agent: Agent, envs: Environments, seeds: Sequence[int], seed: int, stop: Callable[[], bool] = lambda: False
) -> tuple[list[Trial], dict[str, float]]:
    """One noise-free episode per seed. The agent's own stream of randomness is left as it was."""
    with agent.own_randomness(seed):
        trials, seconds = rollout(agent.act, envs, seeds, explore=False, stop=stop)
    mean, interval = confidence([trial.score for trial in trials])
    decisions = sum(len(trial.predicted) for trial in trials)
    values = {
        "evaluate/return": mean,
        "evaluate/interval": interval,  # half-width of the 95 % interval
        "evaluate/episode_length": decisions / len(trials),
        "evaluate/act_ms": 1000 * seconds.act / decisions * min(envs.count, len(trials)),
        **planned(trials, "evaluate"),
    }
    return trials, {name: value for name, value in values.items() if not math.isnan(value)}


def planned(trials: Sequence[Trial], prefix: str) -> dict[str, float]:
    """What the planner expected over its horizon against what it got: a model that is exploited shows here first."""
    predicted, obtained = np.array([promise_kept(trial) for trial in trials]).mean(0)
    return {
        f"{prefix}/planned_return": float(predicted),
        f"{prefix}/obtained_return": float(obtained),
        f"{prefix}/exploitation": float(predicted - obtained),
    }


def dreams(
    agent: Agent, episodes: Sequence[Episode], seed: int, temperature: float = 1.0
) -> tuple[Dream, dict[str, float]]:
    """Open-loop dreams of episodes that were never learned from, and their errors by horizon."""
    episodes = episodes[:FILMS]
    rows = min(LENGTH, *(len(episode.reward) for episode in episodes))

    def cut(name: str) -> Tensor:
        arrays = [getattr(episode, name)[:rows] for episode in episodes]
        return torch.from_numpy(np.stack(arrays)).to(agent.device)

    first = torch.zeros(len(episodes), rows, dtype=torch.bool, device=agent.device)
    first[:, 0] = True
    batch = Batch(cut("image"), cut("action"), cut("reward"), first, cut("terminal"))
    with agent.own_randomness(seed), agent.autocast():
        film = dream(agent.model, batch, min(CONTEXT, rows - 1), temperature)
    image, reward = horizon_errors(film)
    errors: dict[str, float] = {}
    for ahead in (1, 5, 10, 20, 40):
        if ahead <= len(image):
            errors |= {
                f"dream/image_error_{ahead:02d}": image[ahead - 1],
                f"dream/reward_error_{ahead:02d}": reward[ahead - 1],
            }
    return film, errors


def practise(agent: Agent, replay: Replay, generations: int, seed: int, progress: Callable[[int, str], Any]) -> None:
    """Let an actor that learns do so in the dreams of its model, which stays as it is."""
    for number in range(generations):
        batch = replay.sample(np.random.default_rng([seed, number]), PRACTICE[0], PRACTICE[1])
        metrics = agent.learn(batch, "actor")
        progress(
            number + 1,
            ", ".join(f"{name} {float(value):.1f}" for name, value in metrics.items() if name == "incumbent"),
        )


@torch.no_grad()
def dream_scores(agent: Agent, replay: Replay, rollouts: int, horizon: int, temperature: float, seed: int) -> Tensor:
    """The returns (rollouts,) of an actor without a plan in dreams that start anywhere in replay."""
    batch = replay.sample(np.random.default_rng([seed, 1 << 32]), rollouts, PRACTICE[1])
    batch = Batch(*(tensor.to(agent.device) for tensor in batch))
    with agent.own_randomness(seed), agent.autocast():
        pool = each(lambda a: a[0], starts(agent.model, batch))  # (N, ...)
        rows = torch.randint(len(pool[0]), (rollouts,)).to(agent.device)
        state = each(lambda a: a[rows], pool)
        plan = each(lambda a: a.to(agent.device), agent.actor.initial(rollouts))

        def policy(state: Any) -> Tensor:
            return agent.actor.act(state, plan, explore=False)[0]

        return returns(agent.model, state, policy, horizon, temperature).cpu()


def collected(trials: Sequence[Trial]) -> dict[str, Any]:
    """Collected episodes, summed up."""
    values = {
        "collect/return": float(np.mean([trial.score for trial in trials])),
        "collect/episode_length": float(np.mean([len(trial.predicted) for trial in trials])),
        **planned(trials, "collect"),
    }
    return {name: value for name, value in values.items() if not math.isnan(value)}

"""How good an agent is, and what it dreams: shared by train.py while learning and by evaluate.py afterwards."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.agent import Agent
from agents.base import Actor
from agents.imagination import Dream, dream, horizon_errors, imagined_return, start_states
from training.collecting.rollout import (
    UNKNOWN_LIMIT,
    Environments,
    EpisodeResult,
    mean_ci95,
    planned_vs_obtained,
    rollout,
    value_vs_obtained,
)
from training.reporting.progress import console
from worldmodel.base import Batch, State, tree_map
from worldmodel.networks.dense import packed_weights
from worldmodel.replay.buffer import Replay
from worldmodel.replay.episodes import Episode

CONTEXT, VIDEOS, LENGTH = 5, 3, 50  # of the dreams that are shown: observed rows, sequences, all rows
IMAGINATION_BATCH = 16, 16  # sequences and rows of replay from which an actor's practice starts


def evaluate(
    agent: Agent, envs: Environments, seeds: Sequence[int], seed: int, stop: Callable[[], bool] = lambda: False
) -> tuple[list[EpisodeResult], dict[str, float]]:
    """One noise-free episode per seed. The agent's own stream of randomness is left as it was."""
    with agent.fork_rng(seed):
        results, seconds = rollout(agent.act, envs, seeds, mode="evaluate", stop=stop)
    if not envs.time_limit and any(result.length == UNKNOWN_LIMIT for result in results):
        console.print(f"warning: evaluated episodes are cut after {UNKNOWN_LIMIT:,} decisions: set env.time_limit")
    mean, interval = mean_ci95([result.episode_return for result in results])
    decisions = sum(result.length for result in results)
    values = {
        "evaluate/return": mean,
        "evaluate/ci95": interval,  # half-width of the 95 % interval
        "evaluate/episode_length": decisions / len(results),
        "evaluate/act_ms": 1000 * seconds.act / decisions * min(envs.num_envs, len(results)),
        **(planned_metrics(results, "evaluate") if in_reward_units(agent) else {}),
        **value_metrics(results, critic_discount(agent)),
    }
    return results, {name: value for name, value in values.items() if not math.isnan(value)}


def play(
    agent: Agent, actor: Actor, envs: Environments, seeds: Sequence[int], seed: int, stop: Callable[[], bool]
) -> list[EpisodeResult]:
    """Noise-free episodes of another actor on the agent's model, one per seed. seed: of their noise."""
    with agent.fork_rng(seed):
        player = agent.with_actor(actor)
        try:
            return rollout(player.act, envs, seeds, "evaluate", stop)[0]
        finally:
            player.act_graph.forget()  # every candidate's would keep memory of the GPU


def in_reward_units(agent: Agent) -> bool:
    """Whether what the actor's plans predict can be compared with returns."""
    return agent.actor.objective is None or agent.actor.objective.in_reward_units


def planned_metrics(results: Sequence[EpisodeResult], prefix: str) -> dict[str, float]:
    """The return that was planned over the horizon, and that obtained: exploiting the model shows here first. The means
    over the episodes that are as long as the horizon, NaN if none is.
    """
    pairs = np.array([planned_vs_obtained(result) for result in results])
    sound = pairs[~np.isnan(pairs).any(1)]
    predicted, obtained = sound.mean(0) if len(sound) else (math.nan, math.nan)
    return {
        f"{prefix}/planned_return": float(predicted),
        f"{prefix}/obtained_return": float(obtained),
        f"{prefix}/planned_minus_obtained": float(predicted - obtained),
    }


def critic_discount(agent: Agent) -> float | None:
    """Of the returns that the critic predicts; None, if there is none, or one of other things than rewards."""
    return agent.actor.discount if in_reward_units(agent) else None


def value_metrics(results: Sequence[EpisodeResult], discount: float | None) -> dict[str, float]:
    """What the critic expected, the mean over all decisions, and the discounted return that was then obtained: one that
    overestimates shows here. Nothing, if there is no critic.
    """
    if discount is None:
        return {}
    pairs = [value_vs_obtained(result, discount) for result in results]
    value, obtained = (np.concatenate(both) for both in zip(*pairs, strict=True))
    if not len(value):
        return {}
    means = {
        "value": value.mean(),
        "value_obtained": obtained.mean(),
        "value_minus_obtained": (value - obtained).mean(),
    }
    return {f"evaluate/{name}": float(mean) for name, mean in means.items()}


def dreams(
    agent: Agent, episodes: Sequence[Episode], seed: int, temperature: float = 1.0
) -> tuple[Dream, dict[str, float]]:
    """Open-loop dreams of episodes that were never learned from, and their errors by horizon."""
    episodes = episodes[:VIDEOS]
    rows = min(LENGTH, *(len(episode.reward) for episode in episodes))

    def cut(name: str) -> Tensor:
        arrays = [getattr(episode, name)[:rows] for episode in episodes]
        return torch.from_numpy(np.stack(arrays)).to(agent.device)

    first = torch.zeros(len(episodes), rows, dtype=torch.bool, device=agent.device)
    first[:, 0] = True
    batch = Batch(cut("image"), cut("action"), cut("reward"), first, cut("terminal"))
    with agent.fork_rng(seed), agent.autocast(), packed_weights():
        video = dream(agent.model, batch, min(CONTEXT, rows - 1), temperature)
    image, reward = horizon_errors(video)
    errors: dict[str, float] = {}
    for ahead in (1, 5, 10, 20, 40):
        if ahead <= len(image):
            errors |= {
                f"dream/image_mse_{ahead:02d}": image[ahead - 1],
                f"dream/reward_mae_{ahead:02d}": reward[ahead - 1],
            }
    return video, errors


def train_in_imagination(
    agent: Agent, replay: Replay, generations: int, seed: int, progress: Callable[[int, str], Any]
) -> None:
    """Train an actor in its model's imagination; the model is not changed."""
    for number in range(generations):
        batch = replay.sample(np.random.default_rng([seed, number]), IMAGINATION_BATCH[0], IMAGINATION_BATCH[1])
        metrics = agent.learn(batch, ("actor",))
        progress(
            number + 1,
            ", ".join(f"{name} {float(value):.1f}" for name, value in metrics.items() if name == "actor/mean_solution"),
        )


@torch.no_grad()
def dream_returns(agent: Agent, replay: Replay, rollouts: int, horizon: int, temperature: float, seed: int) -> Tensor:
    """The returns (rollouts,) of an actor without a memory in dreams that start anywhere in replay."""
    actor = agent.actor
    assert actor.objective is not None
    batch = replay.sample(np.random.default_rng([seed, 1 << 32]), rollouts, IMAGINATION_BATCH[1]).to(agent.device)
    with agent.fork_rng(seed), agent.autocast(), packed_weights():
        pool = start_states(batch, agent.observe(batch))  # (N, ...)
        rows = torch.randint(len(pool[0]), (rollouts,)).to(agent.device)
        state = tree_map(lambda a: a[rows], pool)
        carry = tree_map(lambda a: a.to(agent.device), actor.initial(rollouts))

        def policy(state: State) -> Tensor:
            return actor.act(state, carry, "evaluate", agent.generator)[0]

        return imagined_return(agent.model, actor.objective, state, policy, horizon, temperature).cpu()


def collect_metrics(agent: Agent, results: Sequence[EpisodeResult]) -> dict[str, Any]:
    """Collected episodes, summed up."""
    values = {
        "collect/return": float(np.mean([result.episode_return for result in results])),
        "collect/episode_length": float(np.mean([result.length for result in results])),
        **(planned_metrics(results, "collect") if in_reward_units(agent) else {}),
    }
    return {name: value for name, value in values.items() if not math.isnan(value)}

"""Row t holds an image and the action that LED to it (T1): the whole way from a world to a plan.

In this world image and reward are pure functions of the action that led to them. A model that gets the rows
right knows both before it looks; with actions one row off its losses still fall, and it foresees nothing.
"""

from typing import Any

import numpy as np
import pytest
import tiny
import torch

from agents import agent, imagination
from agents.agent import Agent
from agents.base import Mode, no_plan
from agents.explorers.uniform import Uniform
from agents.optimizers import OptimizerConfig
from agents.planners import cem
from training.collecting.rollout import EpisodeResult, rollout
from worldmodel.base import Batch, Spec
from worldmodel.replay.buffer import Replay, ReplayConfig

SPEC = Spec((1, 16, 16), 1, False)
WISH = 0.5


def picture(seed: int, step: int, action: np.ndarray) -> float:
    return round(128 + 100 * float(action[0]))


def earned(seed: int, step: int, action: np.ndarray) -> float:
    return 1 - 2 * abs(float(action[0]) - WISH)


def world(count: int = 1) -> tiny.Worlds:
    """Odd seeds die after 7 steps, even ones are cut off after 10."""
    return tiny.Worlds(count, picture, earned, lambda seed: 10 - 3 * (seed % 2), lambda seed: seed % 2 == 1, SPEC)


def replay_config(**values: int) -> ReplayConfig:
    return ReplayConfig(**values, storage="memory", memory_gb=None, context=False)


def collected() -> list[EpisodeResult]:
    torch.manual_seed(0)
    who = tiny.make_agent(Uniform, SPEC)
    return rollout(who.act, world(3), range(40), mode="explore")[0]


def taught(shift: int) -> Agent:
    """An agent that has learned from these episodes, with every action moved by so many rows."""
    replay = Replay(replay_config(batch_size=16, batch_length=10, capacity=1000), SPEC)
    for result in collected():
        moved = np.roll(result.episode.action, shift, axis=0)
        replay.add(result.episode._replace(action=moved))
    model = tiny.model(SPEC, continue_weight=1.0, free_nats=1.0)
    planner = cem.build(
        cem.Config(
            name="cem",
            horizon=3,
            iterations=5,
            candidates=100,
            elites=10,
            init_std=1.0,
            min_std=0.0,
            momentum=0.0,
            warm_start=False,
            choose="mean",
            exploration_noise=0.0,
        ),
        model,
        SPEC,
        tiny.REWARD,
    )
    adam = OptimizerConfig(kind="adam", learning_rate=3e-3, eps=1e-4, max_grad_norm=100.0)
    who = Agent(tiny.agent_config(optimizers={"model": adam}), model, planner, SPEC)
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    for _ in range(250):
        who.learn(replay.sample(rng))
    return who


def surprise(who: Agent) -> tuple[float, float, float]:
    """On fresh episodes: errors of brightness (in units of the action) and of the reward, imagined open
    loop after three looks; and the reward that its own plans earn."""
    torch.manual_seed(1)
    results = rollout(tiny.make_agent(Uniform, SPEC).act, world(), range(100, 120, 2), mode="explore")[0]
    parts = [torch.from_numpy(np.stack(part)) for part in zip(*(result.episode for result in results))]
    batch = Batch(parts[0], parts[1], parts[2], torch.arange(11).expand(10, 11) == 0, parts[3])
    dreamt = imagination.dream(who.model, batch, context=3)
    image, reward = (dreamt.imagined - dreamt.real)[:, 3:], (dreamt.reward_imagined - dreamt.reward)[:, 3:]
    planned = rollout(who.act, world(), range(200, 204), mode="evaluate")[0]
    return (
        image.mean((2, 3, 4)).abs().mean().item() * 2.55,
        reward.abs().mean().item(),
        float(np.mean([result.episode.reward[1:].mean() for result in planned])),
    )


@pytest.mark.parametrize("shift", [0, -1, 1])
def test_only_aligned_actions_teach_what_an_action_leads_to(shift: int) -> None:
    image, reward, income = surprise(taught(shift))
    if shift == 0:
        assert image < 0.1 and reward < 0.15 and income > 0.7
    else:  # no better than always saying the mean: 0.5 for the image
        assert image > 0.4 and reward > 0.4


def test_the_rows_of_an_episode() -> None:
    """By hand: a world that dies after two steps, seen from inside and out."""
    who = tiny.Worlds(1, picture, earned, lambda seed: 2, lambda seed: seed == 5, SPEC)
    acts = iter([0.5, -1.0, 0.0, 1.0])

    def act(memory: Any, image: np.ndarray, first: np.ndarray, mode: Mode) -> Any:
        return np.full((1, 1), next(acts), np.float32), agent.Memory(None, torch.zeros(1, 1), None, no_plan(1, SPEC))

    (dead, cut), _ = rollout(act, who, [5, 6], mode="evaluate")
    assert dead.episode.image[:, 0, 0, 0].tolist() == [128, 178, 28]  # the last look is kept (T33)
    assert dead.episode.action.tolist() == [[0], [0.5], [-1]]  # the action that led to the image
    assert dead.episode.reward.tolist() == [0, 1, -2]  # received on arriving
    assert dead.episode.terminal.tolist() == [False, False, True]  # true death
    assert cut.episode.image[:, 0, 0, 0].tolist() == [128, 128, 228]
    assert cut.episode.action.tolist() == [[0], [0], [1]]
    assert cut.episode.terminal.tolist() == [False] * 3  # a time limit is not one
    assert (dead.truncated, cut.truncated, dead.episode_return, cut.episode_return) == (False, True, -1, 0)
    replay = Replay(replay_config(batch_size=4, batch_length=6, capacity=6), SPEC)
    replay.add(dead.episode)
    replay.add(cut.episode)
    assert replay.first.rows.tolist() == [True, False, False] * 2
    assert replay.terminal.rows.tolist() == [False, False, True, False, False, False]
    assert replay.action.rows.flatten().tolist() == [0, 0.5, -1, 0, 0, 1] and replay.reward.rows.tolist() == [
        0,
        1,
        -2,
        0,
        0,
        0,
    ]


def test_the_model_is_shown_the_last_action_with_the_image_it_led_to(monkeypatch: pytest.MonkeyPatch) -> None:
    who, seen = tiny.make_agent(Uniform, SPEC), []
    monkeypatch.setattr(who.actor, "needs_observation", True)
    right = who.model.observe

    def observe(state: Any, action: torch.Tensor, image: torch.Tensor, first: torch.Tensor) -> Any:
        seen.append((action.clone(), image.clone(), first.clone()))
        return right(state, action, image, first)

    monkeypatch.setattr(who.model, "observe", observe)
    (one, two), _ = rollout(who.act, world(), [1, 2], mode="explore")
    rows = [(e.action[t], e.image[t], t == 0) for e in (one.episode, two.episode) for t in range(len(e.reward) - 1)]
    assert len(seen) == len(rows) == 7 + 10
    for (action, image, first), (wanted, looks, begins) in zip(seen, rows):
        assert first.item() == begins and torch.equal(image[0], torch.from_numpy(looks))
        assert begins or torch.equal(action[0], torch.from_numpy(wanted))

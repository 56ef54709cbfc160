"""Half precision learns the same: losses beside float32's, the scaler of fp16, and exact resuming."""

from typing import Any

import numpy as np
import pytest
import tiny
import torch

from agents.agent import Agent
from agents.explorers.uniform import Uniform
from envs.suites import dot
from worldmodel.base import Batch
from worldmodel.models import rssm

UPDATES = 200


def world(seed: int, b: int = 8, t: int = 8) -> Batch:
    """Sequences of the DOT world under random actions."""
    rng = np.random.default_rng(seed)
    state = dot.reset(rng, b)
    images, actions, rewards = [dot.draw(state, (16, 16))], [np.zeros((b, 2))], [np.zeros(b)]
    for _ in range(t - 1):
        actions.append(rng.uniform(-1, 1, (b, 2)))
        state, reward = dot.step(state, actions[-1])
        images.append(dot.draw(state, (16, 16)))
        rewards.append(reward)
    first = torch.zeros(b, t, dtype=torch.bool)
    first[:, 0] = True
    image, action, reward = (torch.from_numpy(np.stack(rows, 1)) for rows in (images, actions, rewards))
    return Batch(image, action.float(), reward.float(), first, torch.zeros_like(first))


def agent(precision: str, seed: int = 0) -> Agent:
    torch.manual_seed(seed)
    model = rssm.build(tiny.config(image_weight=10.0), tiny.SPEC)
    return Agent(tiny.agent_config(precision=precision), model, Uniform(model, tiny.SPEC), tiny.SPEC)


def learn(who: Agent, updates: int, start: int = 0) -> list[float]:
    torch.manual_seed(start)
    return [float(who.learn(world(number))["model/loss"].detach()) for number in range(start, start + updates)]


@pytest.fixture(scope="module")
def reference() -> list[float]:
    return learn(agent("fp32"), UPDATES)


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "updates"), [("bf16", UPDATES), ("fp16", 40)])  # fp16 is slow on processors
def test_losses_agree_with_float32_within_one_percent(precision: str, updates: int, reference: list[float]) -> None:
    who = agent(precision)
    got = np.array(learn(who, updates)).reshape(-1, 20).mean(1)
    wanted = np.array(reference[:updates]).reshape(-1, 20).mean(1)
    assert reference[-1] < 0.5 * reference[0]  # it did learn
    assert np.abs(got / wanted - 1).max() < 0.01
    assert {part.dtype for part in who.model.parameters()} == {torch.float32}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_in_half_precision_a_resumed_agent_learns_the_same(precision: str) -> None:
    whole, half, again = agent(precision), agent(precision), agent(precision, seed=1)
    learn(whole, 3)
    wanted = learn(whole, 3, start=3)
    learn(half, 3)
    again.restore(
        {file: {key: value.clone() for key, value in group.items()} for file, group in half.tensors().items()}
    )
    assert learn(again, 3, start=3) == wanted


def test_an_overflow_in_fp16_lowers_the_scale_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    who = agent("fp16")
    learn(who, 1)
    before, scale = (
        {key: value.clone() for key, value in who.model.state_dict().items()},
        who.optimizers.scaler.get_scale(),
    )
    right = who.model.loss

    def huge(*given: Any) -> Any:
        loss, *rest = right(*given)
        return (loss * 1e30, *rest)

    monkeypatch.setattr(who.model, "loss", huge)
    assert who.learn(world(1))["model/skipped"] == 1
    assert who.optimizers.scaler.get_scale() == scale / 2 and who.optimizers.skipped["model"] == 1
    assert all(torch.equal(value, before[key]) for key, value in who.model.state_dict().items())
    monkeypatch.setattr(who.model, "loss", right)
    assert np.isfinite(learn(who, 1)[0]) and who.optimizers.skipped["model"] == 0


def test_statistics_and_losses_are_float32_whatever_the_networks_are() -> None:
    who = agent("bf16")
    with who.autocast():
        loss, states, metrics = who.model.loss(world(0))
    assert loss.dtype == states.mean.dtype == states.std.dtype == torch.float32
    assert all(value.dtype == torch.float32 for value in metrics.values())

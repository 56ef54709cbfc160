"""benchmarks/plain.py computes what the model and the planner compute; so it is also their oracle."""

import sys

import numpy as np
import tiny
import torch

from agents.agent import Agent
from agents.planners.cem import CEM
from training.components import ROOT

sys.path.insert(0, str(ROOT))

from benchmarks.plain import Plain

SPEC = tiny.SPEC._replace(image_shape=(3, 64, 64))
SIZES = dict(depths=[8, 8, 8, 8], kernels=[5, 5, 6, 6], bit_depth=5, dequantise=True, free_nats=1.0)


def planner() -> Agent:
    section = tiny.section("actor", "cem")
    return tiny.make_agent(lambda model, spec: CEM(section, model, spec, tiny.REWARD), SPEC, **SIZES)


def test_the_plain_update_is_ours() -> None:
    ours, other = planner(), planner()
    plain = Plain(other.model, other.actor, ours.optimizers.configs["model"].max_grad_norm)
    for seed in range(3):
        batch = tiny.batch(spec=SPEC, seed=seed, starts=[(1, 3)])
        torch.manual_seed(seed)
        loss = ours.learn(batch)["model/loss"]
        torch.manual_seed(seed)
        torch.testing.assert_close(loss, plain.update(batch).detach(), rtol=1e-5, atol=0)
    for (name, one), (_, two) in zip(ours.model.named_parameters(), other.model.named_parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-2, atol=1e-5, msg=name)


def test_the_plain_plan_is_ours() -> None:
    agent = planner()
    image = np.random.default_rng(0).integers(0, 256, (2, *SPEC.image_shape), dtype=np.uint8)
    torch.manual_seed(1)
    action, _ = agent.act(None, image)
    torch.manual_seed(1)
    plain = Plain(agent.model, agent.actor, 1.0).act(torch.from_numpy(image))
    torch.testing.assert_close(torch.from_numpy(action), plain, rtol=1e-4, atol=1e-5)

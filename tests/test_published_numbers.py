"""The recipes of Dreamer say what was published and released; sizes are held by counts of parameters elsewhere. What a
recipe does otherwise on purpose, or what was never published, is not in these tables.
"""

from pathlib import Path
from typing import Any

import pytest
import runs


def adam(rate: float, eps: float, decay: float = 0.0) -> dict[str, Any]:
    return optimizer("adam_tf", rate, eps) | {"max_grad_norm": 100.0, "weight_decay": decay}


def optimizer(kind: str, rate: float, eps: float) -> dict[str, Any]:
    return {
        "kind": kind, "learning_rate": rate, "eps": eps, "max_grad_norm": None, "weight_decay": 0.0, "agc": None,
        "warmup": 0, "anneal": 0, "anneal_after": 0,
    }  # fmt: skip


LAPROP = optimizer("laprop", 4e-5, 1e-20) | {"agc": 0.3, "warmup": 1000}
JOINT = {  # from the same batch, of the size that replay says
    "train.learn.joint.parts": ["model", "actor"],
    "train.learn.joint.batch_size": None,
    "train.learn.joint.batch_length": None,
}
V1 = {
    "env.action_repeat": 2,
    "train.pretrain": 0,  # the first round's 100 updates are it
    "train.prefill": 5,  # episodes of 1,000 env steps, after each of which it learns
    "train.collect.unit": "episodes",
    "train.collect.per_round": 1,
    "train.ratio": None,
    **JOINT,
    "train.learn.joint.updates": 100,
    "replay.batch_size": 50,
    "replay.batch_length": 50,
    "replay.context": False,
    "agent.optimizers": {"model": adam(6e-4, 1e-7), "actor": adam(8e-5, 1e-7)},
    "model.min_std": 0.1,
    "model.free_nats": 3.0,
    "model.kl_weight": 1.0,
    "model.continue_weight": 0.0,
    "actor.horizon": 15,
    "actor.discount": 0.99,
    "actor.return_lambda": 0.95,
    "actor.exploration_noise": 0.3,
    "actor.evaluate_with": "mode",
}
V2 = {
    "env.action_repeat": 2,
    "train.pretrain": 100,
    "train.prefill": 2000,  # env steps, which are 1,000 decisions
    "train.collect.unit": "steps",
    "train.collect.per_round": 10,  # five decisions, for which one update is due
    "train.ratio": 16 * 50 / 5,
    **JOINT,
    "train.learn.joint.updates": 1,
    "replay.batch_size": 16,
    "replay.batch_length": 50,
    "replay.context": False,
    "agent.optimizers": {"model": adam(3e-4, 1e-5, 1e-6), "actor": adam(8e-5, 1e-5, 1e-6)},
    "model.free_nats": 1.0,
    "model.kl_balance": 0.8,
    "model.kl_weight": 1.0,
    "model.continue_weight": 0.0,
    "actor.gradient": "auto",
    "actor.horizon": 15,
    "actor.discount": 0.99,
    "actor.return_lambda": 0.95,
    "actor.entropy_weight": 1e-4,
    "actor.slow_every": 100,
    "actor.evaluate_with": "mode",
}
V3 = {
    "env.action_repeat": 2,
    "train.pretrain": 0,
    "train.ratio": 512,
    **JOINT,
    "train.learn.joint.updates": 1,
    "replay.batch_size": 16,
    "replay.batch_length": 64,
    "replay.context": True,
    "agent.optimizers": {"model": LAPROP, "actor": LAPROP},
    "model.bins": 255,
    "model.unimix": 0.01,
    "model.free_nats": 1.0,
    "model.horizon": 333.0,
    "model.image_weight": 1.0,
    "model.reward_weight": 1.0,
    "model.continue_weight": 1.0,
    "model.dyn_weight": 1.0,
    "model.rep_weight": 0.1,
    "actor.output_scale": 0.01,
    "actor.unimix": 0.0,
    "actor.bins": 255,
    "actor.horizon": 15,
    "actor.starts": None,
    "actor.discount_horizon": 333.0,
    "actor.return_lambda": 0.95,
    "actor.return_scale_rate": 0.01,
    "actor.entropy_weight": 3e-4,
    "actor.slow_rate": 0.02,
    "actor.slow_weight": 1.0,
    "actor.replay_weight": 0.3,
    "actor.evaluate_with": "sample",
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "dreamer_v1": V1,
    "dreamer_v2": V2,
    "dreamer_v3": V3,
    "dreamer_v3_atari100k": {**V3, "env.action_repeat": 4, "train.env_steps": 400_000, "train.ratio": 256},
    "dreamer_v3_crafter": {**V3, "env.action_repeat": 1, "train.env_steps": 1_000_000, "train.ratio": 512},
}


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_a_recipe_says_what_was_published(recipe: str, tmp_path: Path) -> None:
    checked = runs.composed(f"exp={recipe}", f"runs={tmp_path}")
    found: dict[str, Any] = {}
    for key in PUBLISHED[recipe]:
        section, *path = key.split(".")
        value = getattr(checked, section).model_dump()
        for step in path:
            value = value[step]
        found[key] = value
    assert found == PUBLISHED[recipe]

"""What the tests of world models with categorical latents share: small models, a random batch, observed states."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml

from worldmodel.base import Batch, Spec

CONFIGS = Path(__file__).resolve().parent.parent / "configs" / "model"
SPEC, DISCRETE = Spec((3, 16, 16), 2, False), Spec((1, 16, 16), 3, True)
NAMES = ["dreamer_v3", "dreamer_v3_2023"]
LITTLE = dict(deter=16, stoch=4, classes=3, hidden=12, depths=[4, 8])
every = pytest.mark.parametrize("name", NAMES)
B, T = 3, 6


def config(name: str, **changes: Any) -> Any:
    values = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text("utf8")) | LITTLE | changes
    return importlib.import_module(f"worldmodel.models.{values['name']}").Config(**values)


def make(name: str, spec: Spec = SPEC, seed: int = 0, **changes: Any) -> Any:
    """A small model whose weights are neither 0 nor 1: zeros would hide a missing term."""
    torch.manual_seed(seed)
    section = config(name, **changes)
    model = importlib.import_module(f"worldmodel.models.{name}").build(section, spec)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def make_batch(spec: Spec = SPEC, seed: int = 0) -> Batch:
    """The second sequence has an episode's start in its middle, after a terminal row."""
    generator = torch.Generator().manual_seed(seed)
    first = (torch.arange(T) == 0).repeat(B, 1)
    first[1, 3] = True
    terminal = torch.zeros(B, T, dtype=torch.bool)
    terminal[1, 2] = True
    image = torch.randint(0, 256, (B, T, *spec.image_shape), generator=generator, dtype=torch.uint8)
    action = torch.rand(B, T, spec.action_dim, generator=generator) * 2 - 1
    if spec.discrete:
        action = F.one_hot(action.argmax(-1), spec.action_dim).float()
    return Batch(image, action, torch.randn(B, T, generator=generator), first, terminal)


def look(model: Any, batch: Batch, seed: int = 5) -> list[Any]:
    """The states of a batch, observed row by row as an agent does."""
    torch.manual_seed(seed)
    state, states = model.initial(B), []
    for t in range(T):
        state = model.observe(state, batch.action[:, t], batch.image[:, t], batch.first[:, t])
        states.append(state)
    return states

"""What the tests of actor-critics share: configs from YAML made small, random batches, exact models, no host reads."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from agents.objectives.reward import Reward
from worldmodel.base import Batch, Spec, WorldModel
from worldmodel.networks.elu import EluMLP

ROOT = Path(__file__).resolve().parent.parent
SPEC = Spec((3, 64, 64), 6, False)
SMALL = Spec((1, 16, 16), 2, False)
DISCRETE = Spec((1, 16, 16), 3, True)
LITTLE: dict[str, dict[str, Any]] = {  # what makes a model or an actor small, by name
    "dreamer_v1": dict(deter=16, stoch=4, hidden=16, depths=[4, 8], kernels=[6, 6], units=16),
    "dreamer_v2": dict(deter=16, stoch=4, classes=4, hidden=16, depths=[4, 8], kernels=[6, 6], units=16),
    "dreamer_v3": dict(deter=16, stoch=4, classes=4, hidden=16, blocks=2, depths=[4, 8], units=16),
    "dreamer_v3_2023": dict(deter=16, stoch=4, classes=4, hidden=16, depths=[4, 8], units=16),
}
NAMES = sorted(LITTLE)


def config(room: str, name: str, **changes: Any) -> Any:
    """The checked config of configs/<room>/<name>.yaml, with changes."""
    values = yaml.safe_load((ROOT / "configs" / room / f"{name}.yaml").read_text("utf8"))
    return component(room, name).Config(**{**values, **changes})


def component(room: str, name: str) -> Any:
    return importlib.import_module({"model": "worldmodel.models.", "actor": "agents.controllers."}[room] + name)


def model(name: str, spec: Spec = SMALL, **changes: Any) -> Any:
    """A small model whose biases are not zero, as in one that has learned: zeros would hide a missing term."""
    torch.manual_seed(0)
    made = component("model", name)
    values = {k: v for k, v in LITTLE[name].items() if k in made.Config.model_fields}
    built = made.build(config("model", name, **{**values, **changes}), spec)
    with torch.no_grad():
        for key, parameter in built.named_parameters():
            if key.endswith("bias"):
                parameter += 0.1 * torch.randn_like(parameter)
    return built


def actor(name: str, model: WorldModel, spec: Spec = SMALL, objective: Any = None, **changes: Any) -> Any:
    torch.manual_seed(1)
    made = component("actor", name)
    values: dict[str, Any] = {"units": 16, **changes}
    return made.build(config("actor", name, **values), model, spec, objective or Reward())


def batch(b: int = 2, t: int = 5, spec: Spec = SMALL, seed: int = 0) -> Batch:
    """Random sequences; the first one has an episode's join in the middle, at a terminal row."""
    generator = torch.Generator().manual_seed(seed)
    first, terminal = torch.zeros(b, t, dtype=torch.bool), torch.zeros(b, t, dtype=torch.bool)
    first[:, 0] = True
    if t > 3:
        first[0, 3] = terminal[0, 2] = True
    action = torch.rand(b, t, spec.action_dim, generator=generator) * 2 - 1
    if spec.discrete:
        action = torch.nn.functional.one_hot(action.argmax(-1), spec.action_dim).float()
    action[first] = 0
    image = torch.randint(0, 256, (b, t, *spec.image_shape), generator=generator, dtype=torch.uint8)
    reward = torch.randn(b, t, generator=generator)
    return Batch(image, action, reward.masked_fill(first, 0), first, terminal)


class NoHostReads(TorchDispatchMode):
    """Within it, reading a number of a tensor is an error, as it is in a CUDA graph."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        names = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal", "masked_select", "unique")
        name = function._schema.name.removeprefix("aten::")
        assert name not in names, f"{name} waits for the device"
        if name == "index.Tensor":
            assert all(i is None or i.dtype != torch.bool for i in args[1]), "a mask's count waits for the device"
        return function(*args, **(kwargs or {}))


# ---- exact models ----


class Place(NamedTuple):
    """Where one is, what was earned on arriving there, and whether it goes on from there."""

    x: Tensor  # (N, D)
    earned: Tensor  # (N,)
    alive: Tensor  # (N,) probability


class Exact(WorldModel):
    """A model of a known world: move(place, action (N, A)) -> place. It has no weights."""

    def __init__(self, move: Callable[[Place, Tensor], Place], size: int) -> None:
        super().__init__()
        self.move, self.size, self.calls = move, size, 0

    def initial(self, n: int) -> Place:
        return Place(torch.zeros(n, self.size), torch.zeros(n), torch.ones(n))

    def imagine(self, state: Place, action: Tensor, temperature: float = 1.0) -> Place:
        self.calls += 1
        return self.move(state, action)

    def features(self, state: Place) -> Tensor:
        return state.x

    def reward(self, state: Place) -> Tensor:
        return state.earned

    def continues(self, state: Place) -> Tensor:
        return state.alive

    def observe(self, state: Place, action: Tensor, image: Tensor, first: Tensor) -> Place:
        raise NotImplementedError

    def decode(self, state: Place) -> Tensor:
        raise NotImplementedError

    def loss(self, batch: Batch, part: str = "model") -> Any:
        raise NotImplementedError


def starts(places: Place, actions: int) -> tuple[Batch, Place]:
    """A batch whose rows (N, 1) are these places, as a model's loss would give them."""
    n = len(places.earned)
    blank = torch.zeros(n, 1, dtype=torch.bool)
    image, action = torch.zeros(n, 1, 1, 2, 2, dtype=torch.uint8), torch.zeros(n, 1, actions)
    return Batch(image, action, torch.zeros(n, 1), blank, blank), Place(*(a[:, None] for a in places))


def gradients(module: torch.nn.Module) -> list[Tensor | None]:
    return [None if p.grad is None else p.grad.clone() for p in module.parameters()]


class Times(Reward):
    """The rewards, so many times."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def reward(self, model: Any, path: Any, actions: Tensor) -> Tensor:
        return self.factor * super().reward(model, path, actions)


# ---- pairs of a model and an actor ----


def pair(name: str, spec: Spec = SMALL, **changes: Any) -> tuple[Any, Any]:
    """A small model and its actor, whose critic already says something."""
    world = model(name, spec)
    built = actor(name, world, spec, **{"horizon": 4, **changes})
    with torch.no_grad():
        for parameter in built.policy_network.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    unsettle(built)
    return world, built


def unsettle(actor: Any) -> None:
    """Let V3's critic, which begins by saying 0, say something; of its bins, which reach to 4.85e8, by those near 0."""
    if isinstance(actor.critic, EluMLP):
        return
    with torch.no_grad():
        actor.critic.output.bias[121:134] += 10
        actor.critic.output.weight[121:134] += torch.randn(13, actor.config.units)


def states_of(model: Any, batch: Any, seed: int = 0) -> tuple[Tensor, Any]:
    torch.manual_seed(seed)
    loss, states, _ = model.loss(batch)
    return loss, states

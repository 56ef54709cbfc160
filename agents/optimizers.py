"""The optimisers of an agent: one for each part that learns by gradient, by name, all stepped by one loss.

A loss or a gradient that is not finite changes nothing in any of them; that is decided on the device, without host
synchronisation. Their whole state is in a checkpoint.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from agents.adam_tf import AdamTF
from agents.laprop import LaProp
from worldmodel.base import ConfigError, StrictConfig
from worldmodel.networks import data_parallel

PATIENCE = 10  # non-finite updates in a row before giving up
FINAL_SHARE = 0.1  # of the learning rate, where it is annealed
STATE = {"step", "exp_avg", "exp_avg_sq"}  # of a parameter, in every kind of optimiser
SCALER = {"scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"}  # torch's, for fp16


class OptimizerConfig(StrictConfig):
    # adam: torch's, which adds eps after the bias correction; adam_tf: TensorFlow's, which adds it before, as released
    # code of PlaNet and Dreamer V1 and V2 has it; laprop: Dreamer V3's
    kind: Literal["adam", "adam_tf", "laprop"]
    learning_rate: float = Field(gt=0, lt=1)
    eps: float = Field(ge=1e-30, le=1)
    # of the part's whole gradient; a longer one is scaled down to it
    max_grad_norm: float | None = Field(gt=0, le=1e12)
    weight_decay: float = Field(default=0.0, ge=0, lt=1)  # adam_tf: of every weight, at every update
    # laprop: a tensor's gradient is at most this times its weights
    agc: float | None = Field(default=None, gt=0, le=1e6)
    warmup: int = Field(default=0, ge=0, le=10**9)  # laprop: updates until the full learning rate
    # updates over which the learning rate falls linearly to a tenth, where it stays; 0: it does not fall
    anneal: int = Field(default=0, ge=0, le=10**9)
    anneal_after: int = Field(default=0, ge=0, le=10**9)  # updates before it begins to fall, warm-up included

    @model_validator(mode="after")
    def agree(self) -> "OptimizerConfig":
        if self.weight_decay and self.kind != "adam_tf":
            raise ValueError(f"weight_decay is for adam_tf, not for {self.kind}: leave it out")
        if (self.agc or self.warmup) and self.kind != "laprop":
            raise ValueError(f"agc and warmup are for laprop, not for {self.kind}: leave them out")
        if self.anneal_after and not self.anneal:
            raise ValueError("anneal_after is for a learning rate that falls: give anneal, over how many updates")
        return self


class Diverged(RuntimeError):
    """The loss was not finite too often."""


class Optimizers:
    def __init__(
        self,
        configs: Mapping[str, OptimizerConfig],
        parts: Mapping[str, Mapping[str, nn.Parameter]],
        owners: Mapping[str, str],
        device: torch.device,
        fp16: bool,
    ) -> None:
        """parts: for each its parameters by name; no parameter in two of them. owners: for each 'model' or 'actor',
        whose settings it has unless there are some of its own. Errors: ConfigError.
        """
        unknown = [name for name in configs if name not in parts and name not in owners.values() and name != "actor"]
        missing = [part for part in parts if part not in configs and owners[part] not in configs]
        if unknown or missing:
            raise ConfigError(
                [f"agent.optimizers.{name}: there is no such part; there are {', '.join(parts)}" for name in unknown]
                + [
                    f"agent.optimizers.{part}: missing; or give {owners[part]}, for all of its parts"
                    for part in missing
                ]
            )
        self.device, self.names = device, {part: list(named) for part, named in parts.items()}
        self.configs = {part: configs.get(part) or configs[owners[part]] for part in parts}
        self.optimizers = {part: self.build(self.configs[part], list(named.values())) for part, named in parts.items()}
        # float16 has few exponents: gradients are computed times a scale that adapts, so that they neither vanish nor
        # overflow. It begins at 1, because losses are sums over pixels.
        self.scaler = torch.amp.GradScaler(device.type, init_scale=1.0, enabled=fp16)
        self.skipped = {part: torch.zeros((), device=device) for part in parts}  # since the last finite one
        self.steps = 0  # of this process

    def build(self, config: OptimizerConfig, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        on_gpu = self.device.type == "cuda"
        # A rate that is a tensor may change without a new CUDA graph. CPU kernels read it in double precision.
        rate = torch.tensor(config.learning_rate, dtype=torch.float32 if on_gpu else torch.float64, device=self.device)
        if config.kind == "adam_tf":
            return AdamTF(parameters, rate.float(), eps=config.eps, weight_decay=config.weight_decay)
        if config.kind == "laprop":
            agc = math.inf if config.agc is None else config.agc
            return LaProp(parameters, rate.float(), eps=config.eps, agc=agc, warmup=config.warmup)
        return torch.optim.Adam(parameters, lr=rate, eps=config.eps, fused=True, capturable=on_gpu)

    def step(self, loss: Tensor, parts: Sequence[str]) -> dict[str, Tensor]:
        """Follow the gradient of a loss with the optimisers of some parts; metrics. Parameters that the loss does not
        reach stay as they are.
        """
        chosen = {part: self.optimizers[part] for part in parts}
        for optimizer in chosen.values():
            optimizer.zero_grad()  # to None: what has no gradient is left alone
        self.scaler.scale(loss).backward()
        reached = [parameter for optimizer in chosen.values() for parameter in optimizer.param_groups[0]["params"]]
        data_parallel.average([parameter.grad for parameter in reached if parameter.grad is not None])
        norms = {}
        for part, optimizer in chosen.items():
            self.scaler.unscale_(optimizer)
            parameters = optimizer.param_groups[0]["params"]
            norms[part] = nn.utils.clip_grad_norm_(parameters, self.configs[part].max_grad_norm or math.inf)
        finite = torch.stack([loss.isfinite(), *(norm.isfinite() for norm in norms.values())]).all()
        bad = (~finite).float()
        rates = {f"{part}/learning_rate": self.set_learning_rate(part) for part in parts if self.configs[part].anneal}
        for optimizer in chosen.values():
            optimizer.found_inf = bad  # type: ignore[attr-defined]  # 1: the fused optimiser changes nothing
            optimizer.step()
            # which the fused optimiser forgets to do
            torch.autograd.graph.increment_version(optimizer.param_groups[0]["params"])
        self.scaler.update()
        for part in parts:
            self.skipped[part].add_(1).mul_(bad)
        metrics = {f"{part}/gradient_norm": norm for part, norm in norms.items()}
        return metrics | rates | {f"{part}/skipped": bad for part in parts}

    def set_learning_rate(self, part: str) -> Tensor:
        """For the next update: rate (1 - 0.9 clip((t - A) / T, 0, 1)) after t updates, of which skipped ones are none;
        T updates are `anneal`, A `anneal_after`.
        """
        config, optimizer = self.configs[part], self.optimizers[part]
        rate: Tensor = optimizer.param_groups[0]["lr"]
        steps = [state["step"] for state in optimizer.state.values()]  # a parameter without gradient has fewer
        done = torch.stack(steps).max() if steps else torch.zeros_like(rate)
        fallen = ((done - config.anneal_after) / config.anneal).clamp(0, 1)
        rate.copy_(config.learning_rate * (1 - (1 - FINAL_SHARE) * fallen))
        return rate * (done / config.warmup).clamp(max=1) if config.warmup else rate.clone()

    def raise_if_diverged(self) -> None:
        """Errors: Diverged, after too many non-finite updates in a row. Reading the count makes the CPU wait for its
        GPU: there only every tenth call reads it.
        """
        self.steps += 1
        if self.device.type != "cpu" and self.steps % PATIENCE:
            return
        for part, skipped in self.skipped.items():
            if skipped >= PATIENCE:
                raise Diverged(f"{part}: the loss or its gradient was not finite in {PATIENCE} updates in a row")

    # ---- what a checkpoint holds ----

    def tensors(self, parts: Iterable[str] | None = None) -> dict[str, Tensor]:
        """All states, or those of some parts, by the parameters' names."""
        found: dict[str, Tensor] = {}
        chosen = self.chosen(parts)
        for part, optimizer in chosen.items():
            states = optimizer.state_dict()["state"]
            found |= {
                f"{self.names[part][i]}/{key}": value for i, state in states.items() for key, value in state.items()
            }
        found |= {f"skipped/{part}": self.skipped[part].long() for part in chosen}
        return found | {f"scaler/{key}": torch.tensor(value) for key, value in self.scaler.state_dict().items()}

    def chosen(self, parts: Iterable[str] | None) -> dict[str, torch.optim.Optimizer]:
        return self.optimizers if parts is None else {part: self.optimizers[part] for part in parts}

    def restore(self, tensors: Mapping[str, Tensor], parts: Iterable[str] | None = None) -> None:
        """The reverse of tensors(); other parts stay as they are. Errors: ValueError for what does not fit, before
        anything is changed.
        """
        flat = dict(tensors)
        skipped = {part: flat.pop(f"skipped/{part}", torch.zeros(())) for part in self.skipped}
        scaler = {key.removeprefix("scaler/"): flat.pop(key) for key in tensors if key.startswith("scaler/")}
        for key, value in [*skipped.items(), *scaler.items()]:
            known = key in skipped or (key in SCALER and set(scaler) == SCALER)
            if not known or value.shape != () or value.is_complex() or not 0 <= float(value) < math.inf:
                raise ValueError(f"the optimiser's state {key[:100]!r} is not a number from 0 on, or not known")
        states: dict[str, dict[int, dict[str, Tensor]]] = {part: {} for part in self.optimizers}
        where = {name: (part, i) for part, names in self.names.items() for i, name in enumerate(names)}
        for path, value in flat.items():
            name, _, key = path.rpartition("/")
            if name not in where:
                raise ValueError(f"the optimiser's state has {path[:100]!r}, and there is no parameter of that name")
            part, i = where[name]
            check_moment(path, key, value, self.optimizers[part].param_groups[0]["params"][i])
            states[part].setdefault(i, {})[key] = value.clone()
        for part, found in states.items():
            for i, state in found.items():
                if set(state) != STATE:
                    raise ValueError(f"the optimiser's state of {self.names[part][i]} has not all of {sorted(STATE)}")
        for part, optimizer in self.chosen(parts).items():
            optimizer.load_state_dict({**optimizer.state_dict(), "state": states[part]})
            self.skipped[part].copy_(skipped[part])
        if scaler:  # only fp16 has such a state, and only fp16 takes it
            self.scaler.load_state_dict({key: value.item() for key, value in scaler.items()})


def check_moment(path: str, key: str, value: Tensor, parameter: Tensor) -> None:
    """Errors: ValueError, for what the optimiser of a parameter never has. The fused one reads as many moments as the
    parameter has numbers, beyond the end of fewer ones; and of a negative square it would take the root.
    """
    if key not in STATE:
        raise ValueError(f"the optimiser's state {path[:100]!r} is not one of {sorted(STATE)}")
    wanted = torch.Size([]) if key == "step" else parameter.shape
    if value.shape != wanted or value.dtype != (torch.float32 if key == "step" else parameter.dtype):
        raise ValueError(
            f"the optimiser's state {path!r} is {value.dtype} {tuple(value.shape)}, its parameter {parameter.dtype} "
            f"{tuple(parameter.shape)}"
        )
    if not value.isfinite().all():
        raise ValueError(f"the optimiser's state {path!r} is not finite")
    if key != "exp_avg" and (value < 0).any():
        raise ValueError(f"the optimiser's state {path!r} is negative")

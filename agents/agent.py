"""An agent: one world model, one actor, and the memory that it carries from step to step.

Device and precision live here and nowhere else. `act(memory, image) -> (action, memory)` and `learn(batch) -> metrics`.
"""

import contextlib
import copy
import ctypes
import sys
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from agents.base import Actor, Plan, Play
from agents.graphs import ALONE, Graphed, compile_steps, cuda_graph
from agents.imagination import starts
from worldmodel.base import Batch, Spec, WorldModel, each, where
from worldmodel.config import Section

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of mallopt(3)
PATIENCE = 10  # non-finite updates in a row before giving up
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Config(Section):
    device: Literal["auto", "cpu", "cuda"]
    # of the networks; statistics, losses and the optimiser are always float32
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    learning_rate: float = Field(gt=0, lt=1)
    epsilon: float = Field(gt=0)  # Adam's
    clip: float = Field(gt=0)  # the gradient's largest norm
    # auto: on a GPU steps are compiled, and updates and plans recorded. always: steps on processors, too
    compile: Literal["auto", "always", "never"]
    threads: int | None = Field(ge=1)  # of the CPU; None leaves the choice to torch


class Memory(NamedTuple):
    """What an agent carries through an episode; rows are environments."""

    state: Any
    action: Tensor  # (N, A) the last action, which leads to the next image
    plan: Plan


class Diverged(RuntimeError):
    """The loss was not finite too often."""


class Agent:
    def __init__(self, config: Config, model: WorldModel, actor: Actor, spec: Spec) -> None:
        self.config, self.spec = config, spec
        self.device = choose_device(config.device)
        self.precision = choose_precision(config.precision, self.device)
        if self.device.type == "cpu":
            keep_memory()
        if config.threads:
            torch.set_num_threads(config.threads)
        self.model, self.actor = model.to(self.device), actor.to(self.device)
        on_gpu = self.device.type == "cuda"
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=config.learning_rate, eps=config.epsilon, fused=True, capturable=on_gpu
        )
        # float16 has few exponents: gradients are computed times a scale that adapts, so that they neither vanish nor
        # overflow. It begins at 1, because losses are sums over pixels.
        self.scaler = torch.amp.GradScaler(self.device.type, init_scale=1.0, enabled=self.precision == "fp16")
        self.skipped = torch.zeros((), device=self.device)  # non-finite updates since the last good one
        self.updates = 0  # of this process
        if config.compile == "always" or (config.compile == "auto" and on_gpu):
            compile_steps(self.model)
        self.record = cuda_graph if on_gpu and config.compile != "never" else None
        self.deciding = Graphed(self.decide, self.device, self.record)
        self.updating = Graphed(self.update, self.device, self.record)
        self.env: dict[str, Any] = {}  # the config of the environment that it was trained in; empty if there was none

    def with_actor(self, actor: Actor) -> "Agent":
        """Another way to act on the same world model."""
        other = copy.copy(self)
        other.actor = actor.to(self.device)
        other.deciding = Graphed(other.decide, self.device, self.record)
        return other

    def snapshot(self) -> "Agent":
        """One that acts as this one does now, and does not learn with it."""
        other = copy.copy(self)
        other.model, other.actor = copy.deepcopy((self.model, self.actor))  # together: the actor knows its model
        other.deciding = Graphed(other.decide, self.device, self.record)
        return other

    def follow(self, other: "Agent") -> None:
        """Act as the other one does now: a snapshot takes over its weights, in place."""
        self.model.load_state_dict(other.model.state_dict())
        self.actor.load_state_dict(other.actor.state_dict())

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(self.device.type, DTYPES.get(self.precision), enabled=self.precision in DTYPES)

    # ---- acting ----

    def initial(self, n: int) -> Memory:
        plan = each(lambda a: a.to(self.device), self.actor.initial(n))
        return Memory(self.model.initial(n), torch.zeros(n, self.spec.action, device=self.device), plan)

    @torch.no_grad()
    def act(
        self, memory: Memory | None, image: np.ndarray, first: np.ndarray | None = None, explore: bool = False
    ) -> tuple[np.ndarray, Memory]:
        """What to do now. memory=None starts afresh.

        One image (C, Y, X) gives what env.step takes: an action (A,), or an integer if actions are discrete. A batch
        (N, C, Y, X), with first (N,) true where an episode starts, gives rows (N, A): one-hot if discrete.
        """
        self.check(image)
        if image.ndim == 3:
            rows, memory = self.act(memory, image[None], None if first is None else np.reshape(first, 1), explore)
            return (rows[0].argmax() if self.spec.discrete else rows[0]), memory
        starts = np.zeros(len(image), bool) if first is None else np.array(first, bool)
        if memory is None:
            memory, starts[:] = self.initial(len(image)), True
        elif starts.any():
            fresh = self.initial(len(image)).plan
            memory = memory._replace(plan=where(torch.from_numpy(starts).to(self.device), fresh, memory.plan))
        memory = self.deciding(explore, memory, torch.from_numpy(image), torch.from_numpy(starts))
        return memory.action.float().cpu().numpy(), memory

    def decide(self, explore: bool, memory: Memory, image: Tensor, starts: Tensor) -> Memory:
        """What act() computes, on tensors of the agent's device, without ever waiting for a number."""
        with self.autocast():
            state = memory.state
            if not self.actor.blind:
                state = self.model.observe(memory.state, memory.action, image, starts)
            action, plan = self.actor.act(state, memory.plan, explore)
        return Memory(state, action, plan)

    def check(self, image: np.ndarray) -> None:
        if image.dtype != np.uint8 or image.ndim not in (3, 4) or image.shape[-3:] != tuple(self.spec.image):
            raise ValueError(
                f"this agent sees uint8 images {tuple(self.spec.image)} (channels, rows, columns) or batches of them, "
                f"not {image.dtype} {image.shape}: envs.make(agent.env) makes an environment that fits"
            )

    # ---- learning ----

    def learn(
        self, batch: Batch, part: str = "model", rate: float | None = None, play: Play | None = None
    ) -> dict[str, Tensor]:
        """One update of the model, of a part of it (the rest stays frozen), or of the 'actor', which learns in dreams
        that start from the batch. rate: the learning rate, if not the config's; play: see Actor.learn.

        A non-finite loss or gradient changes nothing: all metrics are 0, but `skipped` is 1. Ten in a row raise
        Diverged; on a GPU, where a look costs time, within the next ten.
        """
        if part == "actor":
            batch = Batch(*(tensor.to(self.device, non_blocking=True) for tensor in batch))
            with ALONE if self.record else contextlib.nullcontext(), self.autocast():
                with torch.no_grad():
                    states = starts(self.model, batch)
                return self.actor.learn(states, play)
        metrics: dict[str, Tensor] = self.updating((part, rate or self.config.learning_rate), batch)
        self.updates += 1
        # Reading a number makes a processor wait for its GPU: not after every update.
        if (self.device.type == "cpu" or self.updates % PATIENCE == 0) and self.skipped >= PATIENCE:
            raise Diverged(f"the loss or its gradient was not finite in {PATIENCE} updates in a row")
        return metrics

    def update(self, which: tuple[str, float], batch: Batch) -> dict[str, Tensor]:
        """What learn() computes, without ever waiting for a number."""
        part, rate = which
        with self.autocast():
            loss, _, metrics = self.model.loss(batch, part)
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.zero_grad()  # to None: Adam leaves alone what has no gradient
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        bad = (~(norm.isfinite() & loss.isfinite())).float()
        self.optimizer.found_inf = bad  # type: ignore[attr-defined]  # 1: the fused optimiser changes nothing
        self.optimizer.step()
        torch.autograd.graph.increment_version(list(self.model.parameters()))  # which it forgets to do
        self.scaler.update()
        self.skipped.add_(1).mul_(bad)
        metrics = {"loss": loss, "gradient_norm": norm, **metrics}
        return {name: value.detach().where(bad == 0, 0) for name, value in metrics.items()} | {"skipped": bad}

    # ---- what a checkpoint holds ----

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Everything learned, by file: model, actor, optim."""
        names = [name for name, _ in self.model.named_parameters()]
        moments = self.optimizer.state_dict()["state"]
        return {
            "model": self.model.state_dict(),
            "actor": self.actor.state_dict(),
            "optim": {f"{names[i]}/{key}": value for i, state in moments.items() for key, value in state.items()}
            | {"skipped": self.skipped.long()}
            | {f"scaler/{key}": torch.tensor(value) for key, value in self.scaler.state_dict().items()},
        }

    def restore(self, tensors: dict[str, dict[str, Tensor]]) -> None:
        """The reverse of tensors(). Without 'optim' the agent can act but starts learning afresh."""
        self.model.load_state_dict(tensors["model"])
        self.actor.load_state_dict(tensors["actor"])
        if "optim" in tensors:
            flat = dict(tensors["optim"])
            self.skipped.copy_(flat.pop("skipped"))
            kept = {key: flat.pop(key) for key in tensors["optim"] if key.startswith("scaler/")}
            if kept:  # only fp16 has such a state, and only fp16 takes it
                self.scaler.load_state_dict({key.removeprefix("scaler/"): value.item() for key, value in kept.items()})
            state: dict[int, dict[str, Tensor]] = {}
            numbers = {name: i for i, (name, _) in enumerate(self.model.named_parameters())}
            for path, value in flat.items():
                name, key = path.rsplit("/", 1)
                state.setdefault(numbers[name], {})[key] = value.clone()
            self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        self.deciding.forget()
        self.updating.forget()

    def random_state(self) -> dict[str, Tensor]:
        """The generators' states: with them the same noise is drawn again."""
        states = {"cpu": torch.get_rng_state()}
        return states | ({"cuda": torch.cuda.get_rng_state(self.device)} if self.device.type == "cuda" else {})

    def set_random_state(self, states: dict[str, Tensor]) -> None:
        torch.set_rng_state(states["cpu"])
        if self.device.type == "cuda" and "cuda" in states:
            torch.cuda.set_rng_state(states["cuda"], self.device)

    @contextlib.contextmanager
    def own_randomness(self, seed: int) -> Any:
        """Draw from another, seeded stream for a while: evaluating must not change what is learned."""
        before = self.random_state()
        torch.manual_seed(seed)
        try:
            yield
        finally:
            self.set_random_state(before)


def keep_memory(keep: bool = True) -> None:
    """Let the C library keep what was freed. It would return every large tensor to the system, which hands it out again
    page by page, zeroed: at PlaNet's sizes a million page faults and a third of an update's time on a processor.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # other C libraries than GNU's have no such settings
            settings = ctypes.CDLL(None).mallopt
            settings(M_MMAP_MAX, 0 if keep else 65536)
            settings(M_TRIM_THRESHOLD, 2**31 - 1 if keep else 128 * 1024)


def choose_device(wanted: str) -> torch.device:
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ValueError("agent.device is cuda but torch sees no GPU: use agent.device=cpu, or install a driver")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def choose_precision(wanted: str, device: torch.device) -> str:
    """auto: bf16 where the hardware multiplies it faster than float32."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    flags: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # torch 2.12 or newer
    return "bf16" if flags.get("avx512_bf16") or flags.get("amx_bf16") else "fp32"

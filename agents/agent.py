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
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=config.learning_rate, eps=config.epsilon, fused=True
        )
        # float16 has few exponents: gradients are computed times a scale that adapts, so that they neither vanish nor
        # overflow. It begins at 1, because losses are sums over pixels.
        self.scaler = torch.amp.GradScaler(self.device.type, init_scale=1.0, enabled=self.precision == "fp16")
        self.skipped = 0  # non-finite updates since the last good one
        self.env: dict[str, Any] = {}  # the config of the environment that it was trained in; empty if there was none

    def with_actor(self, actor: Actor) -> "Agent":
        """Another way to act on the same world model."""
        other = copy.copy(self)
        other.actor = actor.to(self.device)
        return other

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
        n = len(image)
        fresh = self.initial(n)
        starts = torch.ones(n, dtype=torch.bool) if memory is None else torch.zeros(n, dtype=torch.bool)
        if first is not None:
            starts |= torch.from_numpy(np.asarray(first, bool))
        starts = starts.to(self.device)
        memory = memory or fresh
        with self.autocast():
            pixels = torch.from_numpy(image).to(self.device)
            blind = self.actor.blind
            state = memory.state if blind else self.model.observe(memory.state, memory.action, pixels, starts)
            action, plan = self.actor.act(state, where(starts, fresh.plan, memory.plan), explore)
        return action.float().cpu().numpy(), Memory(state, action, plan)

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

        A non-finite loss or gradient changes nothing and is counted; ten in a row raise Diverged.
        """
        batch = Batch(*(tensor.to(self.device, non_blocking=True) for tensor in batch))
        if part == "actor":
            with torch.no_grad(), self.autocast():
                states = starts(self.model, batch)
            with self.autocast():
                return self.actor.learn(states, play)
        with self.autocast():
            loss, _, metrics = self.model.loss(batch, part)
        self.optimizer.param_groups[0]["lr"] = rate or self.config.learning_rate
        self.optimizer.zero_grad()  # to None: Adam leaves alone what has no gradient
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        good = bool(torch.isfinite(norm) and torch.isfinite(loss))
        if good:
            self.scaler.step(self.optimizer)
        self.scaler.update()
        if good:
            self.skipped = 0
        else:
            self.optimizer.zero_grad()
            self.skipped += 1
            if self.skipped >= PATIENCE:
                raise Diverged(f"the loss or its gradient was not finite in {PATIENCE} updates in a row")
            return {"skipped": torch.ones(())}
        return {"loss": loss, "gradient_norm": norm, **metrics}

    # ---- what a checkpoint holds ----

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Everything learned, by file: model, actor, optim."""
        names = [name for name, _ in self.model.named_parameters()]
        moments = self.optimizer.state_dict()["state"]
        return {
            "model": self.model.state_dict(),
            "actor": self.actor.state_dict(),
            "optim": {f"{names[i]}/{key}": value for i, state in moments.items() for key, value in state.items()}
            | {"skipped": torch.tensor(self.skipped)}
            | {f"scaler/{key}": torch.tensor(value) for key, value in self.scaler.state_dict().items()},
        }

    def restore(self, tensors: dict[str, dict[str, Tensor]]) -> None:
        """The reverse of tensors(). Without 'optim' the agent can act but starts learning afresh."""
        self.model.load_state_dict(tensors["model"])
        self.actor.load_state_dict(tensors["actor"])
        if "optim" in tensors:
            flat = dict(tensors["optim"])
            self.skipped = int(flat.pop("skipped"))
            kept = {key: flat.pop(key) for key in tensors["optim"] if key.startswith("scaler/")}
            if kept:  # only fp16 has such a state, and only fp16 takes it
                self.scaler.load_state_dict({key.removeprefix("scaler/"): value.item() for key, value in kept.items()})
            state: dict[int, dict[str, Tensor]] = {}
            numbers = {name: i for i, (name, _) in enumerate(self.model.named_parameters())}
            for path, value in flat.items():
                name, key = path.rsplit("/", 1)
                state.setdefault(numbers[name], {})[key] = value.clone()
            self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})

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


def keep_memory() -> None:
    """Let the C library keep what was freed. It would return every large tensor to the system, which hands it out again
    page by page, zeroed: at PlaNet's sizes a million page faults and a third of an update's time on a processor.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # other C libraries than GNU's have no such settings
            settings = ctypes.CDLL(None).mallopt
            settings(M_MMAP_MAX, 0)
            settings(M_TRIM_THRESHOLD, 2**31 - 1)


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

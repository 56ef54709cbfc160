"""An agent: one world model, one actor, their optimisers, and the memory that it carries from step to step.

Device and precision live here and nowhere else. `act(memory, image) -> (action, memory)` and `learn(batch) -> metrics`.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from agents.base import Actor, ActorInfo, Carry, Mode, Play, no_plan
from agents.device import DTYPES, choose_device, choose_precision, default_generator, keep_freed_memory, mind_fork
from agents.graphs import Graphed, compile_steps, cuda_graph
from agents.imagination import observe_sequence
from agents.loaded import check_random_state, check_tensors
from agents.optimizers import OptimizerConfig, Optimizers
from worldmodel.base import Batch, Spec, State, StrictConfig, WorldModel, for_replay, tree_map, tree_where
from worldmodel.networks import data_parallel
from worldmodel.networks.dense import packed_weights


class Config(StrictConfig):
    device: Literal["auto", "cpu", "cuda"]
    # of the networks; statistics, losses and optimisers are always float32
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    # by part; 'model' and 'actor' are for all parts of theirs that are not named
    optimizers: dict[str, OptimizerConfig] = Field(max_length=100)
    # auto: on a GPU steps are compiled, and updates and plans recorded. always: steps on CPUs, too
    compile: Literal["auto", "always", "never"]
    threads: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)] | None  # of the CPU; None: torch's choice


class Memory(NamedTuple):
    """What an agent carries through an episode; rows are environments."""

    state: State
    action: Tensor  # (N, A) the last action, which leads to the next image
    carry: Carry
    info: ActorInfo


class Agent:
    def __init__(self, config: Config, model: WorldModel, actor: Actor, spec: Spec) -> None:
        self.config, self.spec = config, spec
        self.device = choose_device(config.device)
        self.precision = choose_precision(config.precision, self.device)
        if self.device.type == "cpu":
            keep_freed_memory()
        if isinstance(config.threads, int):
            torch.set_num_threads(config.threads)
        mind_fork()
        self.model, self.actor = model.to(self.device), actor.to(self.device)
        self.generator = default_generator(self.device)
        self.owners = {part: "model" for part in model.parts()} | {part: "actor" for part in actor.parts()}
        names = {id(p): f"model/{name}" for name, p in model.named_parameters()}
        names |= {id(p): f"actor/{name}" for name, p in actor.named_parameters()}
        parts = {
            part: {names[id(p)]: p for p in parameters} for part, parameters in (model.parts() | actor.parts()).items()
        }
        self.optimizers = Optimizers(config.optimizers, parts, self.owners, self.device, self.precision == "fp16")
        on_gpu = self.device.type == "cuda"
        if config.compile == "always" or (config.compile == "auto" and on_gpu):
            compile_steps(self.model)
        self.capture = cuda_graph if on_gpu and config.compile != "never" else None
        self.act_graph = Graphed(self.decide, self.device, self.capture, self.weights)
        self.update_graph = Graphed(self.update, self.device, self.capture, self.weights)
        self.env: Any = None  # the checked config of the environment that it was trained in, for envs.make

    def weights(self) -> list[Tensor]:
        """All parameters and buffers."""
        return [tensor for module in (self.model, self.actor) for tensor in (*module.parameters(), *module.buffers())]

    def num_model_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    def with_actor(self, actor: Actor) -> "Agent":
        """Another way to act on the same world model."""
        other = copy.copy(self)
        other.actor = actor.to(self.device)
        other.act_graph = Graphed(other.decide, self.device, self.capture, other.weights)
        return other

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(self.device.type, DTYPES.get(self.precision), enabled=self.precision in DTYPES)

    # ---- acting ----

    def initial(self, n: int) -> Memory:
        carry = tree_map(lambda a: a.to(self.device), self.actor.initial(n))
        action = torch.zeros(n, self.spec.action_dim, device=self.device)
        return Memory(self.model.initial(n), action, carry, no_plan(n, self.spec, self.device))

    @torch.no_grad()
    def act(
        self, memory: Memory | None, image: np.ndarray, first: np.ndarray | None = None, mode: Mode = "evaluate"
    ) -> tuple[np.ndarray, Memory]:
        """What to do now. memory=None starts afresh.

        One image (C, Y, X) gives what env.step takes: an action (A,), or an integer if actions are discrete. A batch
        (N, C, Y, X), with first (N,) true where an episode starts, gives rows (N, A): one-hot if discrete. The action
        is the caller's to change.
        """
        self.check_image(image)
        mind_fork()
        if image.ndim == 3:
            rows, memory = self.act(memory, image[None], None if first is None else np.reshape(first, 1), mode)
            return (rows[0].argmax() if self.spec.discrete else rows[0]), memory
        is_first = np.zeros(len(image), bool) if first is None else np.array(first, bool)
        if memory is None:
            memory, is_first[:] = self.initial(len(image)), True
        elif is_first.any():
            fresh = self.initial(len(image)).carry
            memory = memory._replace(carry=tree_where(torch.from_numpy(is_first).to(self.device), fresh, memory.carry))
        image = np.require(image, requirements=["C", "W"])  # a flipped or a read-only one is copied
        memory = self.act_graph(mode, memory, torch.from_numpy(image), torch.from_numpy(is_first))
        return np.array(memory.action.float().cpu().numpy()), memory

    def decide(self, mode: Mode, memory: Memory, image: Tensor, first: Tensor) -> Memory:
        """What act() computes, on tensors of the agent's device, without host synchronisation."""
        with self.autocast(), packed_weights():
            state = memory.state
            if self.actor.needs_observation:
                state = self.model.observe(memory.state, memory.action, image, first)
            action, carry, info = self.actor.act(state, memory.carry, mode, self.generator)
        return Memory(state, action, carry, info)

    def check_image(self, image: np.ndarray) -> None:
        if image.dtype != np.uint8 or image.ndim not in (3, 4) or image.shape[-3:] != tuple(self.spec.image_shape):
            raise ValueError(
                f"this agent sees uint8 images {tuple(self.spec.image_shape)} (channels, rows, columns) or batches of "
                f"them, not {image.dtype} {image.shape}: envs.make(agent.env) makes an environment that fits"
            )

    # ---- learning ----

    def learn(self, batch: Batch, parts: Sequence[str] = ("model",), play: Play | None = None) -> dict[str, Tensor]:
        """One update of some parts from one batch: 'model' or one of its parts, then the 'actor', which learns from the
        states that the model's loss has just computed, or if the model does not learn from those that it observes.
        play: see Actor.learn. Metrics are named <part>/<metric>.

        A non-finite loss or gradient changes nothing: all metrics are 0, but `skipped` is 1. Ten in a row raise
        Diverged; on a GPU, where reading the count costs time, within the next ten.
        """
        return self.learn_with_states(batch, parts, play)[0]

    def learn_with_states(
        self, batch: Batch, parts: Sequence[str], play: Play | None = None
    ) -> tuple[dict[str, Tensor], State]:
        """learn(), and the states (B, T, ...) that were computed on the way; (), if replay keeps none."""
        mind_fork()
        metrics: dict[str, Tensor] = {}
        states: State = ()
        by_gradient = tuple(part for part in parts if part != "actor" or self.actor.has_loss)
        if by_gradient:
            metrics, states = self.update_graph(by_gradient, batch)
            self.optimizers.raise_if_diverged()
        if len(by_gradient) < len(parts):
            batch = batch.to(self.device)
            observed = self.observe(batch)
            with self.autocast(), packed_weights():
                found = self.actor.learn(batch, observed, play)
            states = states if by_gradient else for_replay(batch, observed)
            metrics = metrics | {f"actor/{name}": value for name, value in found.items()}
        return metrics, states

    @torch.no_grad()
    def observe(self, batch: Batch) -> State:
        """The states (B, T, ...) of a batch on this device."""
        with self.autocast(), packed_weights():
            return observe_sequence(self.model, batch)

    def update(self, parts: tuple[str, ...], batch: Batch) -> tuple[dict[str, Tensor], State]:
        """What learn() computes by gradient, without host synchronisation: metrics, and states if replay keeps them."""
        total = torch.zeros((), device=self.device)
        metrics: dict[str, Tensor] = {}
        learning: list[str] = []
        states: State = None
        for part in parts:
            with self.autocast():
                if part == "actor":
                    states = self.observe(batch) if states is None else states
                    loss, found = self.actor.loss(batch, states)
                    learning += self.actor.parts()
                else:
                    loss, states, found = self.model.loss(batch, part)
                    learning += [part] if part in self.owners else self.model.parts()
            total = total + loss
            metrics |= {f"{part}/{name}": value for name, value in ({"loss": loss} | found).items()}
        metrics = data_parallel.means(metrics) | self.optimizers.step(data_parallel.mean(total), learning)
        bad = metrics[f"{learning[0]}/skipped"]
        if "actor" in parts:
            with torch.no_grad():
                self.actor.after_update(1 - bad)
        metrics = {
            name: value if name.endswith("/skipped") else value.detach().where(bad == 0, 0)
            for name, value in metrics.items()
        }
        return metrics, for_replay(batch, states)

    # ---- what a checkpoint holds ----

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Everything learned, by file: model, actor, optim."""
        return {
            "model": self.model.state_dict(),
            "actor": self.actor.state_dict(),
            "optim": self.optimizers.tensors(),
        }

    def restore(self, tensors: dict[str, dict[str, Tensor]], report: Callable[[str], Any] = print) -> None:
        """The reverse of tensors(). Without 'optim' the agent can act but starts learning afresh. Buffers that another
        version does not know, or has added, are reported to `report`. Errors: ValueError for what does not fit; then
        nothing was changed, unless it was an actor that refused its values.
        """
        for name, module in (("model", self.model), ("actor", self.actor)):
            check_tensors(name, module, tensors[name], report)
        if "optim" in tensors:
            self.optimizers.restore(tensors["optim"])
        self.model.load_state_dict(tensors["model"], strict=False)
        self.actor.load_state_dict(tensors["actor"], strict=False)
        self.actor.check_loaded()
        self.act_graph.forget()
        self.update_graph.forget()

    def random_state(self) -> dict[str, Tensor]:
        """The generators' states: with them the same noise is drawn again."""
        states = {"cpu": torch.get_rng_state()}
        return states | ({"cuda": torch.cuda.get_rng_state(self.device)} if self.device.type == "cuda" else {})

    def set_random_state(self, states: dict[str, Tensor]) -> None:
        """Errors: ValueError, for an impossible one."""
        check_random_state(states)
        torch.set_rng_state(states["cpu"])
        if self.device.type == "cuda" and "cuda" in states:
            torch.cuda.set_rng_state(states["cuda"], self.device)

    @contextlib.contextmanager
    def fork_rng(self, seed: int) -> Iterator[None]:
        """Draw from another, seeded stream for a while: evaluating must not change what is learned."""
        before = self.random_state()
        torch.manual_seed(seed)
        try:
            yield
        finally:
            self.set_random_state(before)

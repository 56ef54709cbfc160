"""Speed on a GPU: time steps are compiled, and whole calls are captured as one CUDA graph.

An update of 50 steps launches thousands of kernels of a few microseconds each, and a plan does, too: launching them one
by one takes far longer than they do. A CUDA graph records the launches of a call once and repeats them all with one.
Models and actors need no code for this. They only must not read a tensor's value in the middle of a call (no .item(),
no `if` on a tensor): tests/test_graphs.py checks that, on CPUs, too.
"""

import copy
import gc
import os
import warnings
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as tree

from worldmodel.base import WorldModel

RECOMPILE_LIMIT = 64  # shapes, temperatures, ways of drawing noise; more would silently run uncompiled
WARM_UP = 3  # calls that run normally before one is captured: libraries choose kernels and allocate in them


class GraphError(Exception):
    """A capture failed, and with this version of torch nothing can be computed on the GPU after that."""


class Graphed:
    """A function of tensors, in any nest of tuples, which on a GPU runs as one CUDA graph for each key and each shape
    of its inputs. The inputs may lie on any device.

    What it computes with other tensors (weights, moments, random states) is read and changed in place, as without
    a graph. What cannot be captured runs normally, after a warning. The results are copies.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        device: torch.device,
        capture: Callable[[Callable[[], Any]], tuple[Any, Callable[[], None]]] | None,
        uses: Callable[[], Iterable[Tensor]] = tuple,
    ) -> None:
        """function(key, *inputs). capture: takes a call, and gives the tensors of its results and what repeats the call
        into them: cuda_graph; None: every call runs as it is. uses: the other tensors that it computes with. If others
        take their places (vector_to_parameters, load_state_dict(assign=True)), what was captured is forgotten: it would
        go on with memory that is no longer theirs.
        """
        self.function, self.device, self.capture, self.uses = function, device, capture, uses
        self.places: list[int] = []
        self.calls: dict[Hashable, int] = {}
        self.graphs: dict[Hashable, tuple[list[Tensor], Any, Callable[[], None]] | None] = {}

    def __call__(self, key: Hashable, *inputs: Any) -> Any:
        leaves, structure = tree.tree_flatten(inputs)
        if self.capture:
            places = [tensor.data_ptr() for tensor in self.uses()]
            if places != self.places:
                self.forget()
                self.places = places
        graph = self.captured(key, leaves, structure) if self.capture else None
        if graph is None:
            # Warm-up calls get inputs in the same memory layout as the graph's.
            move = self.static_input if self.capture else lambda leaf: leaf.to(self.device, non_blocking=True)
            here = map(move, leaves)
            return self.function(key, *tree.tree_unflatten(here, structure))
        static_inputs, results, replay = graph
        for static, leaf in zip(static_inputs, leaves, strict=True):
            static.copy_(leaf, non_blocking=True)
        replay()
        return tree.tree_map(torch.clone, results)  # the next call writes into the same memory

    def captured(
        self, key: Hashable, leaves: list[Tensor], structure: tree.TreeSpec
    ) -> tuple[list[Tensor], Any, Callable[[], None]] | None:
        """The graph's inputs, its results, and what replays it; None during the warm-up, or if capturing failed."""
        whole = key, structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        self.calls[whole] = self.calls.get(whole, 0) + 1
        if self.calls[whole] > WARM_UP and whole not in self.graphs:
            assert self.capture is not None
            static_inputs = [self.static_input(leaf) for leaf in leaves]
            again = tree.tree_unflatten(static_inputs, structure)
            try:
                self.graphs[whole] = static_inputs, *self.capture(lambda: self.function(key, *again))
            except RuntimeError as error:
                reason = str(error.__context__ or error).splitlines()[0]
                warnings.warn(f"{key}: no CUDA graph, it runs kernel by kernel: {reason}", stacklevel=4)
                self.graphs[whole] = None
        return self.graphs.get(whole)

    def static_input(self, leaf: Tensor) -> Tensor:
        """A copy of an input. It is contiguous: compiled steps depend on strides, too."""
        return leaf.to(self.device, non_blocking=True, copy=True, memory_format=torch.contiguous_format)

    def forget(self) -> None:
        """Needed when tensors that the function uses were replaced by others; also frees the graphs' memory."""
        self.calls.clear()
        self.graphs.clear()


def cuda_graph(call: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
    """Captures a call without executing it. Other threads may use the GPU meanwhile.

    Errors: RuntimeError, after which the call can be made as it is; GraphError, after which it cannot.
    """
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    gc.collect()  # freeing an older graph during a capture would break it
    gc.disable()
    try:
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            results = call()
    except RuntimeError as error:
        torch.cuda.set_stream(stream)  # which a failed capture leaves changed
        if torch.__version__ < "2.12":
            raise GraphError(f"not recorded as a CUDA graph: {error.__context__ or error}") from error
        raise
    finally:
        gc.enable()
    return results, graph.replay


def compile_steps(model: WorldModel) -> None:
    """Compile what a model names in step_methods: many short kernels, or passes over memory, become few. What was
    compiled is kept on disk for the next run. What cannot be compiled runs normally, after a warning.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path.home() / ".cache" / "worldmodel" / "compiled"))
    # Raised by what the compiler itself reads.
    warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
    torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT
    torch._functorch.config.force_non_lazy_backward_lowering = True  # so that it fails where that is caught
    for name in model.step_methods:
        setattr(model, name, Compiled(model, name))


class Compiled:
    """A method of a model, compiled when it is first called. It draws the same random numbers as the plain one."""

    def __init__(self, model: WorldModel, name: str) -> None:
        self.model, self.name = model, name
        self.plain: Callable[..., Any] = getattr(type(model), name).__get__(model)
        self.fast: Callable[..., Any] | None = torch.compile(
            self.plain, dynamic=False, options={"fallback_random": True}
        )

    def __call__(self, *inputs: Any) -> Any:
        if self.fast is not None:
            try:
                return self.fast(*inputs)
            except torch._dynamo.exc.TorchDynamoException as error:
                reason = str(error).strip().splitlines()[0]
                warnings.warn(f"{self.name}: not compiled, it runs as it is: {reason}", stacklevel=2)
                self.fast = None
        return self.plain(*inputs)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Compiled":
        """A model's copy has methods of its own."""
        return Compiled(copy.deepcopy(self.model, memo), self.name)

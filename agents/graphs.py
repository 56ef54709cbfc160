"""What makes a GPU fast, in one place: steps that are compiled, and whole calls that are one launch.

An update of 50 steps launches thousands of kernels of a few microseconds each, and a plan does, too: launching them one
by one takes far longer than they do. A CUDA graph records the launches of a call once and repeats them all with one.
Models and actors know nothing of this. They only must not ask for a value in the middle of a call (no .item(), no `if`
on a tensor): tests/test_graphs.py holds them to it, on processors, too.
"""

import copy
import gc
import os
import warnings
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as tree

from worldmodel.base import WorldModel

RECOMPILE_LIMIT = 64  # shapes, temperatures, ways of drawing noise; more would run uncompiled and say nothing
WARM_UP = 3  # calls that run as they are before one is recorded: libraries choose and allocate in them


class GraphError(Exception):
    """A recording failed, and with this version of torch nothing can be computed on the GPU after that."""


class Graphed:
    """A function of tensors, in any nest of tuples, which on a GPU runs as one CUDA graph for each key and each shape
    of its inputs. The inputs may lie on any device.

    What it computes with other tensors (weights, moments, random states) is found and changed in place, as ever. What
    cannot be recorded runs as it is, after a warning. The results are the caller's to keep.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        device: torch.device,
        capture: Callable[[Callable[[], Any]], tuple[Any, Callable[[], None]]] | None,
    ) -> None:
        """function(key, *inputs). capture: takes a call, and gives the tensors of its results and what repeats the call
        into them: cuda_graph; None: every call runs as it is.
        """
        self.function, self.device, self.capture = function, device, capture
        self.calls: dict[Hashable, int] = {}
        self.graphs: dict[Hashable, tuple[list[Tensor], Any, Callable[[], None]] | None] = {}

    def __call__(self, key: Hashable, *inputs: Any) -> Any:
        leaves, structure = tree.tree_flatten(inputs)
        graph = self.captured(key, leaves, structure) if self.capture else None
        if graph is None:
            # What will be recorded is warmed up with inputs laid out as the recording's will be.
            here = (
                map(self.static_input, leaves) if self.capture else (leaf.to(self.device, non_blocking=True) for leaf in leaves)
            )
            return self.function(key, *tree.tree_unflatten(here, structure))
        static_inputs, results, replay = graph
        for static, leaf in zip(static_inputs, leaves, strict=True):
            static.copy_(leaf, non_blocking=True)
        replay()
        return tree.tree_map(torch.clone, results)  # the next call writes into the same memory

    def captured(
        self, key: Hashable, leaves: list[Tensor], structure: tree.TreeSpec
    ) -> tuple[list[Tensor], Any, Callable[[], None]] | None:
        """Where the inputs go, where the results are, and what runs it; None while it warms up, or if it cannot be."""
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
        """A copy of an input. Its strides are those of any other of that shape: compiled steps look at them, too."""
        return leaf.to(self.device, non_blocking=True, copy=True, memory_format=torch.contiguous_format)

    def forget(self) -> None:
        """Needed when tensors that the function uses were replaced by others; and gives the graphs' memory back."""
        self.calls.clear()
        self.graphs.clear()


def cuda_graph(call: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
    """Records a call; nothing of it is executed. Other threads may go on meanwhile.

    Errors: RuntimeError, after which the call can be made as it is; GraphError, after which it cannot.
    """
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    gc.collect()  # an older graph that is freed amid a recording would spoil it
    gc.disable()
    try:
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            results = call()
    except RuntimeError as error:
        torch.cuda.set_stream(stream)  # which the library leaves as it was amid the recording
        if torch.__version__ < "2.12":
            raise GraphError(f"not recorded as a CUDA graph: {error.__context__ or error}") from error
        raise
    finally:
        gc.enable()
    return results, graph.replay


def compile_steps(model: WorldModel) -> None:
    """Compile what a model does once for every step of time: many short kernels become few. What was compiled is kept
    on disk for the next run. What cannot be compiled runs as it is, after a warning.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path.home() / ".cache" / "worldmodel" / "compiled"))
    # The compiler's own look at things.
    warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
    torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT
    torch._functorch.config.force_non_lazy_backward_lowering = True  # it fails, if it must, where that is caught
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

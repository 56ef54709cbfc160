"""Collect while learning: a thread lives through the next episodes, as the agent was when the round of learning began.

What it collects is one round of updates older than what would be collected after the round. On the CPU neither side
disturbs the other's random numbers, so that a run is still a function of its seed; on a GPU, whose generator both draw
from, and where plans are compiled, it is not.
"""

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from agents.agent import Agent
from agents.rollout import Environments, Seconds, Trial, rollout

DRAWS = {torch.rand, torch.rand_like, torch.randn, torch.randn_like, torch.randint, torch.multinomial}
GOODBYE = 5.0  # seconds for the step that it is in; then the environments hang, and the thread ends with the process


class Collector:
    """Episodes by a copy of the agent, in one thread for the whole run. From start() to wait() the environments are the
    thread's: nobody else may step them. `stop` is asked before each of their steps, and ends it as it ends a rollout.
    """

    def __init__(self, agent: Agent, envs: Environments, stop: Callable[[], bool]) -> None:
        self.agent, self.envs = agent.snapshot(), envs
        self.stop, self.left = stop, threading.Event()
        self.stream = torch.cuda.Stream(agent.device) if agent.device.type == "cuda" else None
        self.jobs: queue.SimpleQueue[tuple[Sequence[Sequence[int]], int] | None] = queue.SimpleQueue()
        self.ended: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()  # one for each job
        self.found: deque[tuple[list[Trial], Seconds]] = deque()
        self.running = False
        self.waited = 0.0  # seconds, all in all
        # One thread for all, because captured graphs belong to a thread. A daemon: nothing waits for it at exit.
        self.thread = threading.Thread(target=self.work, name="collector", daemon=True)
        self.thread.start()

    def start(self, agent: Agent, rollouts: Sequence[Sequence[int]], decisions: int) -> None:
        """Begin to collect as this agent is now. rollouts: the seeds of each one's episodes; what would begin after so
        many decisions is left out.
        """
        self.agent.follow(agent)
        torch.clear_autocast_cache()  # the old weights in bfloat16
        if self.stream:
            self.stream.wait_stream(torch.cuda.current_stream())  # for the new weights
        self.running = True
        self.jobs.put((rollouts, decisions))

    def busy(self) -> bool:
        """Whether something is being collected, or was and is not taken yet. Errors: those of wait(), early."""
        if not self.ended.empty():
            self.wait()
        return self.running or bool(self.found)

    def wait(self) -> None:
        """Until nothing is being collected. Errors: what went wrong in the thread, EnvError and Interrupted too."""
        if not self.running:
            return
        began = time.perf_counter()
        error = self.ended.get()
        self.waited += time.perf_counter() - began
        self.running = False
        if error:
            raise error

    def take(self) -> tuple[list[Trial], Seconds] | None:
        """The next rollout that was collected, waited for if need be; None if there is none left, nor one under way."""
        if not self.found:
            self.wait()
        return self.found.popleft() if self.found else None

    def close(self) -> None:
        """End the thread, after the step that it is in. What was collected and not taken is dropped."""
        self.left.set()
        self.jobs.put(None)
        self.thread.join(GOODBYE)

    # ---- in the thread ----

    def work(self) -> None:
        # On the CPU within one autocast for good: when one ends, all threads forget what they have cast, and
        # the learner's gradients are rounded otherwise. A GPU's graphs must cast the weights anew every time.
        cast = contextlib.nullcontext() if self.stream else self.agent.autocast()
        noise = OwnNoise()
        with cast, torch.cuda.stream(self.stream), contextlib.nullcontext() if self.stream else noise:
            while job := self.jobs.get():
                try:
                    self.collect(*job, noise)
                    self.ended.put(None)
                except BaseException as error:  # it is raised again where it is waited for
                    self.ended.put(error)

    def collect(self, rollouts: Sequence[Sequence[int]], decisions: int, noise: "OwnNoise") -> None:
        lived = 0
        for seeds in rollouts:
            if lived >= decisions:
                return
            noise.generator.manual_seed(seeds[0])  # the same episode draws the same numbers
            found = rollout(self.agent.act, self.envs, seeds, explore=True, stop=self.over)
            lived += sum(len(trial.predicted) for trial in found[0])
            self.found.append(found)

    def over(self) -> bool:
        return self.left.is_set() or self.stop()


class OwnNoise(TorchFunctionMode):
    """What this thread draws on the CPU comes from a generator of its own. A GPU's, which captured graphs know, is left
    as it is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if function in DRAWS:
            like = args[0] if args else None
            device = like.device if isinstance(like, Tensor) else kwargs.get("device")
            if torch.device(device or "cpu").type == "cpu":
                kwargs["generator"] = self.generator
        return function(*args, **kwargs)

"""What rank 0 says to the others: a word, values as JSON, tensors as safetensors. Nothing is pickled."""

import contextlib
import datetime
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import psutil
import torch
import torch.distributed as dist
from safetensors.torch import load, save
from torch import Tensor

FOREVER = datetime.timedelta(days=365)  # others wait while rank 0 collects, however long an episode is
LOOKS, PAUSE = 40, 0.1  # at the processes, and seconds between: one that was killed takes a moment to be gone


class ProcessLost(RuntimeError):
    """Another process of the run has ended."""


class Message(NamedTuple):
    word: str
    values: dict[str, Any]
    tensors: dict[str, Tensor]


class Channel:
    """Among all processes of the run, which make it at the same time."""

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.group: Any = dist.new_group(backend="gloo", timeout=FOREVER)
        own = json.dumps([socket.gethostname(), os.getpid(), psutil.Process().create_time()])
        self.processes: list[list[Any]] = [json.loads(text) for text in self.exchange(own)]

    def send(self, word: str, tensors: Mapping[str, Tensor] | None = None, **values: Any) -> None:
        """From rank 0 to all others, which receive(). Errors: ProcessLost."""
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in (tensors or {}).items()}
        for content in (json.dumps([word, values]).encode(), save(plain)):
            with self.naming_the_lost():
                dist.broadcast(torch.tensor([len(content)]), 0, group=self.group)
                dist.broadcast(torch.frombuffer(bytearray(content), dtype=torch.uint8), 0, group=self.group)

    def receive(self) -> Message:
        """Errors: ProcessLost."""
        contents = []
        for _ in range(2):
            with self.naming_the_lost():
                length = torch.zeros(1, dtype=torch.int64)
                dist.broadcast(length, 0, group=self.group)
                content = torch.zeros(int(length), dtype=torch.uint8)
                dist.broadcast(content, 0, group=self.group)
            contents.append(content.numpy().tobytes())
        word, values = json.loads(contents[0])
        return Message(word, values, load(contents[1]))

    def agreed(self, yes: bool = False) -> bool:
        """What rank 0 says, yes or no. Errors: ProcessLost."""
        said = torch.tensor([yes])
        with self.naming_the_lost():
            dist.broadcast(said, 0, group=self.group)
        return bool(said)

    def exchange(self, text: str) -> list[str]:
        """Everyone's text, by rank. Errors: ProcessLost."""
        own = torch.zeros(1024, dtype=torch.uint8)
        content = text.encode()
        own[: len(content)] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        texts = [torch.empty_like(own) for _ in range(self.size)]
        with self.naming_the_lost():
            dist.all_gather(texts, own, group=self.group)
        return [other.numpy().tobytes().rstrip(b"\0").decode() for other in texts]

    @contextlib.contextmanager
    def naming_the_lost(self) -> Iterator[None]:
        """Errors: ProcessLost, for what torch.distributed raises within."""
        try:
            yield
        except RuntimeError as error:
            if not (isinstance(error, dist.DistError) or "gloo" in str(error).lower()):
                raise
            raise ProcessLost(self.lost()) from error

    def lost(self) -> str:
        """Which processes of this machine are no longer there."""
        for _ in range(LOOKS):
            gone = [rank for rank, known in enumerate(getattr(self, "processes", [])) if not is_there(*known)]
            if gone:
                named = " and ".join(f"rank {rank} (process {self.processes[rank][1]})" for rank in gone)
                return f"{named} of {self.size} has ended"
            time.sleep(PAUSE)
        return "a process of this run on another machine has ended, or cannot be reached"


def is_there(host: str, number: int, began: float) -> bool:
    """Whether a process still runs, as far as this machine knows."""
    if host != socket.gethostname():
        return True
    try:
        process = psutil.Process(number)
        return process.create_time() == began and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

"""Joining and leaving the processes that torchrun has started."""

import contextlib
from collections.abc import Iterator, Sequence

import torch.distributed as dist

from training.data_parallel.channel import Channel
from training.data_parallel.follower import follow
from training.data_parallel.leader import Leader
from training.data_parallel.world import stay_on_this_machine, world
from worldmodel.networks import data_parallel


@contextlib.contextmanager
def leading(arguments: Sequence[str]) -> Iterator[Leader | None]:
    """Rank 0's side, also of a process alone. None: this was another rank, and the run has ended. arguments: the
    command line. Errors: ProcessLost; what fails in another rank.
    """
    found = world()
    if found.size == 1:
        yield Leader()
        return
    stay_on_this_machine(found)
    dist.init_process_group("gloo")
    channel = Channel()
    leader = Leader(found, channel)
    try:
        if found.rank:
            follow(found, channel, arguments)
            yield None
        else:
            yield leader
    finally:
        if found.rank == 0:
            leader.end()
        data_parallel.join(None)
        if not leader.broken:
            dist.destroy_process_group()

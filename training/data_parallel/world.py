"""What torchrun has started, as its environment variables say. Nothing here needs torch."""

import os
import socket
from collections.abc import Mapping
from typing import NamedTuple

LOOPBACK = "lo"  # Linux's


class World(NamedTuple):
    """The processes that compute one run's updates, and which of them this is."""

    rank: int
    size: int
    local_rank: int  # on this machine
    local_size: int

    def share(self, rows: int) -> int:
        """How many of a batch's rows, or of anything that is shared as they are, lie in this machine's main memory."""
        return -(-rows * self.local_size // self.size)


ALONE = World(0, 1, 0, 1)


def world(environment: Mapping[str, str] = os.environ) -> World:
    values = [environment.get(name, "") for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")]
    if "MASTER_ADDR" not in environment or not all(value.isdigit() for value in values):
        return ALONE
    return World(*map(int, values))


def stay_on_this_machine(found: World) -> None:
    """Processes on one machine need no other network than its own: nobody else can reach what they listen on."""
    if found.local_size == found.size and LOOPBACK in [name for _, name in socket.if_nameindex()]:
        for library in ("GLOO", "NCCL"):
            os.environ.setdefault(f"{library}_SOCKET_IFNAME", LOOPBACK)

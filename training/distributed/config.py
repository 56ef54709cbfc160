"""The section `ray`."""

import re

from pydantic import Field, field_validator

from worldmodel.base import StrictConfig


class RayConfig(StrictConfig):
    """Where the processes of train.collect.mode=async and train.learn.mode=async run."""

    # None: a Ray of their own, on this machine alone; "auto" or host:port: a cluster that is up
    address: str | None = Field(max_length=255)
    object_store_mb: int = Field(ge=80, le=10**6)  # of main memory, at most, for messages, in a Ray of their own
    collector_gpus: float = Field(ge=0, le=1)  # of each collector; 0: it acts on the CPU
    controller_gpus: float = Field(ge=0, le=1)  # of the process in which the actor learns

    @field_validator("address")
    @classmethod
    def known(cls, value: str | None) -> str | None:
        if value is not None and value != "auto" and not re.fullmatch(r"[A-Za-z0-9.-]+:\d{1,5}", value):
            raise ValueError("auto or host:port is wanted, or null for a Ray of this run's own")
        return value

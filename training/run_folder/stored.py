"""What run.json and a checkpoint's state.json may hold: checked, before anything is done with it. Keys that a later
version may add are left alone.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictStr, ValidationError

from training.configuration.legacy import upgrade_counters, upgrade_spec
from training.configuration.plain import cut, shown

Count = Annotated[int, Field(strict=True, ge=0, le=10**15)]
Side = Annotated[int, Field(strict=True, ge=1, le=4096)]  # pixels
Text = Annotated[StrictStr, Field(max_length=10_000)]


class Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class StoredSpec(Stored):
    model_config = ConfigDict(frozen=True, extra="forbid")

    image_shape: tuple[Annotated[int, Field(strict=True, ge=1, le=3)], Side, Side]
    action_dim: Annotated[int, Field(strict=True, ge=1, le=10_000)]
    discrete: StrictBool


class Info(Stored):
    """run.json."""

    spec: StoredSpec
    initial_rows: Count = 0
    given_rows: Count = 0  # the same, in earlier versions
    threads: Annotated[int, Field(strict=True, ge=1, le=1024)] | None = None
    processes: Annotated[int, Field(strict=True, ge=1, le=100_000)] = 1  # that computed its updates
    plugins: list[Annotated[StrictStr, Field(max_length=200, pattern=r"^\w+(\.\w+)*$")]] = Field([], max_length=100)
    device: Text | None = None
    processor: Text | None = None
    precision: Text | None = None
    commit: Text | None = None
    command: Text | None = None
    python: Text | None = None
    versions: dict[str, Text | None] = Field({}, max_length=100)


class CollectorState(Stored):
    started: Count
    numbers: list[Count] = Field(max_length=4096)


class SchedulerState(Stored):
    """Of collectors in processes of their own."""

    next_number: Count
    requests: Count
    again: list[Count] = Field(max_length=10_000)
    begun: list[Count] = Field(max_length=10_000)


class CountersState(Stored):
    """By today's names. Which there are is known to training/schedule.py."""

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, Count]


class State(Stored):
    """state.json."""

    counters: CountersState
    metrics_bytes: Count
    event_bytes: dict[str, Count] | None = Field(None, max_length=100_000)
    sums: dict[str, float] = Field({}, max_length=100_000)
    counts: dict[str, float] = Field({}, max_length=100_000)
    seconds: dict[str, float] = Field({}, max_length=1000)
    collector: CollectorState | None = None
    scheduler: SchedulerState | None = None


def check_info(info: Any) -> dict[str, Any]:
    """run.json's content, its spec by today's names. Errors: ValueError."""
    if isinstance(info, Mapping) and isinstance(info.get("spec"), Mapping):
        info = {**info, "spec": upgrade_spec(info["spec"])}
    return checked(Info, info)


def check_state(state: Any) -> dict[str, Any]:
    """state.json's content, its counters by today's names. Errors: ValueError."""
    if isinstance(state, Mapping) and isinstance(state.get("counters"), Mapping):
        state = {**state, "counters": upgrade_counters(state["counters"])}
    return checked(State, state)


def checked(model: type[BaseModel], values: Any) -> dict[str, Any]:
    """The same values, if they pass. Errors: ValueError, with the first mistake."""
    try:
        model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        path = cut(".".join(str(step) for step in first["loc"]))
        where = f"{path}: " if path else ""
        raise ValueError(f"{where}{first['msg'][0].lower()}{first['msg'][1:]}, not {shown(first['input'])}") from None
    result: dict[str, Any] = dict(values)
    return result

"""No config can ask for what no computer has: every number in every `Config` has bounds on both sides, every list and
every mapping a largest length.
"""

import math
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from agents.optimizers import OptimizerConfig
from training.configuration.components import ROOMS, find, names
from training.configuration.config import SECTIONS, RootConfig
from worldmodel.base import StrictConfig

CONFIGS: dict[str, type[BaseModel]] = {
    "root": RootConfig,
    **SECTIONS,
    **{f"{section}.{name}": find(section, name).Config for section in ROOMS for name in names(section)},
}


def unbounded(schema: Any, definitions: dict[str, Any], path: str = "") -> Iterator[str]:
    """The numbers without two finite bounds, and the lists and mappings that may be of any length, in a JSON schema."""
    schema = {**definitions.get(str(schema.get("$ref", "")).rpartition("/")[2], {}), **schema}
    kind = schema.get("type")
    if kind in ("integer", "number"):
        low = schema.get("minimum", schema.get("exclusiveMinimum", -math.inf))
        high = schema.get("maximum", schema.get("exclusiveMaximum", math.inf))
        if not (math.isfinite(low) and math.isfinite(high)):
            yield path
    if kind == "array" and "maxItems" not in schema:
        yield path
    if isinstance(schema.get("additionalProperties"), dict | bool) and schema["additionalProperties"] is not False:
        if "maxProperties" not in schema:
            yield path
        if isinstance(schema["additionalProperties"], dict):
            yield from unbounded(schema["additionalProperties"], definitions, f"{path}.*")
    for name, inner in schema.get("properties", {}).items():
        yield from unbounded(inner, definitions, f"{path}.{name}")
    for inner in [*schema.get("anyOf", []), *schema.get("prefixItems", [])]:
        yield from unbounded(inner, definitions, path)
    if isinstance(schema.get("items"), dict):
        yield from unbounded(schema["items"], definitions, f"{path}[]")


@pytest.mark.parametrize("name", CONFIGS)
def test_every_number_has_two_bounds_and_every_list_an_end(name: str) -> None:
    schema = CONFIGS[name].model_json_schema()
    assert list(unbounded(schema, schema.get("$defs", {}), name)) == []
    assert CONFIGS[name].model_config.get("allow_inf_nan") is False


def test_what_has_no_bounds_is_found() -> None:
    class Open(StrictConfig):
        one: int
        two: list[float]
        three: dict[str, int]
        four: OptimizerConfig
        five: float | None

    schema = Open.model_json_schema()
    found = list(unbounded(schema, schema["$defs"]))
    assert found == [".one", ".two", ".two[]", ".three", ".three.*", ".five"]

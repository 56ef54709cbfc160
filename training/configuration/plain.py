"""YAML and JSON that others may have written: limits hold before anything is built, and whatever is wrong is a
ValueError. Messages show values cut, without ever writing them out whole.
"""

import json
import reprlib
from collections.abc import Mapping
from typing import Any

import yaml

LARGEST_CONFIG = 1 << 18  # bytes of config.yaml and run.json: a hundred times what they have
MOST_NODES = 20_000  # of a config, once every alias is written out
MOST_VALUES = 4_000_000  # of a JSON file, hundreds of bytes of memory each
LONGEST_SHOWN = 60  # letters


def read_yaml(content: bytes) -> Any:
    """Plain data. An alias may stand for much: nodes are counted as if each were written out, before any is. Errors:
    ValueError.
    """
    if len(content) > LARGEST_CONFIG:
        raise ValueError(f"it has {len(content):,} bytes; a config has at most {LARGEST_CONFIG:,}")
    try:
        node = yaml.compose(content.decode("utf8"), yaml.SafeLoader)
        if node is None:
            return None
        if count_nodes(node, {}) > MOST_NODES:
            raise ValueError(f"it holds more than {MOST_NODES:,} values, its aliases written out")
        return yaml.constructor.SafeConstructor().construct_document(node)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except Exception as error:  # PyYAML raises nearly anything for a value that is not what its tag says
        raise ValueError(" ".join(cut(str(error), 300).split()) or type(error).__name__) from error


def count_nodes(node: yaml.Node, known: dict[int, int]) -> int:
    """The nodes of a YAML graph, with every alias written out. Errors: ValueError, for one that contains itself."""
    if id(node) not in known:
        known[id(node)] = -1
        inner: list[Any] = node.value if isinstance(node.value, list) else []
        pairs = [part for pair in inner for part in (pair if isinstance(pair, tuple) else (pair,))]
        known[id(node)] = 1 + sum(count_nodes(part, known) for part in pairs)
    if known[id(node)] < 0:
        raise ValueError("an alias stands for what it is in")
    return known[id(node)]


def read_json(content: bytes, largest: int = LARGEST_CONFIG) -> Any:
    """Plain data, of at most so many bytes. Errors: ValueError."""
    if len(content) > largest:
        raise ValueError(f"it has {len(content):,} bytes, more than {largest:,}")
    if sum(content.count(mark) for mark in b"[{,") > MOST_VALUES:
        raise ValueError(f"it holds more than {MOST_VALUES:,} values")
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


class Shown(reprlib.Repr):
    """repr() that looks at the first few parts only."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxdict, self.maxlist, self.maxtuple, self.maxset = 3, 4, 6, 6, 6
        self.maxstring = self.maxother = 2 * LONGEST_SHOWN

    def repr_int(self, value: int, level: int) -> str:
        """Python refuses to write out numbers of thousands of digits."""
        return repr(value) if value.bit_length() < 256 else f"a number of {value.bit_length():,} bits"


def shown(value: object) -> str:
    """What was given, cut so that a message stays one line."""
    return cut(Shown().repr(value))


def cut(text: str, length: int = LONGEST_SHOWN) -> str:
    return text if len(text) < length else text[: length - 3] + "..."


def differences(old: Any, new: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    """The keys in which two configs differ: (path, old value, new value)."""
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return [] if old == new else [(path, old, new)]
    keys = [*old, *(key for key in new if key not in old)]
    inside = (differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key)) for key in keys)
    return [difference for found in inside for difference in found]

"""What was logged, read line by line: a log may be damaged, and longer than memory."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from worldmodel import files

LONGEST_LINE = 1 << 20  # bytes
ROWS, KINDS, NAMES = 1000, 16, 100  # at most: rows of a kind that are kept, kinds of rows, names in a row

Row = dict[str, float]


def rows(path: Path) -> Iterator[Row]:
    """The lines of a metrics.jsonl; an empty row for one that cannot be read. Errors: OSError."""
    with files.opened(path) as file:
        while line := file.readline(LONGEST_LINE + 1):
            short = len(line) <= LONGEST_LINE
            while not (short or line.endswith(b"\n")) and line:
                line = file.readline(LONGEST_LINE)  # the rest of one that is too long
            yield parsed(line) if short else {}


def parsed(line: bytes) -> Row:
    """A row, or an empty one."""
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    sound = isinstance(row, dict) and {"step", "updates"} <= row.keys() and all(map(is_number, row.values()))
    return row if sound and math.isfinite(row["step"] + row["updates"]) else {}


def is_number(value: Any) -> bool:
    return type(value) is float or (type(value) is int and abs(value) < 1 << 63)


class History:
    """A log as it can be drawn. However long it is, at most ROWS rows of each kind are kept, evenly over all of it; and
    the newest one. Rows with the same names are of a kind.
    """

    def __init__(self, drawn: re.Pattern[str]) -> None:
        """drawn: the names that are wanted."""
        self.wanted = drawn
        self.kinds: dict[tuple[str, ...], Thinned] = {}
        self.count = 0

    def add(self, row: Mapping[str, float]) -> None:
        kept = {name: float(value) for name, value in row.items() if self.wanted.fullmatch(name)}
        kind = tuple(kept)
        if kept and len(kept) <= NAMES and (kind in self.kinds or len(self.kinds) < KINDS):
            self.count += 1
            self.kinds.setdefault(kind, Thinned()).add(self.count, kept | {x: row[x] for x in ("step", "updates")})

    def rows(self) -> list[Row]:
        """In the order in which they were logged."""
        found = [numbered for thinned in self.kinds.values() for numbered in thinned.rows()]
        return [row for _, row in sorted(found, key=lambda numbered: numbered[0])]


class Thinned:
    """Every 2^n-th row, with n as large as is needed."""

    def __init__(self) -> None:
        self.kept: list[tuple[int, Row]] = []
        self.newest: tuple[int, Row] | None = None
        self.seen, self.every = 0, 1

    def add(self, number: int, row: Row) -> None:
        self.newest = number, row
        if self.seen % self.every == 0:
            self.kept.append(self.newest)
        self.seen += 1
        if len(self.kept) > ROWS:
            self.kept, self.every = self.kept[::2], 2 * self.every

    def rows(self) -> list[tuple[int, Row]]:
        assert self.newest is not None
        return self.kept if self.kept[-1] == self.newest else [*self.kept, self.newest]

"""What came of a sweep, for people."""

import sys
from collections.abc import Sequence

from rich.table import Table

from training.configuration import hints
from training.reporting.progress import console
from training.sweeps.members import NOT_BEGUN, Result


def show(results: Sequence[Result]) -> int:
    """The table, with the words in which they differ; what failed and what was not begun, as one would run it again ->
    the first exit code that is not 0.
    """
    table = Table()
    for column in ("run", "words", "score", "state"):
        table.add_column(column, overflow="fold")
    shared = set.intersection(*(set(result.member.words) for result in results)) if len(results) > 1 else set()
    for result in results:
        score = "" if result.score is None else f"{result.score:.1f}"
        own = [word for word in result.member.words if word not in shared and not word.startswith("run=")]
        table.add_row(result.name, " ".join(own), score, result.state)
    console.print(table)
    failed = [result for result in results if result.code]
    left = [result for result in results if result.state == NOT_BEGUN]
    if failed:
        print(f"{len(failed)} of {len(results)} runs of the sweep failed:", file=sys.stderr)
        print(*(f"  exit code {result.code}: {again(result)}" for result in failed), sep="\n", file=sys.stderr)
    if left:
        print(f"{len(left)} were not begun:", *(f"  {again(result)}" for result in left), sep="\n", file=sys.stderr)
    return failed[0].code if failed else 0


def again(result: Result) -> str:
    return hints.command("train.py", *result.member.words)

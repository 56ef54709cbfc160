"""A finding, and how findings are shown."""

from collections.abc import Iterable
from typing import Literal, NamedTuple

Status = Literal["ok", "slow", "missing"]


class Finding(NamedTuple):
    """One line. command: what mends it, to be pasted. needed: training cannot run without."""

    check: str
    status: Status
    text: str
    command: str = ""
    needed: bool = False


def shown(findings: Iterable[Finding]) -> list[Finding]:
    """Each line as soon as it is found, and below them the commands, unbroken so that they can be pasted."""
    told = []
    for finding in findings:
        try:
            row(finding)
        except Exception:  # rich is missing, or broken
            print(f"{finding.status:<8} {finding.check:<12} {finding.text}", flush=True)
        told.append(finding)
    mended: dict[str, list[str]] = {}  # one command may mend several
    for finding in told:
        if finding.command and finding.status != "ok":
            mended.setdefault(finding.command, []).append(finding.check)
    for command, checks in mended.items():
        print(f"{', '.join(dict.fromkeys(checks))}: {command}")
    return told


def row(finding: Finding) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    style = {"ok": "green", "slow": "yellow", "missing": "bold red" if finding.needed else "dim"}[finding.status]
    line = Table.grid(padding=(0, 1))
    line.add_column(width=7)
    line.add_column(width=12)
    line.add_column(overflow="fold")
    line.add_row(Text(finding.status, style), finding.check, Text(finding.text))
    Console(highlight=False, markup=False, emoji=False).print(line)

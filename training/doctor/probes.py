"""Python in a process of its own, where what is broken may raise, crash or hang: it is told, and nothing ends here."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from training.shadowing import HOME

PATIENCE = 300.0  # seconds; a busy machine is slow, a driver that hangs does so for ever
MARK = "doctor: "  # begins a line of facts, whatever else is printed
IMPORT = """
for name in {names}:
    try:
        __import__(name)
        why = None
    except BaseException as error:
        why = f"{{type(error).__name__}}: {{error}}"
    print({mark!r} + __import__("json").dumps([name, why]), flush=True)
"""


class Broken(Exception):
    """Why a probe gave nothing, in one line."""


def call(code: str, environment: Mapping[str, str] | None = None, patience: float = PATIENCE) -> tuple[list[Any], str]:
    """The facts that Python code printed, and why it ended, if not well."""
    command = [sys.executable, "-P", "-c", code]  # -P: no modules of the working folder, as train.py finds none there
    everything = {**os.environ, **(environment or {})}
    with subprocess.Popen(
        command, env=everything, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        errors="replace",
    ) as process:  # fmt: skip
        try:
            out, err = process.communicate(timeout=patience)
            why = ended(process.returncode, err)
        except subprocess.TimeoutExpired:
            process.kill()
            (out, _), why = process.communicate(), f"it did not answer within {patience:g} s"
    return [json.loads(line.removeprefix(MARK)) for line in out.splitlines() if line.startswith(MARK)], why


def ended(code: int, err: str) -> str:
    """Why a process ended; empty, if well."""
    if code < 0:
        return f"it crashed ({signal.Signals(-code).name})"
    lines = [line.strip() for line in err.splitlines() if line.strip()]
    return (lines[-1][:300] if lines else f"it ended with exit code {code}") if code else ""


def facts(name: str, *arguments: str, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What the function of that name in measure.py finds. Errors: Broken."""
    words = ", ".join(map(repr, arguments))
    code = f"import sys; sys.path.insert(0, {str(HOME)!r})\nfrom training.doctor import measure\n"
    found, why = call(f"{code}import json\nprint({MARK!r} + json.dumps(measure.{name}({words})))", environment)
    if not found:
        raise Broken(why or "it said nothing")
    first: dict[str, Any] = found[0]
    return first


def imports(modules: Sequence[str]) -> dict[str, str]:
    """The modules that cannot be imported, and why."""
    broken: dict[str, str] = {}
    left = list(modules)
    while left:
        found, why = call(IMPORT.format(names=left, mark=MARK))
        broken |= {name: reason for name, reason in found if reason is not None}
        left = left[len(found) :]
        if left:  # the first of these has ended the process
            broken[left.pop(0)] = why or "it ended the program"
    return broken

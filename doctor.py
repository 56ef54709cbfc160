"""What works on this machine:  python doctor.py

One line for each thing that training needs or can use (ok, slow or missing), and then the one command that mends what
is not ok. Ends with 1 if training could not run, else with 0. It needs nothing but Python itself.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

OLDEST, NEWEST = (3, 11), (3, 13)


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    if sys.version_info[:2] < OLDEST:  # which reads no further file of ours
        newest = ".".join(map(str, NEWEST))
        print(f"missing  python   {sys.version.split()[0]}; {'.'.join(map(str, OLDEST))} to {newest} are tried")
        print(f"python: make setup PYTHON=python{newest}")
        return 1
    parser = argparse.ArgumentParser(description="What works on this machine, and what mends the rest.")
    parser.add_argument("--runs", default="runs", help="the folder of runs, whose disk is looked at (default: runs)")
    parser.add_argument("--json", action="store_true", help="the same for programs")
    options = parser.parse_args(arguments)
    try:
        from training import doctor
    except ImportError as error:  # a module of the user's own hides one of ours
        print(f"missing  {error}")
        return 1
    return doctor.examine(options.runs, options.json)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

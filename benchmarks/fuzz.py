"""Load thousands of mutated runs, agents' files and recordings, and see that each is refused properly or does no harm.

    python benchmarks/fuzz.py --mutants 10000 --seed 0 --json benchmarks/results/fuzz.json

A tiny run is trained once, with open episodes, replay and an exported agent. Every mutant (mutants.py) of these is
loaded as a user would: resumed and updated once, loaded by agents.load and asked for an action; recordings are read as
data= reads them. Meanwhile an audit hook watches for what no loader may do: running or importing code, starting
processes, sockets, and writing or deleting anything outside of the mutant's own folder. A mutant is

    refused    by one of the exceptions that train.py and evaluate.py print in a line
    harmless   loaded, or left as damaged beside an older checkpoint
    raw        any other exception: a traceback for the user
    harm       what the audit hook saw
    memory     more than --gigabytes beyond what the program itself takes
    hang       more than --seconds of CPU time, or stuck (an hour)
    crash      the process died

Mutants are made and loaded in a child, which is started again where it died. Exits with 1 unless all are refused or
harmless; those that are not are listed with the number that makes them again (--only).
"""

import argparse
import contextlib
import faulthandler
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.fuzz_audit import Watch  # noqa: E402
from benchmarks.fuzz_targets import ORIGINALS, SHARES, TARGETS, prepare  # noqa: E402

KINDS = ("refused", "harmless", "raw", "harm", "memory", "hang", "crash")
STUCK = 3600  # seconds; no result depends on being faster


# ---- one mutant ----


def tried(folder: Path, number: int, seed: int, watch: Watch, options: argparse.Namespace) -> dict[str, Any]:
    """Make a mutant in a fresh copy, load it, and say what happened."""
    import torch

    from benchmarks import mutants

    rng = random.Random(f"{seed} {number}")
    target = rng.choice(SHARES)
    place = folder / "mutant" / ORIGINALS[target]
    shutil.rmtree(place.parent, ignore_errors=True)
    shutil.copytree(folder / ORIGINALS[target], place)
    done = mutants.mutate(place, rng, folder / "outside")
    out, kind, said = io.StringIO(), "harmless", ""
    torch.set_num_threads(1)
    try:
        with (
            limited(options), watch.on(place.parent.resolve()),
            contextlib.redirect_stdout(out), contextlib.redirect_stderr(out),
        ):  # fmt: skip
            TARGETS[target](place)
    except (Exception, Hang) as error:
        kind, said = judged(error)
    if (folder / "outside" / "victim").read_text() != "nobody writes here" or len(os.listdir(folder / "outside")) != 1:
        kind, said = "harm", "outside was changed"
        shutil.rmtree(folder / "outside")
        (folder / "outside").mkdir()
        (folder / "outside" / "victim").write_text("nobody writes here")
    if watch.seen:
        kind, said = "harm", "; ".join(watch.seen[:5])
    return {"number": number, "target": target, "mutation": done, "kind": kind, "said": said}


def judged(error: BaseException) -> tuple[str, str]:
    """Which of the KINDS it is that a loader raised this, and what it said: its message, or where it came from."""
    import envs
    from agents.optimizers import Diverged
    from training.run_folder.run import RunError
    from worldmodel.base import ConfigError
    from worldmodel.replay.npz import RecordedError

    said, place = str(error), "".join(traceback.format_exception(error, limit=-6))
    if isinstance(error, Hang):
        return "hang", place
    if short_of_memory(error):
        return "memory", place
    refusals = (RunError, ConfigError, RecordedError, envs.EnvError, Diverged, MemoryError)  # the last: a preflight's
    # train.py and evaluate.py print these in a line, too; what torch or numpy raise of themselves is no such line
    printed = isinstance(error, refusals) or (type(error) in (ValueError, OSError) and is_ours(error))
    return ("refused", said) if printed and len(said) <= 6000 and "\x1b" not in said else ("raw", place)


@contextlib.contextmanager
def limited(options: argparse.Namespace) -> Iterator[None]:
    """Of time and memory."""
    signal.setitimer(signal.ITIMER_PROF, options.seconds)
    signal.alarm(STUCK)
    usual = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (options.limit, usual[1]))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, usual)


class Hang(BaseException):
    """The time is over. No loader may take it for an error of the file."""


def hang(*_: Any) -> None:
    raise Hang


def is_ours(error: BaseException) -> bool:
    """Whether an exception was raised in this project's own code, with a message."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    file = frame.tb_frame.f_code.co_filename if frame else ""
    return bool(str(error)) and file.startswith(str(ROOT)) and "site-packages" not in file


def short_of_memory(error: BaseException | None) -> bool:
    """Whether memory was short somewhere behind an error. A preflight that says so before is a refusal."""
    while error is not None:
        said = str(error)
        if isinstance(error, MemoryError) and not said.startswith(("replay:", "memory:")):
            return True
        if "can't allocate memory" in said or "Unable to allocate" in said:  # torch's, which is no MemoryError; numpy's
            return True
        error = error.__cause__ or error.__context__
    return False


def child(options: argparse.Namespace) -> None:
    """Mutants from --begin on, a line of JSON each; what was begun is told before."""
    faulthandler.enable()
    watch = Watch()
    for target, load in TARGETS.items():  # everything is imported by then
        place = options.folder / "mutant" / ORIGINALS[target]
        shutil.rmtree(place.parent, ignore_errors=True)
        shutil.copytree(options.folder / ORIGINALS[target], place)
        with contextlib.redirect_stdout(io.StringIO()):
            load(place)
    signal.signal(signal.SIGPROF, hang)
    signal.signal(signal.SIGALRM, hang)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    options.limit = pages * resource.getpagesize() + int(options.gigabytes * 1e9)
    numbers = options.only or range(options.begin, options.mutants)
    for number in numbers:
        print(json.dumps({"begun": number}), flush=True)
        print(json.dumps(tried(options.folder, number, options.seed, watch, options)), flush=True)


# ---- all of them ----


def results(options: argparse.Namespace, arguments: list[str]) -> Iterator[dict[str, Any]]:
    """Of all mutants, whatever happens to the process that loads them."""
    begin = 0
    while begin < options.mutants:
        words = [sys.executable, __file__, *arguments, "--folder", str(options.folder), "--begin", str(begin)]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        assert process.stdout and process.stderr
        begun = None
        for line in process.stdout:
            row = json.loads(line) if line.startswith("{") else {}
            if "begun" in row:
                begun = row["begun"]
            elif row:
                begun = None
                yield row
        error = process.stderr.read()
        if begun is None:
            if process.wait():
                raise SystemExit(f"the fuzzer itself failed:\n{error[-3000:]}")
            return
        yield {"number": begun, "target": "?", "mutation": "", "kind": "crash", "said": error[-1000:]}
        if options.only:
            return
        begin = begun + 1


def main(arguments: list[str]) -> int:
    options = parse_arguments(arguments)
    if options.folder:
        child(options)
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        options.folder = Path(temporary).resolve()
        prepare(options.folder)
        counted: Counter[tuple[str, str]] = Counter()
        bad = []
        for row in results(options, arguments):
            counted[row["target"], row["kind"]] += 1
            if row["kind"] not in ("refused", "harmless") or options.only:
                bad.append(row)
                print(f"{row['number']} {row['kind']} {row['mutation']}\n{row['said']}\n", file=sys.stderr)
        options.folder = None
    print("| | " + " | ".join(KINDS) + " |\n" + "|---" * (len(KINDS) + 1) + "|")
    for target in sorted({target for target, _ in counted}):
        print(f"| {target} | " + " | ".join(str(counted[target, kind]) for kind in KINDS) + " |")
    if options.json:
        table = {target: {kind: counted[target, kind] for kind in KINDS} for target, _ in counted}
        options.json.write_text(
            json.dumps({"seed": options.seed, "mutants": options.mutants, "found": table, "bad": bad}, indent=1)
        )
    return int(any(row["kind"] not in ("refused", "harmless") for row in bad))


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Load mutated runs, agents' files and recordings.")
    parser.add_argument("--mutants", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gigabytes", type=float, default=1.5, help="beyond what the program itself takes")
    parser.add_argument("--seconds", type=float, default=20.0, help="of CPU time for one mutant")
    parser.add_argument("--only", type=int, nargs="*", help="the numbers of some mutants")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--begin", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

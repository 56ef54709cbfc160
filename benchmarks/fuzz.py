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
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

KINDS = ("refused", "harmless", "raw", "harm", "memory", "hang", "crash")
CHANGES = (
    "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.truncate", "os.link", "os.symlink", "os.chmod",
    "shutil.rmtree", "shutil.move", "shutil.copyfile",
)  # fmt: skip
STUCK = 3600  # seconds; no result depends on being faster
RECIPE = [
    "exp=smoke", "env.time_limit=5", "train.env_steps=30", "train.prefill=10", "train.collect.unit=steps",
    "train.collect.per_round=8", "train.learn.model.updates=1", "train.eval_every=100", "train.eval_episodes=1",
    "train.save_every=10", "replay.batch_size=2", "replay.batch_length=4", "replay.capacity=200", "model.deter=8",
    "model.stoch=4", "model.hidden=8", "model.depths=[4,8]", "model.reward_units=8", "actor.horizon=3",
    "actor.candidates=6", "actor.elites=2", "agent.device=cpu", "agent.precision=fp32", "agent.threads=1",
]  # fmt: skip


# ---- what is loaded ----


def prepare(folder: Path) -> None:
    """The originals: run/, agent/, recordings/; and outside/, which nobody may touch."""
    import numpy as np

    import training
    from training.run_folder import agent_file
    from training.run_folder.run import Run

    with contextlib.redirect_stdout(io.StringIO()):
        training.train(*RECIPE, "run=run", f"runs={folder}")
    for name in ("dream.png", "curve.png", "losses.png"):
        (folder / "run" / name).unlink(missing_ok=True)
    run = Run.read(folder / "run")
    newest = run.newest()
    (folder / "agent").mkdir()
    parts = {part: newest.tensors(part) for part in agent_file.PARTS}
    (folder / "agent" / "a.agent").write_bytes(agent_file.serialised(run, newest, parts, {"return": 1.0}))
    (folder / "recordings").mkdir()
    rng = np.random.default_rng(0)
    for number, several in enumerate((False, True)):
        image, action = rng.integers(0, 256, (12, 16, 16, 3), np.uint8), rng.uniform(-1, 1, (12, 2)).astype(np.float32)
        first = np.arange(12) % (4 if several else 12) == 0
        terminal = np.roll(first, -1)[~first]
        arrays = {"image": image, "action": action[~first], "reward": np.ones(len(terminal)), "terminal": terminal}
        arrays |= {"first": first} if several else {}
        np.savez_compressed(folder / "recordings" / f"{number}.npz", **arrays)
    (folder / "outside").mkdir()
    (folder / "outside" / "victim").write_text("nobody writes here")


def resume(folder: Path) -> None:
    """As train.py does, without composing the config anew; and one update."""
    import numpy as np

    from training import start
    from training.configuration import config
    from training.run_folder.run import Run

    plain = Run.read(folder).config | {"run": folder.name, "runs": str(folder.parent)}
    trainer = start.resume(config.check(plain), lambda: False)
    try:
        trainer.agent.learn(trainer.replay.sample(np.random.default_rng(0)))
    finally:
        trainer.close()


def load_agent(place: Path) -> None:
    import numpy as np

    import agents

    agent = agents.load(place, "cpu")
    action, _ = agent.act(None, np.zeros(agent.spec.image_shape, np.uint8))
    if not np.isfinite(action).all():
        raise AssertionError("an action that is not finite")


def load_recordings(folder: Path) -> None:
    from worldmodel.replay import recorded

    for episode in recorded.read(folder):
        episode.plain()


TARGETS = {
    "resumed": resume,
    "loaded": load_agent,
    "agent's file": lambda folder: load_agent(folder / "a.agent"),
    "recordings": load_recordings,
}
ORIGINALS = {"resumed": "run", "loaded": "run", "agent's file": "agent", "recordings": "recordings"}
SHARES = ["resumed"] * 4 + ["loaded"] * 3 + ["agent's file", "recordings", "recordings"]


# ---- what no loader may do ----


class Watch:
    """An audit hook cannot be taken away: it is on while `folder` is set."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.seen: list[str] = []
        self.roots: set[str] = set()
        self.places = (str(ROOT), sys.prefix, sys.base_prefix, str(Path(os.__file__).parent), "<frozen")
        sys.addaudithook(self.hook)

    @contextlib.contextmanager
    def on(self, folder: Path) -> Iterator[None]:
        self.seen, self.roots = [], {name.partition(".")[0] for name in sys.modules}
        self.folder = folder
        try:
            yield
        finally:
            self.folder = None

    def hook(self, event: str, details: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        wrong = self.wrong(event, details)
        if wrong:
            self.seen.append(f"{event} {wrong}"[:200])

    def wrong(self, event: str, details: tuple[Any, ...]) -> str:
        if event in ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "pickle.find_class"):
            return repr(details)
        if event.startswith(("socket.", "ctypes.dlopen", "ftplib", "urllib", "smtplib")):
            harmless = event == "socket.gethostname" or details == (None,)  # ctypes: of what is loaded already
            return "" if harmless else repr(details)
        if event == "import":
            return "" if str(details[0]).partition(".")[0] in self.roots | {"encodings"} else str(details[0])
        if event == "exec":
            file = getattr(details[0], "co_filename", "?")
            return "" if file.startswith(self.places) else file
        if event == "open":
            path, _, flags = details
            writes = (
                bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)) if isinstance(flags, int) else False
            )
            return str(path) if writes and self.is_outside(path, not flags & os.O_NOFOLLOW) else ""
        if event in CHANGES:
            return repr(details) if self.is_outside(details[0]) else ""
        return ""

    def is_outside(self, path: Any, follows: bool = False) -> bool:
        """follows: what is done to a link is done to what it leads to."""
        if isinstance(path, int):
            return False
        folder, name = os.path.split(os.fsdecode(path))
        real = os.path.realpath(path) if follows else os.path.join(os.path.realpath(folder), name)
        return not real.startswith((str(self.folder), "/dev/null"))


# ---- one mutant ----


def tried(folder: Path, number: int, seed: int, watch: Watch, options: argparse.Namespace) -> dict[str, Any]:
    """Make a mutant in a fresh copy, load it, and say what happened."""
    import mutants
    import torch

    import envs
    from agents.optimizers import Diverged
    from training.run_folder.run import RunError
    from worldmodel.base import ConfigError
    from worldmodel.replay.npz import RecordedError

    refusals = (RunError, ConfigError, RecordedError, envs.EnvError, Diverged)
    rng = random.Random(f"{seed} {number}")
    target = rng.choice(SHARES)
    place = folder / "mutant" / ORIGINALS[target]
    shutil.rmtree(place.parent, ignore_errors=True)
    shutil.copytree(folder / ORIGINALS[target], place)
    done = mutants.mutate(place, rng, folder / "outside")
    out = io.StringIO()
    kind, said = "harmless", ""
    torch.set_num_threads(1)
    signal.setitimer(signal.ITIMER_PROF, options.seconds)
    signal.alarm(STUCK)
    usual = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (options.limit, usual[1]))
    try:
        with watch.on(place.parent.resolve()), contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            TARGETS[target](place)
    except refusals as error:
        kind, said = "refused", str(error)
    except Hang:
        kind, said = "hang", traceback.format_exc(limit=-4)
    except MemoryError as error:
        planned = str(error).startswith(("replay:", "memory:"))  # a preflight's
        kind, said = ("refused", str(error)) if planned else ("memory", traceback.format_exc(limit=-4))
    except Exception as error:
        # train.py and evaluate.py print these in a line, too; what torch or numpy raise of themselves is no such line
        printed = type(error) in (ValueError, OSError) and is_ours(error)
        kind, said = ("refused", str(error)) if printed else ("raw", traceback.format_exc(limit=-6))
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, usual)
    if short_of_memory(sys.exc_info()[1]) or "can't allocate memory" in said or "Unable to allocate" in said:
        kind = "memory"
    if kind == "refused" and (len(said) > 6000 or "\x1b" in said):
        kind = "raw"
    if (folder / "outside" / "victim").read_text() != "nobody writes here" or len(os.listdir(folder / "outside")) != 1:
        kind, said = "harm", "outside was changed"
        shutil.rmtree(folder / "outside")
        (folder / "outside").mkdir()
        (folder / "outside" / "victim").write_text("nobody writes here")
    if watch.seen:
        kind, said = "harm", "; ".join(watch.seen[:5])
    return {"number": number, "target": target, "mutation": done, "kind": kind, "said": said}


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
    """Whether memory was short somewhere behind an error."""
    while error is not None:
        if isinstance(error, MemoryError) and not str(error).startswith(("replay:", "memory:")):
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

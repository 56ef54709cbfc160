"""Kill a training again and again, half of the times inside a save, and check that nothing but the last steps is lost.

    python benchmarks/kills.py --kills 40 --seed 0 --json benchmarks/results/kills.json

Every kill is a SIGKILL to a real process, which is then started again with the same command. After each: no checkpoint
that is listed is damaged, the replay is the one that the newest checkpoint records, the steps lost are at most those
between two saves, and the new process resumes from that very checkpoint, unaided. At the end the run must be equal, bit
for bit, to one that was never killed. Exits with 1 if anything failed.
"""

import argparse
import hashlib
import json
import os
import platform
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from training.run_folder import checkpoint  # noqa: E402
from training.run_folder.run import Run  # noqa: E402
from training.run_folder.versions import commit  # noqa: E402
from worldmodel.replay.buffer import Replay, ReplayConfig  # noqa: E402

EPISODE, SAVE_EVERY = 5, 3
RECIPE = [
    "exp=smoke", f"env.time_limit={EPISODE}", "train.prefill=2", "train.learn.model.updates=2",
    "train.eval_every=10", "train.eval_episodes=1", f"train.save_every={SAVE_EVERY}", "replay.batch_size=2",
    "replay.batch_length=4", "replay.capacity=400", "model.deter=8", "model.stoch=4", "model.hidden=8",
    "model.depths=[4,8]", "actor.horizon=3", "actor.candidates=6", "actor.elites=2", "agent.device=cpu",
    "agent.precision=fp32", "agent.threads=1",
]  # fmt: skip
# A save of this tiny recipe is over in a few milliseconds: writing is slowed down, so that a kill can hit it anywhere.
SLOWLY = """
import os, time, training.run_folder.checkpoint as c
def slowed(function):
    def slow(*args, **kwargs):
        time.sleep(0.005); result = function(*args, **kwargs); time.sleep(0.005); return result
    return slow
c.write_synced, c.sync, os.fsync = slowed(c.write_synced), slowed(c.sync), slowed(os.fsync)
"""
MAIN = "import runpy, sys; sys.argv[0] = 'train.py'; runpy.run_path('train.py', run_name='__main__')"


def start(runs: Path, log: Path, steps: int, before: str = SLOWLY) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-c", before + MAIN, *RECIPE, f"train.env_steps={steps}", f"runs={runs}", "run=killed"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with log.open("wb") as file:
        return subprocess.Popen(words, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT)


def saving(run: Path) -> bool:
    """Is a checkpoint or a replay chunk half written?"""
    return any((run / "checkpoints").glob("*.tmp-*")) or any((run / "replay").glob("*.tmp-*"))


def wait(process: subprocess.Popen[bytes], log: Path, run: Path, inside: bool, rng: random.Random) -> None:
    """Until it is time to strike: 0-50 ms after a save has begun, or 0-2 s after training has."""
    deadline = time.monotonic() + 120
    while "training on" not in log.read_text():
        alive(process, log, deadline)
        time.sleep(0.01)
    if not inside:
        time.sleep(rng.uniform(0, 2))
        return
    leave = time.monotonic() + rng.uniform(0, 1)  # not always the first save
    while not saving(run) or time.monotonic() < leave:
        alive(process, log, deadline)
        time.sleep(0.001)
    time.sleep(rng.uniform(0, 0.05))


def alive(process: subprocess.Popen[bytes], log: Path, deadline: float) -> None:
    if process.poll() is not None or time.monotonic() > deadline:
        raise RuntimeError(f"training ended by itself or hangs, exit code {process.poll()}:\n{log.read_text()[-2000:]}")


def inspect(run: Path) -> tuple[str, int, list[str]]:
    """After a kill: the newest checkpoint, its env steps, and all that is wrong."""
    wrong: list[str] = []
    found = []
    for name in checkpoint.names(run / "checkpoints"):
        try:
            found.append(checkpoint.verify(run / "checkpoints" / name))
        except checkpoint.Damaged as error:
            wrong.append(f"listed but damaged: {error}")
    if not found:
        return "", 0, wrong
    newest, spec = found[0], Run.read(run).spec
    replay = Replay(
        ReplayConfig(batch_size=2, batch_length=4, capacity=400, storage="memory", memory_gb=None, context=False), spec
    )
    try:
        replay.load(run / "replay", newest.chunks)
    except OSError as error:
        wrong.append(str(error))
    recorded = hashlib.sha256(json.dumps([chunk.digest for chunk in newest.chunks]).encode()).hexdigest()
    if replay.digest() != recorded:
        wrong.append(f"the replay of {newest.folder.name} is not the recorded one")
    return newest.folder.name, int(newest.state["counters"]["env_steps"]), wrong


def lived(log: Path) -> int:
    """The env steps that the killed process had reached."""
    return max(
        (int(number.replace(",", "")) for number in re.findall(r"([\d,]+) env steps", log.read_text())), default=0
    )


def content(run: Path) -> list[Any]:
    """The newest checkpoint, all but the counters that tell when it was saved and evaluated."""
    newest = Run.read(run).newest()
    when = ("last_save_collected", "last_eval_collected")
    counters = {key: value for key, value in newest.state["counters"].items() if key not in when}
    files = {
        name: newest.manifest["files"][f"{name}.safetensors"]["bytes"] for name in ("model", "actor", "optim", "rng")
    }
    tensors = {f"{file}/{k}": v.numpy().tobytes() for file in files for k, v in newest.tensors(file).items()}
    return [counters, newest.chunks, tensors]


def sweep(kills: int, seed: int, folder: Path) -> dict[str, Any]:
    rng, run, log = random.Random(seed), folder / "killed", folder / "log.txt"
    rows: list[dict[str, Any]] = []
    expected = ""
    print(f"{'kill':>4}  {'inside a save':13}  {'lived':>6}  {'kept':>6}  {'lost':>4}  resumed  wrong")
    for kill in range(kills):
        process = start(folder, log, 10**6)
        try:
            wait(process, log, run, kill % 2 == 1, rng)
        finally:
            process.kill()
            process.wait()
        resumed = not expected or f"resumed from {expected}" in log.read_text()
        inside, reached = saving(run), lived(log)
        expected, kept, wrong = inspect(run)
        lost = max(0, reached - kept)
        if lost > SAVE_EVERY * EPISODE:
            wrong.append(f"{lost} steps lost, more than {SAVE_EVERY * EPISODE}")
        if not resumed:
            wrong.append("did not resume from the newest checkpoint")
        rows.append(
            {"inside": inside, "lived": reached, "kept": kept, "lost": lost, "resumed": resumed, "wrong": wrong}
        )
        print(
            f"{kill + 1:4}  {inside!s:13}  {reached:6}  {kept:6}  {lost:4}  {resumed!s:7}  {'; '.join(wrong)}",
            flush=True,
        )
    steps = kept + 2 * SAVE_EVERY * EPISODE
    ended = start(folder, log, steps).wait(300)
    undisturbed = start(folder / "whole", folder / "whole.txt", steps, before="").wait(600)
    equal = ended == undisturbed == 0 and content(run) == content(folder / "whole" / "killed")
    return {
        "kills": kills,
        "seed": seed,
        "inside_saves": sum(row["inside"] for row in rows),
        "resumed": sum(row["resumed"] for row in rows) + (ended == 0) - 1,
        "steps_between_saves": SAVE_EVERY * EPISODE,
        "most_steps_lost": max(row["lost"] for row in rows),
        "steps_lost": [row["lost"] for row in rows],
        "steps_kept_at_the_end": kept,
        "wrong": [what for row in rows for what in row["wrong"]],
        "equal_to_an_undisturbed_run": equal,
        "commit": commit(),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where to write the result")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        result = sweep(options.kills, options.seed, Path(folder))
    result["minutes"] = round((time.monotonic() - began) / 60, 1)
    print(
        f"{result['kills']} kills, {result['inside_saves']} inside a save; {result['resumed']} resumed unaided; "
        f"at most {result['most_steps_lost']} steps lost, {result['steps_between_saves']} lie between two saves; "
        f"equal to an undisturbed run: {result['equal_to_an_undisturbed_run']}"
    )
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    sys.exit(bool(result["wrong"]) or not result["equal_to_an_undisturbed_run"])


if __name__ == "__main__":
    main()

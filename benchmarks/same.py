"""Show that a refactor changes nothing that is computed:  python benchmarks/same.py --base <commit>

Eight small runs are trained by the commit and by the working tree, in the same environment and on one thread. Then what
they leave is compared, bit for bit: losses, weights, the optimiser's moments, returns. Prints a table and the first
difference, and exits with 1 if there is one. About two minutes. --save FILE records the working tree, and --base takes
such a file, too; it holds for the machine that it was made on, since bits depend on processor and package versions.

Run folders are read by the code below alone, never by the project's modules, and nothing is compared by its name: a
refactor may rename parameters and metrics. So values are compared as multisets; their names only say where to look.
"""

import argparse
import hashlib
import importlib.metadata
import io
import json
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parent.parent
THREADS = 1
PACKAGES = ("torch", "numpy", "gymnasium", "pygame-ce", "opencv-python", "cma", "hydra-core")
RETURNS = ("collect/return", "evaluate/return")  # metrics; losses are all that have "loss" in their names
QUANTITIES = ("losses", "weights", "moments", "returns")

CPU = f"agent.device=cpu agent.precision=fp32 agent.threads={THREADS}"
NETS = (
    "model.hidden=8 model.depths=[4,8] model.kernels=[6,6] model.reward_units=8 model.free_nats=0.0"  # 0: the KL counts
)
RSSM = f"{CPU} {NETS} model.deter=8 model.stoch=4"
EPISODES = "env.time_limit=8 train.steps=96 train.seed_episodes=2 train.eval_every=4 train.eval_episodes=2"
LEARN = "train.learn.model.updates=3 train.save_every=5 replay.batch=3 replay.length=6"
CEM = "actor.horizon=4 actor.candidates=12 actor.elites=4 actor.iterations=3"
DOT = f"exp=smoke {RSSM} {EPISODES} {LEARN}"
VISION = "train.learn.vision.updates=5 train.learn.vision.batch=2 train.learn.vision.length=3"
MEMORY = "train.learn.memory.updates=5 train.learn.memory.batch=2 train.learn.memory.length=5"
ACTOR = "train.learn.actor.updates=4 train.learn.actor.batch=2 train.learn.actor.length=3"
CARTPOLE = "env=gym env.id=CartPole-v1 env.size=[16,16] env.time_limit=12 model.continue_weight=1.0"  # it ends early
# Overrides of train.py; the last one of a key counts. {data}: a folder of recorded episodes, written before.
RUNS: dict[str, str] = {
    "rssm + cem": f"{DOT} {CEM} model.dequantise=true model.bits=5 model.overshooting=3",
    "rssm + mppi": f"{DOT} actor=mppi {CEM}",
    "ssm, deter = 0": f"{DOT} {CEM} model.deter=0",
    "rnn, stoch = 0": f"{DOT} {CEM} model.stoch=0",
    "mdnrnn + evolution": (  # two rounds of three stages, so that the controller collects, too
        f"exp=worldmodels {CPU} env=dot env.size=[16,16] env.time_limit=8 train.steps=48 train.seed_episodes=4 "
        "train.round_episodes=2 train.eval_episodes=2 train.save_every=2 train.temperatures=[1.0,0.5] "
        f"{NETS} model.latent=3 model.mixtures=2 {VISION} {MEMORY} {ACTOR} "
        "train.learn.actor.eval_every=2 actor.population=4 actor.rollouts=2 actor.horizon=4 actor.judge_rollouts=2"
    ),
    "discrete actions": f"{DOT} {CEM} {CARTPOLE}",
    "two workers": f"{DOT} {CEM} env.count=2 env.workers=true env.action_repeat=2 train.steps=128",
    "recorded episodes": (
        f"exp=offline data={{data}} {RSSM} {CEM} train.learn.model.updates=12 train.learn.model.batch=3 "
        "train.learn.model.length=6 train.learn.model.eval_every=6 train.report_every=3 train.eval_episodes=2"
    ),
}
# Names as above -> names in trees that have the folder training/. A line renames a whole override ("model=rssm"), a key
# ("replay.batch") or all that lies below a key ("train.learn"); the first that fits counts.
RENAMED: dict[str, str] = {
    "exp=worldmodels": "exp=worldmodels_dot",
    "actor=mppi": "actor=mppi_tiny",
    "train.steps": "train.env_steps",
    "train.seed_episodes": "train.prefill",
    "train.round_episodes": "train.collect.per_round",
    "train.learn.model.batch": "train.learn.model.batch_size",
    "train.learn.model.length": "train.learn.model.batch_length",
    "train.learn.vision.batch": "train.learn.vision.batch_size",
    "train.learn.vision.length": "train.learn.vision.batch_length",
    "train.learn.memory.batch": "train.learn.memory.batch_size",
    "train.learn.memory.length": "train.learn.memory.batch_length",
    "train.learn.actor.batch": "train.learn.actor.batch_size",
    "train.learn.actor.length": "train.learn.actor.batch_length",
    "replay.batch": "replay.batch_size",
    "replay.length": "replay.batch_length",
    "model.bits": "model.bit_depth",
    "actor.judge_rollouts": "actor.eval_rollouts",
    "env.count": "env.num_envs",
    "env.workers=true": "env.vectorization_mode=async",
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare what two versions compute, bit for bit.")
    parser.add_argument("--base", help="the commit, or the record, that the working tree is compared with")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write the record of the working tree as JSON")
    options = parser.parse_args()
    if not (options.base or options.save):
        parser.error("give --base, --save or both")
    with tempfile.TemporaryDirectory(prefix="same-") as name:
        folder = Path(name)
        write_episodes(folder / "data")
        if options.base and Path(options.base).is_file():
            base = json.loads(Path(options.base).read_text()) | {"label": options.base}
        elif options.base:
            base = record(checkout(options.base, folder / "base"), folder, options.base)
        own = record(ROOT, folder, "working tree")
    if options.save:
        options.save.write_text(json.dumps(own, indent=1) + "\n")
    sys.exit(0 if not options.base or same(base, own) else 1)


def checkout(commit: str, folder: Path) -> Path:
    """The files of a commit; the repository itself is left alone."""
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
    return folder


def write_episodes(folder: Path) -> None:
    """Six short episodes of a bright bar that is pushed about, as a replay here holds them."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(6):
        action = rng.uniform(-1, 1, (10, 2)).astype(np.float32)
        action[0] = 0  # an episode's first row has neither action nor reward
        image = rng.integers(0, 40, (10, 16, 16), dtype=np.uint8)
        place = action.cumsum(0)
        image[np.arange(10), :, (8 + 2 * place[:, 0]).clip(0, 15).astype(int)] = 255
        arrays = {"image": image, "action": action, "reward": -np.abs(place[:, 1]), "terminal": np.zeros(10, bool)}
        np.savez(folder / f"{number:064x}.npz", **arrays)  # as a replay here names them: so it is read


def record(tree: Path, folder: Path, label: str) -> dict[str, Any]:
    """Train all runs by the code in a tree, in processes that import from there, and read them."""
    renaming = RENAMED if (tree / "training").is_dir() else {}
    environment = os.environ | {"OMP_NUM_THREADS": str(THREADS), "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(tree)}
    runs, where = {}, tempfile.mkdtemp(dir=folder)
    for number, (name, overrides) in enumerate(RUNS.items()):
        began = time.perf_counter()
        words = [renamed(word, renaming) for word in overrides.format(data=folder / "data").split()]
        command = [sys.executable, "train.py", *words, f"runs={where}", f"run=run{number}"]
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{label}: {name}\n{' '.join(command)}\n{(done.stdout + done.stderr)[-3000:]}")
        runs[name] = read(Path(where) / f"run{number}")
        print(f"{label}: {name}, {time.perf_counter() - began:.1f} s", flush=True)
    made_with: dict[str, Any] = {name: importlib.metadata.version(name) for name in PACKAGES}
    made_with |= {"python": platform.python_version(), "threads": THREADS}
    made_with |= {"processor": torch.backends.cpu.get_cpu_capability()}
    return {"label": label, "made_with": made_with, "runs": runs}


def renamed(word: str, renaming: dict[str, str]) -> str:
    fitting = [old for old in renaming if word == old or word.startswith((f"{old}=", f"{old}."))]
    return renaming[fitting[0]] + word[len(fitting[0]) :] if fitting else word


def read(run: Path) -> dict[str, dict[str, str]]:
    """What a run has computed: quantity -> name -> value or digest.

    Of the optimiser only tensors with dimensions count, the moments. Its scalars (how many steps each parameter took,
    how many updates were skipped) are bookkeeping that may be laid out differently; what they do shows in the weights.
    """
    newest = max((run / "checkpoints").glob("step-*"), key=lambda path: path.name)
    found: dict[str, dict[str, str]] = {quantity: {} for quantity in QUANTITIES}
    found["weights"] = digests(newest / "model.safetensors") | digests(newest / "actor.safetensors")
    optim = digests(newest / "optim.safetensors")
    found["moments"] = {name: digest for name, digest in optim.items() if "()" not in name}
    for number, line in enumerate((run / "metrics.jsonl").read_text().splitlines(), 1):
        for name, value in json.loads(line).items():
            if "loss" in name or name in RETURNS:
                found["returns" if name in RETURNS else "losses"][f"{name} in line {number}"] = repr(value)
    if not (found["losses"] and found["weights"] and found["moments"]):
        sys.exit(f"{run}: no losses, weights or moments found; has what train.py writes changed its place?")
    return found


def digests(path: Path) -> dict[str, str]:
    """Of type, shape and bytes of every tensor in a file."""
    found = {}
    for name, array in load_file(path).items():
        kind = f"{array.dtype} {array.shape}"
        found[f"{path.stem}/{name} {kind}"] = hashlib.sha256(kind.encode() + array.tobytes()).hexdigest()
    return found


def same(base: dict[str, Any], own: dict[str, Any]) -> bool:
    """Whether all is equal; prints the table."""
    for key, value in base["made_with"].items():
        if value != own["made_with"].get(key):
            print(f"note: {base['label']} was made with {key} {value}, this with {own['made_with'].get(key)}")
    print("\n" + "run".ljust(20) + "".join(f"{quantity} equal".rjust(18) for quantity in QUANTITIES))
    first = ""
    for name in base["runs"] | own["runs"]:
        cells = []
        for quantity in QUANTITIES:
            old, new = (side["runs"].get(name, {}).get(quantity) or {} for side in (base, own))
            less, more = Counter(old.values()) - Counter(new.values()), Counter(new.values()) - Counter(old.values())
            cells.append("NO" if less or more else f"yes ({len(new)})" if new else "none")
            if (less or more) and not first:
                sides = f"  {base['label']}: {alone(old, less)}\n  {own['label']}: {alone(new, more)}"
                first = f"first difference: {quantity} of {name}\n{sides}"
        print(name.ljust(20) + "".join(cell.rjust(18) for cell in cells))
    print(f"\n{first or 'all equal'}")
    return not first


def alone(values: dict[str, str], these: Counter[str]) -> str:
    """The first of the values that the other side does not have."""
    found = [f"{name} is {value}" for name, value in values.items() if value in these]
    return f"{these.total()} of {len(values)} differ{', ' if found else ''}{''.join(found[:1])}"


if __name__ == "__main__":
    main()

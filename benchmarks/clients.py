"""Tries environments of other projects as a user would: each package is installed into a scratch environment of its
own, checked (`envs.check`), trained on for a moment (exp=smoke) and evaluated. Writes results/clients.json and the
table in docs/environments.md.

    python benchmarks/clients.py [name ...] [--scratch FOLDER]   # by default all; some minutes each, needs the network

The scratch environments see this project's own packages and add theirs, so that what they need must agree with ours.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "clients.json", ROOT / "docs" / "environments.md"
BEGIN, END = "<!-- clients.py: begin -->", "<!-- clients.py: end -->"
LIMIT = 900  # seconds of a step


class Client(NamedTuple):
    """A package, as one names it, and one of its environments."""

    install: str  # what pip is asked for
    env_id: str
    kwargs: dict[str, object] = {}  # noqa: RUF012 - of the environment
    words: tuple[str, ...] = ()  # of train.py
    suite: str = "gym"  # env=...; another than gym has no id, and is not checked


CLIENTS = {
    "MiniGrid": Client("minigrid", "minigrid:MiniGrid-Empty-5x5-v0"),
    "MiniWorld": Client("miniworld", "miniworld:MiniWorld-Hallway-v0"),
    "highway-env": Client("highway-env", "highway_env:highway-v0", words=("env.fit=letterbox",)),
    "Atari": Client("ale-py", "ale_py:ALE/Pong-v5", words=("env.time_limit=160",)),
    "ViZDoom": Client("vizdoom", "vizdoom.gymnasium_wrapper:VizdoomBasic-v1", words=("env.image=screen",)),
    "CarRacing": Client("gymnasium[box2d]", "CarRacing-v3", words=("env.time_limit=40",)),
    "dm_control": Client("shimmy[dm-control]", "shimmy:dm_control/cartpole-balance-v0", words=("env.time_limit=40",)),
    "MuJoCo": Client("gymnasium[mujoco]", "HalfCheetah-v5", words=("env.time_limit=40",)),
    "MinAtar": Client("minatar", "minatar.gym:MinAtar/Breakout-v1"),
    "Crafter": Client("crafter", "env=crafter", suite="crafter"),
    "Procgen": Client("procgen", "procgen:procgen-coinrun-v0"),
    "PyFlyt": Client("PyFlyt", "PyFlyt.gym_envs:PyFlyt/QuadX-Hover-v4"),
    "PushT": Client("gym-pusht", "gym_pusht:gym_pusht/PushT-v0", {"obs_type": "pixels"}, ("env.time_limit=40",)),
    "Flappy Bird": Client("flappy-bird-gymnasium", "flappy_bird_gymnasium:FlappyBird-v0", {"use_lidar": False}),
    "Super Mario": Client("gym-super-mario-bros", "gym_super_mario_bros:SuperMarioBros-v0"),
    "Gymnasium-Robotics": Client(
        "gymnasium-robotics", "gymnasium_robotics:FetchReach-v4", words=("env.time_limit=40", "env.image=render")
    ),
}


def scratch_python(folder: Path) -> Path:
    """A virtual environment that sees this one's packages behind its own."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        site = subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True
        ).stdout.strip()
        (Path(site) / "ours.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return python


def run(words: list[str | Path], folder: Path) -> tuple[bool, str]:
    """Whether it worked, and what it said."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    try:
        done = subprocess.run(
            [str(word) for word in words], cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT
        )
    except subprocess.TimeoutExpired:
        return False, f"no end after {LIMIT} s"
    return done.returncode == 0, done.stdout + "\n" + done.stderr


def reason(output: str) -> str:
    """The line that says why."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    told = [line for line in lines if re.match(r"(BAD|error:|ERROR)", line)] or lines[-1:]
    line = re.sub(r"^(BAD|error:|ERROR:)\s*", "", told[0] if told else "nothing was said")
    return re.sub(r"/\S*/site-packages/", "", line)[:300]


def check(client: Client, python: Path, folder: Path, found: dict[str, object]) -> bool:
    """Whether envs.check thinks that it can be used; what it says goes into `found`."""
    options = {"env.image": "--image", "env.time_limit": "--time-limit", "env.fit": "--fit"}
    asked = [part for word in client.words for part in (options[word.partition("=")[0]], word.partition("=")[2])]
    command = [python, "-m", "envs.check", client.env_id, "--steps", "30", "--picture", folder / "seen.png"]
    worked, output = run([*command, "--kwargs", json.dumps(client.kwargs), *asked], folder)
    found["check"] = "ok" if worked else reason(output)
    found["notes"] = [line.removeprefix("note").strip() for line in output.splitlines() if line.startswith("note")]
    return worked


def trial(name: str, client: Client, scratch: Path) -> dict[str, object]:
    """Install, check, train, evaluate, as far as it goes."""
    folder = scratch / re.sub(r"\W+", "-", name.lower())
    python = scratch_python(folder)
    found: dict[str, object] = {"package": client.install, "id": client.env_id}
    worked, output = run([python, "-m", "pip", "install", "--quiet", client.install], folder)
    found["install"] = "ok" if worked else reason(output)
    if not worked:
        return found
    package = re.split(r"[\[<>=]", client.install)[0]
    script = f"import importlib.metadata as m; print(m.version({package!r}))"
    found["version"] = run([python, "-c", script], folder)[1].strip().splitlines()[0]
    if client.suite == "gym" and not check(client, python, folder, found):
        return found
    kwargs = [f"env.kwargs.{key}={json.dumps(value).strip(chr(34))}" for key, value in client.kwargs.items()]
    chosen = ["env=gym", f"env.id={client.env_id}"] if client.suite == "gym" else [f"env={client.suite}"]
    words = ["exp=smoke", *chosen, "env.size=[32,32]", *kwargs, *client.words]
    words += ["train.env_steps=60", "train.prefill=20", "train.collect.unit=steps", "train.collect.per_round=20"]
    words += ["train.eval_every=1000", "train.save_every=1000", "train.eval_episodes=1", f"runs={folder}", "run=smoke"]
    if "env.time_limit" not in " ".join(client.words):
        words.append("env.time_limit=40")
    run(["rm", "-rf", folder / "smoke"], folder)
    worked, output = run([python, ROOT / "train.py", *words], folder)
    found["train"] = "ok" if worked else reason(output)
    if worked:
        worked, output = run([python, ROOT / "evaluate.py", folder / "smoke", "--episodes", "1"], folder)
        found["evaluate"] = "ok" if worked else reason(output)
    return found


def table(results: dict[str, dict[str, object]]) -> str:
    """Markdown."""
    lines = ["| package | version | environment | install | check | train | evaluate |", "|" + " --- |" * 7]
    for name, found in results.items():
        steps = [str(found.get(step, "")).replace("|", "/") for step in ("install", "check", "train", "evaluate")]
        lines.append(f"| {name} (`{found['package']}`) | {found.get('version', '')} | `{found['id']}` | "
                     f"{' | '.join(steps)} |")  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("names", nargs="*", help=", ".join(CLIENTS))
    parser.add_argument("--scratch", type=Path, help="where to install; by default a folder that is deleted afterwards")
    options = parser.parse_args()
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    with tempfile.TemporaryDirectory() as temporary:
        for name in options.names or CLIENTS:
            known[name] = trial(name, CLIENTS[name], options.scratch or Path(temporary))
            print(f"{name}: {known[name]}", flush=True)
            ordered = {name: known[name] for name in CLIENTS if name in known}
            RESULTS.write_text(json.dumps(ordered, indent=1) + "\n")
            page = PAGE.read_text("utf8")
            head, tail = page.split(BEGIN)[0], page.split(END)[1]
            PAGE.write_text(f"{head}{BEGIN}\n{table(ordered)}\n{END}{tail}")


if __name__ == "__main__":
    main()

"""What facts mean, and the command that mends what is wrong: pure functions, so that every machine is tried on one."""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.configuration import hints
from training.doctor.report import Finding
from training.shadowing import HOME

SUPPORTED = ((3, 11), (3, 13))
FASTER = 1.2  # times as fast as float32 makes bf16 worth taking
SLOW_FRAMES = 60.0  # a second
SLOW_SYNC = 0.2  # seconds
PARALLEL = "env.num_envs=4 env.vectorization_mode=async  # for train.py: drawn in four processes"
LITTLE, FULL = 10e9, 1e9  # bytes of disk
LIBRARIES = {  # in a message of the system's loader -> Debian's package
    "libGL.so": "libgl1", "libEGL": "libegl1", "libgthread": "libglib2.0-0", "libglib": "libglib2.0-0",
    "libOSMesa": "libosmesa6", "libGLU": "libglu1-mesa", "libgomp": "libgomp1", "libstdc++": "libstdc++6",
}  # fmt: skip


def installs(extra: str = "") -> str:
    """The command that installs all that is locked; in an environment that is not ours, the project and an extra."""
    own = HOME / ".venv"
    if Path(sys.prefix).resolve() == own.resolve():
        return f"rm -f {shlex.quote(hints.here(own / '.installed'))} && make -C {shlex.quote(str(HOME))} setup"
    if (own / ".installed").exists():  # another Python was taken by mistake
        return f". {shlex.quote(hints.here(own / 'bin' / 'activate'))}"
    return shlex.join([hints.python(), "-m", "pip", "install", "-e", f"{HOME}[{extra}]" if extra else str(HOME)])


def mended_by(why: str, extra: str = "") -> str:
    """The command for an error's message."""
    package = next((package for part, package in LIBRARIES.items() if part in why), None)
    return f"apt-get install {package}" if package else installs(extra)


def python(version: tuple[int, ...], full: str, executable: str) -> Finding:
    oldest, newest = ("{}.{}".format(*bound) for bound in SUPPORTED)
    if not SUPPORTED[0] <= tuple(version) <= SUPPORTED[1]:
        text = f"{full} at {executable}; {oldest} to {newest} are tried"
        return Finding(
            "python", "missing", text, f"make -C {shlex.quote(str(HOME))} setup PYTHON=python{newest}", needed=True
        )
    return Finding("python", "ok", f"{full} at {executable}", needed=True)


def torch(facts: Mapping[str, Any], driver: str) -> list[Finding]:
    """The GPU, the threads, the precision."""
    found = [Finding("torch", "ok", facts["version"], needed=True)]
    if facts["device"] == "cuda":
        memory = facts["gpu_memory"] / 2**30
        found.append(Finding("gpu", "ok", f"{facts['gpu']}, {memory:.0f} GiB; agent.device=auto takes it"))
    elif not driver:
        found.append(Finding("gpu", "ok", "none that torch can use; the CPU computes"))
    elif facts["built_for"]:
        text = f"there is one, but torch {facts['version']} cannot use it: its driver {driver} is too old for CUDA"
        found.append(Finding("gpu", "slow", text, "nvidia-smi  # says the driver's version: it has to be raised"))
    else:
        text = f"there is one, but torch {facts['version']} is built for CPUs alone"
        command = f"{hints.python()} -m pip install --force-reinstall torch torchvision"
        found.append(Finding("gpu", "slow", text, command))
    return [*found, threads(facts), precision(facts)]


def threads(facts: Mapping[str, Any]) -> Finding:
    cores, small = facts["cores"], f"{facts['small']:,}"
    text = (
        f"{cores} cores; agent.threads=auto takes {cores} for models of {small} parameters or more, 1 for smaller ones"
    )
    if facts["quota"] is not None and facts["quota"] < cores:
        text = f"{cores} cores are seen, but this container may use the time of {facts['quota']:g}: they would wait"
        return Finding("threads", "slow", text, f"agent.threads={max(1, int(facts['quota']))}  # for train.py")
    if facts["busy"]:
        text = f"{text}; 1 now, for others are at work"
        return Finding("threads", "slow", text, "top  # shows who; a run keeps the threads that it began with")
    return Finding("threads", "ok", text)


def precision(facts: Mapping[str, Any]) -> Finding:
    ratio, taken = facts["bf16_speed"], facts["precision"]
    text = (
        f"a product of matrices in bf16 is {ratio:.1f} times as fast as in float32; agent.precision=auto takes {taken}"
    )
    if taken == "bf16" and ratio < 1:
        return Finding("precision", "slow", text, "agent.precision=fp32  # for train.py")
    if taken == "fp32" and ratio > FASTER:
        return Finding("precision", "slow", text, "agent.precision=bf16  # for train.py")
    return Finding("precision", "ok", text)


def environment(facts: Mapping[str, Any]) -> Finding:
    text = f"{facts['name']}: {facts['per_second']:.0f} decisions a second, drawn"
    return Finding("environment", "ok" if facts["per_second"] > SLOW_FRAMES else "slow", text, needed=True)


def training(facts: Mapping[str, Any]) -> Finding:
    return Finding("training", "ok", f"a run of ten steps learned, and was saved as {facts['checkpoint']}", needed=True)


def disk(facts: Mapping[str, Any], place: str) -> list[Finding]:
    """Space, locks and durable writes."""
    elsewhere = "train.py runs=<a folder on another disk>"
    free, sync = f"{facts['free'] / 1e9:.1f} GB are free in {place}", f"fsync takes {1000 * facts['fsync']:.0f} ms"
    if facts["free"] < FULL:
        found = [Finding("disk", "missing", free, elsewhere, needed=True)]
    elif facts["free"] < LITTLE or facts["fsync"] > SLOW_SYNC:
        found = [Finding("disk", "slow", f"{free}; {sync}", elsewhere, needed=True)]
    else:
        found = [Finding("disk", "ok", f"{free}; {sync}", needed=True)]
    if not facts["locks"]:
        return [*found, Finding("locks", "missing", facts["why"], elsewhere, needed=True)]
    return [*found, Finding("locks", "ok", "two runs cannot write into one folder", needed=True)]


def replay(facts: Mapping[str, Any]) -> Finding:
    size, memory = f"{facts['needed'] / 1e9:.1f} GB", f"{facts['available'] / 1e9:.1f} GB of memory are available"
    text = f"a million rows of 64 x 64 take {size}"
    if facts["kind"] is None:
        return Finding(
            "replay",
            "missing",
            f"{text}: {memory}, nor is there disk",
            f"replay.capacity={facts['rows']}  # for train.py",
        )
    if facts["kind"] == "disk":
        return Finding(
            "replay",
            "slow",
            f"{text}; {memory}: it would lie on disk",
            f"replay.capacity={facts['rows']}  # for train.py",
        )
    at = "in memory" if facts["kind"] == "memory" else "on the GPU"
    return Finding("replay", "ok", f"{text}, {at}; {memory}")


def tensorboard(facts: Mapping[str, Any]) -> Finding:
    if not facts["program"]:
        return Finding("tensorboard", "missing", "no program opens its files", installs())
    return Finding("tensorboard", "ok", f"{hints.here(Path(facts['program']))} --logdir runs")


def rendering(found: Mapping[str, Any], asked: bool, driver: str) -> list[Finding]:
    """found: by backend what it measured, or why it does not work."""
    works = [backend for backend, told in found.items() if not isinstance(told, str)]
    if not works:
        why = "; ".join(f"{backend}: {told}" for backend, told in found.items())
        command = "unset MUJOCO_GL" if asked else "apt-get install libegl1"
        return [Finding("mujoco", "missing", f"cannot draw without a screen ({why})", command)]
    taken = found[works[0]]
    text = f"{works[0]}: {taken['per_second']:.0f} frames a second of 64 x 64, drawn by {taken['drawn_by']}"
    others = [f"{backend}: {found[backend]['per_second']:.0f}" for backend in works[1:]]
    text += f"; {', '.join(others)}" if others else ""
    by_software = "llvmpipe" in taken["drawn_by"].lower() or "softpipe" in taken["drawn_by"].lower()
    if driver and by_software:
        return [Finding("mujoco", "slow", f"{text}: not the GPU", f"apt-get install libnvidia-gl-{driver}")]
    slow = taken["per_second"] < SLOW_FRAMES
    return [Finding("mujoco", "slow" if slow else "ok", text, PARALLEL if slow else "")]

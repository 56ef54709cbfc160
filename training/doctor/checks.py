"""All checks, in the order in which they are told. Whatever a check meets is a line."""

import importlib.metadata
import os
import platform
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from training.doctor import verdicts
from training.doctor.probes import Broken, call, facts, imports
from training.doctor.report import Finding

# Module to import -> its distribution, whose version is told.
NEEDED = {
    "numpy": "numpy", "torch": "torch", "torchvision": "torchvision", "gymnasium": "gymnasium", "hydra": "hydra-core",
    "pydantic": "pydantic", "safetensors": "safetensors", "einops": "einops", "cma": "cma", "cv2": "opencv-python",
    "PIL": "pillow", "matplotlib": "matplotlib", "psutil": "psutil", "rich": "rich", "tensorboard": "tensorboard",
}  # fmt: skip
EXTRAS = {  # of pyproject.toml, and what each is for
    "dmc": ({"dm_control": "dm-control", "mujoco": "mujoco", "shimmy": "shimmy"}, "env=dmc"),
    "box2d": ({"Box2D": "box2d"}, "env=car_racing"),
    "vizdoom": ({"vizdoom": "vizdoom"}, "env=take_cover"),
    "atari": ({"ale_py": "ale-py"}, "env=atari"),
    "play": ({"aiohttp": "aiohttp"}, "play.py"),
    "recordings": ({"h5py": "h5py", "minari": "minari"}, "recordings in HDF5 and of Minari"),
    "ray": ({"ray": "ray"}, "many collectors"),
}  # fmt: skip


def all_findings(runs: Path) -> Iterator[Finding]:
    """One line after the other. runs: the folder of runs, which need not be there yet."""
    place = str(next(path for path in (runs.absolute(), *runs.absolute().parents) if path.is_dir()))
    lines: list[tuple[str, bool, Callable[[], list[Finding]]]] = [
        ("python", True, python),
        ("packages", True, packages),
        ("torch", True, lambda: verdicts.torch(facts("torch_facts"), nvidia_driver())),
        ("environment", True, lambda: [verdicts.environment(facts("environment_facts"))]),
        ("disk", True, lambda: verdicts.disk(facts("disk_facts", place), place)),
        ("training", True, lambda: [verdicts.training(facts("training_facts", place))]),
        ("replay", False, lambda: [verdicts.replay(facts("replay_facts", place))]),
        ("tensorboard", False, lambda: [verdicts.tensorboard(facts("tensorboard_facts"))]),
        ("mujoco", False, rendering),
        *((f"[{name}]", False, lambda name=name: [extra(name)]) for name in EXTRAS),
    ]
    for name, needed, check in lines:
        yield from safely(name, needed, check)


def safely(name: str, needed: bool, check: Callable[[], list[Finding]]) -> list[Finding]:
    """A check's findings; whatever goes wrong in it is one."""
    try:
        return check()
    except Broken as error:
        return [Finding(name, "missing", str(error), verdicts.mended_by(str(error)), needed)]
    except Exception as error:
        return [Finding(name, "missing", f"{type(error).__name__}: {error}", verdicts.mended_by(str(error)), needed)]


def python() -> list[Finding]:
    return [verdicts.python(sys.version_info[:2], platform.python_version(), sys.executable)]


def packages() -> list[Finding]:
    """Those without which nothing runs."""
    broken = imports(list(NEEDED))
    found = ", ".join(f"{name} {version(NEEDED[name])}" for name in ("torch", "numpy", "gymnasium"))
    if not broken:
        return [Finding("packages", "ok", f"{found} and {len(NEEDED) - 3} others", needed=True)]
    return [Finding(name, "missing", why, verdicts.mended_by(why), needed=True) for name, why in broken.items()]


def extra(name: str) -> Finding:
    """An optional part of the project."""
    modules, purpose = EXTRAS[name]
    installed = {module: version(distribution) for module, distribution in modules.items()}
    there = ", ".join(f"{module} {number}" for module, number in installed.items() if number)
    absent = [module for module, number in installed.items() if not number]
    broken = {} if absent else imports(list(modules))
    if absent:
        return Finding(f"[{name}]", "missing", f"{', '.join(absent)} (for {purpose})", verdicts.installs(name))
    if broken:
        why = "; ".join(f"{module}: {reason}" for module, reason in broken.items())
        return Finding(f"[{name}]", "missing", f"{why} (for {purpose})", verdicts.mended_by(why, name))
    return Finding(f"[{name}]", "ok", f"{there} (for {purpose})")


def rendering() -> list[Finding]:
    """MuJoCo's ways to draw without a screen, the one that is taken first."""
    if not version("mujoco"):
        return [Finding("mujoco", "missing", "is not installed (for env=dmc)", verdicts.installs("dmc"))]
    from envs.rendering import PACKAGES, SPEED

    chosen = os.environ.get("MUJOCO_GL", "").lower()
    backends = [chosen] if chosen else list(PACKAGES) if sys.platform == "linux" else ["glfw"]
    found: dict[str, object] = {}
    for backend in backends:
        told, why = call(SPEED, {"MUJOCO_GL": backend, "PYOPENGL_PLATFORM": backend})
        found[backend] = told[0] if told else why
    return verdicts.rendering(found, bool(chosen), nvidia_driver())


def version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def nvidia_driver() -> str:
    """The number of the machine's NVIDIA driver, whatever torch says; empty, if there is none."""
    try:
        told = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return ""
    numbers = re.search(r"\s(\d+)\.\d+", told)
    return numbers[1] if numbers else "?"

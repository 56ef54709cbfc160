"""The wheels that a bare GPU machine lacks, without what nobody needs there:  python benchmarks/wheels.py .whl

The machine has torch and what commonly comes with it (THERE). All other packages that the project imports are taken
from requirements.lock, hashes included, for Python 3.12 on Linux (x86-64). Of some wheels large parts are left out
(UNWANTED): of dm_control's 56 MB the suite needs less than one, if one can do without the dog.

commit holds the commit and a digest of the code, so that a machine without the repository can say what it ran:
`--digest` prints the digest alone.
"""

import argparse
import csv
import hashlib
import io
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (
    "annotated-types", "antlr4-python3-runtime", "box2d", "cma", "dm-control", "dm-env", "dm-tree",
    "farama-notifications", "glfw", "gymnasium", "hydra-core", "mujoco", "omegaconf", "pydantic", "pydantic-core",
    "pygame-ce", "pyopengl", "shimmy", "typing-inspection",
)  # fmt: skip
THERE = (
    "absl-py", "attrs", "cloudpickle", "einops", "etils", "lxml", "matplotlib", "numpy", "opencv-python", "packaging",
    "pillow", "protobuf", "psutil", "pyparsing", "pytest", "pyyaml", "requests", "rich", "safetensors", "scipy",
    "setuptools", "tensorboard", "torch", "torchvision", "tqdm", "triton", "typing-extensions", "wrapt",
)  # fmt: skip
LEFT_BEHIND = (
    "ale-py",  # for env=atari
    "h5py",  # for recordings of other projects, like minari
    "minari",
    "playwright",  # for screenshots
    "ray",  # for collectors and sweeps on several machines
    "labmaze",  # for dm_control.locomotion
    "vizdoom",  # for TakeCover
    "websockets",  # for mujoco.experimental
)
UNWANTED = {  # what a path inside the wheel begins with
    "box2d": ("Box2D/examples/", "Box2D/tests/"),
    "dm_control": (
        "dm_control/blender/", "dm_control/locomotion/", "dm_control/mjcf/test_assets/",
        "dm_control/mujoco/testing/assets/", "dm_control/suite/all_domains.png", "dm_control/suite/dog_assets/",
    ),  # Shimmy imports dm_control.manipulation whatever one asks for, and does without locomotion
    "mujoco": ("mujoco/experimental/", "mujoco/include/"),
    "pygame_ce": ("pygame/docs/", "pygame/examples/", "pygame/tests/"),
    "pyopengl": ("OpenGL/DLLS/",),
}  # fmt: skip
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (28, 27, 24, 17)] + ["manylinux2014_x86_64"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--python", default="3.12", help="that runs on the machine")
    parser.add_argument("--digest", action="store_true", help="print the digest of the code, and do nothing else")
    options = parser.parse_args()
    if options.digest:
        print(digest())
        return
    if options.folder is None:
        parser.error("name a folder for the wheels")
    options.folder.mkdir(parents=True, exist_ok=True)
    sys.path.insert(0, str(ROOT))
    from training.run_folder.versions import commit

    (options.folder / "commit").write_text(f"{commit()} {digest()}\n")
    wanted = f"# Python {options.python}, slimmed by {hashlib.sha256(Path(__file__).read_bytes()).hexdigest()}\n"
    wanted += "".join(locked(name) for name in PACKAGES)
    done = options.folder / "lock"
    if not (done.exists() and done.read_text() == wanted):
        done.unlink(missing_ok=True)
        fetch(wanted, options.folder, options.python)
        done.write_text(wanted)
    size = sum(path.stat().st_size for path in options.folder.iterdir())
    print(f"{options.folder}: {len(list(options.folder.glob('*.whl')))} wheels, {size / 1e6:.1f} MB")


def locked(name: str) -> str:
    """A package's lines of requirements.lock."""
    found = re.search(rf"^{name}==(?:.*\\\n)*.*\n", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    if not found:
        sys.exit(f"error: requirements.lock has no {name}")
    return found.group()


def fetch(wanted: str, folder: Path, python: str) -> None:
    """Download, build the one that comes as source only, slim, and leave the wheels in the folder."""
    pip: list[str | Path] = [sys.executable, "-m", "pip"]
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    versions = ["--python-version", python, "--implementation", "cp", "--abi", f"cp{python.replace('.', '')}"]
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        source = locked("antlr4-python3-runtime")
        for name, lines in (("source", source), ("wheels", wanted.replace(source, ""))):
            (place / name).write_text(lines)
        common = ["--quiet", "--no-deps", "--require-hashes"]
        build = [*pip, "wheel", *common, "--no-build-isolation", "-w", place / "full", "-r", place / "source"]
        only = ["--only-binary=:all:", *platforms, *versions, "--abi", "abi3", "--abi", "none"]
        for command in (build, [*pip, "download", *common, *only, "-d", place / "full", "-r", place / "wheels"]):
            subprocess.run(command, check=True)
        for old in folder.glob("*.whl"):
            old.unlink()
        for wheel in sorted((place / "full").glob("*.whl")):
            slim(wheel, folder / wheel.name, UNWANTED.get(wheel.name.partition("-")[0].lower(), ()))


def slim(wheel: Path, target: Path, unwanted: tuple[str, ...]) -> None:
    """A copy of a wheel without what begins so, in RECORD neither. Errors: ValueError, if nothing does."""
    with zipfile.ZipFile(wheel) as full, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as small:
        for prefix in unwanted:
            if not any(name.startswith(prefix) for name in full.namelist()):
                raise ValueError(f"{wheel.name} has no {prefix}: benchmarks/wheels.py was written for another version")
        for entry in full.infolist():
            content = full.read(entry)
            if entry.filename.startswith(unwanted):
                continue
            if entry.filename.endswith(".dist-info/RECORD"):
                rows = csv.reader(io.StringIO(content.decode()))
                kept = io.StringIO()
                csv.writer(kept, lineterminator="\n").writerows(row for row in rows if not row[0].startswith(unwanted))
                content = kept.getvalue().encode()
            small.writestr(entry, content, zipfile.ZIP_DEFLATED, compresslevel=9)


def digest() -> str:
    """One of all code and numbers that decide what a run does."""
    found = hashlib.sha256()
    rooms = [path for room in ("agents", "configs", "envs", "worldmodel") for path in (ROOT / room).rglob("*")]
    for path in sorted([*rooms, ROOT / "train.py", ROOT / "evaluate.py"]):
        if path.suffix in (".py", ".yaml"):
            found.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return found.hexdigest()


if __name__ == "__main__":
    main()

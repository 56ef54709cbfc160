"""The house's rooms: who may import whom (DESIGN.md), and that nothing that is read from disk can run code."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from worldmodel.config import ROOT, parts

SIMULATORS = {"ale_py", "Box2D", "cv2", "dm_control", "dm_env", "mujoco", "pygame", "shimmy", "vizdoom"}
HYDRA = {"hydra", "omegaconf"}
MODELS = {f"worldmodel.{name}" for name in parts("worldmodel")}
MAY_NOT = {
    "envs": {"torch", "torchvision", "tensorboard", "safetensors", "worldmodel", "agents", "train", "evaluate"} | HYDRA,
    "worldmodel": {"gymnasium", "agents", "envs", "train", "evaluate"} | HYDRA | SIMULATORS,
    "agents": {"gymnasium", "envs", "train", "evaluate"} | HYDRA | SIMULATORS | MODELS,
    "evaluate.py": {"gymnasium", "train"} | HYDRA | SIMULATORS | MODELS,
    "train.py": {"gymnasium", "evaluate"} | SIMULATORS | MODELS,
}
UNPICKLERS = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "jsonpickle"}
CALLS = {
    "torch.load", "torch.save", "torch.jit.load", "torch.package", "yaml.load", "yaml.load_all", "yaml.unsafe_load",
    "yaml.full_load", "numpy.lib.format.read_array", "pandas.read_pickle", "os.system", "os.popen",
    "hydra.utils.instantiate", "hydra.utils.call", "hydra.utils.get_class", "hydra.utils.get_method",
    "hydra.utils.get_object",
}  # fmt: skip
BUILTINS = {"eval", "exec", "compile", "__import__"}


def files(place: str) -> list[Path]:
    path = ROOT / place
    return [path] if path.suffix == ".py" else sorted(path.rglob("*.py"))


def imported(tree: ast.AST, package: str = "") -> Iterator[str]:
    """The dotted names that a file imports, wherever in it: `from a import b` gives a and a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = f"{package}.{node.module}".rstrip(".") if node.level else str(node.module)
            yield base.removesuffix(".None")
            yield from (f"{base.removesuffix('.None')}.{alias.name}" for alias in node.names)


def trespasses(source: str, place: str) -> list[str]:
    names = imported(ast.parse(source), place)
    return sorted({name for name in names if any(name == no or name.startswith(f"{no}.") for no in MAY_NOT[place])})


def dangers(source: str) -> list[str]:
    """Ways in which a file could run code that it reads."""
    tree = ast.parse(source)
    called = {"np": "numpy"}  # local name -> dotted name
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            called |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            called |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    found = [name for name in imported(tree) if name.split(".")[0] in UNPICKLERS or name in CALLS]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        first, dot, rest = ast.unparse(node.func).partition(".")
        name = called.get(first, first) + dot + rest
        safe = any(word.arg == "allow_pickle" and ast.unparse(word.value) == "False" for word in node.keywords)
        if name in CALLS | BUILTINS or (name == "numpy.load" and not safe):
            found.append(f"{name} in line {node.lineno}")
        if any(word.arg == "allow_pickle" and not safe for word in node.keywords):
            found.append(f"allow_pickle in line {node.lineno}")
    return found


@pytest.mark.parametrize("place", MAY_NOT)
def test_a_room_imports_only_what_it_may(place: str) -> None:
    assert files(place)
    for file in files(place):
        assert not trespasses(file.read_text("utf8"), place), file


def test_no_model_imports_another_model() -> None:
    for file in files("worldmodel"):
        others = MODELS - {f"worldmodel.{file.stem}"}
        assert not others & set(imported(ast.parse(file.read_text("utf8")), "worldmodel")), file


def test_only_train_imports_hydra() -> None:
    places = [*MAY_NOT, "benchmarks"]
    with_hydra = {
        file.name
        for place in places
        for file in files(place)
        if {name.split(".")[0] for name in imported(ast.parse(file.read_text("utf8")))} & HYDRA
    }
    assert with_hydra == {"train.py"}


@pytest.mark.parametrize("place", [*MAY_NOT, "benchmarks", "tests"])
def test_nothing_that_is_read_can_run_code(place: str) -> None:
    for file in files(place):
        if file.resolve() != Path(__file__).resolve():
            assert not dangers(file.read_text("utf8")), file


def test_configs_name_no_python() -> None:
    for path in (ROOT / "configs").rglob("*.yaml"):
        text = path.read_text("utf8")
        assert not re.search(r"_(target|convert|partial|args)_", text), path
        assert not re.search(r"!!?python|\$\{(?!oc\.select:)[^{}]*:", text), path
        yaml.safe_load(text)


@pytest.mark.parametrize(
    ("place", "source"),
    [
        ("envs", "import torch"),
        ("envs", "def f():\n    from worldmodel.base import Spec"),
        ("worldmodel", "import gymnasium as gym"),
        ("worldmodel", "from agents import cem"),
        ("agents", "from worldmodel import rssm"),
        ("agents", "from worldmodel.rssm import RSSM"),
        ("agents", "import dm_control.suite"),
        ("evaluate.py", "from omegaconf import OmegaConf"),
    ],
)
def test_a_trespass_is_seen(place: str, source: str) -> None:
    assert trespasses(source, place)


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "def f():\n    import marshal as m",
        "import torch as t\nt.load('x')",
        "from torch import load",
        "from torch import load as l\nl('x')",
        "import numpy as np\nnp.load('x')",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "from numpy import load\nload('x')",
        "np.savez('x', allow_pickle=True)",
        "import yaml\nyaml.load('x', yaml.Loader)",
        "eval('1')",
        "exec(text)",
        "__import__(name)",
        "import hydra\nhydra.utils.instantiate(c)",
    ],
)
def test_a_danger_is_seen(source: str) -> None:
    assert dangers(source)


def test_safe_code_is_no_danger() -> None:
    safe = "model.eval()\nnp.load(p, allow_pickle=False)\nyaml.safe_load(t)\nre.compile(x)"
    assert not dangers(f"import numpy as np, yaml\n{safe}")


def test_the_world_loads_without_torch() -> None:
    script = (
        "import sys, envs.dot, envs.gym, envs.worker; sys.exit(bool({'torch', 'hydra', 'agents'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == 0

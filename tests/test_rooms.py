"""The house's rooms: who may import whom (README.md, the house), how long files are, and that nothing that is read from
disk can run code.
"""

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import yaml

from training.configuration.components import ROOMS, ROOT, names

SIMULATORS = {"ale_py", "Box2D", "crafter", "dm_control", "dm_env", "mujoco", "pygame", "shimmy", "vizdoom"}
HYDRA = {"hydra", "omegaconf"}
COMPONENTS = sorted({room for rooms in ROOMS.values() for room in rooms})  # dotted names of folders
# What a room, or a file of it that has a line of its own, may import besides the standard library.
MAY = {
    "envs": {"numpy", "gymnasium", "pydantic", "cv2", "envs"},
    "envs/suites": {"numpy", "gymnasium", "pydantic", "cv2", "envs"} | SIMULATORS,
    "worldmodel": {"torch", "pydantic", "safetensors", "numpy", "einops", "psutil", "worldmodel"},
    "worldmodel/base.py": {"torch", "pydantic", "numpy", "einops"},
    "worldmodel/networks": {"torch", "numpy", "einops", "worldmodel.base", "worldmodel.networks"},
    "worldmodel/networks/convolutional.py": {"torch", "einops", "pydantic", "worldmodel.networks"},
    "worldmodel/networks/two_hot.py": {"torch", "pydantic"},
    "agents": {"torch", "numpy", "pydantic", "cma", "agents", "worldmodel.base", "worldmodel.networks"},
    # agents.load reads a run's folder: the one door from here into training/
    "agents/__init__.py": {"agents", "training.build.load_agent", "training.shadowing"},
    "training": {
        "torch", "torchvision", "tensorboard", "numpy", "pydantic", "yaml", "safetensors", "PIL", "matplotlib", "rich",
        "psutil", "einops", "envs", "worldmodel", "agents", "training",
    },
    "train.py": {"torch", "envs", "worldmodel", "agents", "training"},
    "evaluate.py": {"torch", "numpy", "envs", "worldmodel", "agents", "training"},
    "export.py": {"worldmodel", "training"},
    "doctor.py": {"training.doctor"},
    "viewer": {
        "torch", "numpy", "pydantic", "PIL", "gymnasium", "envs", "agents", "training", "viewer", "worldmodel.base",
        "worldmodel.networks.dense.packed_weights",
    },
    "play.py": {"envs", "worldmodel", "agents", "training", "viewer"},
}  # fmt: skip
MAY["training/configuration/command_line.py"] = MAY["training/sweeps/sweep.py"] = MAY["training"] | HYDRA
MAY["hydra_plugins"] = {"training"} | HYDRA  # launchers, which Hydra looks for there
MAY["training/distributed/cluster.py"] = MAY["training"] | {"ray"}
MAY["training/reporting/films.py"] = MAY["training"] | {"cv2"}  # which writes MP4
# Recordings are resized as envs/ does it; h5py, and Minari with Gymnasium's spaces, only where such files are read.
MAY["worldmodel/replay/images.py"] = MAY["worldmodel"] | {"cv2"}
MAY["worldmodel/replay/hdf5.py"] = MAY["worldmodel"] | {"h5py"}
MAY["worldmodel/replay/minari_dataset.py"] = MAY["worldmodel"] | {"minari", "gymnasium.spaces", "PIL"}
MAY["agents/objectives/goal.py"] = MAY["agents"] | {"PIL"}  # the goal is a picture's file
MAY["viewer/server.py"] = MAY["viewer"] | {"aiohttp"}
ENTRIES = ("train.py", "evaluate.py", "export.py", "play.py", "doctor.py")
KNOW_NO_COMPONENT = ("training", "viewer", *ENTRIES)
PLACES = ("envs", "worldmodel", "agents", "training", "viewer", "hydra_plugins", *ENTRIES)
LONGEST_FILE, LONGEST_ENTRY, LONGEST_FUNCTION = 250, 150, 50  # lines
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


def rules(file: str) -> set[str]:
    """What a file, by its path from the project's root, may import: its own line, or its nearest folder's."""
    path = Path(file)
    return next(MAY[str(place)] for place in (path, *path.parents) if str(place) in MAY)


def within(name: str, places: Iterable[str]) -> bool:
    """Whether a dotted name is one of these, or inside."""
    return any(name == place or name.startswith(f"{place}.") for place in places)


def trespasses(source: str, file: str) -> list[str]:
    """The imports that a file may not have, if it has this source."""
    package, found = ".".join(Path(file).parent.parts), set()
    banned = COMPONENTS if file.startswith(KNOW_NO_COMPONENT) else ["torch.utils.tensorboard"]
    for node in ast.walk(ast.parse(source)):
        whole = isinstance(node, ast.ImportFrom)  # then its first name is only where the others are from
        for name in list(imported(node, package))[whole:] if isinstance(node, ast.Import | ast.ImportFrom) else []:
            known = name.split(".")[0] in sys.stdlib_module_names
            if not (known or within(name, rules(file))) or within(name, banned):
                found.add(name)
    return sorted(found)


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


@pytest.mark.parametrize("place", PLACES)
def test_a_room_imports_only_what_it_may(place: str) -> None:
    assert files(place)
    for file in files(place):
        path = str(file.relative_to(ROOT))
        assert not trespasses(file.read_text("utf8"), path), path


def components() -> dict[str, Path]:
    """Dotted name -> file of everything that can be chosen by its name."""
    found = {}
    for room in COMPONENTS:
        for file in files(room.replace(".", "/")):
            if re.search(r"^def build\(", file.read_text("utf8"), re.MULTILINE):
                found[f"{room}.{file.stem}"] = file
    return found


def test_no_component_imports_another_one() -> None:
    assert len(components()) > 10
    for name, file in components().items():
        others = components().keys() - {name}
        theirs = imported(ast.parse(file.read_text("utf8")), name.rpartition(".")[0])
        assert not [other for other in theirs if within(other, others)], file


@pytest.mark.parametrize("section", ROOMS)
def test_a_name_stands_for_one_component(section: str) -> None:
    stems = Counter(name.rpartition(".")[2] for name in components() if name.rpartition(".")[0] in ROOMS[section])
    assert set(stems.values()) == {1}
    assert sorted(stems) == names(section)


def test_only_the_command_line_and_sweeps_import_hydra() -> None:
    with_hydra = {
        str(file.relative_to(ROOT))
        for place in (*PLACES, "benchmarks")
        for file in files(place)
        if {name.split(".")[0] for name in imported(ast.parse(file.read_text("utf8")))} & HYDRA
    }
    launchers = "hydra_plugins/worldmodel_launchers/launchers.py"
    assert with_hydra == {"training/configuration/command_line.py", "training/sweeps/sweep.py", launchers}


def test_names_become_modules_in_one_place() -> None:
    found = {
        str(file.relative_to(ROOT))
        for place in PLACES
        for file in files(place)
        if "import_module" in file.read_text("utf8")
    }
    # rendering.py names its modules itself; adapter.py imports the user's own wrappers, whose packages
    # training/configuration/config.py compares with the plugins that the user has named.
    assert found == {"training/configuration/components.py", "envs/rendering.py", "envs/adapter.py"}


# ---- sizes ----


@pytest.mark.parametrize("place", [*PLACES, "benchmarks"])
def test_a_file_can_be_read_at_a_sitting(place: str) -> None:
    longest = LONGEST_ENTRY if place.endswith(".py") else LONGEST_FILE
    counts = {str(file.relative_to(ROOT)): len(file.read_text("utf8").splitlines()) for file in files(place)}
    assert not {file: count for file, count in counts.items() if count > longest}


def long_functions(source: str) -> list[str]:
    """Functions that are too long and do not say why: "Long, because ..." in the docstring."""
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    return [
        f"{function.name} of {(function.end_lineno or 0) - function.lineno + 1} lines"
        for function in functions
        if (function.end_lineno or 0) - function.lineno >= LONGEST_FUNCTION
        and "Long, because" not in (ast.get_docstring(function) or "")
    ]


@pytest.mark.parametrize("place", [*PLACES, "benchmarks"])
def test_a_function_is_at_most_a_page(place: str) -> None:
    found = {str(file.relative_to(ROOT)): long_functions(file.read_text("utf8")) for file in files(place)}
    assert not {file: functions for file, functions in found.items() if functions}


def test_a_long_function_is_seen() -> None:
    line = "    x = 1\n"
    body = line * LONGEST_FUNCTION
    assert long_functions(f"class A:\n  def f():\n{body}") == ["f of 51 lines"]
    assert not long_functions(f"def f():\n{body.removesuffix(line)}")
    assert not long_functions(f'def f():\n    """Long, because it is a table."""\n{body}')


# ---- what is read from disk ----


@pytest.mark.parametrize("place", [*PLACES, "benchmarks", "tests"])
def test_nothing_that_is_read_can_run_code(place: str) -> None:
    for file in files(place):
        if file.resolve() != Path(__file__).resolve():
            assert not dangers(file.read_text("utf8")), file


# Calls that open, write or delete a file by its name follow links. Files of a run's folder, which may be a stranger's,
# are opened by worldmodel/files.py. Here is what else there is: files of ours, and places that the user has named.
BY_NAME = {"open", "io.open", "os.open", "os.truncate", "os.remove", "os.unlink", "os.rename", "os.replace",
           "os.makedirs", "shutil.copy", "shutil.copyfile", "shutil.copytree", "shutil.move", "shutil.rmtree",
           "safetensors.safe_open", "zipfile.ZipFile", "np.load", "Image.open"}  # fmt: skip
METHODS = {"open", "read_text", "read_bytes", "write_text", "write_bytes", "touch", "mkdir", "unlink", "rmdir",
           "savefig", "iterdir", "glob", "rglob"}  # fmt: skip
NOT_A_RUNS = {
    "training/run_folder/checkpoint.py": {"os.open", "shutil.rmtree", "temporary.mkdir"},  # to sync; one just made
    "training/configuration/command_line.py": {"(CONFIGS / key).glob", "(folder / key).glob"},
    "training/configuration/components.py": {"CONFIGS.glob", "file.read_text", "folder.glob"},  # ours, and plugins'
    "training/distributed/cluster.py": {"shutil.rmtree"},  # a folder that it has made
    "training/reporting/films.py": {"path.read_bytes"},  # in a temporary folder of its own
    "training/configuration/known_keys.py": {"(folder / section).glob", "path.read_text"},  # the same folders
    "training/doctor/checks.py": {"Path('/proc/driver/nvidia/version').read_text"},
    "training/doctor/measure.py": {"Path('/sys/fs/cgroup/cpu.max').read_text", "open"},  # just made
    "training/reporting/pictures.py": {"sheet.savefig"},  # into memory
    "training/reporting/progress.py": {"os.open"},  # /dev/null
    "training/recordings.py": {"out.iterdir"},  # where it writes
    "training/run_folder/rotation.py": {"(self.replay / name).unlink"},  # a name that we write, in a checked folder
    "training/run_folder/run.py": {"folder.mkdir"},  # the run's folder itself
    "training/run_folder/run_name.py": {"folder.parent.glob"},
    "training/configuration/size.py": {"(CONFIGS / 'sizes.yaml').read_text"},
    "training/reporting/tensorboard.py": {"Image.open", "path.unlink", "self.folder.glob"},
    "training/run_folder/trained.py": {"folder.mkdir"},  # beside an agent's file
    "worldmodel/replay/episodes.py": {"zipfile.ZipFile"},  # of a file that is open
}  # fmt: skip


def calls_by_name(source: str) -> set[str]:
    calls = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    methods = {ast.unparse(call) for call in calls if isinstance(call, ast.Attribute) and call.attr in METHODS}
    return methods | {ast.unparse(call) for call in calls} & BY_NAME


READS_RUNS = ("training", "train.py", "evaluate.py", "export.py", "play.py", "worldmodel/replay/buffer.py",
              "worldmodel/replay/episodes.py")  # fmt: skip


@pytest.mark.parametrize("place", READS_RUNS)
def test_files_of_a_run_are_opened_without_following_links(place: str) -> None:
    found = {str(file.relative_to(ROOT)): calls_by_name(file.read_text("utf8")) for file in files(place)}
    known = {file: calls for file, calls in NOT_A_RUNS.items() if file.startswith(place)}
    assert {file: calls for file, calls in found.items() if calls} == known, "see worldmodel/files.py"


def test_a_call_by_name_is_seen() -> None:
    for source in ("open(p)", "(folder / 'a').write_text(t)", "os.truncate(p, 0)", "path.open('w')", "np.load(path)"):
        assert calls_by_name(source)
    assert not calls_by_name("files.opened(path)\nfiles.write(path, b'')\nreplay.load(path)")


def test_configs_name_no_python() -> None:
    for path in (ROOT / "configs").rglob("*.yaml"):
        text = path.read_text("utf8")
        assert not re.search(r"_(target|convert|partial|args)_", text), path
        assert not re.search(r"!!?python|\$\{(?!oc\.select:|mul:|div:)[^{}]*:", text), path
        yaml.safe_load(text)


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("envs/a.py", "import torch"),
        ("envs/a.py", "def f():\n    from worldmodel.base import Spec"),
        ("envs/a.py", "import dm_control"),
        ("envs/suites/a.py", "import safetensors"),
        ("worldmodel/a.py", "import gymnasium as gym"),
        ("worldmodel/a.py", "from agents.planners import cem"),
        ("worldmodel/a.py", "from matplotlib import pyplot"),
        ("worldmodel/replay/a.py", "from torch.utils import tensorboard"),
        ("worldmodel/replay/a.py", "import training.run_folder.run"),
        ("worldmodel/networks/a.py", "from worldmodel.replay import buffer"),
        ("worldmodel/networks/a.py", "from worldmodel import replay"),
        ("agents/a.py", "from worldmodel.models import rssm"),
        ("agents/planners/a.py", "from worldmodel.models.rssm import RSSM"),
        ("agents/a.py", "from worldmodel import models"),
        ("agents/a.py", "import worldmodel"),
        ("agents/a.py", "from worldmodel.replay.buffer import Replay"),
        ("agents/a.py", "from training.build import load_agent"),
        ("agents/__init__.py", "from training.build import build_agent"),
        ("agents/a.py", "import dm_control.suite"),
        ("training/a.py", "import omegaconf"),
        ("training/distributed/a.py", "import ray"),
        ("training/a.py", "import gymnasium"),
        ("training/a.py", "from envs.suites import dot"),
        ("training/a.py", "from envs.suites.dot import DotEnv"),
        ("training/a.py", "from agents import planners"),
        ("training/configuration/command_line.py", "import worldmodel.models.rssm"),
        ("train.py", "from agents.planners.cem import CEM"),
        ("train.py", "import gymnasium"),
        ("train.py", "import hydra"),
        ("evaluate.py", "from omegaconf import OmegaConf"),
        ("evaluate.py", "import mujoco"),
        ("viewer/a.py", "import aiohttp"),
        ("viewer/a.py", "from agents.planners.cem import CEM"),
        ("viewer/a.py", "from worldmodel.models import rssm"),
        ("play.py", "import aiohttp"),
    ],
)
def test_a_trespass_is_seen(file: str, source: str) -> None:
    assert trespasses(source, file)


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("envs/suites/a.py", "import vizdoom, os.path"),
        ("agents/a.py", "from worldmodel.networks import gaussian"),
        ("agents/a.py", "from agents.planners.proposal import sample"),
        ("agents/__init__.py", "from training.build import load_agent"),
        ("training/configuration/command_line.py", "from hydra.core import global_hydra"),
        ("train.py", "from training.configuration import command_line"),
        ("viewer/server.py", "from aiohttp import web"),
    ],
)
def test_what_is_allowed_is_no_trespass(file: str, source: str) -> None:
    assert not trespasses(source, file)


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
        "import sys, envs.suites.dot, envs.suites.gym, envs.worker; "
        "sys.exit(bool({'torch', 'hydra', 'agents', 'training', 'worldmodel'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == 0

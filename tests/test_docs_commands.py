"""What README.md and docs/ print can be typed: words compose, options are known, files and links are there."""

import argparse
import importlib
import itertools
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import runs
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_docs import examples, python

from training.configuration import command_line
from training.configuration.components import ROOT

PAST = {"log.md", "names.md"}  # commands of their time
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "pretrained/README.md")),
    *(path for path in sorted((ROOT / "docs").glob("*.md")) if path.name not in PAST),
]
FENCED = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"(?:python|make) [^`]+")
THERE = ("model_from=", "resume=true")  # of runs that are not there now
PROGRAMS = {  # module: the function that parses its arguments
    "evaluate": "parse_arguments", "play": "parse_arguments", "export": "parse_arguments", "envs.check": "parse",
    "worldmodel.replay.check": "main", "training.recordings": "main",
}  # fmt: skip


def commands(page: Path) -> list[list[str]]:
    """The words of every command on a page, with something in the place of <name> and without `...`."""
    text = page.read_text("utf8")
    blocks = "".join(FENCED.findall(text)).replace("\\\n", " ")
    inline = [" ".join(code.split()) for code in re.findall("`([^`]+)`", FENCED.sub("", text))]
    found = [re.sub(r"<[^>]*>", "name", line) for line in (*blocks.splitlines(), *inline) if COMMAND.fullmatch(line)]
    return [[word for word in shlex.split(line, comments=True) if word != "..."] for line in found]


def of(program: str) -> list[list[str]]:
    """The words after `python train.py`, or `python -m envs.check`, of every command on all pages but the one whose
    examples are files of their own, which test_docs.py runs.
    """
    head = ["python", f"{program}.py"] if "." not in program else ["python", "-m", program]
    pages = [page for page in PAGES if page.name != "adding_components.md"]
    found = [words[len(head) :] for page in pages for words in commands(page) if words[: len(head)] == head]
    return [words for words in found if words]  # without words it is the program's name in a sentence


def members(words: list[str]) -> Iterator[list[str]]:
    """Of a sweep, `-m seed=0,1`; or the words themselves."""
    if "-m" not in words:
        yield words
        return
    pairs = [word.partition("=") for word in words if word != "-m"]
    for values in itertools.product(*(value.split(",") for _, _, value in pairs)):
        yield [f"{key}={value}" for (key, _, _), value in zip(pairs, values, strict=True)]


@pytest.fixture
def my_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugin of docs/adding_components.md can be imported."""
    for name, content in examples().items():
        if name.startswith("my_package/"):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
    monkeypatch.syspath_prepend(str(tmp_path))


def test_commands_are_found() -> None:
    assert len(of("train")) > 25 and len(of("evaluate")) > 10 and of("play") and of("export") and of("envs.check")
    assert len(of("worldmodel.replay.check")) > 1 and of("training.recordings")


@pytest.mark.slow
@pytest.mark.usefixtures("my_package")
def test_what_train_is_given_composes() -> None:
    seen = set()
    for words in of("train"):
        for member in members(words):
            told = [word for word in member if not word.startswith((*THERE, "hydra"))]  # which are the sweep's
            if tuple(told) not in seen:
                command_line.parse(told)
            seen.add(tuple(told))


class Parsed(Exception):
    """The arguments were understood."""


@pytest.mark.parametrize("program", PROGRAMS)
def test_options_are_known(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("parse_args", "parse_intermixed_args"):
        own = getattr(argparse.ArgumentParser, name)

        def parsed(self: Any, *arguments: Any, own: Any = own) -> Any:
            raise Parsed(own(self, *arguments))

        monkeypatch.setattr(argparse.ArgumentParser, name, parsed)
    known = {"", "actor_critic", *command_line.choices_of("actor", []), *command_line.choices_of("explorer", [])}
    parse = getattr(importlib.import_module(program), PROGRAMS[program])
    for words in of(program):
        with pytest.raises(Parsed) as found:
            parse(words)
        options = found.value.args[0]
        for actor in (getattr(options, "actor", None) or "").split(","):
            assert actor in known, words
        overrides = getattr(options, "overrides", None) or []
        command_line.check_words(overrides, sweep=None)
        of_actor = [word for word in overrides if word.startswith("actor.")]
        command_line.component_section(("actor",), options.actor if of_actor and options.actor else "cem", of_actor)


def test_the_benchmarks_are_there_with_their_options() -> None:
    found = [words for page in PAGES for words in commands(page) if words[1:2] and words[1].startswith("benchmarks/")]
    assert len(found) > 5
    for words in found:
        source = (ROOT / words[1]).read_text("utf8")
        assert not [word for word in words if word.startswith("--") and f'"{word}"' not in source], words


def test_make_knows_its_targets() -> None:
    targets = set(re.findall(r"^(\w[\w-]*(?: [\w-]+)*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    known = {name for line in targets for name in line.split()}
    asked = {word for page in PAGES for words in commands(page) if words[0] == "make" for word in words[1:]}
    assert {word for word in asked if "=" not in word} <= known


@pytest.mark.parametrize("page", [*PAGES, ROOT / "docs" / "log.md"], ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf8")):
        if not link.startswith(("http:", "https:")):
            path, _, anchor = link.partition("#")
            target = page if not path else page.parent / path
            assert target.exists(), link
            titles = re.findall(r"^#+ (.*)$", target.read_text("utf8"), re.MULTILINE) if anchor else []
            plain = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
            assert not anchor or anchor in plain, link


@pytest.mark.slow
def test_the_readme_s_python_runs(tmp_path: Path) -> None:
    """With less to learn."""
    (block,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text("utf8"), re.MULTILINE | re.DOTALL)
    asked = '"exp=quickstart", "seed=1", "run=mine"'
    assert asked in block and "done = terminated or truncated" in block
    less = ", ".join(f"'{word}'" for word in (*runs.TINY, "run=mine", f"runs={tmp_path}"))
    (tmp_path / "loop.py").write_text(f"{block.replace(asked, less)}assert done\nprint('to the end')")
    assert "to the end" in python(ROOT, str(tmp_path / "loop.py"))
    assert (tmp_path / "mine" / "run.json").exists()


def test_tags_are_those_that_tensorboard_shows(tmp_path: Path) -> None:
    """Of the page that says what to look at: what a planner on an RSSM with a continue head writes, and one more."""
    words = ("env=catch", "env.size=[16,16]", "env.time_limit=9", "train.env_steps=36", "model.continue_weight=1")
    assert runs.go(tmp_path, *words) == 0
    (folder,) = tmp_path.iterdir()
    events = EventAccumulator(str(folder), {"scalars": 1, "images": 1, "histograms": 1}).Reload()
    found = events.Tags()
    shown = {*found["scalars"], *found["images"], *found["histograms"], "learn/actor/entropy"}
    text = (ROOT / "docs" / "which_recipe.md").read_text("utf8")
    told = set(re.findall(r"`((?:evaluate|learn|run|over_updates)/[\w/]+)`", text))
    assert len(told) > 10 and told - shown == set()


def test_the_gallery_is_that_of_the_agents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    gallery = importlib.import_module("gallery")
    agents = sorted((ROOT / "pretrained").glob("*.agent"))
    assert gallery.problems(agents) == []
    assert max(gallery.picture_of(path).stat().st_size for path in agents) <= gallery.LARGEST
    assert len(gallery.problems(agents[1:])) == 1 and "gallery.py" in gallery.problems(agents[1:])[0]
    assert sys.modules.pop("gallery") is gallery

"""Starting runs: from Python as from the command line, under any name and in any folder, two at once, in sweeps."""

import errno
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import runs

import agents
import train
import training
from training import start as start_room
from training.configuration import command_line
from training.configuration.components import ROOT
from training.configuration.config import Config
from training.configuration.words import unquoted
from training.run_folder.run import Run, RunError
from training.sweeps import sweep as sweeps
from worldmodel.base import ConfigError

FEW = [*runs.TINY, "train.env_steps=15", "train.eval_every=100", "train.save_every=100"]


# ---- what configs may compute ----


@pytest.mark.parametrize(("task", "repeat"), [("cartpole_swingup", 8), ("walker_walk", 2)])
@pytest.mark.parametrize(("exp", "decisions"), [("planet_small", 110_000), ("dreamer_small", 60_000)])
def test_a_run_of_the_small_recipes_is_so_many_decisions(exp: str, decisions: int, task: str, repeat: int) -> None:
    found = command_line.parse([f"exp={exp}", "env=dmc", f"env.task={task}"])
    assert found.env.action_repeat == repeat and found.train.env_steps == decisions * repeat


def updates_of(config: Config, length: int) -> float:
    """All updates of a run with a ratio, whose episodes have `length` decisions."""
    train, replay = config.train, config.replay
    learning = train.env_steps / config.env.action_repeat - train.prefill * length
    return learning * train.ratio / (replay.batch_size * replay.batch_length)


@pytest.mark.parametrize(("task", "length"), [("walker_walk", 500), ("cartpole_balance", 125)])
@pytest.mark.parametrize("longer", [1, 2])
def test_the_small_dreamers_rates_have_fallen_when_a_run_ends(task: str, length: int, longer: int) -> None:
    env_steps = f"train.env_steps={longer * 60_000 * 1000 // length}"
    found = command_line.parse(["exp=dreamer_small", f"env.task={task}", env_steps])
    updates = updates_of(found, length)
    for part in ("model", "actor"):
        assert 0.8 * updates < found.agent.optimizers[part].anneal <= updates


@pytest.mark.parametrize(("task", "length"), [("walker_walk", 500), ("cartpole_swingup", 125)])
@pytest.mark.parametrize("longer", [1, 2])
def test_the_small_planets_rate_falls_at_the_end(task: str, length: int, longer: int) -> None:
    env_steps = f"train.env_steps={longer * 110_000 * 1000 // length}"
    found = command_line.parse(["exp=planet_small", f"env.task={task}", env_steps])
    updates = updates_of(found, length)
    model = found.agent.optimizers["model"]
    assert 0.08 * updates < model.anneal < 0.1 * updates
    assert 0.98 * updates < model.anneal_after + model.anneal < 1.02 * updates


def test_the_planners_for_a_core_have_one_budget() -> None:
    cem, mppi = (command_line.parse(["exp=planet_small", f"actor={name}_control"]).actor for name in ("cem", "mppi"))
    for key in ("horizon", "iterations", "candidates", "elites", "exploration_noise", "warm_start", "choose"):
        assert getattr(cem, key) == getattr(mppi, key)


@pytest.mark.parametrize("task", ["cartpole_balance", "cup_catch", "walker_stand"])
def test_the_small_dreamer_looks_as_far_ahead_in_every_task(task: str) -> None:
    assert command_line.parse(["exp=dreamer_small", f"env.task={task}"]).actor.discount_horizon == 25


def test_a_repeat_of_nothing_is_named() -> None:
    with pytest.raises(ConfigError, match=r"env\.action_repeat: .* not 0"):
        command_line.parse(["exp=dreamer_small", "env.action_repeat=0"])


def test_only_whole_numbers_are_multiplied() -> None:
    with pytest.raises(ConfigError, match=r"train\.env_steps"):
        command_line.parse(["exp=smoke", "train.env_steps=${mul:1000000000,word}"])


def test_a_quotient_is_whole_and_nothing_is_divided_by_zero() -> None:
    assert command_line.parse(["exp=smoke", "train.env_steps=${div:29,3}"]).train.env_steps == 9
    with pytest.raises(ConfigError, match=r"train\.env_steps"):
        command_line.parse(["exp=smoke", "train.env_steps=${div:29,0}"])


@pytest.mark.parametrize(("number", "advice"), [(errno.EACCES, "who may"), (errno.ENOSPC, "room"), (errno.EIO, "")])
def test_what_the_operating_system_says_comes_with_the_file_and_what_to_do(
    number: int, advice: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.failed(OSError(number, os.strerror(number), "runs/mine"), 1) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: runs/mine: {os.strerror(number)}") and advice in said and "Errno" not in said


def test_runs_that_cannot_be_written_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert train.main([*runs.TINY, "run=r", f"runs={tmp_path / 'file' / 'runs'}"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "Not a directory" in said[0] and "choose another place" in said[0]


# ---- from Python ----


def test_train_does_what_the_command_does_and_gives_the_run(tmp_path: Path) -> None:
    told: list[Mapping[str, float]] = []
    run = training.train(*runs.TINY, "run=r", f"runs={tmp_path / 'call'}", callback=told.append)
    assert isinstance(run, Run) and run.folder == tmp_path / "call" / "r"
    assert train.main([*runs.TINY, "run=r", f"runs={tmp_path / 'command'}"]) == 0
    assert runs.digests(run.folder) == runs.digests(tmp_path / "command" / "r")
    for prefix in ("learn/", "collect/", "evaluate/return"):
        assert runs.logged(run.folder, prefix) == runs.logged(tmp_path / "command" / "r", prefix)
    history = run.metrics.history()
    assert [dict(values) for values in told] == [
        {"env_steps": row.pop("step"), "updates": row.pop("updates"), **row} for row in history
    ]
    assert agents.load(run.folder, "cpu").spec == run.spec


def test_train_goes_on_with_a_run(tmp_path: Path) -> None:
    words = ("run=r", f"runs={tmp_path}")
    training.train(*runs.TINY, *words, "train.env_steps=30")
    run = training.train(*words, "train.env_steps=60")
    assert runs.digests(run.folder)["env_steps"] == 60
    assert runs.go(tmp_path / "whole") == 0
    assert runs.digests(run.folder) == runs.digests(tmp_path / "whole" / "r")


def test_train_raises_what_the_command_says(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'env_steps'"):
        training.train("exp=smoke", f"runs={tmp_path}", "train.env_stepz=3")
    with pytest.raises(RunError, match="is not a run"):
        training.train("exp=smoke", f"runs={tmp_path}", f"model_from={tmp_path / 'nowhere'}")
    assert not list(tmp_path.iterdir())


def test_a_callback_that_raises_ends_it_and_the_run_is_saved_and_free(tmp_path: Path) -> None:
    def enough(values: Mapping[str, float]) -> None:
        if values["env_steps"] >= 20:
            raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        training.train(*runs.TINY, "run=r", f"runs={tmp_path}", callback=enough)
    assert runs.digests(tmp_path / "r")["env_steps"] == 20
    assert runs.go(tmp_path) == 0


def test_it_trains_in_another_thread(tmp_path: Path) -> None:
    """As in a notebook's server; only the main one can handle signals."""
    done: list[Run] = []
    thread = threading.Thread(target=lambda: done.append(training.train(*FEW, "run=r", f"runs={tmp_path}")))
    thread.start()
    thread.join()
    assert runs.digests(done[0].folder)["env_steps"] == 15


# ---- names and paths ----

ODD = [
    "a,b",
    "~home",
    "x (copy)",
    "it's",
    "a=b",
    "ünï",
    "a b",
    "100%",
    "{x}",
    "[1,2]",
    "$HOME",
    "a\\b",
    'say "q"',
    "#1",
]
ODD += ["ends\\", "\\'", "a\\\\'b", "4711", "true", "a~", "a:b", "*", "?", "null "]


@pytest.mark.parametrize("name", ["4711", "007", "1e5", "true", "a,b", "a=b", "x+y", "-m", "null_", "3.5", "ünï"])
def test_a_run_s_name_is_what_was_typed(name: str, tmp_path: Path) -> None:
    config = runs.composed("exp=smoke", f"runs={tmp_path}", f"run={name}")
    assert (config.root.run, config.folder) == (name, tmp_path / name)


@pytest.mark.parametrize("name", ["4711", "a,b"])
def test_it_is_found_again_by_its_name(name: str, tmp_path: Path) -> None:
    words = [f"runs={tmp_path}", f"run={name}"]
    assert train.main([*FEW, *words]) == 0
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert train.main([*words, "train.env_steps=20"]) == 0
    assert runs.digests(tmp_path / name)["env_steps"] == 20
    assert Run.read(tmp_path / name).config["run"] == name


@pytest.mark.parametrize("name", ["a/b", "..", ".", "x (copy)", "a b", "~", ".hidden", "a\nb"])
def test_a_name_that_is_no_good_for_a_folder_is_told(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main([*FEW, f"runs={tmp_path}", f"run={name}"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: run: ") and said.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("odd", ODD)
def test_folders_may_have_any_name(odd: str) -> None:
    config = runs.composed("exp=offline", f"data={odd}", f"runs=a/{odd}", "run=s")
    assert (config.root.data, config.root.runs, config.folder) == (odd, f"a/{odd}", Path("a") / odd / "s")
    for key in ("runs", "data", "model_from"):
        words = [f"{key}={odd}"]
        assert [unquoted(command_line.as_hydra_reads(word).lstrip("+")) for word in words] == words
    with pytest.raises(RunError, match=re.escape(f"{odd} is not a run")):
        runs.composed("exp=dream_control", f"model_from=there/{odd}")


@pytest.mark.parametrize("key", ["data", "runs", "model_from"])
def test_a_path_may_begin_at_home(key: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not every shell replaces it after an equals sign."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert command_line.with_home(f"{key}=~/a b") == f"{key}={tmp_path / 'a b'}"
    assert command_line.with_home("run=~/a") == "run=~/a"
    assert runs.composed("exp=smoke", "runs=~/x", "run=s").folder == tmp_path / "x" / "s"


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ('{"map": "/a,b (c)", "n": [1, 2.5, null, true]}', {"map": "/a,b (c)", "n": [1, 2.5, None, True]}),
        ("{map: '/a,b'}", {"map": "/a,b"}),
        ('{"it\'s": 1}', '{"it\'s": 1}'),  # not a key of Hydra's: text, which the check then refuses
        ("{a: (}", {"a": "("}),
        ("{a: (", "{a: ("),
        ("ünï;=~", "ünï;=~"),
        ("a=b", "a=b"),
    ],
)
def test_values_that_hydra_does_not_read_are_what_was_typed(given: str, value: object) -> None:
    plain, *_ = command_line.compose(["exp=smoke", "env=gym", f"env.kwargs={given}"])
    assert plain["env"]["kwargs"] == value


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("hydra/launcher=local", "hydra/launcher: it is for sweeps, which need -m"),
        ("hydra.run.dir=foo", "hydra.run.dir: it is for sweeps, which need -m"),
        ("train..env_steps=5", "train..env_steps=5: not of the form key=value; all that can be chosen"),
        ("+env=nope", "env: there is no 'nope'; choose from"),
        ("+actor.horizn=3", "actor.horizn: there is no such key; did you mean 'horizon'?"),
    ],
)
def test_words_that_would_do_nothing_or_that_hydra_would_tell_in_its_own_way(word: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(said)}"):
        runs.composed("exp=smoke", word)


def test_a_plus_before_a_word_is_no_difference() -> None:
    found = runs.composed("exp=smoke", "+env=dot", "+actor.horizon=3", "++actor.candidates=9")
    assert (found.env.name, found.actor.horizon, found.actor.candidates) == ("dot", 3, 9)


def test_help_names_what_there_is_to_choose(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(word in said for word in ("exp=", "quickstart", "env=", "dmc", "actor=", "cem", "train.yaml"))


def test_an_error_without_a_message_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.failed(MemoryError(), 1) == 1
    assert capsys.readouterr().err == "error: MemoryError: (no message)\n"


def test_recorded_episodes_in_a_folder_of_an_odd_name(tmp_path: Path) -> None:
    assert runs.go(tmp_path, "train.env_steps=15", "train.eval_every=100") == 0
    data = tmp_path / "a, ~b (c)"
    (tmp_path / "r" / "replay").rename(data)
    model = [word for word in runs.TINY if word.startswith(("model.", "replay.", "agent."))]
    words = ["exp=offline", "model=rssm_tiny", *model, "train.learn.model.updates=2", "train.learn.model.eval_every=2"]
    words += ["actor=cem_tiny", f"data={data}", f"runs={tmp_path / 'x, (y)'}", "run=s"]
    assert train.main(words) == 0
    assert runs.digests(tmp_path / "x, (y)" / "s")["updates"] == 2


def test_what_is_printed_to_go_on_can_be_typed(tmp_path: Path) -> None:
    folder = tmp_path / "it's, (a) copy"
    assert train.main([*FEW, "run=4711", f"runs={folder}"]) == 0
    command = Run.read(folder / "4711").command("train.env_steps=20")
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=runs.HANG)
    assert done.returncode == 0, done.stderr
    assert runs.digests(folder / "4711")["env_steps"] == 20


# ---- two at once ----


def test_the_second_of_two_jobs_that_start_at_once_is_refused_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both have seen that there is no run yet; the first is there while the second still builds."""
    first, build, found = [], start_room.build_agents, {}

    def overtaken(*words: object) -> object:
        if not first:
            first.append(None)  # so that the first does not wait for itself
            monkeypatch.setattr(start_room, "build_agents", build)
            first[0] = start_room.start(runs.composed(*runs.TINY, "run=r", f"runs={tmp_path}"), lambda: False)
            found.update(contents(tmp_path / "r"))
        return build(*words)

    monkeypatch.setattr(start_room, "build_agents", overtaken)
    assert runs.go(tmp_path, "seed=7") == 1
    assert f"is being trained by process {os.getpid()}" in capsys.readouterr().err
    assert contents(tmp_path / "r") == found and found["config.yaml"]
    assert Run.read(tmp_path / "r").config["seed"] == 0
    first[0].close()
    assert runs.go(tmp_path) == 0


def contents(folder: Path) -> dict[str, bytes]:
    """Of the files that say what a run is."""
    return {name: (folder / name).read_bytes() for name in ("config.yaml", "run.json", "lock")}


def test_a_run_that_was_begun_and_left_meanwhile_is_not_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    build, overtook = start_room.build_agents, []

    def overtaken(*words: object) -> object:
        if not overtook:
            overtook.append(True)
            assert runs.go(tmp_path, "train.env_steps=15") == 0
        return build(*words)

    monkeypatch.setattr(start_room, "build_agents", overtaken)
    assert runs.go(tmp_path, "seed=7") == 1
    assert "has just been begun by another process" in capsys.readouterr().err
    assert Run.read(tmp_path / "r").config["seed"] == 0 and runs.digests(tmp_path / "r")["env_steps"] == 15
    assert runs.go(tmp_path, "train.env_steps=20") == 0  # nobody holds it


@pytest.mark.slow
def test_two_processes_that_start_at_once_leave_one_whole_run(tmp_path: Path) -> None:
    processes = [runs.process(f"seed={seed}", "train.env_steps=300", folder=tmp_path) for seed in (1, 2)]
    ended = [(process.communicate(timeout=runs.HANG), process.returncode) for process in processes]
    codes = [code for _, code in ended]
    assert sorted(codes)[0] == 0 and max(codes) in (1, 2), ended
    winner = 1 + codes.index(0)
    assert Run.read(tmp_path / "r").config["seed"] == winner
    assert json.loads((tmp_path / "r" / "run.json").read_text())["seed"] == winner
    assert runs.go(tmp_path / "alone", f"seed={winner}", "train.env_steps=300") == 0
    assert runs.digests(tmp_path / "r") == runs.digests(tmp_path / "alone" / "r")


# ---- sweeps ----


def sweep(*words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "train.py", "-m", *words]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=runs.HANG)


@pytest.mark.slow
def test_a_bad_member_does_not_stop_the_others_and_the_end_says_which(tmp_path: Path) -> None:
    done = sweep(*FEW, f"runs={tmp_path / 'a, (b)'}", "seed=1,2", "actor.elites=2,50")
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert lines[-3] == "2 of 4 runs of the sweep failed:"
    for line, seed in zip(lines[-2:], (1, 2), strict=True):
        assert f"seed={seed}" in line and "actor.elites=50" in line and line.startswith("  exit code 2: ")
    assert done.stderr.count("error: actor: elites is 50 but there are only 6 candidates") == 2
    found = sorted((tmp_path / "a, (b)").glob("*/run.json"))
    assert sorted(json.loads(path.read_text())["seed"] for path in found) == [1, 2]
    assert all(runs.digests(path.parent)["env_steps"] == 15 for path in found)


@pytest.mark.slow
def test_a_sweep_without_a_mistake_ends_well(tmp_path: Path) -> None:
    done = sweep(*FEW, f"runs={tmp_path}", "actor=cem_tiny,shooting_tiny", "actor.elites=2")
    assert done.returncode == 2 and "actor.elites: there is no such key" in done.stderr  # shooting has none
    words = [word for word in FEW if not word.startswith("actor.")]
    done = sweep(*words, f"runs={tmp_path / 'b'}", "actor=cem_tiny,shooting_tiny", "seed=1")
    assert done.returncode == 0 and "failed" not in done.stderr, done.stderr
    assert {Run.read(path.parent).config["actor"]["name"] for path in (tmp_path / "b").glob("*/run.json")} == {
        "cem", "shooting"
    }  # fmt: skip


def members(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *outcomes: Any) -> tuple[int, list[list[str]]]:
    """A sweep over seeds whose members end as told: an exit code, or what they raise; its exit code, and who ran."""
    ran: list[list[str]] = []

    def run(words: Sequence[str]) -> int:
        ran.append(list(words))
        outcome = outcomes[len(ran) - 1]
        if isinstance(outcome, int):
            return outcome
        raise outcome

    seeds = ",".join(str(seed) for seed in range(len(outcomes)))
    monkeypatch.chdir(tmp_path)
    return sweeps.sweep(["-m", "exp=smoke", "runs=a b", f"seed={seeds}"], run), ran


def test_whatever_a_member_raises_the_others_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, ran = members(monkeypatch, tmp_path, KeyError("x"), 0, SystemExit(7), AssertionError(), 0, SystemExit("bye"))
    said = capsys.readouterr().err
    assert (code, len(ran)) == (1, 6)
    assert "4 of 6 runs of the sweep failed:" in said and said.count("Traceback") == 2
    codes = [line.split(":")[0] for line in said.splitlines() if line.startswith("  exit code")]
    assert codes == ["  exit code 1", "  exit code 7", "  exit code 1", "  exit code 1"]
    assert said.splitlines()[-1].endswith("train.py exp=smoke 'runs=a b' seed=5")


def test_a_signal_ends_the_whole_sweep(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for interrupted in (130, KeyboardInterrupt()):
        code, ran = members(monkeypatch, tmp_path, 0, interrupted, 0, 0)
        said = capsys.readouterr().err.splitlines()
        assert (code, len(ran)) == (130, 2)
        assert said[0] == "1 of 4 runs of the sweep failed:" and said[2] == "2 were not begun:"
        assert said[3].endswith("seed=2") and said[4].endswith("seed=3")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["actor=cem,cen"], "actor: there is no 'cen'"),
        (["--seed"], "--seed: not of the form key=value"),
    ],
)
def test_a_sweep_with_a_word_that_cannot_be_read_begins_nothing(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(["-m", *FEW, f"runs={tmp_path}", *words]) == 2
    assert f"error: {message}" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_several_values_without_a_sweep_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main([*FEW, f"runs={tmp_path}", "seed=1,2"]) == 2
    assert "error: seed=1,2: several values are a sweep, which needs -m" in capsys.readouterr().err

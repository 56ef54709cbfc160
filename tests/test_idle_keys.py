"""A key that was asked for and does nothing is an error, which says why."""

from pathlib import Path

import pytest
import runs

import evaluate
from training.configuration.components import ROOMS, find, names
from worldmodel.base import ConfigError

STAGE = "train.learn.model"
ALONE = ("exp=offline", "data=somewhere")
EVOLVED = ("exp=worldmodels_dot", "actor.evaluate_in=env")
RATIO = ("exp=smoke", "train.ratio=2")
IDLE = [
    (ALONE, "explorer=brownian", "without an environment"),
    (ALONE, "train.collect.unit=steps", "without an environment"),
    (ALONE, "train.collect={per_round: 3}", "without an environment"),
    (ALONE, "train.eval_every=3", "without an environment"),
    (ALONE, "train.save_every=3", "without an environment"),
    (("exp=smoke",), "env.timeout=9", "it is for workers"),
    (("exp=smoke", "train.prefill=0"), "explorer=brownian", "it collects the prefill"),
    (("exp=smoke", "train.env_steps=0"), "train.collect.per_round=3", "after the prefill nothing is collected"),
    (("exp=smoke", "train.env_steps=0"), "train.eval_every=3", "after the prefill nothing is collected"),
    (RATIO, "train.collect.per_round=3", "train.ratio says when it learns"),
    (RATIO, f"{STAGE}.eval_every=6", "a round of this stage has only 5 updates"),
    (("exp=smoke",), f"{STAGE}.eval_every=6", "a round of this stage has only 5 updates"),
    (("exp=smoke",), f"{STAGE}={{updates: 5, eval_every: 6}}", "a round of this stage has only 5 updates"),
    (("exp=smoke", f"{STAGE}.updates=0"), f"{STAGE}.batch_size=3", f"{STAGE}.updates is 0"),
    (("exp=smoke", f"{STAGE}.updates=0"), f"{STAGE}.eval_every=3", f"{STAGE}.updates is 0"),
    (("exp=smoke", f"{STAGE}.batch_size=3"), "replay.batch_size=4", "every stage of train.learn has a batch_size"),
    (("exp=smoke", f"{STAGE}.batch_length=3"), "replay.batch_length=4", "every stage of train.learn has a batch_len"),
    (EVOLVED, "actor.horizon=9", "there are no dreams"),
    (EVOLVED, "actor.temperature=2", "there are no dreams"),
    (EVOLVED, "train.learn.actor.batch_size=3", "the actor learns from episodes"),
    (("exp=worldmodels_dot",), "model.terminal_weight=3", "there is no continue head"),
    (("exp=dreamer_v1",), "model.continue_layers=3", "there is no continue head"),
    (("exp=dreamer_v2", "model.continue_weight=0"), "model.continue_discount=0.9", "there is no continue head"),
    (("exp=dreamer_v3", "model.continue_weight=0"), "model.horizon=9", "there is no continue head"),
]


@pytest.mark.parametrize(("words", "idle", "why"), IDLE, ids=lambda value: value if isinstance(value, str) else "")
def test_a_key_that_does_nothing_is_an_error(words: tuple[str, ...], idle: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        runs.composed(*words, f"runs={tmp_path}", idle)
    key = idle.partition("=")[0]
    assert len(caught.value.lines) == 1, caught.value.lines
    line = caught.value.lines[0]
    assert line.startswith(key) and f"does nothing here, {why}" in line and line.endswith("leave it out")
    runs.composed(*words, f"runs={tmp_path}")  # without it all is well


USED = [
    (ALONE, "train.eval_episodes=3"),  # so many are kept for validation
    ((*ALONE, "env=dot"), "env.size=[64,64]"),
    (("exp=smoke", "env.vectorization_mode=async"), "env.timeout=9"),
    (("exp=smoke", "train.env_steps=0"), "train.save_every=3"),
    (("exp=smoke",), f"{STAGE}.eval_every=5"),
    (("exp=smoke",), f"{STAGE}.eval_every=null"),  # is off already; scripts may say so
    ((*RATIO, "train.collect.unit=steps"), "train.collect.per_round=3"),
    (("exp=worldmodels_dot",), "actor.horizon=9"),
    (("exp=worldmodels_dot", "model.continue_weight=1"), "model.terminal_weight=3"),
]


@pytest.mark.parametrize(("words", "key"), USED, ids=str)
def test_a_key_that_is_read_is_taken(words: tuple[str, ...], key: str, tmp_path: Path) -> None:
    runs.composed(*words, f"runs={tmp_path}", key)


def test_what_idle_keys_are_called_exists() -> None:
    """A component's idle_keys name its own keys: for values of which all kinds were tried above."""
    told = [
        (section, name)
        for section in ROOMS
        for name in names(section)
        if section not in ("env", "explorer") and hasattr(find(section, name).Config, "idle_keys")
    ]
    assert {name for _, name in told} >= {"evolution", "mdnrnn", "dreamer_v1", "dreamer_v2", "dreamer_v3"}
    for section, name in told:
        config = find(section, name).Config
        for values in (
            {"evaluate_in": "env", "continue_weight": 0.0},
            {"evaluate_in": "model", "continue_weight": 1.0},
        ):
            assert set(config.model_construct(**values).idle_keys()) <= set(config.model_fields)


def test_a_resumed_run_keeps_what_lies_idle(tmp_path: Path) -> None:
    """Only what is asked for a new run is looked at: old ones go on."""
    assert runs.go(tmp_path, "train.env_steps=15", "train.eval_every=100") == 0
    assert runs.go(tmp_path, "train.env_steps=20", "train.eval_every=100", "env.timeout=60") == 0


def test_an_optimiser_of_what_does_not_learn_by_gradient(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert runs.go(tmp_path, "agent.optimizers.actor.learning_rate=0.1") == 2
    said = capsys.readouterr().err
    assert "agent.optimizers.actor.learning_rate: does nothing here, cem does not learn by gradient" in said


def test_a_ratio_that_counts_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert runs.go(tmp_path, "train.ratio=2", "train.env_steps=0", recipe=without("train.eval_every")) == 2
    assert "train.ratio: does nothing here" in capsys.readouterr().err


def test_what_a_recipe_brings_may_lie_idle_unless_nothing_would_be_learned(tmp_path: Path) -> None:
    for words, key in (
        (["exp=dreamer_v3", "train.env_steps=0"], "train.ratio: it counts decisions after the prefill"),
        (["exp=dreamer_v3", "train.env_steps=2000"], "train.ratio: 512 rows a decision are 0 rows over the whole run"),
        (["exp=dreamer_v3", "train.env_steps=2050"], "train.ratio: 512 rows a decision are 512 rows over the whole"),
        (
            ["exp=offline", "env=dot", "train.env_steps=9", "train.ratio=1", f"{STAGE}.updates=2"],
            f"{STAGE}.eval_every: ",
        ),
    ):
        with pytest.raises(ConfigError) as caught:
            runs.composed(*words, "env.size=[64,64]", f"runs={tmp_path}")
        assert len(caught.value.lines) == 1 and caught.value.lines[0].startswith(key)
    runs.composed("exp=offline", "data=somewhere", f"{STAGE}.updates=2", f"runs={tmp_path}")  # evaluated at its end
    for words in (["train.env_steps=2052"], ["train.env_steps=9", "train.pretrain=1"]):  # one round
        runs.composed("exp=dreamer_v3", *words, "env=dot", "env.size=[64,64]", f"runs={tmp_path}")


def without(*keys: str) -> list[str]:
    return [word for word in runs.TINY if not word.startswith(keys)]


def test_an_actor_that_could_learn_and_does_not_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["actor=evolution_tiny", "train.env_steps=10", "train.eval_every=100"]
    assert runs.go(tmp_path, *words, recipe=without("actor.")) == 0
    assert "note: evolution can learn, but does not here: to train it, train.learn.actor" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--compare", "--video"], "--video is of one actor's episodes"),
        (["--temperatures", "1", "--video"], "--video is of one actor's episodes"),
        (["--compare", "--temperatures", "1"], "two tables"),
        (["--temperatures", "1", "actor.horizon=3"], "leave out actor.horizon=3"),
    ],
)
def test_options_of_evaluate_that_would_do_nothing(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        evaluate.main(["runs/x", *words])
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_generations_of_what_does_not_learn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert runs.go(tmp_path, "train.env_steps=10", "train.eval_every=100") == 0
    words = [str(tmp_path / "r"), "--episodes", "1", "--device", "cpu", "--generations", "3"]
    assert evaluate.main(words) == 2
    assert "error: --generations: this actor learns nothing here" in capsys.readouterr().err
    assert evaluate.main([*words, "--actor", "evolution_tiny"]) == 0

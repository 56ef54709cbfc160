"""What is next, told by the config and the counters alone: the same after an interruption anywhere, and one end."""

import dataclasses
import random
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from training.schedule import Config, Counters, Schedule

LENGTH = 10  # env steps of an episode
REPEAT = 2  # env steps of a decision
BATCH = (4, 5)  # sequences and rows of a batch, if a stage does not say otherwise
WORLD_MODELS = {"vision": {"updates": 100_000}, "memory": {"updates": 4000}, "actor": {"updates": 300}}


def config(**changes: Any) -> Config:
    learn = {name: stage if isinstance(stage, dict) else {"updates": stage} for name, stage in changes["learn"].items()}
    values: dict[str, Any] = dict(
        env_steps=0, prefill=0, pretrain=0, ratio=None, report_every=500, eval_every=1_000_000,
        eval_episodes=1, temperatures=[1.0], save_every=1_000_000, save_minutes=10, max_failures=10, keep_checkpoints=2,
    )  # fmt: skip
    collect = dict(
        unit=changes.pop("unit", "episodes"), per_round=changes.pop("per_round", 1),
        mode="sync", workers=1, max_staleness=100,
    )  # fmt: skip
    learn |= dict(mode="alternate", max_staleness=100)
    return Config(**{**values, **changes, "collect": collect, "learn": learn})


def schedule(setting: Config, has_data: bool = False, by_generation: bool = True, **counters: int) -> Schedule:
    return Schedule(setting, Counters(**counters), has_data, BATCH, by_generation)


# Small schemes of every kind, for the properties: (config, environments side by side, whether episodes are given).
SCHEMES = {
    "planet": (config(learn={"model": 7}, prefill=5, env_steps=120, report_every=3, eval_every=4, save_every=3), 1),
    "planet, three at once": (config(learn={"model": 4}, prefill=5, env_steps=170, eval_every=4, save_every=5), 3),
    "world models": (
        config(
            learn={"vision": 9, "memory": {"updates": 8, "eval_every": 3}, "actor": {"updates": 6, "eval_every": 2}},
            prefill=6, report_every=4, save_every=4,
        ),
        1,
    ),
    "again and again": (
        config(learn={"vision": {"updates": 5, "eval_every": 5}, "memory": 3, "actor": 2}, prefill=4,
               env_steps=180, per_round=5, report_every=2, eval_every=6, save_every=7),
        2,
    ),
    "given": (config(learn={"model": {"updates": 25, "eval_every": 10}}, report_every=4), 1),
    "given, then more": (
        config(learn={"model": {"updates": 6, "eval_every": 4}}, env_steps=90, per_round=3, eval_every=2), 1
    ),
    "a stage of nothing": (
        config(learn={"vision": 0, "memory": {"updates": 4, "eval_every": 4}, "actor": 0}, prefill=3, env_steps=60), 1
    ),
    "steps": (
        config(learn={"model": 3}, unit="steps", prefill=20, env_steps=60, per_round=8, eval_every=14, save_every=9), 2
    ),
    "a ratio": (
        config(learn={"model": {"updates": 1, "eval_every": 5}}, unit="steps", prefill=12, env_steps=150, ratio=7.5,
               report_every=4, eval_every=40, save_every=30),
        3,
    ),
    "a ratio, and several stages": (
        config(learn={"model": 2, "actor": 1}, unit="steps", prefill=12, env_steps=90, ratio=24, report_every=4,
               eval_every=30, save_every=30),
        1,
    ),
    "a ratio, and updates before": (
        config(learn={"model": 1}, unit="steps", prefill=12, pretrain=5, env_steps=60, ratio=7.5, report_every=4,
               eval_every=20, save_every=30),
        1,
    ),
    "a ratio, and episodes": (
        config(learn={"model": 1}, prefill=2, env_steps=120, ratio=9, report_every=3, eval_every=4), 1
    ),
    "nothing to learn": (config(learn={"model": 0}, prefill=2, env_steps=50, eval_every=2, save_every=2), 1),
}  # fmt: skip
each_scheme = pytest.mark.parametrize("name", SCHEMES)


def drawn(rng: random.Random) -> tuple[Config, int]:
    """A random scheme."""
    learn = {
        part: {"updates": rng.choice((0, 1, 2, 5, 9)), "eval_every": rng.choice((None, 1, 2, 3, 9, 20))}
        for part in rng.sample(("vision", "memory", "model", "actor"), rng.randint(1, 3))
    }
    setting = config(
        learn=learn, env_steps=rng.choice((0, 35, 120)), prefill=rng.randint(0, 6), pretrain=rng.choice((0, 0, 3)),
        per_round=rng.randint(1, 4),
        report_every=rng.randint(1, 6), eval_every=rng.randint(1, 9), save_every=rng.randint(1, 9),
    )  # fmt: skip
    return setting, rng.randint(1, 3)


def live(setting: Config, counters: Counters, count: int, has_data: bool, minutes: float = 0.0) -> Iterator[str]:
    """What training/loop.py does, with nothing behind it: told before it is done, an update at a time."""
    schedule = Schedule(setting, counters, has_data or counters.episodes > 0, BATCH, by_generation=True)
    for _ in range(10_000):
        if schedule.should_evaluate():
            yield f"evaluate {schedule.collected} {counters.updates}"
            counters.last_eval_collected, counters.last_eval_updates = schedule.collected, counters.updates
        elif schedule.should_save(minutes):
            yield f"save {schedule.collected} {counters.updates}"
            counters.last_save_collected, counters.last_save_updates = schedule.collected, counters.updates
        elif schedule.updates_due() > 0:
            part, stage, done = schedule.turn()
            chunk = schedule.next_updates()
            assert chunk >= 1
            for number in range(done, done + chunk):
                yield f"{part} {number % stage.updates}"
                counters.updates += 1
            # The report follows at once: it cannot be interrupted.
            assert schedule.turn(counters.updates - 1).name == part
            if schedule.should_report():
                yield f"report {counters.updates}"
        elif schedule.collecting_done():
            return
        else:
            prefilled = schedule.prefilled
            yield f"collect {schedule.collected}"
            if setting.collect.unit == "steps":
                counters.agent_steps += count
                counters.env_steps += count * REPEAT
            else:
                counters.episodes += count
                counters.agent_steps += count * LENGTH // REPEAT
                counters.env_steps += count * LENGTH
            if not prefilled:
                counters.prefill_agent_steps = counters.agent_steps
    raise AssertionError("it does not end")


def whole(setting: Config, count: int, has_data: bool = False, minutes: float = 0.0) -> list[str]:
    return list(live(setting, Counters(), count, has_data, minutes))


# ---- whose turn, and how much ----


def test_planet_learns_after_the_random_episodes_and_after_every_further_one() -> None:
    setting = config(learn={"model": 100}, env_steps=1_000_000, prefill=5)
    assert [schedule(setting, episodes=number).updates_due() for number in range(8)] == [0, 0, 0, 0, 0, 100, 200, 300]
    assert [schedule(setting, episodes=5, updates=number).updates_due() for number in (1, 99, 100)] == [99, 1, 0]
    assert [schedule(setting, episodes=6, updates=number).updates_due() for number in (100, 150, 200)] == [100, 50, 0]
    assert schedule(setting, episodes=40, updates=3512).turn() == ("model", setting.learn.stages["model"], 12)


def test_episodes_that_come_in_pairs_are_made_up_for() -> None:
    setting = config(learn={"model": 100}, env_steps=1_000_000, prefill=5)
    assert [schedule(setting, episodes=number).updates_due() for number in (2, 4, 6)] == [0, 0, 200]
    assert schedule(setting, episodes=8, updates=200).updates_due() == 200
    thirds = config(learn={"model": 100}, env_steps=1_000_000, prefill=5, per_round=3)
    assert [schedule(thirds, episodes=number).updates_due() for number in (4, 6, 7, 8, 10, 11)] == [
        0,
        100,
        100,
        200,
        200,
        300,
    ]


def test_world_models_stages_follow_each_other() -> None:
    setting = config(learn=WORLD_MODELS, prefill=200)
    assert [schedule(setting, episodes=number).updates_due() for number in (0, 199, 200)] == [0, 0, 104_300]
    turns = [
        schedule(setting, episodes=200, updates=number).turn() for number in (0, 99_999, 100_000, 103_999, 104_000)
    ]
    assert [(turn.name, turn.done) for turn in turns] == [
        ("vision", 0), ("vision", 99_999), ("memory", 0), ("memory", 3999), ("actor", 0)
    ]  # fmt: skip
    assert all(turn.stage is setting.learn.stages[turn.name] for turn in turns)
    assert schedule(setting, episodes=200, updates=104_300).updates_due() == 0
    assert schedule(setting, updates=7).turn(103_999) == ("memory", setting.learn.stages["memory"], 3999)


def test_the_second_round_is_as_the_first() -> None:
    setting = config(learn=WORLD_MODELS, prefill=200, env_steps=10**6, per_round=10)
    assert [schedule(setting, episodes=number, updates=104_300).updates_due() for number in (200, 209, 210)] == [
        0,
        0,
        104_300,
    ]
    for updates in (0, 99_999, 100_000, 104_299):
        again = schedule(setting, episodes=210, updates=104_300 + updates).turn()
        assert again == schedule(setting, episodes=200, updates=updates).turn()


def test_learning_pauses_at_a_report_an_evaluation_or_the_stage() -> None:
    learn = {"vision": {"updates": 25, "eval_every": 7}, "memory": 12, "actor": {"updates": 5, "eval_every": 2}}
    setting = config(learn=learn, prefill=1, report_every=10)
    ends = {
        updates + schedule(setting, episodes=1, updates=updates).next_updates()
        for updates in range(schedule(setting, episodes=1).updates_due())
    }
    assert sorted(ends) == [7, 10, 14, 20, 21, 25, 35, 37, 38, 39, 40, 41, 42]
    assert schedule(setting, episodes=1, updates=12).next_updates() == 2  # on to 14, from wherever it was interrupted


def test_an_actor_reports_every_generation_but_not_every_update_by_gradient() -> None:
    setting = config(learn={"actor": 5}, prefill=1)
    assert [schedule(setting, episodes=1, updates=number).next_updates() for number in range(5)] == [1] * 5
    assert schedule(setting, episodes=1, by_generation=False).next_updates() == 5


def test_stages_of_nothing_have_no_turn() -> None:
    setting = config(learn={"vision": 0, "memory": 3, "model": 0, "actor": 2}, prefill=1, env_steps=100)
    turns = [schedule(setting, episodes=3, updates=number).turn() for number in range(10)]
    assert [turn.name for turn in turns] == ["memory"] * 3 + ["actor"] * 2 + ["memory"] * 3 + ["actor"] * 2
    nothing = schedule(config(learn={"model": 0}, prefill=1, env_steps=100), episodes=3)
    assert nothing.updates_due() == 0 and not nothing.collecting_done()


def test_what_is_given_is_learned_from_at_once() -> None:
    setting = config(learn={"model": 20})
    assert schedule(setting, has_data=True).updates_due() == 20
    assert schedule(setting, has_data=False).updates_due() == 0  # there is nothing to learn from
    more = config(learn={"model": 20}, env_steps=100, per_round=2)
    assert [schedule(more, True, episodes=number).updates_due() for number in (0, 1, 2, 3, 4)] == [20, 20, 40, 40, 60]
    assert schedule(config(learn={"model": 20}, prefill=3), has_data=True).updates_due() == 0  # random ones come first


@pytest.mark.parametrize(
    ("wanted", "episodes", "env_steps", "done"),
    [
        (0, 4, 40, False),
        (0, 5, 50, True),
        (60, 5, 50, False),
        (60, 6, 60, True),
        (10, 4, 40, False),
        (60, 9, 59, False),
    ],
)
def test_collecting_is_done_with_both_the_prefill_and_the_env_steps(
    wanted: int, episodes: int, env_steps: int, done: bool
) -> None:
    setting = config(learn={"model": 1}, prefill=5, env_steps=wanted)
    assert schedule(setting, episodes=episodes, env_steps=env_steps).collecting_done() == done


# ---- steps, and a ratio ----


def test_a_round_of_learning_follows_every_so_many_steps() -> None:
    setting = config(learn={"model": 5}, unit="steps", prefill=100, env_steps=1000, per_round=20)
    due = [schedule(setting, env_steps=steps, episodes=3).updates_due() for steps in (0, 99, 100, 119, 120, 139, 140)]
    assert due == [0, 0, 5, 5, 10, 10, 15]
    assert schedule(setting, env_steps=130, updates=7).updates_due() == 3
    assert schedule(setting, env_steps=1000, updates=250).collecting_done()
    assert not schedule(setting, env_steps=998, updates=245).collecting_done()


def after(setting: Config, decisions: int, prefill: int = 50, updates: int = 0) -> int:
    """Updates that are owed so many decisions after the prefill."""
    steps = dict(agent_steps=prefill + decisions, prefill_agent_steps=prefill, env_steps=REPEAT * (prefill + decisions))
    return schedule(setting, updates=updates, **steps).updates_due()


def test_a_ratio_replays_so_many_rows_per_decision_since_the_prefill() -> None:
    """An update replays 4 x 5 = 20 rows; of the prefill's decisions none is counted."""
    for ratio in (0.3, 1, 7.5, 20, 64):
        setting = config(learn={"model": 1}, unit="steps", prefill=100, env_steps=10**6, ratio=ratio)
        owed = [after(setting, decisions) for decisions in range(200)]
        assert owed == [int(decisions * ratio / 20) for decisions in range(200)]
        assert after(setting, 0, prefill=10**6) == 0
    assert after(config(learn={"model": 1}, unit="steps", prefill=200, env_steps=10**6, ratio=20), 40) == 0  # prefill


@pytest.mark.parametrize("count", [1, 3, 7])
def test_the_remainder_of_a_ratio_is_carried(count: int) -> None:
    """Collected by any number of environments, after any decision it has learned what the ratio asks for, no less."""
    setting = config(learn={"model": 1}, unit="steps", prefill=40, env_steps=2000, ratio=7.5)
    counters, begun = Counters(), None
    for word in live(setting, counters, count, False):
        if word.startswith("collect") and counters.env_steps >= 40:
            begun = counters.prefill_agent_steps
            assert counters.updates == int((counters.agent_steps - begun) * 7.5 / 20)
    assert begun == -(-20 // count) * count and counters.updates == int((counters.agent_steps - begun) * 7.5 / 20) > 300


def test_a_rounds_rows_are_those_of_all_its_stages() -> None:
    """2 x 4 x 5 and 3 x 2 x 10: a round of 5 updates for every 100 rows."""
    learn = {"model": {"updates": 2}, "actor": {"updates": 3, "batch_size": 2, "batch_length": 10}}
    setting = config(learn=learn, unit="steps", prefill=100, env_steps=10**6, ratio=10)
    assert [after(setting, decisions) for decisions in (0, 9, 10, 19, 20, 100)] == [0, 0, 5, 5, 10, 50]
    assert after(setting, 20, updates=7) == 3


def test_with_a_ratio_reports_come_every_so_many_updates() -> None:
    setting = config(learn={"model": 1}, unit="steps", prefill=10, env_steps=300, ratio=10, report_every=8)
    done = whole(setting, 1)
    assert [word for word in done if word.startswith("report")] == [f"report {8 * n}" for n in range(1, 10)]
    assert sum(word.startswith("model") for word in done) == 72  # 145 decisions, half an update each


def test_with_a_ratio_reports_come_every_so_many_updates_of_all_stages() -> None:
    setting = config(learn={"model": 3, "memory": 4}, unit="steps", prefill=10, env_steps=300, ratio=40, report_every=8)
    done = whole(setting, 1)
    reports = [word for word in done if word.startswith("report")]
    assert reports == [f"report {8 * n}" for n in range(1, len(reports) + 1)] and len(reports) > 9


def test_with_a_ratio_a_stage_is_still_evaluated_every_so_many_of_its_updates() -> None:
    learn = {"model": {"updates": 6, "eval_every": 3}}
    setting = config(learn=learn, unit="steps", prefill=10, env_steps=100, ratio=100, per_round=30)
    evaluated = [int(word.split()[2]) for word in whole(setting, 8) if word.startswith("evaluate")]
    assert evaluated == [*range(3, evaluated[-1] + 1, 3)] and len(evaluated) > 20


def test_one_batch_for_several_parts() -> None:
    setting = config(learn={"joint": {"parts": ["model", "actor"], "updates": 1}, "memory": 1}, prefill=1)
    assert schedule(setting, episodes=1).turn().parts == ("model", "actor")
    assert schedule(setting, episodes=1, updates=1).turn().parts == ("memory",)
    setting = config(learn={"joint": {"parts": ["actor", "vision", "memory"], "updates": 1}}, prefill=1)
    assert schedule(setting, episodes=1).turn().parts == ("vision", "memory", "actor")  # from states of this batch


# ---- evaluations and saves ----


def test_a_stage_is_evaluated_every_so_many_of_its_updates() -> None:
    learn = {"vision": 5, "memory": {"updates": 6, "eval_every": 3}, "actor": {"updates": 5, "eval_every": 2}}
    done = whole(config(learn=learn, prefill=1), 1)
    evaluated = [int(word.split()[2]) for word in done if word.startswith("evaluate")]
    assert evaluated == [8, 11, 13, 15, 16]  # after 3, 6 of memory, the last one included; 2, 4 of actor; the end
    second = whole(config(learn=learn, prefill=1, env_steps=2 * LENGTH), 1)
    evaluated = [int(word.split()[2]) for word in second if word.startswith("evaluate")]
    assert evaluated == [8, 11, 13, 15, 24, 27, 29, 31, 32]


def test_so_many_episodes_are_evaluated_once_they_were_learned_from() -> None:
    setting = config(learn={"model": 2}, prefill=2, env_steps=9 * LENGTH, eval_every=3)
    evaluated = [word for word in whole(setting, 1) if word.startswith("evaluate")]
    assert evaluated == ["evaluate 3 4", "evaluate 6 10", "evaluate 9 16"]
    early = config(learn={"model": 2}, prefill=7, env_steps=9 * LENGTH, eval_every=3)  # not the random episodes
    assert [word for word in whole(early, 1) if word.startswith("evaluate")] == ["evaluate 7 2", "evaluate 9 6"]


def test_random_episodes_are_saved_too() -> None:
    done = whole(config(learn={"model": 2}, prefill=5, save_every=2), 1)
    assert [word for word in done if word.startswith("save")] == ["save 2 0", "save 4 0", "save 5 2"]


def test_so_many_minutes_save_once() -> None:
    setting = config(learn={"model": 9}, prefill=2, save_minutes=10)
    assert not schedule(setting, episodes=2, updates=4).should_save(9.9)
    assert schedule(setting, episodes=2, updates=4).should_save(10)
    assert schedule(setting, episodes=1, last_save_collected=0).should_save(10)
    assert not schedule(setting, episodes=2, updates=4, last_save_collected=2, last_save_updates=4).should_save(
        99
    )  # there is nothing new
    assert schedule(setting, episodes=2, updates=4, last_save_collected=2, last_save_updates=3).should_save(99)
    assert not schedule(setting).should_save(99)


def test_a_small_run_in_full() -> None:
    learn = {"vision": 3, "memory": {"updates": 2, "eval_every": 2}, "actor": {"updates": 2, "eval_every": 1}}
    setting = config(learn=learn, prefill=2, env_steps=30, report_every=2, save_every=2)
    first = [
        "vision 0", "vision 1", "report 2", "vision 2", "report 3",
        "memory 0", "memory 1", "report 5", "evaluate 2 5",
        "actor 0", "report 6", "evaluate 2 6", "actor 1", "report 7", "evaluate 2 7", "save 2 7",
    ]  # fmt: skip
    second = [
        "vision 0", "vision 1", "report 9", "vision 2", "report 10",
        "memory 0", "memory 1", "report 12", "evaluate 3 12",
        "actor 0", "report 13", "evaluate 3 13", "actor 1", "report 14", "evaluate 3 14", "save 3 14",
    ]  # fmt: skip
    assert whole(setting, 1) == ["collect 0", "collect 1", *first, "collect 2", *second]


# ---- interruptions, and the end ----


def without_saves(words: list[str]) -> list[str]:
    return [word for word in words if not word.startswith("save")]


def collected(setting: Config, counters: Counters) -> int:
    """In the unit in which it is collected."""
    return counters.env_steps if setting.collect.unit == "steps" else counters.episodes


def interrupted(setting: Config, count: int, has_data: bool) -> None:
    """Cut before every single thing that happens. Killed, it goes on from the last save; stopped, from where it was."""
    undisturbed = whole(setting, count, has_data)
    counters, saved, since = Counters(), Counters(), 0
    for number, word in enumerate(live(setting, counters, count, has_data)):
        if word.startswith("report"):
            continue  # it belongs to the update before it
        stopped = dataclasses.replace(
            counters,
            last_save_collected=collected(setting, counters),
            last_save_updates=counters.updates,
            last_save_evaluations=counters.evaluations,
        )
        rest = list(live(setting, stopped, count, has_data))
        assert without_saves(rest) == without_saves(undisturbed[number:]), (setting, word)
        killed = list(live(setting, dataclasses.replace(saved), count, has_data))
        assert killed == undisturbed[since:], (setting, word)
        if word.startswith("save"):
            saved = dataclasses.replace(
                counters,
                last_save_collected=collected(setting, counters),
                last_save_updates=counters.updates,
                last_save_evaluations=counters.evaluations,
            )
            since = number + 1


def ends_once(setting: Config, count: int, has_data: bool) -> None:
    counters = Counters()
    done = list(live(setting, counters, count, has_data))
    end = f"{collected(setting, counters)} {counters.updates}"
    something = collected(setting, counters) + counters.updates > 0
    assert done.count(f"evaluate {end}") == done.count(f"save {end}") == something, setting
    assert all(done.count(word) == 1 for word in done if word.startswith(("evaluate", "save", "report")))
    assert collected(setting, counters) >= setting.prefill and counters.env_steps >= setting.env_steps
    if collected(setting, counters) or has_data:
        rounds = 1 + (collected(setting, counters) - setting.prefill) // setting.collect.per_round
        if setting.ratio is not None:
            rows = sum(stage.updates for stage in setting.learn.stages.values()) * BATCH[0] * BATCH[1]
            rounds = int((counters.agent_steps - counters.prefill_agent_steps) * setting.ratio / rows)
        rounds += setting.pretrain
        assert counters.updates == rounds * sum(stage.updates for stage in setting.learn.stages.values())
    assert list(live(setting, counters, count, has_data)) == []  # and a run that has ended has ended


@each_scheme
def test_an_interruption_changes_nothing_of_what_follows(name: str) -> None:
    setting, count = SCHEMES[name]
    interrupted(setting, count, has_data=name.startswith("given"))


@each_scheme
def test_it_ends_evaluated_and_saved_once(name: str) -> None:
    setting, count = SCHEMES[name]
    ends_once(setting, count, has_data=name.startswith("given"))


def test_so_it_is_for_schemes_drawn_at_random() -> None:
    rng = random.Random(0)
    for _ in range(150):
        setting, count = drawn(rng)
        for has_data in (False, True):
            ends_once(setting, count, has_data)
            if rng.random() < 0.1:
                interrupted(setting, count, has_data)


def test_saving_all_the_time_changes_nothing_else() -> None:
    rng = random.Random(1)
    for _ in range(50):
        setting, count = drawn(rng)
        often, seldom = whole(setting, count, True, minutes=99), whole(setting, count, True)
        assert without_saves(often) == without_saves(seldom)
        assert set(word for word in seldom if word.startswith("save")) <= set(often)


def test_more_steps_may_be_asked_for_afterwards() -> None:
    setting = config(learn={"vision": 2, "actor": 1}, prefill=2, env_steps=40, per_round=2, eval_every=3)
    counters = Counters()
    list(live(setting, counters, 1, False))
    rest = list(live(setting.model_copy(update={"env_steps": 60}), counters, 1, False))
    assert rest == [
        "collect 4", "collect 5", "vision 0", "vision 1", "report 8", "actor 0", "report 9", "evaluate 6 9", "save 6 9"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {"learn": {}},
        {"learn": {"model": -1}},
        {"learn": {"model": {"updates": 1, "eval_every": 0}}},
        {"learn": {"model": {"updates": 1, "batch_size": 0}}},
        {"learn": {"model": {"updates": 1, "batch_length": 1}}},
        {"learn": {"model": {"updates": 1, "every": 1}}},
        {"learn": {"model": 1}, "per_round": 0},
        {"learn": {"model": 1}, "save_minutes": 0},
        {"learn": {"model": 1}, "ratio": 0},
        {"learn": {"model": 0}, "ratio": 1},
        {"learn": {"model": 1}, "unit": "rounds"},
        {"learn": {"model": {"updates": 1, "parts": []}}},
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        config(**changes)

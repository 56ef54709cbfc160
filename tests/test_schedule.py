"""What is next, told by the config and the counters alone: the same after an interruption anywhere, and one end."""

import dataclasses
import random
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from agents.schedule import Config, Counters, Schedule

LENGTH = 10  # env steps of an episode
WORLD_MODELS = {"vision": {"updates": 100_000}, "memory": {"updates": 4000}, "actor": {"updates": 300}}


def config(**changes: Any) -> Config:
    learn = {name: stage if isinstance(stage, dict) else {"updates": stage} for name, stage in changes["learn"].items()}
    values: dict[str, Any] = dict(
        steps=0, seed_episodes=0, round_episodes=1, collect="sync", report_every=500, eval_every=1_000_000,
        eval_episodes=1, temperatures=[1.0], save_every=1_000_000, save_minutes=10, keep=2,
    )  # fmt: skip
    return Config(**{**values, **changes, "learn": learn})


def plan(setting: Config, given: bool = False, **counters: int) -> Schedule:
    return Schedule(setting, Counters(**counters), given)


# Small schemes of every kind, for the properties: (config, environments side by side, whether episodes are given).
SCHEMES = {
    "planet": (config(learn={"model": 7}, seed_episodes=5, steps=120, report_every=3, eval_every=4, save_every=3), 1),
    "planet, three at once": (config(learn={"model": 4}, seed_episodes=5, steps=170, eval_every=4, save_every=5), 3),
    "world models": (
        config(
            learn={"vision": 9, "memory": {"updates": 8, "eval_every": 3}, "actor": {"updates": 6, "eval_every": 2}},
            seed_episodes=6, report_every=4, save_every=4,
        ),
        1,
    ),
    "again and again": (
        config(learn={"vision": {"updates": 5, "eval_every": 5}, "memory": 3, "actor": 2}, seed_episodes=4,
               steps=180, round_episodes=5, report_every=2, eval_every=6, save_every=7),
        2,
    ),
    "given": (config(learn={"model": {"updates": 25, "eval_every": 10}}, report_every=4), 1),
    "given, then more": (
        config(learn={"model": {"updates": 6, "eval_every": 4}}, steps=90, round_episodes=3, eval_every=2), 1
    ),
    "a stage of nothing": (
        config(learn={"vision": 0, "memory": {"updates": 4, "eval_every": 4}, "actor": 0}, seed_episodes=3, steps=60), 1
    ),
    "nothing to learn": (config(learn={"model": 0}, seed_episodes=2, steps=50, eval_every=2, save_every=2), 1),
}  # fmt: skip
each_scheme = pytest.mark.parametrize("name", SCHEMES)


def drawn(rng: random.Random) -> tuple[Config, int]:
    """A random scheme."""
    learn = {
        part: {"updates": rng.choice((0, 1, 2, 5, 9)), "eval_every": rng.choice((None, 1, 2, 3, 9, 20))}
        for part in rng.sample(("vision", "memory", "model", "actor"), rng.randint(1, 3))
    }
    setting = config(
        learn=learn, steps=rng.choice((0, 35, 120)), seed_episodes=rng.randint(0, 6), round_episodes=rng.randint(1, 4),
        report_every=rng.randint(1, 6), eval_every=rng.randint(1, 9), save_every=rng.randint(1, 9),
    )  # fmt: skip
    return setting, rng.randint(1, 3)


def live(setting: Config, counters: Counters, count: int, given: bool, minutes: float = 0.0) -> Iterator[str]:
    """What Training.loop does, with nothing behind it: told before it is done, an update at a time."""
    schedule = Schedule(setting, counters, given or counters.episodes > 0)
    for _ in range(10_000):
        if schedule.to_evaluate():
            yield f"evaluate {counters.episodes} {counters.updates}"
            counters.evaluated, counters.evaluated_updates = counters.episodes, counters.updates
        elif schedule.to_save(minutes):
            yield f"save {counters.episodes} {counters.updates}"
            counters.saved, counters.saved_updates = counters.episodes, counters.updates
        elif schedule.due() > 0:
            part, _, done = schedule.turn()
            chunk = schedule.chunk()
            assert chunk >= 1
            for number in range(done, done + chunk):
                yield f"{part} {number}"
                counters.updates += 1
            # The report follows at once: it cannot be interrupted.
            assert schedule.turn(counters.updates - 1).part == part
            yield f"report {counters.updates}"
        elif schedule.enough():
            return
        else:
            yield f"collect {counters.episodes}"
            counters.episodes += count
            counters.env_steps += count * LENGTH
    raise AssertionError("it does not end")


def whole(setting: Config, count: int, given: bool = False, minutes: float = 0.0) -> list[str]:
    return list(live(setting, Counters(), count, given, minutes))


# ---- whose turn, and how much ----


def test_planet_learns_after_the_random_episodes_and_after_every_further_one() -> None:
    setting = config(learn={"model": 100}, steps=1_000_000, seed_episodes=5)
    assert [plan(setting, episodes=number).due() for number in range(8)] == [0, 0, 0, 0, 0, 100, 200, 300]
    assert [plan(setting, episodes=5, updates=number).due() for number in (1, 99, 100)] == [99, 1, 0]
    assert [plan(setting, episodes=6, updates=number).due() for number in (100, 150, 200)] == [100, 50, 0]
    assert plan(setting, episodes=40, updates=3512).turn() == ("model", setting.learn["model"], 12)


def test_episodes_that_come_in_pairs_are_made_up_for() -> None:
    setting = config(learn={"model": 100}, steps=1_000_000, seed_episodes=5)
    assert [plan(setting, episodes=number).due() for number in (2, 4, 6)] == [0, 0, 200]
    assert plan(setting, episodes=8, updates=200).due() == 200
    thirds = config(learn={"model": 100}, steps=1_000_000, seed_episodes=5, round_episodes=3)
    assert [plan(thirds, episodes=number).due() for number in (4, 6, 7, 8, 10, 11)] == [0, 100, 100, 200, 200, 300]


def test_world_models_stages_follow_each_other() -> None:
    setting = config(learn=WORLD_MODELS, seed_episodes=200)
    assert [plan(setting, episodes=number).due() for number in (0, 199, 200)] == [0, 0, 104_300]
    turns = [plan(setting, episodes=200, updates=number).turn() for number in (0, 99_999, 100_000, 103_999, 104_000)]
    assert [(turn.part, turn.done) for turn in turns] == [
        ("vision", 0), ("vision", 99_999), ("memory", 0), ("memory", 3999), ("actor", 0)
    ]  # fmt: skip
    assert all(turn.stage is setting.learn[turn.part] for turn in turns)
    assert plan(setting, episodes=200, updates=104_300).due() == 0
    assert plan(setting, updates=7).turn(103_999) == ("memory", setting.learn["memory"], 3999)


def test_the_second_round_is_as_the_first() -> None:
    setting = config(learn=WORLD_MODELS, seed_episodes=200, steps=10**6, round_episodes=10)
    assert [plan(setting, episodes=number, updates=104_300).due() for number in (200, 209, 210)] == [0, 0, 104_300]
    for updates in (0, 99_999, 100_000, 104_299):
        again = plan(setting, episodes=210, updates=104_300 + updates).turn()
        assert again == plan(setting, episodes=200, updates=updates).turn()


def test_a_chunk_ends_at_a_report_an_evaluation_or_the_stage() -> None:
    learn = {"vision": {"updates": 25, "eval_every": 7}, "memory": 12, "actor": {"updates": 5, "eval_every": 2}}
    setting = config(learn=learn, seed_episodes=1, report_every=10)
    ends = {
        updates + plan(setting, episodes=1, updates=updates).chunk()
        for updates in range(plan(setting, episodes=1).due())
    }
    assert sorted(ends) == [7, 10, 14, 20, 21, 25, 35, 37, 38, 39, 40, 41, 42]
    assert plan(setting, episodes=1, updates=12).chunk() == 2  # on to 14, from wherever it was interrupted


def test_an_actor_reports_every_update() -> None:
    setting = config(learn={"actor": 5}, seed_episodes=1)
    assert [plan(setting, episodes=1, updates=number).chunk() for number in range(5)] == [1] * 5


def test_stages_of_nothing_have_no_turn() -> None:
    setting = config(learn={"vision": 0, "memory": 3, "model": 0, "actor": 2}, seed_episodes=1, steps=100)
    turns = [plan(setting, episodes=3, updates=number).turn() for number in range(10)]
    assert [turn.part for turn in turns] == ["memory"] * 3 + ["actor"] * 2 + ["memory"] * 3 + ["actor"] * 2
    nothing = plan(config(learn={"model": 0}, seed_episodes=1, steps=100), episodes=3)
    assert nothing.due() == 0 and not nothing.enough()


def test_what_is_given_is_learned_from_at_once() -> None:
    setting = config(learn={"model": 20})
    assert plan(setting, given=True).due() == 20
    assert plan(setting, given=False).due() == 0  # there is nothing to learn from
    more = config(learn={"model": 20}, steps=100, round_episodes=2)
    assert [plan(more, True, episodes=number).due() for number in (0, 1, 2, 3, 4)] == [20, 20, 40, 40, 60]
    assert plan(config(learn={"model": 20}, seed_episodes=3), given=True).due() == 0  # random ones come first


@pytest.mark.parametrize(
    ("steps", "episodes", "env_steps", "enough"),
    [
        (0, 4, 40, False),
        (0, 5, 50, True),
        (60, 5, 50, False),
        (60, 6, 60, True),
        (10, 4, 40, False),
        (60, 9, 59, False),
    ],
)
def test_enough_is_both_the_random_episodes_and_the_steps(
    steps: int, episodes: int, env_steps: int, enough: bool
) -> None:
    setting = config(learn={"model": 1}, seed_episodes=5, steps=steps)
    assert plan(setting, episodes=episodes, env_steps=env_steps).enough() == enough


# ---- evaluations and saves ----


def test_a_stage_is_evaluated_every_so_many_of_its_updates() -> None:
    learn = {"vision": 5, "memory": {"updates": 6, "eval_every": 3}, "actor": {"updates": 5, "eval_every": 2}}
    done = whole(config(learn=learn, seed_episodes=1), 1)
    evaluated = [int(word.split()[2]) for word in done if word.startswith("evaluate")]
    assert evaluated == [8, 11, 13, 15, 16]  # after 3, 6 of memory, the last one included; 2, 4 of actor; the end
    second = whole(config(learn=learn, seed_episodes=1, steps=2 * LENGTH), 1)
    evaluated = [int(word.split()[2]) for word in second if word.startswith("evaluate")]
    assert evaluated == [8, 11, 13, 15, 24, 27, 29, 31, 32]


def test_so_many_episodes_are_evaluated_once_they_were_learned_from() -> None:
    setting = config(learn={"model": 2}, seed_episodes=2, steps=9 * LENGTH, eval_every=3)
    evaluated = [word for word in whole(setting, 1) if word.startswith("evaluate")]
    assert evaluated == ["evaluate 3 4", "evaluate 6 10", "evaluate 9 16"]
    early = config(learn={"model": 2}, seed_episodes=7, steps=9 * LENGTH, eval_every=3)  # not the random episodes
    assert [word for word in whole(early, 1) if word.startswith("evaluate")] == ["evaluate 7 2", "evaluate 9 6"]


def test_random_episodes_are_saved_too() -> None:
    done = whole(config(learn={"model": 2}, seed_episodes=5, save_every=2), 1)
    assert [word for word in done if word.startswith("save")] == ["save 2 0", "save 4 0", "save 5 2"]


def test_so_many_minutes_save_once() -> None:
    setting = config(learn={"model": 9}, seed_episodes=2, save_minutes=10)
    assert not plan(setting, episodes=2, updates=4).to_save(9.9)
    assert plan(setting, episodes=2, updates=4).to_save(10)
    assert plan(setting, episodes=1, saved=0).to_save(10)
    assert not plan(setting, episodes=2, updates=4, saved=2, saved_updates=4).to_save(99)  # there is nothing new
    assert plan(setting, episodes=2, updates=4, saved=2, saved_updates=3).to_save(99)
    assert not plan(setting).to_save(99)


def test_a_small_run_in_full() -> None:
    learn = {"vision": 3, "memory": {"updates": 2, "eval_every": 2}, "actor": {"updates": 2, "eval_every": 1}}
    setting = config(learn=learn, seed_episodes=2, steps=30, report_every=2, save_every=2)
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


def interrupted(setting: Config, count: int, given: bool) -> None:
    """Cut before every single thing that happens. Killed, it goes on from the last save; stopped, from where it was."""
    undisturbed = whole(setting, count, given)
    counters, saved, since = Counters(), Counters(), 0
    for number, word in enumerate(live(setting, counters, count, given)):
        if word.startswith("report"):
            continue  # it belongs to the update before it
        stopped = dataclasses.replace(
            counters, saved=counters.episodes, saved_updates=counters.updates, saved_evaluations=counters.evaluations
        )
        rest = list(live(setting, stopped, count, given))
        assert without_saves(rest) == without_saves(undisturbed[number:]), (setting, word)
        killed = list(live(setting, dataclasses.replace(saved), count, given))
        assert killed == undisturbed[since:], (setting, word)
        if word.startswith("save"):
            saved = dataclasses.replace(
                counters,
                saved=counters.episodes,
                saved_updates=counters.updates,
                saved_evaluations=counters.evaluations,
            )
            since = number + 1


def ends_once(setting: Config, count: int, given: bool) -> None:
    counters = Counters()
    done = list(live(setting, counters, count, given))
    end = f"{counters.episodes} {counters.updates}"
    something = counters.episodes + counters.updates > 0
    assert done.count(f"evaluate {end}") == done.count(f"save {end}") == something, setting
    assert all(done.count(word) == 1 for word in done if word.startswith(("evaluate", "save", "report")))
    assert counters.episodes >= setting.seed_episodes and counters.env_steps >= setting.steps
    if counters.episodes or given:
        rounds = 1 + (counters.episodes - setting.seed_episodes) // setting.round_episodes
        assert counters.updates == rounds * sum(stage.updates for stage in setting.learn.values())
    assert list(live(setting, counters, count, given)) == []  # and a run that has ended has ended


@each_scheme
def test_an_interruption_changes_nothing_of_what_follows(name: str) -> None:
    setting, count = SCHEMES[name]
    interrupted(setting, count, given=name.startswith("given"))


@each_scheme
def test_it_ends_evaluated_and_saved_once(name: str) -> None:
    setting, count = SCHEMES[name]
    ends_once(setting, count, given=name.startswith("given"))


def test_so_it_is_for_schemes_drawn_at_random() -> None:
    rng = random.Random(0)
    for _ in range(150):
        setting, count = drawn(rng)
        for given in (False, True):
            ends_once(setting, count, given)
            if rng.random() < 0.1:
                interrupted(setting, count, given)


def test_saving_all_the_time_changes_nothing_else() -> None:
    rng = random.Random(1)
    for _ in range(50):
        setting, count = drawn(rng)
        often, seldom = whole(setting, count, True, minutes=99), whole(setting, count, True)
        assert without_saves(often) == without_saves(seldom)
        assert set(word for word in seldom if word.startswith("save")) <= set(often)


def test_more_steps_may_be_asked_for_afterwards() -> None:
    setting = config(learn={"vision": 2, "actor": 1}, seed_episodes=2, steps=40, round_episodes=2, eval_every=3)
    counters = Counters()
    list(live(setting, counters, 1, False))
    rest = list(live(setting.model_copy(update={"steps": 60}), counters, 1, False))
    assert rest == [
        "collect 4", "collect 5", "vision 0", "vision 1", "report 8", "actor 0", "report 9", "evaluate 6 9", "save 6 9"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {"learn": {}},
        {"learn": {"model": -1}},
        {"learn": {"model": {"updates": 1, "eval_every": 0}}},
        {"learn": {"model": {"updates": 1, "learning_rate": 0}}},
        {"learn": {"model": {"updates": 1, "length": 1}}},
        {"learn": {"model": {"updates": 1, "every": 1}}},
        {"learn": {"model": 1}, "round_episodes": 0},
        {"learn": {"model": 1}, "save_minutes": 0},
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        config(**changes)

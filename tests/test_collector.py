"""Collecting by steps: unfinished episodes reach replay, every row once and in order; resuming goes on amid them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import runs
import tiny
import torch
from torch import Tensor

from agents.agent import Agent
from agents.planners import cem
from envs.suites import dot
from training.collecting.rollout import EpisodeResult, Interrupted
from training.collecting.step_collector import Rows, StepCollector
from worldmodel.base import Spec
from worldmodel.replay.buffer import Replay, ReplayConfig

LENGTHS = (3, 1, 5, 2, 9, 4)


def picture(seed: int, step: int, action: np.ndarray) -> np.ndarray:
    """Says whose it is."""
    image = np.zeros((1, 16, 16), np.uint8)
    image[0, 0, :2] = seed, step
    return image


def world(count: int, picture: Callable[..., Any] = picture, longer: int = 0, spec: Spec = tiny.SPEC) -> tiny.Worlds:
    """Odd seeds die; the reward says whose it is, too, and depends on the action."""
    return tiny.Worlds(
        count,
        picture,
        lambda seed, step, action: 100 * seed + step + 0.25 * action[0],
        lambda seed: LENGTHS[seed % 6] + longer,
        lambda seed: seed % 2 == 1,
        spec,
    )


def planner(horizon: int = 3, spec: Spec = tiny.SPEC) -> Agent:
    values = dict(horizon=horizon, iterations=2, candidates=12, elites=4, warm_start=True, exploration_noise=0.3)
    section = tiny.section("actor", "cem", **values)
    return tiny.make_agent(lambda model, spec: cem.build(section, model, spec, tiny.REWARD), spec)


def collector(envs: tiny.Worlds) -> StepCollector:
    return StepCollector(envs, lambda number: number)


def gather(who: StepCollector, agent: Agent, rounds: list[int]) -> tuple[list[Rows], list[EpisodeResult]]:
    rows, ended = [], []
    for decisions in rounds:
        new, results, seconds = who.collect(agent, decisions, "explore", lambda: False)
        rows += new
        ended += results
        assert min(seconds) >= 0
    return rows, ended


def names(rows: list[Rows], stream: int) -> list[tuple[int, int]]:
    """(seed, step) of a stream's rows, in the order in which they came."""
    images = [piece.episode.image[:, 0, 0, :2] for piece in rows if piece.stream == stream]
    return [(int(seed), int(step)) for seed, step in np.concatenate(images)] if images else []


# ---- every row once, in order ----


@pytest.mark.parametrize("rounds", [[1] * 12, [12], [5, 1, 3, 3]])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_row_comes_once_and_in_order_in_its_environments_stream(count: int, rounds: list[int]) -> None:
    envs = world(count)
    rows, ended = gather(collector(envs), planner(), rounds)
    assert sum(len(piece.episode.reward) - (not piece.continuation) for piece in rows) == count * 12  # one per decision
    seen = [names(rows, stream) for stream in range(count)]
    assert sorted(envs.used) == list(range(len(envs.used)))  # every episode's number is its own
    for stream in range(count):
        seeds = list(dict.fromkeys(seed for seed, _ in seen[stream]))
        whole = [(seed, step) for seed in seeds for step in range(LENGTHS[seed % 6] + 1)]
        assert seen[stream] == whole[: len(seen[stream])] and len(whole) - len(seen[stream]) < LENGTHS[seeds[-1] % 6]
    for stream, episode, continuation in rows:
        for number, (seed, step) in enumerate(names([Rows(stream, episode, continuation)], stream)):
            action = envs.taken[seed][step - 1] if step else np.zeros(2)
            reward = 100 * seed + step + 0.25 * action[0] if step else 0
            assert np.array_equal(episode.action[number], action) and episode.reward[number] == pytest.approx(reward)
            assert episode.terminal[number] == (seed % 2 == 1 and step == LENGTHS[seed % 6])
            assert (step == 0) == (number == 0 and not continuation)  # a first row begins a piece, and says so
        assert [part.dtype for part in episode] == [np.uint8, np.float32, np.float32, bool]
    for result in ended:
        seed = int(result.episode.reward[1] // 100)
        assert result.length == LENGTHS[seed % 6] and result.truncated == (seed % 2 == 0)
        assert np.array_equal(result.episode.action[1:], np.stack(envs.taken[seed])) and result.horizon == 3
        assert np.isfinite(result.predicted_return).all()


def test_unfinished_episodes_reach_replay() -> None:
    config = ReplayConfig(batch_size=50, batch_length=4, capacity=200, storage="memory", memory_gb=None, context=False)
    replay, who, agent = Replay(config, tiny.SPEC, streams=2), collector(world(2, longer=1000)), planner()
    for number in range(1, 5):
        rows, ended = gather(who, agent, [3])
        for stream, episode, continuation in rows:
            replay.add(episode, stream, continuation)
        assert not ended and len(replay) == 2 * (1 + 3 * number)
    batch = replay.sample(np.random.default_rng(0))
    step = batch.image[:, :, 0, 0, 1].long()
    assert torch.equal(batch.first, step == 0)
    assert torch.equal(step[:, 1:], (step[:, :-1] + 1) % 13)  # across the pieces, and from the newest to the oldest


def test_an_episode_that_has_only_begun_gives_nothing_yet() -> None:
    who, agent = collector(world(1)), planner()
    assert names(gather(who, agent, [3])[0], 0) == [(0, 0), (0, 1), (0, 2), (0, 3)]
    assert names(gather(who, agent, [1])[0], 0) == [(1, 0), (1, 1)]
    assert len(gather(who, agent, [4])[0]) == 1  # 2 is under way


def test_images_that_are_in_replay_are_not_kept() -> None:
    who = collector(world(1, longer=1000))
    gather(who, planner(), [50])
    assert not who.builders[0].images and len(who.builders[0].actions) == 50


def test_a_stop_gives_what_there_is_and_one_before_anything_is_an_interruption() -> None:
    who, agent, asked = collector(world(2)), planner(), []

    def stop() -> bool:
        asked.append(None)
        return len(asked) > 3

    rows, _, _ = who.collect(agent, 10, "explore", stop)
    assert sum(len(piece.episode.reward) - (not piece.continuation) for piece in rows) == 2 * 3
    with pytest.raises(Interrupted):
        who.collect(agent, 10, "explore", stop)
    more, _ = gather(who, agent, [2])  # nothing was lost by it
    assert names(rows + more, 0) == names(gather(collector(world(2)), planner(), [5])[0], 0)


# ---- resuming ----


def stored(who: StepCollector) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """As a checkpoint has it."""
    state, tensors = who.state()
    return json.loads(json.dumps(state)), {name: tensor.clone() for name, tensor in tensors.items()}


def equal(one: tuple[list[Rows], list[EpisodeResult]], other: tuple[list[Rows], list[EpisodeResult]]) -> bool:
    def flat(found: tuple[list[Rows], list[EpisodeResult]]) -> list[Any]:
        rows = [part for piece in found[0] for part in (piece.stream, piece.continuation, *piece.episode)]
        kept = ("action", "reward", "terminal")  # the images of a result are those that replay did not have yet
        ended = [part for r in found[1] for part in (*(getattr(r.episode, name) for name in kept), *r[1:])]
        return rows + ended

    return len(flat(one)) == len(flat(other)) and all(np.array_equal(a, b) for a, b in zip(flat(one), flat(other)))


@pytest.mark.parametrize("spec", [tiny.SPEC, tiny.DISCRETE._replace(image_shape=(1, 16, 16))], ids=["box", "discrete"])
@pytest.mark.parametrize("before", [[], [1], [2, 1, 4], [9]])
def test_resumed_amid_episodes_it_goes_on_as_if_nothing_had_been(before: list[int], spec: Spec) -> None:
    """Rows of one, two and three environments, some at an episode's first row, some deep in a long one."""
    for count in (1, 2, 3):
        agent, who = planner(spec=spec), collector(world(count, spec=spec))
        torch.manual_seed(1)
        gather(who, agent, before)
        (state, tensors), random = stored(who), agent.random_state()
        undisturbed = gather(who, agent, [2, 5, 4])

        envs = world(count, spec=spec)
        again, other = planner(spec=spec), collector(envs)
        assert other.restore(state, tensors, again)
        again.set_random_state(random)
        assert equal(gather(other, again, [2, 5, 4]), undisturbed)
        assert stored(other)[0] == stored(who)[0]
        assert all(torch.equal(tensor, stored(who)[1][name]) for name, tensor in stored(other)[1].items())


def test_what_was_collected_before_is_not_given_again() -> None:
    agent, who = planner(), collector(world(2))
    rows, _ = gather(who, agent, [4])
    other = collector(world(2))
    assert other.restore(*stored(who), agent)
    more, _ = gather(other, agent, [6])
    for stream in range(2):
        seen = names(rows + more, stream)
        assert len(seen) == len(set(seen))
        assert seen == names(gather(collector(world(2)), planner(), [10])[0], stream)


CHANGED = {
    "another image": dict(picture=lambda seed, step, action: picture(seed, step, action) + np.uint8(step)),
    "an end before": dict(longer=-2),
}


@pytest.mark.parametrize("change", CHANGED)
def test_what_does_not_repeat_itself_is_begun_anew(change: str) -> None:
    agent, who = planner(), collector(world(2, longer=3))
    gather(who, agent, [4])  # amid episode 0 of 6, and at the end of episode 1 of 4
    state, tensors = stored(who)
    assert state == {"started": 3, "numbers": [0, 2]}
    envs = world(2, **{"longer": 3, **CHANGED[change]})  # type: ignore[arg-type]
    other = collector(envs)
    assert not other.restore(state, tensors, agent)
    rows, _ = gather(other, agent, [1])
    assert [(piece.stream, piece.continuation, len(piece.episode.reward)) for piece in rows] == [
        (0, False, 2),
        (1, False, 2),
    ]
    assert envs.used[-2:] == [3, 4]  # episodes that have not been


@pytest.mark.parametrize("change", ["another horizon", "another number of environments"])
def test_the_memory_of_another_agent_is_not_taken(change: str) -> None:
    agent, who = planner(), collector(world(2))
    gather(who, agent, [4])
    other = collector(world(3 if "environments" in change else 2))
    new = planner(5 if "horizon" in change else 3)
    assert not other.restore(*stored(who), new)
    gather(other, new, [3])


# ---- whole runs ----

STEPS = (
    "train.collect.unit=steps", "train.collect.per_round=6", "train.prefill=12", "train.env_steps=48",
    "train.learn.model.updates=1", "train.eval_every=20", "train.save_every=15", "env.num_envs=2", "env.time_limit=7",
)  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("whole")
    assert runs.go(folder, *STEPS) == 0
    return runs.digests(folder / "r")


@pytest.mark.parametrize("question", [1, 3, 8, 9, 15, 24])
def test_a_run_that_is_stopped_anywhere_ends_as_the_undisturbed_one(
    tmp_path: Path, undisturbed: dict[str, Any], question: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also amid a round of steps, which is then collected to its end."""
    assert runs.go(tmp_path, *STEPS, stop=runs.StopAt(question)) == 143
    assert runs.go(tmp_path, *STEPS) == 0
    assert "begun anew" not in capsys.readouterr().out
    found = runs.digests(tmp_path / "r")
    kept = [key for key in undisturbed if key not in ("replay", "last_save_collected", "last_save_updates")]
    assert {key: found[key] for key in kept} == {key: undisturbed[key] for key in kept}  # chunks end where it was saved


def test_a_run_tells_when_its_environments_do_not_repeat_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begin, chance = dot.reset, np.random.default_rng()
    monkeypatch.setattr(dot, "reset", lambda rng, n: begin(chance, n))
    assert runs.go(tmp_path, *STEPS, stop=runs.StopAt(10)) == 143
    assert runs.go(tmp_path, *STEPS) == 0
    assert "the environments do not repeat themselves: the episodes under way are begun anew" in capsys.readouterr().out
    assert runs.digests(tmp_path / "r")["env_steps"] == 48

"""Walking in a world and in a dream of it, without a page: every actor on every model, discrete and continuous."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import test_contract_actors
import tiny
import torch
from test_contract_actors import MODELS, make
from worlds_to_play import Picture

from agents.base import executable, random_actions
from envs.errors import EnvError
from envs.suites.catch import Catch
from training.configuration import components
from viewer import messages, opening
from viewer.player import idle
from viewer.recording import Recording
from viewer.session import Session, View
from viewer.world import Rebuilt
from worldmodel.base import Batch, Spec

ACTORS = [name for name in test_contract_actors.ACTORS if name in components.names("actor")]  # one file of each
PAIRS = sorted(
    {f"{actor} on rssm" for actor in [*ACTORS, "uniform"]}
    | {f"{actor} on {model}" for actor in ("cem", "dreamer_v3") for model in MODELS}
)
both = pytest.mark.parametrize("spec", [tiny.SPEC, tiny.DISCRETE], ids=["continuous", "discrete"])


def session(name: str = "cem on rssm", spec: Spec = tiny.SPEC, length: int = 1000, seed: int = 0) -> Session:
    """Whose model expects no end: one that has learned nothing does at every second step."""
    agent, one = make(name, spec), torch.ones(1)
    agent.model.continues = lambda state: one.expand(len(state[0]))  # type: ignore[method-assign]
    return Session(agent, Picture(spec, length), seed=seed)


def chosen(spec: Spec) -> np.ndarray:
    action: np.ndarray = random_actions(spec, 1)[0].numpy()
    return action


def same(one: View, other: View) -> bool:
    return all(np.array_equal(a, b, equal_nan=not isinstance(a, str)) for a, b in zip(one, other))


@both
@pytest.mark.parametrize("name", PAIRS)
def test_every_actor_and_every_model_can_be_watched_and_led_in_both_places(name: str, spec: Spec) -> None:
    played = session(name, spec)
    for place in ("world", "dream"):
        played.go(place)  # type: ignore[arg-type]
        for human in (None, chosen(spec)):
            view = played.step(human)
            for picture in (view.environment, view.reconstruction, view.dream):
                assert picture.shape == spec.image_shape and picture.dtype == np.uint8
            assert view.action.shape == (spec.action_dim,) and np.isfinite(view.imagined_reward)
            assert np.isnan(view.reward) == (place == "dream")
            assert np.isnan(view.value) != hasattr(played.agent.actor, "expected_return")
            if human is not None:
                assert np.array_equal(view.action, human)
        futures = played.futures()
        rows, columns = futures.pictures.shape[:2]
        assert rows == len(futures.returns) == 1 + len(futures.ranks) > 1 and futures.ranks == sorted(futures.ranks)
        assert columns == len(futures.steps) and futures.steps[-1] == futures.horizon
        assert (futures.considered > 0) == bool(played.decide()[1].plan.shape[1])
        assert not np.isfinite(futures.returns[1:]).all() or (np.diff(futures.returns[1:]) <= 0).all()
        for message in (messages.of_futures(futures, 1), messages.of_view(view, messages.numbers_of_view(view, []))):
            assert int.from_bytes(message[:4], "big") < len(message)


@both
def test_a_plan_is_drawn_where_it_leads_and_candidates_with_their_own_returns(spec: Spec, monkeypatch: Any) -> None:
    played, taken = session("cem on rssm", spec), []
    info: Any = played.decide()[1]
    imagine = played.agent.model.imagine
    monkeypatch.setattr(played.agent.model, "imagine", lambda state, *how: taken.append(how[0]) or imagine(state, *how))
    futures = played.futures()
    order, returns = info.candidates.returns[0].argsort(descending=True), info.candidates.returns[0]
    assert (futures.considered, futures.ranks[0], futures.ranks[-1]) == (len(order), 1, len(order))
    rows = [int(order[rank - 1]) for rank in futures.ranks]
    wanted = torch.cat([executable(spec, info.plan), info.candidates.actions[0, rows]])  # (R, H, A)
    assert torch.equal(torch.stack(taken, 1), wanted)
    assert futures.returns.tolist() == pytest.approx([float(info.predicted_return), *returns[rows].tolist()])


@pytest.mark.parametrize("name", ["cem on rssm", "mppi on mdnrnn", "dreamer_v3 on dreamer_v3"])
def test_watching_is_what_evaluating_does_and_looking_changes_nothing(name: str) -> None:
    """The same seed gives the actions that Agent.act takes, whatever is drawn and dreamt beside it."""
    agent, env = make(name, tiny.SPEC), Picture(tiny.SPEC)
    torch.manual_seed(3)
    (image, _), memory, wanted = env.reset(seed=3), None, []
    for _ in range(4):
        action, memory = agent.act(memory, image)
        wanted.append(action)
        image, *_ = env.step(action)
    for looking in (False, True):
        played = Session(make(name, tiny.SPEC), Picture(tiny.SPEC), seed=3)
        got = []
        for _ in range(4):
            if looking:
                played.futures(), played.view(), played.futures()
                played.temperature = 0.3
            got.append(played.step().action)
        assert np.array_equal(got, wanted)


def test_the_dream_gets_the_same_actions_but_no_images_until_it_looks() -> None:
    played = session()
    played.open_loop = 3
    views = [played.step(chosen(tiny.SPEC)) for _ in range(4)]
    assert [view.eyes_closed for view in views] == [1, 2, 3, 0]
    assert not np.array_equal(views[2].dream, views[2].reconstruction)
    assert np.array_equal(views[3].dream, views[3].reconstruction)


def test_the_world_waits_while_one_dreams_and_goes_on_afterwards() -> None:
    played = session()
    for _ in range(2):
        before = played.step(chosen(tiny.SPEC))
    played.go("dream")
    asleep = [played.step(chosen(tiny.SPEC)) for _ in range(3)][-1]
    env: Any = played.env
    assert len(env.actions) == 2 and np.array_equal(asleep.environment, before.environment)
    assert not np.array_equal(asleep.dream, before.reconstruction)
    awake = played.go("world")
    assert np.array_equal(awake.dream, awake.reconstruction) and awake.total == before.total == 3
    played.step(chosen(tiny.SPEC))
    assert len(env.actions) == 3


def test_after_the_end_another_episode_begins_also_if_one_dreamt_in_between() -> None:
    played = session(length=2)
    assert [played.step(chosen(tiny.SPEC)).ended for _ in range(2)] == ["", "time limit"]
    played.go("dream")
    assert played.step(chosen(tiny.SPEC)).ended == ""
    assert played.go("world").ended == "time limit"
    view = played.step(chosen(tiny.SPEC))
    assert (view.step, view.ended, view.total, played.seed) == (0, "", 0, 1)


def test_a_dream_ends_where_the_model_expects_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    played = session()
    played.go("dream")
    monkeypatch.setattr(played.agent.model, "continues", lambda state: state.deter.new_full((1,), 0.4))
    assert played.step(chosen(tiny.SPEC)).ended == "the dream ended"
    view = played.step(chosen(tiny.SPEC))
    assert view.eyes_closed == 0 and np.array_equal(view.dream, view.reconstruction)


def test_the_seed_gives_the_same_episode_again() -> None:
    played = session("mppi on rssm")
    begun = played.reset(5)
    lived = [played.step() for _ in range(3)]
    assert same(played.reset(5), begun)
    assert all(same(played.step(), view) for view in lived)
    assert not same(played.reset(6), begun)


def test_a_prediction_stands_beside_what_was_obtained_when_its_horizon_has_passed() -> None:
    played = session()  # the reward of step t is t
    horizon = played.decide()[1].plan.shape[1]
    found = []
    for _ in range(horizon + 2):
        predicted = float(played.decide()[1].predicted_return)
        played.step()
        found.append((predicted, played.outlooks()))
    for t, (_, outlooks) in enumerate(found):
        if t + 1 < horizon:
            assert all(np.isnan(outlook.obtained) for outlook in outlooks)
            continue
        (step, expected, obtained) = outlooks[-1]
        assert step == t + 1 - horizon and obtained == sum(range(step + 1, step + 1 + horizon))
        assert expected == pytest.approx(found[step][0])


def test_without_an_environment_dreams_start_from_recorded_rows_or_from_nothing() -> None:
    def recorded(seed: int) -> Batch:
        return tiny.batch(1, 4, seed=seed)

    for rows in (recorded, None):
        played = Session(make("cem on rssm", tiny.SPEC), None, rows, seed=1)
        assert played.go("world").step == 0 and played.place == "dream"
        begun = played.view()
        assert np.array_equal(begun.environment, recorded(1).image[0, -1].numpy() if rows else 0 * begun.environment)
        assert played.step(chosen(tiny.SPEC)).eyes_closed == 1 and len(played.futures().pictures) > 1


def test_another_horizon_is_planned_with_and_followed() -> None:
    played, other = session(), make("cem on rssm", tiny.SPEC)
    object.__setattr__(other.actor, "config", other.actor.config.model_copy(update={"horizon": 7}))  # type: ignore[union-attr]
    played.set_horizon(7, other.actor)
    assert played.futures().horizon == 7
    follower = session("dreamer_v3 on dreamer_v3")
    follower.set_horizon(3)
    assert follower.futures().steps == [1, 2, 3]


def test_an_environments_names_of_its_actions_are_found_through_its_wrappers() -> None:
    env = gymnasium.wrappers.TimeLimit(Catch(4, 3, (16, 16)), 5)
    assert opening.meanings(env, 3) == ["LEFT", "NOOP", "RIGHT"]
    assert opening.meanings(env, 9) == opening.meanings(Picture(tiny.DISCRETE), 3) == []
    assert idle(tiny.DISCRETE, ["LEFT", "NOOP", "RIGHT"]).tolist() == [0, 1, 0]
    assert idle(tiny.DISCRETE, []).tolist() == [1, 0, 0] and not idle(tiny.SPEC, []).any()


def test_a_film_is_a_gif_of_all_that_was_seen() -> None:
    played, film = session(), Recording()
    for _ in range(3):
        film.add(played.step(), played.futures())
    film.add(played.step(), None)
    assert film.gif(15)[:6] == b"GIF89a" and len({frame.shape for frame in film.frames}) == 1
    assert not np.array_equal(film.frames[0], film.frames[1])


def test_after_a_failure_another_episode_begins_in_an_environment_made_anew() -> None:
    made: list[Any] = []

    class Flaky(Picture):
        def step(self, action: Any) -> Any:
            if len(self.actions) == 2 and len(made) == 1:
                raise EnvError("the simulator is gone")
            return super().step(action)

        def close(self) -> None:
            raise RuntimeError("nor can it be closed")

    def make_one() -> Picture:
        made.append(Flaky(tiny.SPEC))
        return made[-1]

    played = Session(make("cem on rssm", tiny.SPEC), Rebuilt(make_one, "flaky"), seed=3)
    for _ in range(2):
        played.step()
    with pytest.raises(EnvError, match="gone"):
        played.step()
    assert len(made) == 1
    view = played.step()
    assert (view.step, view.ended, played.seed, len(made)) == (0, "", 4, 2)
    assert [played.step().step for _ in range(3)] == [1, 2, 3]

"""Replay context: sequences begin in the state in which the row before them was left."""

from pathlib import Path
from typing import Any

import dreams
import numpy as np
import pytest
import runs
import tiny
import torch
from torch import Tensor

from agents.imagination import observe_sequence
from training.run_folder.run import Run
from worldmodel.base import CONTEXT_KNOWN, CONTEXT_STATE, Batch, begin_state, tree_map
from worldmodel.replay.buffer import Replay, ReplayConfig
from worldmodel.replay.context import state_bytes
from worldmodel.replay.episodes import Episode

CONFIG = ReplayConfig(batch_size=6, batch_length=4, capacity=40, storage="memory", memory_gb=None, context=True)


def episode(rows: int) -> Episode:
    action = np.zeros((rows, tiny.SPEC.action_dim), np.float32)
    images = np.zeros((rows, *tiny.SPEC.image_shape), np.uint8)
    return Episode(images, action, np.zeros(rows, np.float32), np.zeros(rows, bool))


def replay(streams: int = 2, lengths: tuple[int, ...] = (8, 9)) -> Replay:
    kept = Replay(CONFIG, tiny.SPEC, streams=streams, by_rows=True)
    kept.keep_states((torch.zeros(1, 2), torch.zeros(1, 3, 2)))
    for stream, rows in enumerate(lengths):
        kept.add(episode(rows), stream)
    return kept


def names_of(batch: Batch) -> Tensor:
    """A number for every row of a batch, (B, T)."""
    return (1000 * batch.extras["stream"][:, None] + batch.extras["row"]).float()


def states_of(batch: Batch) -> tuple[Tensor, Tensor]:
    """States that say which row they are of."""
    number = names_of(batch)
    return number[..., None].expand(*number.shape, 2), number[..., None, None].expand(*number.shape, 3, 2) + 0.5


def test_a_sequence_begins_in_the_state_of_the_row_before_it() -> None:
    kept, rng, seen = replay(), np.random.default_rng(0), 0
    for _ in range(20):
        batch = kept.sample(rng)
        before, context = names_of(batch)[:, 0] - 1, kept.with_context(batch).extras
        known = context[CONTEXT_KNOWN]
        seen += int(known.sum())
        assert not known[batch.extras["row"][:, 0] == 0].any()  # nothing is before the oldest row
        wanted = before.to(torch.bfloat16).float()
        assert torch.equal(context[CONTEXT_STATE.format(0)][known, 0], wanted[known])
        assert torch.equal(
            context[CONTEXT_STATE.format(1)][known, 2, 1], (before + 0.5).to(torch.bfloat16).float()[known]
        )
        kept.write_context(batch, states_of(batch))
    assert seen > 80  # of 120


def test_new_rows_have_none_and_what_made_room_is_left_out() -> None:
    kept, rng = replay(1, (40,)), np.random.default_rng(0)
    batch = kept.sample(rng, 40)
    kept.write_context(batch, states_of(batch))
    assert kept.states is not None and kept.states.known.sum() > 30
    kept.add(episode(10))
    assert not kept.states.known[:10].any()
    kept.write_context(batch, states_of(batch))  # drawn before: its rows 0 to 9 are others now
    assert not kept.states.known[:10].any() and kept.states.known[10:].any()


def test_a_state_that_is_not_finite_is_forgotten() -> None:
    kept, rng = replay(), np.random.default_rng(0)
    batch = kept.sample(rng)
    kept.write_context(batch, tree_map(lambda a: torch.full_like(a, torch.nan), states_of(batch)))
    assert kept.states is not None and not kept.states.known.any()
    assert all(leaf.isfinite().all() for leaf in kept.states.leaves)


def test_the_model_forgets_what_is_not_known() -> None:
    initial = (torch.zeros(3, 2), torch.zeros(3, 1, 2))
    batch = Batch(*[torch.zeros(3, 1)] * 5)  # type: ignore[arg-type]
    assert begin_state(batch, initial) is initial
    known = torch.tensor([True, False, True])
    extras = {
        CONTEXT_KNOWN: known,
        CONTEXT_STATE.format(0): torch.ones(3, 2),
        CONTEXT_STATE.format(1): torch.ones(3, 1, 2),
    }
    found = begin_state(batch._replace(extras=extras), initial)
    assert all(torch.equal(leaf.flatten(1)[:, 0], known.float()) for leaf in found)


@pytest.mark.parametrize("first", [False, True])
def test_v3_goes_on_from_it_as_if_it_had_seen_the_rows_before(first: bool) -> None:
    """Two halves of a sequence, the second one from the stored state, give what the whole one gives; at an episode's
    first row the stored state does not matter. A latent of one class is not random.
    """
    model = dreams.model("dreamer_v3", classes=1)
    torch.manual_seed(0)
    shape = 2, 8
    spec = dreams.SMALL
    image = torch.randint(0, 256, (*shape, *spec.image_shape), dtype=torch.uint8)
    begins = torch.zeros(shape, dtype=torch.bool)
    begins[:, 0], begins[:, 4] = True, first
    whole = Batch(image, torch.rand(*shape, spec.action_dim), torch.zeros(shape), begins, torch.zeros(shape).bool())
    halves = [Batch(*(a[:, part] for a in whole[:5])) for part in (slice(0, 4), slice(4, 8))]
    with torch.no_grad():
        states = model.loss(whole)[1]
        left = tree_map(lambda a: a[:, -1], model.loss(halves[0])[1])
        extras = {CONTEXT_KNOWN: torch.ones(2, dtype=torch.bool)}
        extras |= {CONTEXT_STATE.format(i): leaf for i, leaf in enumerate(left)}
        again = model.loss(halves[1]._replace(extras=extras))[1]
        forgetful = model.loss(halves[1])[1]
    torch.testing.assert_close(again.deter, states.deter[:, 4:])
    assert torch.allclose(forgetful.deter, again.deter) == first


def test_the_memory_plan_counts_it() -> None:
    assert state_bytes((torch.zeros(1, 512), torch.zeros(1, 32, 4))) == 1 + 2 * (512 + 128)


# ---- runs ----

RECIPE = (  # noqa: SIM905
    "exp=smoke env.time_limit=5 model=dreamer_v3_tiny actor=dreamer_v3_tiny train.prefill=8 train.eval_every=1000 "
    "train.save_every=8 train.eval_episodes=1 replay.batch_size=2 replay.batch_length=4 replay.context=true "
    "agent.device=cpu agent.precision=fp32 agent.threads=1"
).split() + [
    "train.learn={joint: {parts: [model, actor], updates: 2}}", "train.collect={unit: steps, per_round: 4}"
]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: Any) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert runs.go(folder, "train.env_steps=24", recipe=RECIPE) == 0
    return folder / "r"


@pytest.mark.slow
def test_resuming_restores_it_bit_for_bit(whole: Path, tmp_path: Path) -> None:
    assert runs.go(tmp_path, "train.env_steps=16", recipe=RECIPE) == 0
    assert runs.go(tmp_path, "train.env_steps=24", recipe=RECIPE) == 0
    found, expected = (Run.read(folder).newest().tensors("context") for folder in (tmp_path / "r", whole))
    assert expected[CONTEXT_KNOWN].sum() > 10
    assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in found)
    assert runs.digests(tmp_path / "r") == runs.digests(whole)


def test_a_model_without_use_for_it_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert runs.go(tmp_path, "replay.context=true") == 2
    assert "replay.context: rssm has no use for stored states: set replay.context=false" in capsys.readouterr().err


@pytest.mark.parametrize("name", dreams.NAMES)
def test_what_an_actor_observes_begins_as_in_the_models_loss(name: str) -> None:
    """In mid-episode: from the stored states, or as an episode does (DreamerV2, V3 of 2023)."""
    model, batch = dreams.model(name), dreams.batch()
    batch = batch._replace(first=torch.zeros_like(batch.first), action=torch.full_like(batch.action, 0.5))
    context = tree_map(torch.ones_like, model.initial(len(batch.reward)))
    extras = {CONTEXT_STATE.format(i): leaf for i, leaf in enumerate(context)}
    batch = batch._replace(extras=extras | {CONTEXT_KNOWN: torch.ones(len(batch.reward), dtype=torch.bool)})
    found = []
    for states in (lambda: model.loss(batch)[1], lambda: observe_sequence(model, batch)):
        torch.manual_seed(1)
        with torch.no_grad():
            found.append(states())
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_an_evolved_controller_keeps_the_states_that_it_observed(tmp_path: Path) -> None:
    """The model does not learn: nobody else writes them."""
    words = ["train.env_steps=24", "actor=evolution_tiny", "train.learn={actor: {updates: 2}}"]
    assert runs.go(tmp_path, *words, recipe=RECIPE[:-2] + RECIPE[-1:]) == 0
    assert Run.read(tmp_path / "r").newest().tensors("context")[CONTEXT_KNOWN].sum() > 10

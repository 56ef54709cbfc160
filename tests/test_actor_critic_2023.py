"""DreamerV3's actor and critic of 2023: what differs from the later one, by hand."""

import math
from typing import Any

import dreams
import pytest
import torch
from dreams import DISCRETE, Exact, Place, Times, pair, starts, states_of, unsettle
from torch import Tensor, nn

from agents.controllers.trajectory import imagine_trajectory
from worldmodel.base import Spec, merge_time
from worldmodel.networks import two_hot
from worldmodel.networks.policies import BoundedNormal

G = 1 - 1 / 333


def straight(place: Place, action: Tensor) -> Place:
    """x' = x + a, which pays a and is likelier to go on than not, unless x' exceeds 1."""
    there = place.x + action
    return Place(there, action.sum(-1), torch.where(there[:, 0] > 1, 0.4, 0.7))


def actor_of(move: Any, **changes: Any) -> Any:
    return dreams.actor("dreamer_v3_2023", Exact(move, 1), Spec((1, 2, 2), 1, False), **changes)


@pytest.mark.parametrize("name", ["dreamer_v3", "dreamer_v3_2023"])
def test_no_model_dreams_of_actions_that_an_environment_would_clip(name: str) -> None:
    """They are outside of what a model has learned from. What is scored is what was drawn."""
    seen: list[Tensor] = []

    def watched(place: Place, action: Tensor) -> Place:
        seen.append(action)
        return straight(place, action)

    actor = dreams.actor(name, Exact(watched, 1), Spec((1, 2, 2), 1, False))
    actor.policy = lambda features: BoundedNormal(0 * features[..., :1], torch.ones(1))  # beyond 1 in a third of draws
    torch.manual_seed(0)
    actor.loss(*starts(actor.model.initial(64), 1))
    taken = torch.stack(seen)
    assert taken.abs().max() == 1 and 0.2 < (taken.abs() == 1).float().mean() < 0.45
    start, drawn = actor.model.initial(64), torch.zeros(64, 1)
    path = imagine_trajectory(actor.model, actor.objective, start, drawn, actor.policy, 5, clip_actions=True)
    torch.testing.assert_close(torch.stack(seen[-5:]), path.action.clamp(-1, 1))
    assert path.action.abs().max() > 1.5


def test_a_dream_without_gradients_casts_features_once() -> None:
    """Its readers would each cast them. Where there are gradients, these would be summed in half precision."""
    model, actor = pair("dreamer_v3_2023", dreams.SMALL, horizon=2)
    batch = dreams.batch(spec=dreams.SMALL)
    given = merge_time(states_of(model, batch)[1]), batch.action.flatten(0, 1), actor.policy, 2
    for gradients, dtype in ((False, torch.bfloat16), (True, torch.float32)):
        with torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(gradients):
            path = imagine_trajectory(model, actor.objective, *given)
        assert path.features.dtype == dtype
        torch.testing.assert_close(path.features[0].float(), model.features(given[0]), rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("spec", [dreams.SMALL, DISCRETE], ids=["continuous", "discrete"])
def test_its_losses_are_the_equations(spec: Spec) -> None:
    """Written out once more, dream by dream; two rows are terminal, and the dreams go on or not by the likelier. The
    returns are so large that their range counts, and the new ones are half of its average.
    """
    model, actor = pair("dreamer_v3_2023", spec, horizon=3, objective=Times(300.0), return_scale_rate=0.5)
    unsettle(actor)
    batch = dreams.batch(spec=spec)
    batch.terminal[1, 1] = True
    with torch.no_grad():
        _, states = states_of(model, batch)
        torch.manual_seed(7)
        start = merge_time(states)
        path = imagine_trajectory(model, actor.objective, start, batch.action.flatten(0, 1), actor.policy, 3)
        value = two_hot.symexp(two_hot.mean(actor.critic(path.features), actor.bins))
        slow = two_hot.symexp(two_hot.mean(actor.slow_critic(path.features), actor.bins))
    c = torch.cat([1 - batch.terminal.flatten().float()[None], (path.continues[1:] > 0.5).float()])
    count, returns = path.reward.shape[1], torch.zeros(3, path.reward.shape[1])
    for n in range(count):
        following = value[3, n]
        for i in (2, 1, 0):
            mixed = 0.05 * value[i + 1, n] + 0.95 * following
            following = returns[i, n] = path.reward[i + 1, n] + G * c[i + 1, n] * mixed
    ordered = returns.flatten().sort().values
    low, high = (torch.quantile(ordered, q) * 0.5 for q in (0.05, 0.95))  # averages that began at 0
    scale = float(high - low)
    assert scale > 2
    actor_loss = critic_loss = 0.0
    with torch.no_grad():
        policy, logits = actor.policy(path.features[:-1]), actor.critic(path.features[:-1])
        log_p, entropy = policy.log_prob(path.action), policy.entropy()
    for n in range(count):
        for i in range(3):
            weight = G**i * float(c[: i + 1, n].prod())
            gain = (returns[i, n] - value[i, n]) / scale
            gain = gain * log_p[i, n] if spec.discrete else gain
            actor_loss -= weight * float(gain + 3e-4 * entropy[i, n]) / (3 * count)
            targets = two_hot.symlog(torch.stack([returns[i, n], slow[i, n]]))
            error = two_hot.loss(logits[i, n].expand(2, -1), targets, actor.bins)
            critic_loss += weight * float(error.sum()) / (3 * count)
    torch.manual_seed(7)
    loss, metrics = actor.loss(batch, states)
    assert metrics["loss_actor"].item() == pytest.approx(actor_loss, rel=1e-4, abs=1e-6)
    assert metrics["loss_critic"].item() == pytest.approx(critic_loss, rel=1e-4)
    assert loss.item() == pytest.approx(actor_loss + critic_loss, rel=1e-4)


def test_the_gradient_goes_through_return_and_baseline() -> None:
    """H = 2, lambda 0, rewards 0, v(x) = x: A_0 = g v(x_1) - v(x_0) and A_1 = g v(x_2) - v(x_1), with x_1 = x_0 + a,
    x_2 = x_1 + a and a = mean: dA_0/da = g, dA_1/da = 2 g - 1 (without the baseline 2 g), the second weighed by g.
    """

    def free(place: Place, action: Tensor) -> Place:
        return Place(place.x + action, torch.zeros(len(action)), torch.ones(len(action)))

    actor = actor_of(free, horizon=2, return_lambda=0.0, entropy_weight=0.0, slow_weight=0.0)
    mean = torch.tensor(0.2, requires_grad=True)
    actor.policy = lambda f: BoundedNormal(mean.expand(*f.shape[:-1], 1), torch.zeros(1))
    actor.value = lambda f: f[..., 0]
    actor.loss(*starts(Place(torch.full((4, 1), 0.1), torch.zeros(4), torch.ones(4)), 1))[0].backward()
    assert mean.grad.item() == pytest.approx(-(G + G * (2 * G - 1)) / 2, rel=1e-5)


def test_a_state_goes_on_or_it_does_not() -> None:
    """Probabilities of 0.7 count as 1, of 0.4 as 0; a start that is terminal has no weight at all."""
    actor = actor_of(straight, horizon=2, return_lambda=1.0)
    actor.policy = lambda f: BoundedNormal(torch.ones(*f.shape[:-1], 1), torch.zeros(1))
    place = Place(torch.tensor([[-5.0], [0.5]]), torch.zeros(2), torch.ones(2))
    batch, states = starts(place, 1)
    _, metrics = actor.loss(batch, states)
    # The critic says 0: from -5 both steps pay, 1 + g; from 0.5 the first one ends it, 1; the state after it, where
    # nothing is expected either, would give 1 more, but weighs nothing.
    assert metrics["return"].item() == pytest.approx((1 + G + 1 + 1 + 1) / 4, rel=1e-5)
    assert metrics["weight"].item() == pytest.approx((1 + G + 1 + 0) / 4, rel=1e-5)
    batch.terminal[:] = True
    assert actor.loss(batch, states)[1]["weight"] == 0


def test_the_first_update_copies_the_critic_and_the_next_ones_follow_it() -> None:
    actor = actor_of(straight)
    weight, slow = actor.critic.output.weight, actor.slow_critic.output.weight
    with torch.no_grad():
        for said, expected in ((0.0, 0.0), (1.0, 1.0), (0.0, 1.0), (1.0, 0.98 + 0.02 * 3)):
            nn.init.constant_(weight, 3.0 if expected > 1 or said == 0 else 1.0)
            actor.after_update(torch.tensor(said))
            assert torch.allclose(slow, torch.full_like(slow, expected)), (said, expected)


def test_values_of_any_size_are_told_apart() -> None:
    """From one bin to the next is a factor of 1.17: in symlog space, and decoded from there."""
    actor = actor_of(straight)
    logits = torch.full((3, 255), -1e9)
    logits[0, 127] = logits[1, 140] = logits[2, 101] = 0
    size = math.expm1(40 / 254 * 13), -math.expm1(40 / 254 * 26)
    assert actor.decode(logits).tolist() == pytest.approx([0, *size], rel=1e-5)

"""Actor-critics in worlds that are known exactly: losses and gradients by hand, and what they find."""

from typing import Any, NamedTuple

import dreams
import pytest
import torch
import torch.nn.functional as F
from dreams import DISCRETE, NAMES, Exact, Place, gradients, pair, starts, states_of, unsettle
from torch import Tensor, nn

from agents.controllers.trajectory import Trajectory
from agents.laprop import LaProp
from agents.returns import lambda_return
from worldmodel.base import Batch, Spec, tree_map
from worldmodel.networks import two_hot
from worldmodel.networks.policies import BoundedNormal, TruncatedNormal

# ---- time ----


@pytest.mark.parametrize("name", NAMES)
def test_fault_3_the_horizon_counts_actions(name: str) -> None:
    model = Exact(lambda place, action: Place(place.x + 1, action[:, 0], place.alive), 1)
    actor = dreams.actor(name, model)
    actor.loss(*starts(model.initial(3), 2))
    assert model.calls == actor.config.horizon == 15


def test_fault_3_v3s_dream_has_as_many_returns_as_actions(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Exact(lambda place, action: Place(place.x + 1, place.earned, place.alive), 1)
    actor, seen = dreams.actor("dreamer_v3", model), []
    monkeypatch.setattr(
        "agents.controllers.dreamer_v3.lambda_return", lambda *a: seen.append(lambda_return(*a)) or seen[0]
    )
    actor.loss(*starts(model.initial(3), 2))
    assert seen[0].shape == (15, 3)


class Stub(NamedTuple):
    log_p: Tensor

    def log_prob(self, action: Tensor) -> Tensor:
        return self.log_p

    def entropy(self) -> Tensor:
        return torch.ones_like(self.log_p)


def test_v3s_policy_loss_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """A = (4.5254, 4.665, 2.7), w = (.9, .72, .72), log pi = (-1, -2, -3), entropies 1."""
    model = Exact(lambda place, action: place, 1)
    actor = dreams.actor("dreamer_v3", model)
    monkeypatch.setattr(actor, "policy", lambda features: Stub(torch.tensor([[-1.0], [-2], [-3]])))
    path = Trajectory(torch.zeros(4, 1, 1), torch.zeros(3, 1, 2), torch.zeros(4, 1), torch.ones(4, 1))
    advantage, weight = torch.tensor([[4.5254], [4.665], [2.7]]), torch.tensor([[0.9], [0.72], [0.72]])
    losses, _ = actor.actor_loss(path, advantage, torch.ones(()), weight)
    assert losses["actor"].item() == pytest.approx(5.540586, rel=2e-6)
    half, _ = actor.actor_loss(path, advantage, torch.tensor(2.0), weight)
    bonus = 3e-4 * 0.78
    assert half["actor"].item() == pytest.approx((5.540586 + bonus) / 2 - bonus, rel=2e-6)


REWARD, CONTINUES, VALUE = torch.tensor([[9, 1, 2, 3], [0.9, 0.8, 1, 0.5], [0.5, 0.6, 0.7, 0.8]])


def clockwork() -> tuple[Exact, Place]:
    """A world in which nothing but time goes on, with the rows of our golden returns; and its start."""

    def move(place: Place, action: Tensor) -> Place:
        t = place.x[:, 0].long() + 1
        return Place(place.x + 1, REWARD[t], CONTINUES[t])

    return Exact(move, 1), Place(torch.zeros(1, 1), REWARD[:1], CONTINUES[:1])


class Known(nn.Module):
    """A critic that says VALUE; in bins, if there are some."""

    def __init__(self, bins: Tensor | None = None, shift: float = 0.0) -> None:
        super().__init__()
        self.bins, self.shift = bins, shift

    def forward(self, features: Tensor) -> Tensor:
        value = VALUE[features[..., 0].long()] + self.shift
        if self.bins is None:
            return value[..., None]
        k, weight = two_hot.neighbours(value, self.bins)
        probs = torch.zeros(*value.shape, len(self.bins)).scatter(-1, k[..., None], 1 - weight[..., None])
        return probs.scatter(-1, k[..., None] + 1, weight[..., None]).clamp(min=1e-30).log()


def targets_of(actor: Any, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What V3's critic is told in the next losses: of a dream, then of the replayed rows. (The cross-entropy of a
    critic as sure as Known would hardly tell one wrong target from another.)
    """
    told: list[Tensor] = []
    loss = actor.critic_loss
    monkeypatch.setattr(
        actor, "critic_loss", lambda logits, returns, f: told.append(returns) or loss(logits, returns, f)
    )
    return told


def test_v3s_loss_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """R = (5.0254, 5.265, 3.4), w = (.9, .72, .72), log pi = (-1, -2, -3), entropies 1."""
    model, start = clockwork()
    actor = dreams.actor("dreamer_v3", model, horizon=3, discount_horizon=1e9, slow_weight=0.5)
    actor.critic, actor.slow_critic = Known(actor.bins), Known(actor.bins, 0.1)
    policies = iter([actor.policy] * 3 + [lambda features: Stub(torch.tensor([[-1.0], [-2], [-3]]))])
    monkeypatch.setattr(actor, "policy", lambda features: next(policies)(features))
    told = targets_of(actor, monkeypatch)
    _, metrics = actor.loss(*starts(start, 2))
    assert metrics["loss_actor"].item() == pytest.approx(5.540586, rel=2e-6)
    assert told[0].flatten().tolist() == pytest.approx([5.0254, 5.265, 3.4], rel=2e-6)
    logits = Known(actor.bins)(torch.arange(3.0)[:, None])
    terms = two_hot.loss(logits, torch.tensor([5.0254, 5.265, 3.4]), actor.bins)
    terms = terms + 0.5 * two_hot.loss(logits, VALUE[:3] + 0.1, actor.bins)
    assert metrics["loss_critic"].item() == pytest.approx((terms * torch.tensor([0.9, 0.72, 0.72])).mean().item())


def test_v3s_advantages_are_divided_by_the_range_of_all_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    """As above, and the newest returns alone are the range: of (3.4, 5.0254, 5.265) the 5th and the 95th percentile are
    3.4 + .1 1.6254 and 5.0254 + .9 .2396, which are 1.6785 apart.
    """
    model, start = clockwork()
    actor = dreams.actor("dreamer_v3", model, horizon=3, discount_horizon=1e9, return_scale_rate=1.0)
    actor.critic, actor.slow_critic = Known(actor.bins), Known(actor.bins)
    policies = iter([actor.policy] * 3 + [lambda features: Stub(torch.tensor([[-1.0], [-2], [-3]]))])
    monkeypatch.setattr(actor, "policy", lambda features: next(policies)(features))
    _, metrics = actor.loss(*starts(start, 2))
    assert metrics["return_scale"].item() == pytest.approx(1.6785, rel=1e-5)
    bonus = 3e-4 * 0.78
    assert metrics["loss_actor"].item() == pytest.approx((5.540586 + bonus) / 1.6785 - bonus, rel=1e-5)


def test_v3s_replay_loss_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sequences of two rows at times (0, 1) and (0, 0), which arrived with 7 and 5. With a discount of .75, H = 2:

    b(1) = 2 + .75 (.05 .7 + .95 (3 + .375 .8)) = 4.3775    G = 7 + .75 b(1), where the critic is at 0
    b(0) = 1 + .6 (.05 .6 + .95 (2 + .75 .7)) = 2.45725     G = 5 + .75 b(0), likewise
    """
    model, _ = clockwork()
    actor = dreams.actor("dreamer_v3", model, horizon=2, discount_horizon=4.0, slow_weight=0.5)
    actor.critic, actor.slow_critic = Known(actor.bins), Known(actor.bins, 0.1)
    time = torch.tensor([[0, 1], [0, 0]])
    rows = Place(time[..., None].float(), REWARD[time], CONTINUES[time])
    blank, reward = torch.zeros(2, 2, dtype=torch.bool), torch.tensor([[0.0, 7.0], [0.0, 5.0]])
    image, action = torch.zeros(2, 2, 1, 2, 2, dtype=torch.uint8), torch.zeros(2, 2, 2)
    told = targets_of(actor, monkeypatch)
    _, metrics = actor.loss(Batch(image, action, reward, blank, blank), rows)
    logits = Known(actor.bins)(torch.zeros(2, 1))
    target = torch.tensor([7 + 0.75 * 4.3775, 5 + 0.75 * 2.45725])
    torch.testing.assert_close(told[1], target[None])  # (T - 1, B)
    held = 0.5 * two_hot.loss(logits, VALUE[:1] + 0.1, actor.bins)
    expected = (two_hot.loss(logits, target, actor.bins) + held).mean()
    assert metrics["loss_replay"].item() == pytest.approx(0.3 * expected.item(), rel=1e-5)


def test_v3s_replay_loss_knows_how_episodes_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our golden numbers: both sequences end an episode at row 2, the first by a time limit, the second for good. That
    row does not count. Instead of a cross-entropy, the targets themselves are averaged.
    """
    actor = dreams.actor("dreamer_v3", Exact(lambda place, action: place, 1))
    reward = torch.tensor([0.0, 1, 2, 0, 3]).expand(2, 5)
    first, terminal = torch.zeros(2, 5, dtype=torch.bool), torch.zeros(2, 5, dtype=torch.bool)
    first[:, 3] = terminal[1, 2] = True
    batch = Batch(torch.zeros(2, 5, 1, 2, 2, dtype=torch.uint8), torch.zeros(2, 5, 2), reward, first, terminal)
    rows = Place(torch.zeros(2, 5, 1), torch.zeros(2, 5), torch.ones(2, 5))
    told: list[Tensor] = []
    monkeypatch.setattr(actor, "critic_loss", lambda logits, returns, features: told.append(returns) or returns)
    loss = actor.replay_loss(batch, rows, torch.tensor([10.0, 20, 30, 40, 50]).repeat(2))
    limit, death = [32.220377, 31.909910, 52.050579, 52.849850], [3.8912913, 2, 52.050579, 52.849850]
    torch.testing.assert_close(told[0].T, torch.tensor([limit, death]), rtol=2e-6, atol=0)
    counted = [*limit[:2], limit[3], *death[:2], death[3]]
    assert loss.item() == pytest.approx(sum(counted) / 8, rel=2e-6)


def test_v2s_loss_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """d = .9 (1, .8, 1): of the start it is known that it is not terminal. v = (.5, .6, .7, .8), w = (1, .9, .9 .72).

    t_2 = 2 + .9 .8 = 2.72                              t_2 - v_1 = 2.12
    t_1 = 1 + .72 (.05 .7 + .95 t_2) = 2.88568          t_1 - v_0 = 2.38568
    t_0 = 9 + .9 (.05 .6 + .95 t_1) = 11.4942564
    """
    model, start = clockwork()
    changes = dict(horizon=3, discount=0.9, entropy_weight=0.25)
    weighed = 0.25 * (1 + 0.9) / 2  # the bonus of an entropy of 1
    reinforced = (1 * 2.38568 + 0.9 * 2 * 2.12) / 2
    for gradient, expected in (("reinforce", reinforced), ("dynamics", -(2.88568 + 0.9 * 2.72) / 2)):
        actor = dreams.actor("dreamer_v2", model, gradient=gradient, **changes)
        actor.critic, actor.slow_critic = Known(shift=0.1), Known()
        policies = iter([actor.policy] * 3 + [lambda features: Stub(torch.tensor([[-1.0], [-2]]))])
        monkeypatch.setattr(actor, "policy", lambda features, p=policies: next(p)(features))
        _, metrics = actor.loss(*starts(start, 2))
        assert metrics["loss_actor"].item() == pytest.approx(expected - weighed, rel=1e-5)
        errors = [(11.4942564 - 0.6) ** 2, 0.9 * (2.88568 - 0.7) ** 2, 0.9 * 0.72 * (2.72 - 0.8) ** 2]
        assert metrics["loss_critic"].item() == pytest.approx(0.5 * sum(errors) / 3, rel=1e-5)


def test_v1s_loss_by_hand() -> None:
    """Of the states that the first two actions lead to, d = .9 (.8, 1), v = (.6, .7, .8), w = (1, .72):

    R_2 = 2 + .9 .8 = 2.72      R_1 = 1 + .72 (.05 .7 + .95 R_2) = 2.88568
    """
    model, start = clockwork()
    actor = dreams.actor("dreamer_v1", model, horizon=3, discount=0.9)
    actor.critic = Known()
    _, metrics = actor.loss(*starts(start, 2))
    assert metrics["loss_actor"].item() == pytest.approx(-(2.88568 + 0.72 * 2.72) / 2, rel=1e-5)
    errors = 2.28568**2 + 0.72 * 2.02**2
    assert metrics["loss_critic"].item() == pytest.approx(0.5 * errors / 2, rel=1e-5)


def chain() -> Exact:
    """Places 0, 1, 2. Action 0 goes one further, the others stay; arriving at 2 earns 1 and ends it."""

    def move(place: Place, action: Tensor) -> Place:
        here = place.x.argmax(-1)
        there = (here + action[:, 0].round().long()).clamp(max=2)
        arrived = (there == 2) & (here < 2)
        return Place(F.one_hot(there, 3).float(), arrived.float(), 1 - (there == 2).float())

    return Exact(move, 3)


def at(index: int, n: int = 64) -> Place:
    x = F.one_hot(torch.full((n,), index), 3).float()
    return Place(x, torch.zeros(n), torch.full((n,), float(index < 2)))


@pytest.mark.parametrize("name", ["dreamer_v2", "dreamer_v3"])
def test_fault_5_the_action_that_reaches_the_goal_is_reinforced(name: str) -> None:
    """And no action in the goal, where nothing goes on."""
    model = chain()
    actor = dreams.actor(name, model, DISCRETE, horizon=2, entropy_weight=0.0)
    if name == "dreamer_v2":  # a critic that expects nothing
        nn.init.zeros_(actor.slow_critic.outputs[0].weight)
    push = {}
    for place in (1, 2):
        actor.zero_grad()
        torch.manual_seed(0)
        output = torch.zeros(3, requires_grad=True)
        actor.policy_network.outputs[0].register_parameter("bias", nn.Parameter(output.detach()))
        nn.init.zeros_(actor.policy_network.outputs[0].weight)
        actor.loss(*starts(at(place), 3))[0].backward()
        push[place] = -actor.policy_network.outputs[0].bias.grad
    assert push[1][0] > 0.05 and push[1][1] < 0 and push[1][2] < 0
    assert push[2].abs().max() < 1e-6


# ---- REINFORCE ----

PAYS = torch.tensor([[0.9, 0.1, 0.4], [0.2, 0.7, 0.0], [0.3, 0.5, 0.8]])  # by first and second action


def two_steps() -> Exact:
    """Two choices out of three; each of the nine ends pays on arrival, and some of it is paid half-way."""

    def move(place: Place, action: Tensor) -> Place:
        chosen = action.argmax(-1)
        begin = place.x[:, 0] == 1
        first = place.x[:, 1:].argmax(-1)
        half_way = F.one_hot(chosen + 1, 4).float()
        earned = torch.where(begin, 0.1 * chosen, PAYS[first, chosen])
        return Place(torch.where(begin[:, None], half_way, torch.zeros(4)), earned, begin.float())

    return Exact(move, 4)


@pytest.mark.parametrize("name", ["dreamer_v2", "dreamer_v3", "dreamer_v3_2023"])
def test_fault_6_reinforce_is_unbiased(name: str) -> None:
    """Its mean over 10,000 dreams is the exact gradient, within 3 standard errors; the baseline, which is not 0 here,
    does not matter.
    """
    model = two_steps()
    changes: dict[str, Any] = dict(entropy_weight=0.0, return_lambda=1.0)
    v2 = name == "dreamer_v2"
    changes |= dict(horizon=3, discount=1.0) if v2 else dict(horizon=2, discount_horizon=1e9)
    actor = dreams.actor(name, model, DISCRETE, **changes)
    unsettle(actor)
    with torch.no_grad():
        for parameter in actor.policy_network.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    origin = F.one_hot(torch.zeros(100, dtype=torch.long), 4).float()
    batch, states = starts(Place(origin, torch.zeros(100), torch.ones(100)), 3)
    weights = list(actor.policy_network.parameters())
    samples = []
    for seed in range(100):
        torch.manual_seed(seed)
        loss, _ = actor.loss(batch, states)
        samples.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)]))
    found = torch.stack(samples)
    one = actor.policy(origin[0]).log_p.exp()
    two = actor.policy(F.one_hot(torch.arange(3) + 1, 4).float()).log_p.exp()
    expected = (one * 0.1 * torch.arange(3)).sum() + (one[:, None] * two * PAYS).sum()
    # The loss averages over the two steps that are dreamt.
    exact = torch.cat([g.flatten() for g in torch.autograd.grad(-expected / 2, weights)])
    error = found.std(0) / 10
    known = error > 1e-7  # not the weights of units that are never on
    apart = ((found.mean(0) - exact) / error)[known]
    assert known.sum() > 50 and torch.allclose(found.mean(0)[~known], exact[~known], atol=1e-6)
    assert apart.square().mean() < 2  # of a standard normal distribution it is 1
    along = found @ exact / exact.norm()  # and in the direction that matters:
    assert abs(along.mean() - exact.norm()) < 3 * along.std() / 10 < 0.5 * exact.norm()


@pytest.mark.parametrize("name", ["dreamer_v2", "dreamer_v3", "dreamer_v3_2023"])
def test_fault_7_no_gradient_goes_through_reinforced_actions(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the same whether they are drawn differentiably or not."""
    batch, found = dreams.batch(), []
    for detach in (False, True):
        model, actor = pair(name, **({} if name == "dreamer_v3" else {"gradient": "reinforce"}))
        _, states = states_of(model, batch)
        if detach:
            kind = type(actor.policy(model.features(model.initial(1))))
            assert kind is (TruncatedNormal if name == "dreamer_v2" else BoundedNormal)
            monkeypatch.setattr(kind, "sample", lambda *a, sample=kind.sample: sample(*a).detach())
        torch.manual_seed(3)
        actor.loss(batch, tree_map(Tensor.detach, states))[0].backward()
        found.append(gradients(actor.policy_network))
    assert all(map(torch.equal, *found)) and all(g.abs().max() > 0 for g in found[0])


# ---- the dynamics gradient ----

A, B, Q, R = torch.tensor([[1, 0.1], [0, 1]]), torch.tensor([[0.005], [0.1]]), torch.tensor([1, 0.1]), 0.01
GAIN = torch.tensor([-7.6129579727, -4.5849349892])  # of the discrete algebraic Riccati equation


def double_integrator() -> Exact:
    """LIN2: the reward of a step is minus the cost of its action and of the state that it leads to."""

    def move(place: Place, action: Tensor) -> Place:
        there = place.x[:, :2] @ A.T + action @ B.T
        reward = -(there.square() * Q).sum(-1) - R * action.square().sum(-1)
        return Place(torch.cat([there, reward[:, None]], -1), reward, torch.ones_like(reward))

    return Exact(move, 3)


class Quadratic(nn.Module):
    """The form of LIN2's exact value: what was earned on arriving, and a quadratic of the place."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))

    def forward(self, features: Tensor) -> Tensor:
        x, y, earned = features.unbind(-1)
        return (earned + torch.stack([x * x, x * y, y * y], -1) @ self.weight)[..., None]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dreamer_v1", "dreamer_v2"])
def test_the_dynamics_gradient_finds_the_riccati_gain(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The actor is u = K x, the critic quadratic: within 2 % of the optimal K, and the critic of the optimal value.

    For H = 2 alone: the actor then maximises one return, r + v, which is policy iteration. Of a longer dream all
    returns are maximised, and a later one pulls at earlier actions without paying for them: at H = 15 K is larger.
    """
    changes = dict(discount=1.0, horizon=2) | (dict(entropy_weight=0.0, slow_every=2) if name == "dreamer_v2" else {})
    actor = dreams.actor(name, double_integrator(), Spec((1, 2, 2), 1, False), **changes)
    gain = nn.Parameter(torch.zeros(2))
    monkeypatch.setattr(
        actor, "policy", lambda f: BoundedNormal((f[..., :2] @ gain)[..., None], torch.full((1,), 1e-3))
    )
    actor.critic = Quadratic()
    if name == "dreamer_v2":
        actor.slow_critic = Quadratic().requires_grad_(False)
    torch.manual_seed(0)
    optimizer = torch.optim.Adam([dict(params=[gain], lr=0.05), dict(params=actor.critic.parameters(), lr=0.3)])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1200)
    for _ in range(1200):
        x = torch.randn(64, 2) * torch.tensor([1.0, 2.0])
        place = Place(torch.cat([x, torch.zeros(64, 1)], -1), torch.zeros(64), torch.ones(64))
        optimizer.zero_grad()
        actor.loss(*starts(place, 1))[0].backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            actor.after_update(torch.ones(()))
    assert ((gain - GAIN).norm() / GAIN.norm()).item() < 0.02
    # P - Q: the cost of the place itself was paid on arriving there.
    assert actor.critic.weight.tolist() == pytest.approx([-5.0225408, -2.0248457, -0.5091146], rel=0.2)


def test_the_dynamics_gradient_is_that_of_the_return_in_closed_form() -> None:
    """V1, one action from x: reward -(x + a)^2 on arriving, H = 2, lambda 0, a critic of 0. R_1 = r_1 alone."""

    def move(place: Place, action: Tensor) -> Place:
        there = place.x + action
        return Place(there, -there.square().sum(-1), torch.ones(len(there)))

    actor = dreams.actor("dreamer_v1", Exact(move, 1), Spec((1, 2, 2), 1, False), horizon=2, return_lambda=0.0)
    for layer in actor.critic.outputs:
        nn.init.zeros_(layer.weight)
    mean = torch.tensor(0.2, requires_grad=True)
    actor.policy = lambda f: BoundedNormal(mean.expand(len(f), 1), torch.zeros(1))
    place = Place(torch.full((4, 1), 0.5), torch.zeros(4), torch.ones(4))
    actor.loss(*starts(place, 1))[0].backward()
    assert mean.grad.item() == pytest.approx(2 * 0.7)


def test_no_gradient_goes_through_what_the_policy_reads() -> None:
    """a = k sg(x), x' = x + a, the reward is x', H = 3, lambda 1, a critic of 0: the loss is -(r_1 + 2 r_2) / 2, where
    dr_1/dk = x_0 and dr_2/dk = x_0 + x_1 (with the gradient through x_1 it would be (1 + k) x_0 + x_1).
    """

    def move(place: Place, action: Tensor) -> Place:
        return Place(place.x + action, (place.x + action).sum(-1), place.alive)

    actor = dreams.actor(
        "dreamer_v1", Exact(move, 1), Spec((1, 2, 2), 1, False), horizon=3, return_lambda=1.0, discount=1.0
    )
    nn.init.zeros_(actor.critic.outputs[0].weight)
    k = torch.tensor(0.5, requires_grad=True)
    actor.policy = lambda f: BoundedNormal(k * f, torch.zeros(1))
    place = Place(torch.full((4, 1), 2.0), torch.zeros(4), torch.ones(4))
    actor.loss(*starts(place, 1))[0].backward()
    assert k.grad.item() == pytest.approx(-(2 + 2 * (2 + 3)) / 2)


# ---- all of it ----


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dreamer_v2", "dreamer_v3", "dreamer_v3_2023"])
def test_a_chain_is_learned(name: str) -> None:
    """Action 0, twice, leads to the goal; and the critic says what that is worth, discounted for every step."""
    model = chain()
    actor = dreams.actor(name, model, DISCRETE, horizon=5, **({"slow_every": 10} if name == "dreamer_v2" else {}))
    weights = [p for ps in actor.parts().values() for p in ps]
    optimizer = LaProp(weights, torch.tensor(1e-2), warmup=10)
    torch.manual_seed(0)
    both = Place(*(torch.cat(pair) for pair in zip(at(0, 8), at(1, 8), strict=True)))
    for _ in range(300 if name == "dreamer_v3_2023" else 150):
        optimizer.zero_grad()
        actor.loss(*starts(both, 3))[0].backward()
        optimizer.step()
        with torch.no_grad():
            actor.after_update(torch.ones(()))
    places = torch.eye(3)[:2]
    assert (actor.policy(places).log_p[:, 0].exp() > (0.85 if name == "dreamer_v3_2023" else 0.9)).all()
    d = 0.99 if name == "dreamer_v2" else 1 - 1 / 333
    # V2's value counts from the state itself on, which is one step earlier.
    expected = [d**2, d] if name == "dreamer_v2" else [d, 1.0]
    assert actor.value(places).tolist() == pytest.approx(expected, abs=0.05)

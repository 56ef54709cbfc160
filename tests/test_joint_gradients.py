"""worldmodel/networks/joint_gradients.py: the same gradients as autograd's own."""

import contextlib
import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.test_dreamer_v3 import SMALL, build
from worldmodel.base import Batch
from worldmodel.models import dreamer_v3
from worldmodel.networks import joint_gradients as joint_gradients_module
from worldmodel.networks.dense import dense
from worldmodel.networks.joint_gradients import Rows, in_use, joint_gradients, product

STEPS = 5


def scan(x: Tensor, steps: int, *weights: Tensor) -> Tensor:
    """h' = tanh(h W1 + (h W2)^T ...): every weight is used at every step, blocks and a bias among them."""
    recurrent, blocks, layer, shift = weights
    h = x
    for _ in range(steps):
        y = product(h, recurrent).unflatten(-1, (2, -1)).transpose(0, 1)  # (blocks, N, 3)
        h = torch.tanh(product(product(y, blocks).transpose(0, 1).flatten(1), layer, shift, transposed=True))
    return h


@pytest.fixture
def given() -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    sizes = [(4, 6), (6, 6), (2, 3, 3), (6, 6), (6,)]
    return [torch.randn(*size, generator=draw, dtype=torch.float64).requires_grad_() for size in sizes]


@pytest.fixture(autouse=True)
def made(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[Rows]]:
    """What product() has made: the plain way makes nothing."""
    found: list[weakref.ref[Rows]] = []

    class Counted(Rows):
        def __init__(self) -> None:
            super().__init__()
            found.append(weakref.ref(self))

    monkeypatch.setattr(joint_gradients_module, "Rows", Counted)
    return found


def gradients(given: list[Tensor], joint: bool, wanted: list[Tensor] | None = None) -> tuple[Tensor, ...]:
    if joint:
        with joint_gradients():
            result = scan(given[0], STEPS, *given[1:])
    else:
        result = scan(given[0], STEPS, *given[1:])
    return torch.autograd.grad(result.square().sum(), wanted or given)


def test_the_gradients_are_autograds(given: list[Tensor], made: list[weakref.ref[Rows]]) -> None:
    torch.testing.assert_close(gradients(given, joint=True), gradients(given, joint=False))
    assert len(made) == 3  # once for every weight, whatever the number of steps


def test_nothing_outlives_the_graph(given: list[Tensor], made: list[weakref.ref[Rows]]) -> None:
    """Not for the garbage collector, either: a circle through autograd's nodes may be one that it cannot see."""
    gc.disable()
    try:
        for wanted in (given, given[:1], []):
            with joint_gradients():
                loss = scan(given[0], STEPS, *given[1:]).square().sum()
            if wanted:
                torch.autograd.grad(loss, wanted)
            del loss
            assert made and not [one for one in made if one() is not None]
    finally:
        gc.enable()


def test_rows_may_have_any_shape(given: list[Tensor]) -> None:
    weight, shift = given[3], given[4]
    shapes = [torch.randn(size, dtype=torch.float64) for size in [(6,), (4, 6), (2, 3, 6)]]

    def total() -> Tensor:
        return torch.stack([product(x, weight, shift, transposed=True).square().sum() for x in shapes]).sum()

    with joint_gradients():
        ours = total()
        assert [product(x, weight).shape for x in shapes] == [x.shape for x in shapes]
    found = [torch.autograd.grad(one, (weight, shift)) for one in (ours, total())]
    torch.testing.assert_close(*found)


def test_a_weight_may_be_used_in_several_ways(given: list[Tensor]) -> None:
    x, weight, one, other = given[0], given[3], given[4], 2 * given[4].detach()
    with joint_gradients():
        found = [
            product(x, weight), product(x, weight, transposed=True), product(x, weight, one, transposed=True),
            product(x, weight, other, transposed=True),
        ]  # fmt: skip
        with torch.autocast("cpu", torch.bfloat16):
            low = product(x.float(), weight)
        assert low.dtype == torch.bfloat16 and product(x, weight).dtype == torch.float64
    wanted = [x @ weight, x @ weight.t(), x @ weight.t() + one, x @ weight.t() + other]
    torch.testing.assert_close(found, wanted)
    ours, theirs = (torch.autograd.grad(torch.stack(y).sum(), (weight, one)) for y in (found, wanted))
    torch.testing.assert_close(ours, theirs)


def test_weights_that_do_not_learn_keep_no_rows(given: list[Tensor]) -> None:
    x, weight, shift = given[0], given[3].detach(), given[4]
    with joint_gradients():
        frozen, moved = product(x, weight).square().sum(), product(x, weight, shift).square().sum()
        kept = next(iter(in_use.weights.values())).rows if in_use.weights else None
    torch.testing.assert_close(torch.autograd.grad(frozen, x)[0], 2 * x @ weight @ weight.t())
    assert kept is not None and not kept.passes
    torch.testing.assert_close(torch.autograd.grad(moved, shift)[0], 2 * (x @ weight + shift).sum(0))


def test_a_pass_within_a_pass(given: list[Tensor]) -> None:
    with joint_gradients():
        loss = scan(given[0], STEPS, *given[1:]).square().sum()
        again = scan(given[0], STEPS, *given[1:])
    inner = []
    again.register_hook(lambda _: inner.extend(torch.autograd.grad(loss, given, retain_graph=True)))
    outer = torch.autograd.grad(again.square().sum() + loss, given, retain_graph=True)
    wanted = gradients(given, joint=False)
    torch.testing.assert_close(inner, list(wanted))
    torch.testing.assert_close(outer, tuple(2 * one for one in wanted))


def test_weights_must_not_change_before_the_gradient(given: list[Tensor]) -> None:
    with joint_gradients():
        loss = product(given[0], given[1]).sum()
    with torch.no_grad():
        given[1].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_slice_and_a_transposed_matrix_are_weights_too(given: list[Tensor]) -> None:
    x, whole = given[0], given[1]
    for cut in (whole[:, 2:], whole.t(), whole.t()[:, 1:]):
        with joint_gradients():
            steps = [product(x, cut), product(2 * x, cut).tanh()]
        (ours,) = torch.autograd.grad(torch.stack(steps).sum(), whole)
        (theirs,) = torch.autograd.grad(((x @ cut) + (2 * x @ cut).tanh()).sum(), whole)
        torch.testing.assert_close(ours, theirs)


def test_what_a_gradient_left_on_its_way_elsewhere_is_not_counted(given: list[Tensor]) -> None:
    """A gradient of x alone passes through all steps, and never reaches the weights."""
    with joint_gradients():
        loss = scan(given[0], STEPS, *given[1:]).square().sum()
    wanted = gradients(given, joint=False)
    for _ in range(2):
        torch.testing.assert_close(torch.autograd.grad(loss, given[0], retain_graph=True)[0], wanted[0])
    for _ in range(2):  # and twice is not double
        torch.testing.assert_close(torch.autograd.grad(loss, given, retain_graph=True), wanted)


def test_steps_that_the_loss_does_not_read_count_for_nothing(given: list[Tensor]) -> None:
    with joint_gradients():
        first = scan(given[0], 1, *given[1:])
        scan(first, STEPS, *given[1:])
    ours = torch.autograd.grad(first.sum(), given)
    torch.testing.assert_close(ours, torch.autograd.grad(scan(given[0], 1, *given[1:]).sum(), given))


def test_weights_that_are_given_a_gradient_elsewhere_get_both(given: list[Tensor]) -> None:
    x, weight = given[0], given[1]
    with joint_gradients():
        inside = product(x, weight)
    (ours,) = torch.autograd.grad((inside + x @ weight).sum(), weight)
    torch.testing.assert_close(ours, 2 * torch.autograd.grad((x @ weight).sum(), weight)[0])


def test_in_bf16_the_sum_over_steps_keeps_its_digits() -> None:
    """A thousand steps that each add the same: step by step in bf16 the sum stops growing at 256."""
    layer, x = nn.Linear(1, 1), torch.ones(1, 1)
    found = []
    for context in (joint_gradients, torch.enable_grad):
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16), context():
            torch.stack([dense(layer, x) for _ in range(1000)]).sum().backward()
        assert layer.weight.grad is not None and layer.bias.grad is not None
        found.append((layer.weight.grad.item(), layer.bias.grad.item()))
    assert found[0] == (1000, 1000) and found[1][0] == 256


@pytest.mark.parametrize("frozen", [torch.no_grad, torch.inference_mode])
def test_without_gradients_nothing_is_kept(given: list[Tensor], frozen: Callable[[], torch.no_grad]) -> None:
    with joint_gradients(), frozen():
        scan(given[0], STEPS, *given[1:])
        assert in_use.weights == {}
    assert in_use.weights is None


def test_a_gradients_gradient_is_refused(given: list[Tensor]) -> None:
    with joint_gradients():
        loss = scan(given[0], STEPS, *given[1:]).square().sum()
    (first,) = torch.autograd.grad(loss, given[0], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_dreamer_v3_learns_the_same_with_them(monkeypatch: pytest.MonkeyPatch, made: list[weakref.ref[Rows]]) -> None:
    model = build(**SMALL)
    draw = torch.Generator().manual_seed(1)
    image = torch.randint(256, (2, 6, 3, 64, 64), generator=draw, dtype=torch.uint8)
    first = torch.zeros(2, 6, dtype=torch.bool)
    first[0, 3] = True
    batch = Batch(image, torch.randn(2, 6, 6, generator=draw), torch.randn(2, 6, generator=draw), first, first)
    found = []
    for plain in (False, True):
        if plain:
            monkeypatch.setattr(dreamer_v3, "joint_gradients", contextlib.nullcontext)
        torch.manual_seed(2)
        model.zero_grad()
        model.loss(batch)[0].backward()
        found.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert len(made) == 7
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)

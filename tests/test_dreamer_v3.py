"""DreamerV3's world model, layer by layer against the release: counts, initial weights, numbers that it computes."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from worldmodel.base import Batch, Spec, merge_time
from worldmodel.models import dreamer_v3
from worldmodel.models.dreamer_v3 import DreamerV3, State
from worldmodel.networks.rms_norm_mlp import MLP

CONFIGS = Path(__file__).resolve().parent.parent / "configs" / "model"
DMC, DISCRETE = Spec((3, 64, 64), 6, False), Spec((3, 64, 64), 6, True)
# The small model of which the numbers below were computed by the release's own code.
SMALL = dict(deter=16, stoch=2, classes=3, hidden=8, blocks=4, depths=[4, 8], bins=5)


def config(size: str = "1M", **changes: Any) -> dreamer_v3.Config:
    name = "dreamer_v3" if size == "12M" else f"dreamer_v3_{size}"
    return dreamer_v3.Config(**{**yaml.safe_load((CONFIGS / f"{name}.yaml").read_text("utf8")), **changes})


def build(size: str = "1M", spec: Spec = DMC, **changes: Any) -> DreamerV3:
    torch.manual_seed(0)
    return dreamer_v3.build(config(size, **changes), spec)


def count(*modules: nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def close(got: Tensor, wanted: object, tolerance: float = 5e-6) -> None:
    torch.testing.assert_close(got, torch.as_tensor(wanted, dtype=got.dtype), rtol=tolerance, atol=5e-7)


# ---- sizes ----


@pytest.mark.parametrize(
    ("size", "encoder", "core", "prior", "posterior", "decoder", "reward", "goes_on"),
    [
        ("1M", 14304, 273664, 45440, 57600, 80595, 57663, 41153),
        ("12M", 220416, 4338688, 722432, 918528, 1272003, 721407, 656129),
    ],
)
def test_faults_9_and_18_every_part_has_the_parameters_of_the_release(
    size: str, encoder: int, core: int, prior: int, posterior: int, decoder: int, reward: int, goes_on: int
) -> None:
    with torch.device("meta"):
        model = build(size)
    assert count(model.encoder) == encoder and count(model.decoder) == decoder
    assert count(model.deter_proj, model.stoch_proj, model.action_proj, model.gru) == core
    assert count(model.prior) == prior
    assert count(model.posterior_hidden, model.posterior_norm, model.posterior) == posterior
    assert count(model.reward_head) == reward and count(model.continue_head) == goes_on
    assert count(model) == encoder + core + prior + posterior + decoder + reward + goes_on


TOTALS = {
    "1M": 686846,
    "12M": 10494158,
    "25M": 23489326,
    "50M": 41650062,
    "100M": 93468238,
    "200M": 165948686,
}


@pytest.mark.parametrize(("size", "total"), TOTALS.items())
def test_with_actor_and_critic_every_size_has_the_parameters_of_the_release(size: str, total: int) -> None:
    with torch.device("meta"):
        model = build(size)
        features, units = model.config.deter + model.config.stoch * model.config.classes, model.config.hidden
        critic, continuous, discrete = (MLP(features, units, 3, outputs) for outputs in (255, 12, 6))
    assert count(model, critic, continuous) == total
    wanted = {"1M": 686456, "12M": 10492616}
    assert count(model, critic, discrete) == wanted.get(size, total - 6 * (units + 1))
    assert count(model) == int(first_number((CONFIGS / file_of(size)).read_text("utf8")))


def file_of(size: str) -> str:
    return "dreamer_v3.yaml" if size == "12M" else f"dreamer_v3_{size}.yaml"


def first_number(text: str) -> str:
    """The parameters that a config's first line names."""
    return text.splitlines()[0].split(": ")[1].split(" ")[0].replace(",", "")


def test_the_sizes_differ_in_nothing_but_their_size() -> None:
    own = {"deter", "classes", "hidden", "depths"}
    for size in TOTALS:
        values, d = config(size).model_dump(), config(size).hidden
        assert {k: v for k, v in values.items() if k not in own} == {
            k: v for k, v in config("12M").model_dump().items() if k not in own
        }
        assert (values["deter"], values["classes"]) == (8 * d, d // 16)
        assert values["depths"] == [d // 16 * k for k in (2, 3, 4, 4)]


# ---- initial weights ----


def test_fault_17_a_block_kernel_starts_with_the_fan_of_all_blocks() -> None:
    model = build()
    for weight, std in ((model.gru.weight, 0.0221), (model.gru.gates.weight, 0.0442)):
        assert abs(weight.std().item() / std - 1) < 0.02
    model = build("12M")
    for weight, std in ((model.gru.weight, 0.0110), (model.gru.gates.weight, 0.0221)):
        assert abs(weight.std().item() / std - 1) < 0.02


def test_fault_27_weights_start_within_their_bounds_and_biases_at_zero() -> None:
    model = build()
    fans = {"gru.weight": 2048, "gru.gates.weight": 512, "decoder.from_deter.weight": 512}
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or name == "reward_head.output.weight":
            assert not parameter.any(), name
        elif name.endswith("scale"):
            assert (parameter == 1).all(), name
        else:
            size = math.sqrt(fans.get(name, parameter[0].numel()))
            assert parameter.abs().max() * size <= 2.2737, name
            assert abs(parameter.std().item() * size - 1) < 3 / math.sqrt(parameter.numel()), name


def test_the_losses_start_where_the_releases_do() -> None:
    """Ranges over 12 seeds of the release on the same kind of data, wider by half of themselves."""
    torch.manual_seed(0)
    model, found = build(), []
    batch = Batch(
        torch.randint(0, 256, (4, 16, 3, 64, 64), dtype=torch.uint8),
        torch.rand(4, 16, 6) * 2 - 1,
        torch.rand(4, 16),
        (torch.arange(16) == 0).expand(4, 16),
        torch.zeros(4, 16, dtype=torch.bool),
    )
    for seed in range(3):
        torch.manual_seed(seed)
        model = dreamer_v3.build(model.config, DMC)
        with torch.no_grad():
            loss, states, metrics = model.loss(batch)
        close(metrics["loss_reward"], 5.5412635)
        assert not model.reward(merge_time(states)).any()
        assert metrics["entropy_prior"] <= 32 * math.log(4) and metrics["entropy_posterior"] <= 32 * math.log(4)
        close(loss, sum(metrics[f"loss_{name}"] for name in ("image", "reward", "continue", "dyn", "rep")))
        close(metrics["loss_rep"] * 10, metrics["loss_dyn"])
        found.append([metrics[k] for k in ("loss_image", "loss_dyn", "loss_continue", "entropy_posterior")])
    image, dyn, goes_on, entropy = torch.tensor(found).mean(0)
    assert 1090 < image < 1430 and 4.5 < dyn < 12 and 0.3 < goes_on < 1.3 and 38 < entropy < 43


# ---- the release's own numbers ----


def fill(parameter: nn.Parameter, kind: str, shape: tuple[int, ...] | None = None) -> Tensor:
    """The n-th entry, in the release's layout."""
    n = torch.arange(parameter.numel(), dtype=torch.float64)
    values = {"kernel": ((7 * n % 11) - 5) / 10, "bias": ((5 * n % 7) - 3) / 10, "scale": 1 + n / 10}[kind]
    return values.float().view(shape or parameter.shape)


def filled(model: DreamerV3) -> DreamerV3:
    """All weights by one rule. The release's kernels are (inputs, outputs), (blocks, inputs, outputs) and (5, 5,
    inputs, outputs).
    """
    for name, parameter in model.named_parameters():
        kind = name.rsplit(".", 1)[1].replace("weight", "kernel")
        if name == "gru.weight":
            inputs, blocks, outputs = parameter.shape
            value = fill(parameter, kind, (blocks, inputs, outputs)).transpose(0, 1)
        elif kind == "kernel" and parameter.dim() == 4:
            value = fill(parameter, kind, (5, 5, parameter.shape[1], parameter.shape[0])).permute(3, 2, 0, 1)
        elif kind == "kernel" and parameter.dim() == 2:
            value = fill(parameter, kind, (parameter.shape[1], parameter.shape[0])).T
        else:
            value = fill(parameter, kind)
        parameter.data.copy_(value)
    return model


def test_one_step_of_the_block_gru_and_the_prior() -> None:
    small = dict(deter=4, stoch=2, classes=2, hidden=2, blocks=2, depths=[2, 2])
    model = filled(build(spec=Spec((3, 16, 16), 1, False), **small))
    state = State(torch.tensor([[0.1, -0.2, 0.3, -0.4]]), torch.tensor([[[1.0, 0], [0, 1]]]))
    weights = model.step_weights()
    deter = model.core(state, model.enter(torch.tensor([[0.5]]), weights), weights)
    close(deter, [[0.0859228, -0.1978280, 0.2222684, -0.2794370]])
    close(model.prior(deter), [[-0.0804941, -0.1135406, 0.4003630, -0.3326836]])
    with torch.no_grad():
        model.gru.gates.weight.zero_()  # h' = u tanh(sigmoid(b) b) + (1 - u) h, blind to the hidden layer
    x = torch.cat([model.deter_proj(state.deter), model.stoch_proj(state.stoch.flatten(1))], -1)
    entered = model.enter(torch.tensor([[0.5]]), weights) + x @ weights.inputs
    blocks = torch.cat([state.deter[:, :2] @ weights.recurrent[0], state.deter[:, 2:] @ weights.recurrent[1]], -1)
    hidden = nn.functional.silu(model.gru.norm(entered + blocks))
    close(hidden, [[-0.1665516, -0.2610798, -0.2350339, -0.2233386]])


def test_fault_24_no_action_counts_for_more_than_1() -> None:
    small = dict(deter=4, stoch=2, classes=2, hidden=2, blocks=2, depths=[2, 2])
    model = filled(build(spec=Spec((3, 16, 16), 1, False), **small))
    state = State(torch.tensor([[0.1, -0.2, 0.3, -0.4]]), torch.tensor([[[1.0, 0], [0, 1]]]))
    for action in (1.0, 2.0):
        deter = model.imagine(state, torch.tensor([[action]])).deter
        close(deter, [[0.0869754, -0.2000628, 0.2208373, -0.2797845]])


def test_a_whole_model_computes_what_the_release_does() -> None:
    """Encoder, core, prior, posterior, decoder and heads, run side by side with the release on the same weights."""
    model = filled(build(spec=Spec((3, 16, 16), 2, False), **SMALL))
    image = (torch.arange(768) * 37 % 256).view(1, 16, 16, 3).permute(0, 3, 1, 2).to(torch.uint8)
    h = (torch.arange(16) * 3 % 7 - 3)[None] / 5
    state = State(h, torch.tensor([[[0.0, 1, 0], [0, 0, 1]]]))
    tokens = model.encoder(image.float() / 255 - 0.5)
    close(tokens[0, :4], [-0.11058094, 1.6754814, 0.49232122, 0.7537239])
    close(tokens.sum(), 117.3648981563747)
    close(tokens.square().sum(), 173.19204121957625)
    weights, no = model.step_weights(), torch.zeros(1, dtype=torch.bool)
    entered = model.enter(torch.tensor([[0.5, -2]]), weights)
    seen, log_q = model.obs_step(state, entered, model.embed(image / 255 - 0.5), no, weights)
    close(seen.deter[0, :4], [-0.32820675, 0.01356245, 0.25741547, -0.1296487])
    close(seen.deter.square().sum(), 1.4034788622648329)
    close(model.prior(seen.deter), [[-0.90278125, 1.796657, 0.17361271, -1.3657341, 1.6140676, 0.5993807]])
    post = torch.tensor([[[0.8033963, -0.10696481, -0.22053239], [0.3862226, -0.22975081, -0.649598]]])
    close(log_q, model.log_probs(post.flatten(1)))
    after = State(seen.deter, state.stoch)
    picture = model.decode(after)
    close(picture[0, 1, ::5, ::7][:2], [[0.596694, 0.739527, 0.57642394], [0.32374257, 0.2437112, 0.6759079]])
    close(picture.sum(), 361.32599322497845)
    close(picture.square().sum(), 212.70614775595106)
    features = model.features(after)
    close(model.reward_head(features), [[-0.7766838, 0.17680568, 0.16706282, 0.19781397, -0.02381715]])
    close(model.continue_head(features), [[-0.294515]])

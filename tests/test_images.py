"""Images on one scale: measured once, from the first batch; undone in what is shown; kept in checkpoints."""

from pathlib import Path
from typing import Any

import pytest
import runs
import tiny
import torch

import agents
from training.configuration.legacy import upgrade_config
from worldmodel.networks import convolutional, convolutional_v3, convolutional_v3_2023, elu
from worldmodel.networks.images import SMALLEST, ImageNormalizer, channels_last


def test_it_takes_off_the_mean_image_and_divides_by_one_standard_deviation() -> None:
    torch.manual_seed(0)
    images = torch.rand(50, 4, 3, 6, 5) * torch.rand(3, 6, 5)  # (B, T, C, Y, X); pixels of different contrast
    normalizer = ImageNormalizer((3, 6, 5))
    normalizer.measure(images)
    mean = images.mean((0, 1))
    std = (images - mean).square().mean().sqrt()  # one number: a pixel that hardly moves is not made loud
    torch.testing.assert_close(normalizer(images), (images - mean) / std)
    assert normalizer(images).square().mean() == pytest.approx(1)
    torch.testing.assert_close(normalizer.undo(normalizer(images)), images)


def test_only_the_first_batch_counts_and_before_it_nothing_changes() -> None:
    torch.manual_seed(0)
    first, second = torch.rand(2, 5, 1, 4, 4), 9 * torch.rand(2, 5, 1, 4, 4)
    normalizer = ImageNormalizer((1, 4, 4))
    assert torch.equal(normalizer(first), first) and torch.equal(normalizer.undo(first), first)
    normalizer.measure(first)
    known = normalizer(second)
    normalizer.measure(second)
    assert torch.equal(normalizer(second), known)


def test_images_that_never_change_are_not_blown_up() -> None:
    still, normalizer = torch.full((2, 3, 1, 4, 4), 0.3), ImageNormalizer((1, 4, 4))
    normalizer.measure(still)
    assert normalizer.contrast == pytest.approx(SMALLEST) and normalizer(still).abs().max() < 1e-3


def test_a_model_measures_as_it_learns_and_shows_intensities() -> None:
    model, data = tiny.model(normalise=True), tiny.batch()
    model.loss(data)
    seen = data.image.float() / 256 - 0.5
    torch.testing.assert_close(model.normalizer.background, seen.mean((0, 1)))
    state = model.observe(model.initial(3), data.action[:, 0], data.image[:, 0], data.first[:, 0])
    decoded = model.decoder(model.features(state))
    wanted = decoded * model.normalizer.contrast + model.normalizer.background + 0.5
    torch.testing.assert_close(model.decode(state), wanted)
    # the loss compares the decoder with the normalised image
    normalised = (seen - model.normalizer.background) / model.normalizer.contrast
    torch.testing.assert_close(model.preprocess(data.image), normalised)


def test_a_run_keeps_what_it_measured(tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert runs.go(whole, "model.normalise=true") == 0
    assert runs.go(stopped, "model.normalise=true", "train.env_steps=30") == 0
    model = agents.load(stopped / "r", "cpu").model
    assert model.normalizer.contrast > 0 and model.normalizer.background.abs().sum() > 0
    assert runs.go(stopped, "model.normalise=true") == 0
    assert runs.digests(stopped / "r") == runs.digests(whole / "r")


def test_runs_from_before_are_not_normalised_and_rendered_at_their_size() -> None:
    old = {"env": {"name": "dmc"}, "model": {"name": "rssm"}}
    new = upgrade_config(old)
    assert new["env"]["supersample"] == 1 and new["model"]["normalise"] is False
    assert upgrade_config({"env": {"name": "dmc", "supersample": 2}})["env"]["supersample"] == 2
    assert "normalise" not in upgrade_config({"model": {"name": "mdnrnn"}})["model"]


def test_a_model_measures_once_and_again_where_a_checkpoint_has_no_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    measure = ImageNormalizer.measure
    monkeypatch.setattr(ImageNormalizer, "measure", lambda self, image: (seen.append(1), measure(self, image))[1])
    model, data = tiny.model(normalise=True), tiny.batch()
    without = {name: value.clone() for name, value in model.state_dict().items()}
    model.loss(data)
    model.loss(data)
    assert len(seen) == 1  # later updates do not read the batch for nothing
    known = model.normalizer.contrast.clone()
    model.load_state_dict(without)
    assert model.normalizer.contrast == 0
    model.loss(data)
    assert len(seen) == 2 and model.normalizer.contrast == known


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_the_channels_of_a_pixel_lie_side_by_side(channels: int) -> None:
    image = torch.rand(4, channels, 6, 5, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        last = channels_last(image)
    assert torch.equal(last, image) and last.stride() == (30 * channels, 1, 5 * channels, channels)
    last.square().sum().backward()
    assert image.grad is not None and torch.equal(image.grad, 2 * image.detach())
    assert channels_last(last).stride() == channels_last(last.bfloat16()).stride() == last.stride()


def test_in_float32_a_gray_image_has_the_strides_with_which_older_runs_have_learned() -> None:
    image = torch.rand(4, 1, 6, 5)
    assert channels_last(image).stride() == image.contiguous(memory_format=torch.channels_last).stride()


@pytest.mark.parametrize(
    "encoder", [convolutional.Encoder, elu.EluEncoder, convolutional_v3.Encoder, convolutional_v3_2023.Encoder]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_all_of_an_encoder_computes_with_channels_last(encoder: Any, channels: int) -> None:
    made, strides = encoder((channels, 32, 32), (4, 8)), []
    for layer in made.layers:
        layer.register_forward_hook(lambda layer, given, found: strides.append(found.stride(1)))
    with torch.autocast("cpu", torch.bfloat16):
        made(torch.rand(2, channels, 32, 32))
    assert strides == [1, 1]

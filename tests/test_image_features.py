"""What the image features find alike, and what is said where a model is missing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import Dinov2Config, Dinov2Model

from vfusion3d.foundations.dinov2 import Dinov2
from vfusion3d.foundations.image_features import MEAN, SIDE, STD, image_features
from vfusion3d.runs.profiles import load_profile


def features_of(name: str):
    profile = load_profile("smoke")
    return image_features(replace(profile, foundations=replace(profile.foundations, image_features=name)))


def disc(colour, centre=0.5, radius=0.3, size=64):
    """A disc on white, drawn from its equation."""
    ticks = (torch.arange(size) + 0.5) / size
    inside = (ticks[:, None] - 0.5) ** 2 + (ticks - centre) ** 2 < radius**2
    return torch.where(inside, torch.tensor(colour)[:, None, None], torch.ones(3, size, size))[None]


def cosine(a, b):
    return torch.nn.functional.cosine_similarity(a, b).item()


def test_the_stand_in_sees_colour_and_shape_and_neither_background_nor_resolution():
    features = features_of("stand-in")
    assert features(torch.ones(2, 3, 50, 50)).abs().max() < 1e-6
    red = features(disc((0.9, 0.1, 0.1)))
    assert cosine(red, features(disc((0.9, 0.1, 0.1), size=128))) > 0.99
    nearby = cosine(red, features(disc((0.8, 0.2, 0.1), centre=0.52)))
    blue, small = (cosine(red, features(other)) for other in (disc((0.1, 0.1, 0.9)), disc((0.9, 0.1, 0.1), radius=0.1)))
    assert nearby > 0.95 > max(blue, small)


def test_the_untrained_features_are_the_same_each_time_and_leave_the_random_state_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = features_of("untrained")(disc((0.2, 0.5, 0.1)))
    assert torch.equal(torch.rand(1), expected)
    torch.manual_seed(99)
    assert torch.equal(features_of("untrained")(disc((0.2, 0.5, 0.1))), first)


@pytest.mark.parametrize("side", [32, 61, 16])  # as it was trained, with a rest beside whole patches, smaller
def test_our_dinov2_computes_what_transformers_does(tmp_path, side):
    config = Dinov2Config(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8)
    theirs = Dinov2Model(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():  # biases and scales too
            parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(parameter.numel()))
    theirs.save_pretrained(tmp_path)
    ours = Dinov2.from_folder(tmp_path).eval()
    assert {name: value.shape for name, value in ours.state_dict().items()} == {
        name: value.shape for name, value in theirs.state_dict().items()
    }
    pixels = torch.randn(2, 3, side, side + 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(pixels), theirs(pixels).last_hidden_state, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("trained_at", "seen_at"), [(28, 28), (518, SIDE)])
def test_a_pretrained_dino_gives_its_class_token_for_the_normalised_picture(tmp_path, trained_at, seen_at):
    config = dict(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=trained_at, patch_size=14)
    model = Dinov2Model(Dinov2Config(**config)).eval()
    model.save_pretrained(tmp_path)
    image = torch.rand(2, 3, seen_at, seen_at, generator=torch.Generator().manual_seed(0))
    pixels = (image.numpy() - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))
    with torch.no_grad():
        expected = model(torch.tensor(pixels, dtype=torch.float32)).last_hidden_state[:, 0]
    features = features_of(str(tmp_path))
    assert torch.allclose(features(image), expected, atol=1e-4)
    larger = image.repeat_interleave(3, dim=-1).repeat_interleave(3, dim=-2)
    assert cosine(features(larger)[:1], expected[:1]) > 0.95, "it sees any size at its own"

"""bfloat16 where a profile asks for it and the machine has it: in training, in the field, in generated videos."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from test_loop import regression, settings
from test_rendering import random_field
from torch.nn.functional import cosine_similarity

from vfusion3d.learning import precision
from vfusion3d.learning.loop import train
from vfusion3d.runs.profiles import load_profile
from vfusion3d.video.generate import animate, precision_of

CPU = torch.device("cpu")


@pytest.mark.parametrize("there", [True, False])
def test_auto_is_bfloat16_where_the_device_has_it_and_other_values_are_kept(there, monkeypatch):
    monkeypatch.setattr(precision, "has_bfloat16", lambda: there)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: not there)
    assert precision.resolve("auto", torch.device("cuda")) == ("no" if there else "bf16")
    assert precision.resolve("auto", CPU) == ("bf16" if there else "no")
    assert precision.resolve("no", CPU) == "no"
    assert precision.resolve("bf16", CPU) == "bf16"


@pytest.mark.parametrize(
    ("wish", "expected"), [("no", torch.float32), ("bf16", torch.bfloat16), ("auto", torch.bfloat16)]
)
def test_the_loop_computes_in_the_precision_that_is_asked_for(wish, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "has_bfloat16", lambda: True)
    model, batch_of, losses_of = regression()
    seen = []
    model[0].register_forward_hook(lambda layer, inputs, output: seen.append(output.dtype))
    train(model, batch_of, losses_of, settings(2, mixed_precision=wish), tmp_path, device="cpu")
    assert set(seen) == {expected}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_the_field_under_autocast_is_near_and_its_table_exact():
    field, planes = random_field()
    planes.requires_grad_()
    points = torch.rand(2, 200, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def ask():
        rgb, raw = field(planes, points)
        (gradient,) = torch.autograd.grad(rgb.square().sum() + raw.sum(), planes)
        return rgb, raw, gradient

    exact, (rgb, raw, gradient) = field.table(planes), ask()
    with precision.autocast("bf16", CPU):
        half_rgb, half_raw, half_gradient = ask()
        assert torch.equal(field.table(planes), exact)
    assert half_rgb.dtype == half_raw.dtype == torch.float32
    assert 0 < (rgb - half_rgb).abs().max() < 0.01
    assert (raw - half_raw).abs().max() < 0.02 * raw.abs().max()
    assert cosine_similarity(gradient.flatten(), half_gradient.flatten(), dim=0) > 0.999


@pytest.mark.parametrize(
    ("dtype", "wish", "expected"),
    [(torch.float32, "bf16", True), (torch.float32, "no", False), (torch.float16, "bf16", False)],
)
def test_videos_are_generated_in_the_recipes_precision_unless_the_model_is_in_half_already(dtype, wish, expected):
    seen = []

    class Model:
        network = torch.nn.Linear(1, 1, dtype=dtype)

        def generate(self, images, generators, **options):
            seen.append(torch.is_autocast_enabled("cpu"))
            return SimpleNamespace()

    recipe = dataclasses.replace(load_profile("smoke").video, mixed_precision=wish)
    animate([(torch.zeros(1, 3, 8, 8), torch.Generator())], Model(), recipe)
    assert seen == [expected]
    assert precision_of(Model(), recipe) == ("bf16" if expected else "no")

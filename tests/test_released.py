"""The released weights' function, held to the authors' own outputs for a small instance (skipped without the file)."""

import json
import math

import pytest
import torch
from conftest import SHARED
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_model import tiny_model

from vfusion3d import VFusion3D
from vfusion3d.model.released import CheckpointError

GOLDEN = SHARED / "goldens" / "released_vfusion3d_small.safetensors"
KEYS = SHARED / "goldens" / "released_vfusion3d_keys.json"


@pytest.fixture(scope="module")
def golden():
    if not GOLDEN.exists():
        pytest.skip("the golden file is not here")
    with safe_open(GOLDEN, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def weights_of(golden):
    return {name.removeprefix("weights."): t for name, t in golden.items() if name.startswith("weights.")}


@pytest.fixture(scope="module")
def model(golden):
    return VFusion3D.from_released(weights_of(golden), encoder_heads=4, transformer_heads=4, samples_per_ray=64)


@torch.no_grad()
def test_planes_and_point_queries_are_the_authors(golden, model):
    planes = model(golden["input.image"], golden["input.source_camera"])
    assert torch.allclose(planes, golden["output.planes"], atol=1e-4)
    rgb, density = model.query(planes, golden["input.points"])
    assert torch.allclose(rgb, golden["output.points_rgb"], atol=1e-4)
    assert torch.allclose(density, golden["output.points_sigma"], atol=1e-4)


@torch.no_grad()
def test_rendered_means_are_the_authors_within_three_standard_errors(golden, model):
    planes, cameras, repeats = golden["output.planes"], golden["input.render_extrinsics"].expand(2, 3, 3, 4), 64
    intrinsics, generator = torch.tensor([0.75, 0.75, 0.5, 0.5]).expand(2, 3, 4), torch.Generator().manual_seed(0)
    ours = torch.stack([model.render(planes, cameras, intrinsics, 32, generator=generator).rgb for _ in range(repeats)])
    error = ((golden["output.render_rgb_std"].square() + ours.var(0)) / repeats).sqrt()
    difference = (ours.mean(0) - golden["output.render_rgb_mean"]).abs()
    assert (difference <= 3 * error + 5e-3).all(), f"up to {difference.max():.4f} apart"


def test_files_folders_and_the_authors_wrapped_torch_file_load_alike(golden, tmp_path):
    weights = weights_of(golden)
    save_file(weights, tmp_path / "model.safetensors")
    torch.save({"model_state_dict": weights}, tmp_path / "checkpoint.pth")
    for source in (tmp_path, tmp_path / "model.safetensors", str(tmp_path / "checkpoint.pth")):
        loaded = VFusion3D.from_released(source, encoder_heads=4, transformer_heads=4)
        assert torch.equal(loaded.transformer.pos_embed, weights["transformer.pos_embed"])


def test_every_released_tensor_has_its_place_at_full_size():
    if not KEYS.exists():
        pytest.skip("the list of released tensors is not here")
    with torch.device("meta"):
        ours = {name: list(tensor.shape) for name, tensor in VFusion3D().state_dict().items()}
    assert ours == json.loads(KEYS.read_text())


def test_missing_extra_and_misshapen_tensors_are_listed():
    weights = tiny_model().state_dict()
    del weights["transformer.norm.bias"]
    weights["transformer.surprise"] = torch.zeros(3)
    weights["synthesizer.decoder.net.2.weight"] = torch.zeros(2, 2)
    with pytest.raises(CheckpointError) as error:
        VFusion3D.from_released(weights, encoder_heads=2, transformer_heads=2)
    message = str(error.value)
    assert "missing: transformer.norm.bias;" in message
    assert "unknown: transformer.surprise;" in message
    assert message.endswith("of another shape: synthesizer.decoder.net.2.weight [2, 2], not [64, 64]")


def test_weights_of_something_else_say_which_tensor_is_missing():
    with pytest.raises(CheckpointError, match=r"patch_embeddings\.projection\.weight is missing"):
        VFusion3D.from_released({"layer.weight": torch.zeros(2)})


def test_a_torch_file_that_would_run_code_is_refused(tmp_path):
    torch.save({"model_state_dict": math.sqrt}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match=r"evil\.pth cannot be read"):
        VFusion3D.from_released(tmp_path / "evil.pth")


def test_a_name_that_cannot_be_downloaded_says_what_to_do():
    with pytest.raises(CheckpointError, match="could not be downloaded"):
        VFusion3D.from_pretrained("facebook/vfusion3d")

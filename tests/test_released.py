"""The released weights' function, held to the authors' own outputs for a small instance (skipped without the file)."""

import json
import math

import pytest
import torch
from conftest import SHARED
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_model import tiny_model

from vfusion3d import VFusion3D, book
from vfusion3d.cameras import default_intrinsics, orbit_cameras
from vfusion3d.data.images import resize
from vfusion3d.evaluation import around, model_predictor
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


@torch.no_grad()
def test_the_authors_weights_get_a_row_with_the_cameras_that_they_expect(weights, tmp_path):
    """Offline: random weights of the released names, a few thousand of them, beside a trained model of ours."""
    (tmp_path / "vfusion3d_finetuned").mkdir()
    (tmp_path / "vfusion3d_finetuned" / "model").symlink_to(weights)
    sizes = dict(patch_size=64, position_grid=8, encoder_width=48, encoder_layers=1, camera_width=32, width=64)
    theirs = VFusion3D(**sizes, layers=1, triplane_size=4, triplane_channels=8).eval()  # heads: as released
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    run = book.begin("08_image_to_3d", "smoke", tmp_path)
    models = run.models(tmp_path / "model.safetensors")
    assert list(models) == ["VFusion3D", "mini (bundled)", "base (bundled)", "VFusion3D, released"]
    told = run.told(models, [*models, "white image"], 16)
    assert told["VFusion3D, released"] == {"size": 16, "elevation": 0.0, "distance": 1.0}
    assert told["white image"] == told["VFusion3D"] == {"size": 16, "elevation": 0.3, "distance": 1.5}
    picture = torch.rand(1, 3, 64, 64)
    turn = around(model_predictor(models["VFusion3D, released"]), views=4, **told["VFusion3D, released"])(picture)
    camera = torch.tensor([[0.0, 0, 1, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0.75, 0.75, 0.5, 0.5]])  # at (1, 0, 0)
    planes = theirs(resize(picture, 512), camera)
    views = theirs.render(planes, orbit_cameras(4, 0.0)[None], default_intrinsics(1, 4), 16).rgb[0].clamp(0, 1)
    assert torch.allclose(turn, views, atol=1e-4)  # from distance 1.5 at elevation 0

import json
import math
from dataclasses import asdict

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_model import tiny_model

from vfusion3d import VFusion3D
from vfusion3d.cameras import camera_vector, default_intrinsics, orbit_cameras
from vfusion3d.learning import attention
from vfusion3d.model.check import CheckpointError
from vfusion3d.model.initialise import start_local
from vfusion3d.model.rendering import corners
from vfusion3d.model.vfusion3d import tokens_within


@pytest.fixture
def inputs():
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return image, camera_vector(orbit_cameras(2, 0.3), default_intrinsics(2))


def test_shapes_are_those_that_the_docstrings_promise(inputs):
    model = tiny_model()
    planes = model(*inputs)
    assert planes.shape == (2, 3, 8, 8, 8)
    cameras, intrinsics = orbit_cameras(3, 0.2).expand(2, 3, 3, 4), default_intrinsics(2, 3)
    with torch.no_grad():
        view = model.render(planes, cameras, intrinsics, 12)
        rgb, density = model.query(planes, torch.zeros(2, 5, 3))
    assert view.rgb.shape == (2, 3, 3, 12, 12)
    assert view.opacity.shape == view.depth.shape == (2, 3, 1, 12, 12)
    assert rgb.shape == (2, 5, 3)
    assert density.shape == (2, 5, 1)
    assert (density >= 0).all()


def test_a_saved_model_comes_back_the_same(inputs, tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    again = VFusion3D.from_pretrained(tmp_path)
    assert again.config.source_elevation == 0.3
    torch.testing.assert_close(model(*inputs), again(*inputs))  # other memory, other rounding


def test_a_model_with_a_radius_comes_back_the_same(inputs, tmp_path):
    model = VFusion3D(**asdict(tiny_model().config) | {"radius": 0.8}).eval()
    model.save_pretrained(tmp_path)
    again = VFusion3D.from_pretrained(tmp_path)
    assert again.config.radius == 0.8
    torch.testing.assert_close(model(*inputs), again(*inputs))


def test_half_precision_weights_load_as_float32_or_as_asked(inputs, tmp_path):
    tiny_model().half().save_pretrained(tmp_path)
    assert VFusion3D.from_pretrained(tmp_path, torch_dtype=torch.float32).dtype == torch.float32
    assert VFusion3D.from_pretrained(tmp_path, torch_dtype=torch.bfloat16).dtype == torch.bfloat16


def test_gradient_checkpointing_changes_no_gradient(inputs):
    gradients = []
    for checkpointing in (False, True):
        model = tiny_model()
        if checkpointing:
            model.enable_gradient_checkpointing()
        model(*inputs).square().sum().backward()
        kept = (model.transformer.gradient_checkpointing, model.encoder.model.gradient_checkpointing)
        assert kept == (checkpointing, checkpointing)
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert any("encoder.layer.0" in name for name in gradients[0])
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)


def test_the_camera_changes_the_planes(inputs):
    image, camera = inputs
    model = tiny_model()
    assert not torch.allclose(model(image, camera), model(image, camera.flip(0)))


def test_from_the_local_start_a_plane_token_looks_at_the_patch_it_projects_to():
    model = start_local(tiny_model(), torch.Generator().manual_seed(0)).eval()
    size, grid = model.config.triplane_size, model.config.position_grid
    with torch.no_grad():
        tokens = model.encoder(torch.ones(1, 3, 64, 64))
        layer = model.transformer.layers[0]
        queries = layer.norm1(model.transformer.pos_embed, torch.zeros(1, model.config.camera_width))
        _, attention = torch.nn.MultiheadAttention.forward(layer.cross_attn, queries, tokens, tokens)
    attention = attention[0, 2 * size * size :, 1:].view(size, size, grid, grid)  # plane 2: rows y, columns z
    for y in range(size):
        for z in range(size):
            image_row, image_column = divmod(attention[y, z].argmax().item(), grid)
            assert abs((image_column + 0.5) / grid - (y + 0.5) / size) <= 1 / size  # image right is +y
            assert abs(1 - (image_row + 0.5) / grid - (z + 0.5) / size) <= 1 / size  # image up is +z


@pytest.mark.parametrize("kind", ["cross_attn", "self_attn"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fast", [True, False])
def test_attention_is_that_of_torch_with_and_without_gradients(kind, dtype, fast, monkeypatch):
    monkeypatch.setattr(attention, "QUERIES", 5)  # the last piece is a shorter one
    monkeypatch.setattr(attention, "has_bfloat16", lambda: fast)  # whatever this machine has
    layer = getattr(tiny_model().transformer.layers[0], kind).to(dtype)
    x = torch.randn(2, 13, layer.embed_dim, generator=torch.Generator().manual_seed(0)).to(dtype)
    other = torch.randn(2, 7, layer.kdim, generator=torch.Generator().manual_seed(1)).to(dtype)
    seen = x if kind == "self_attn" else other
    expected, _ = torch.nn.MultiheadAttention.forward(layer, x, seen, seen, need_weights=False)
    bound = {torch.float32: 1e-5, torch.bfloat16: 0.02}[dtype] * expected.detach().abs().max().item()
    assert (layer(x, seen) - expected).abs().max() <= bound
    with torch.no_grad():
        assert (layer(x, seen) - expected).abs().max() <= bound


@pytest.mark.parametrize("size", [4, 5, 12])
def test_only_the_tokens_that_a_ball_reads_are_computed(size):
    points = torch.nn.functional.normalize(torch.randn(200_000, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    points = points * 0.8 * torch.rand(len(points), 1, generator=torch.Generator().manual_seed(1)) ** (1 / 3)
    rows, weights = corners(points, torch.zeros(len(points), dtype=torch.long), 2 * size)
    texels = torch.zeros(3, 2 * size, 2 * size, dtype=torch.bool)
    texels.view(-1)[rows[weights > 0].long()] = True
    read = texels.view(3, size, 2, size, 2).any(4).any(2)
    kept = tokens_within(size, 0.8).view(size, size)
    assert not (read & ~kept).any()  # all that is read is there
    assert (kept & ~read.all(0)).float().mean() < 0.1  # and little else: a ball's rim is hit by few points


def test_a_model_with_a_radius_makes_planes_of_the_same_shape_and_nothing_where_nothing_is_read(inputs):
    torch.manual_seed(0)
    model = VFusion3D(**(asdict(tiny_model().config) | {"triplane_size": 8, "radius": 0.8})).eval()
    with torch.no_grad():
        planes = model(*inputs)
    assert planes.shape[-2:] == (16, 16)
    corner = planes[:, :, :, 0, 0]
    assert torch.allclose(corner, model.transformer.deconv.bias.expand_as(corner), atol=1e-6)
    assert not torch.allclose(planes[:, :, :, 8, 8], corner, atol=1e-3)
    _, density = model.query(planes, torch.tensor([[[0.0, 0.0, 0.79], [0.0, 0.0, 0.81]]]).expand(len(planes), -1, -1))
    assert (density[:, 0] > 0).all()
    assert (density[:, 1] == 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 3}, r"heads 3 does not divide width"),
        ({"source_elevation": "low"}, r"source_elevation must be of type float, not 'low'"),
        ({"image_size": 0}, r"image_size must be above 0"),
        ({"patch_size": 0}, r"patch_size must be above 0"),
        ({"width": None}, r"width must be of type int, not None"),
        ({"layers": 10**9}, r"would need .* GB of memory"),
        ({"image_size": 10**9}, r"would need .* GB of memory"),
        ({"samples_per_ray": 7}, r"samples_per_ray must be even"),
        ({"radius": -1.0}, r"radius must be above 0"),
        ({"depth": 3}, r"unknown key depth"),
    ],
)
def test_a_config_that_makes_no_model_names_file_and_key(tmp_path, change, message):
    tiny_model().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(CheckpointError, match=r"config\.json: .*" + message):
        VFusion3D.from_pretrained(tmp_path)


def test_weights_that_do_not_fit_are_one_line_and_no_library_s_notes(tmp_path, capfd):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    for change, message in (
        ({"transformer.deconv.weight": None}, "missing: transformer.deconv.weight$"),
        ({"more": torch.zeros(1)}, "unknown: more$"),
        ({"transformer.deconv.bias": tensors["transformer.deconv.bias"].long()}, r"of whole numbers: transformer"),
        ({"transformer.deconv.bias": torch.zeros(1)}, r"of another shape: transformer\.deconv\.bias \[1\], not"),
        (
            {"transformer.deconv.bias": tensors["transformer.deconv.bias"] * math.nan},
            r"not finite: transformer\.deconv",
        ),
    ):
        save_file({name: value for name, value in (tensors | change).items() if value is not None}, path)
        with pytest.raises(CheckpointError, match=r"diffusion_pytorch_model\.safetensors .*" + message):
            VFusion3D.from_pretrained(tmp_path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"diffusion_pytorch_model\.safetensors is not whole safetensors"):
        VFusion3D.from_pretrained(tmp_path)
    path.rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match=r"pytorch_model\.bin is a pickle, not safetensors, .*: convert it"):
        VFusion3D.from_pretrained(tmp_path)
    assert capfd.readouterr() == ("", "")

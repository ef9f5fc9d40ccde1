"""Text to image, saliency, background removal and the perceptual distance, each from a folder and as its stand-in."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_foundations import CAPTIONS, identity_onnx, profile_with, save_text_to_image

from vfusion3d.cameras import default_intrinsics, orbit_cameras, sphere_position
from vfusion3d.data.images import on_white
from vfusion3d.data.render import render_views
from vfusion3d.foundations.background_removal import background_removal
from vfusion3d.foundations.loading import ModelUnavailable
from vfusion3d.foundations.perceptual import PerceptualDistance, perceptual_distance
from vfusion3d.foundations.saliency import saliency
from vfusion3d.foundations.text_to_image import text_to_image
from vfusion3d.world.catalogue import CATEGORIES
from vfusion3d.world.objects import build_mesh, sample_object


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def discs(colour, back=(1.0, 1.0, 1.0), radius=0.3, size=64) -> tuple[torch.Tensor, torch.Tensor]:
    """A disc on a background, from its equation: picture (1, 3, size, size) and coverage (1, 1, size, size)."""
    ticks = (torch.arange(8 * size) + 0.5) / (8 * size) - 0.5
    inside = (ticks[:, None] ** 2 + ticks**2 < radius**2).float()
    coverage = torch.nn.functional.avg_pool2d(inside[None, None], 8)
    colour, back = (torch.tensor(rgb)[None, :, None, None] for rgb in (colour, back))
    return coverage * colour + (1 - coverage) * back, coverage


# ----------------------------------------------------------------------------------------------------- text to image


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text_to_image")
    save_text_to_image(folder)
    return text_to_image(profile_with(text_to_image=str(folder)))


def test_a_pipeline_draws_each_prompt_and_the_generator_decides(pipeline):
    mug, tower, chair = CAPTIONS
    images = pipeline([mug, mug, tower], seeded(0), 24)
    assert images.shape == (3, 3, 24, 24)
    assert images.dtype == torch.float32
    assert 0 <= images.min() < images.max() <= 1
    assert (images[0] - images[1]).abs().max() > 0.01, "each gets noise of its own"
    again = pipeline([mug, chair, tower], seeded(0), 24)
    assert torch.allclose(images[[0, 2]], again[[0, 2]], atol=1e-4)
    assert not torch.allclose(images[1], again[1], atol=1e-3)


def test_the_stand_in_renders_the_prompt_on_white_from_azimuth_0(monkeypatch):
    draw = text_to_image(profile_with(text_to_image="stand-in"))
    images = draw(["a red snowman", "a tall blue and white striped mug"], seeded(4), 48)
    assert images.shape == (2, 3, 48, 48)
    assert torch.equal(images[:, :, 0, 0], torch.ones(2, 3))
    red, blue = (image[:, image.min(dim=0).values < 0.9].mean(dim=1) for image in images)
    assert red[0] > red[2] + 0.1
    assert blue[2] > blue[0] + 0.05
    assert torch.equal(images, draw(["a red snowman", "a tall blue and white striped mug"], seeded(4), 48))
    with pytest.raises(ValueError, match="violin"):
        draw(["a red violin"], seeded(0), 48)


def test_the_stand_ins_elevations_are_those_of_the_3d_data(monkeypatch):
    from vfusion3d.data import render

    cameras = []

    def spy(mesh, cam2world, intrinsics, size):
        cameras.append(cam2world)
        return render.RenderedViews(np.zeros((1, size, size, 4), np.uint8))

    monkeypatch.setattr(render, "render_views", spy)
    text_to_image(profile_with(text_to_image="stand-in"))(["a red mug"] * 40, seeded(0), 8)
    positions = torch.cat(cameras)[:, :, 3]
    elevation = torch.asin(positions[:, 2] / 1.5)
    assert 0 <= elevation.min() < 0.1 < 0.68 < elevation.max() <= torch.pi / 4
    assert torch.allclose(positions, sphere_position(0.0, elevation), atol=1e-5)


def test_a_pipeline_that_is_not_there_names_role_and_way_out(no_network):
    with pytest.raises(ModelUnavailable, match=r"nobody/none' \(role text_to_image\).*text_to_image to stand-in"):
        text_to_image(profile_with(text_to_image="nobody/none"))


# ---------------------------------------------------------------------------------------------------------- saliency


@pytest.fixture(scope="module")
def rendered():
    """Two views of an object of each category: (B, 3, 64, 64) on white and their true opacity (B, 1, 64, 64)."""
    rng, cameras = np.random.default_rng(0), orbit_cameras(2, 0.4)
    meshes = [build_mesh(sample_object(rng, [kind.name])) for kind in CATEGORIES]
    rgba = torch.from_numpy(
        np.concatenate([render_views(mesh, cameras, default_intrinsics(2), 64).rgba for mesh in meshes])
    ).movedim(-1, 1)
    return on_white(rgba), rgba[:, 3:].float() / 255


def overlap(masks, truth):
    masks, truth = masks > 0.5, truth > 0.5
    return (masks & truth).flatten(1).sum(1) / (masks | truth).flatten(1).sum(1)


def test_the_stand_ins_masks_are_nearly_the_renderers(rendered):
    images, truth = rendered
    masks = saliency(profile_with(saliency="stand-in"))(images)
    assert masks.shape == truth.shape
    assert (masks - truth).abs().mean() < 0.005
    assert overlap(masks, truth).mean() > 0.97


def test_small_coloured_patches_and_noise_in_the_background_stay_out_of_the_mask(rendered):
    """Section 3.3: what the opacity loss is there for."""
    images, truth = rendered
    soiled = images.clone()
    soiled[..., 3:7, 4:8] = torch.tensor([0.8, 0.2, 0.2])[:, None, None]
    soiled = (soiled * 0.97 + 0.02 * torch.randn(soiled.shape, generator=seeded(0))).clamp(0, 1)
    masks = saliency(profile_with(saliency="stand-in"))(soiled)
    alone = truth[..., 2:8, 3:9].flatten(1).amax(dim=1) == 0
    assert alone.sum() > 40
    assert masks[alone][..., 2:8, 3:9].max() == 0
    assert overlap(masks, truth).mean() > 0.95


@pytest.mark.parametrize("back", [(0.93, 0.94, 0.92), (0.5, 0.5, 0.5), (0.1, 0.3, 0.6)])
def test_the_background_need_not_be_white(back):
    picture, coverage = discs((0.9, 0.5, 0.1), back)
    masks = saliency(profile_with(saliency="stand-in"))(picture)
    assert (masks - coverage).abs().max() < 0.15
    assert (masks - coverage).abs().mean() < 0.003


def test_nothing_on_white_has_an_empty_mask():
    masks = saliency(profile_with(saliency="stand-in"))(torch.ones(2, 3, 32, 48))
    assert torch.equal(masks, torch.zeros(2, 1, 32, 48))
    assert saliency(profile_with(saliency="stand-in"))(torch.ones(0, 3, 8, 8)).shape == (0, 1, 8, 8)


@pytest.fixture
def u2net(tmp_path):
    """A folder with a network of U2-Net's input, whose mask is the red channel."""
    (tmp_path / "u2net.onnx").write_bytes(identity_onnx(320))
    return str(tmp_path)


def test_a_network_of_rembg_makes_the_masks(u2net):
    masks_of = saliency(profile_with(saliency=u2net))
    first, coverage = discs((1.0, 0.2, 0.2), back=(0.0, 0.4, 0.4))
    second, small = discs((0.9, 0.2, 0.2), back=(0.1, 0.4, 0.4), radius=0.2)
    masks = masks_of(torch.cat([first, second]))
    assert masks.shape == (2, 1, 64, 64)
    assert 0 <= masks.min() < masks.max() <= 1
    assert overlap(masks, torch.cat([coverage, small])).min() > 0.95
    assert masks_of(torch.ones(1, 3, 64, 64)).max() == 0


def test_a_folder_without_one_network_and_a_missing_download_name_the_role(tmp_path, no_network, monkeypatch):
    monkeypatch.setenv("U2NET_HOME", str(tmp_path / "empty"))
    with pytest.raises(ModelUnavailable, match=r"role saliency.*holds 0 \.onnx files"):
        saliency(profile_with(saliency=str(tmp_path)))
    with pytest.raises(ModelUnavailable, match=r"'u2net' \(role saliency\).*foundations\.saliency to stand-in"):
        saliency(profile_with(saliency="u2net"))
    with pytest.raises(ModelUnavailable, match=r"'isnet-general-use' \(role background_removal\).*to stand-in"):
        background_removal(profile_with(background_removal="isnet-general-use"))


# ------------------------------------------------------------------------------------------------ background removal


def as_pil(picture: torch.Tensor) -> Image.Image:
    return Image.fromarray((picture[0] * 255).round().byte().movedim(0, -1).numpy())


def noisy_disc() -> tuple[Image.Image, np.ndarray]:
    """A red disc before an uneven background that has no red, and its coverage."""
    picture, coverage = discs((1.0, 0.1, 0.1), back=(0.0, 0.5, 0.5), size=128)
    picture[:, 1:] += 0.1 * torch.randn(1, 2, 128, 128, generator=seeded(0)) * (1 - coverage)
    return as_pil(picture.clamp(0, 1)), coverage[0, 0].numpy()


def test_alpha_and_plain_backgrounds_need_no_network(u2net):
    picture, coverage = discs((0.9, 0.5, 0.1), size=128)
    transparent = as_pil(picture)
    transparent.putalpha(Image.fromarray((coverage[0, 0] * 255).byte().numpy()))
    for name in ("stand-in", u2net):
        remove = background_removal(profile_with(background_removal=name))
        assert remove(transparent).background == "alpha"
        assert np.array_equal(np.asarray(remove(transparent).rgba), np.asarray(transparent))
        assert remove(as_pil(picture)).background == "plain"


def test_photos_go_through_the_network_or_grabcut(u2net, tmp_path, monkeypatch):
    monkeypatch.setenv("U2NET_HOME", u2net)  # weights on the machine: the stand-in does not take them
    photo, coverage = noisy_disc()
    for name, how in (("stand-in", "grabcut"), (u2net, "rembg")):
        cut = background_removal(profile_with(background_removal=name))(photo)
        assert cut.background == how
        assert np.abs(np.asarray(cut.rgba)[..., 3] / 255 - coverage).mean() < 0.02


# ---------------------------------------------------------------------------------------------- perceptual distance


@pytest.fixture(scope="module")
def squeeze(tmp_path_factory):
    """A folder with the weights of LPIPS on a random SqueezeNet, in half precision, as a bundled one would have."""
    import lpips

    folder = tmp_path_factory.mktemp("perceptual_distance")
    distance = PerceptualDistance("untrained")
    torch.manual_seed(7)
    distance.lpips = lpips.LPIPS(net="squeeze", pnet_rand=True, verbose=False)
    distance.save_pretrained(folder, torch.float16)
    return folder, distance.lpips.eval()


def test_a_folders_trunk_and_heads_are_used(squeeze):
    folder, original = squeeze
    distance = perceptual_distance(profile_with(perceptual_distance=str(folder)))
    a, b = torch.rand(2, 3, 3, 64, 64, generator=seeded(0))
    with torch.no_grad():
        expected = original(2 * a - 1, 2 * b - 1).flatten()
    assert distance(a, b).shape == (3,)
    assert torch.allclose(distance(a, b), expected, rtol=0.01)
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in distance.parameters())
    assert not torch.allclose(distance(a, b), PerceptualDistance("untrained")(a, b), rtol=0.05)


def test_the_plain_state_dict_of_lpips_loads_too(squeeze, tmp_path):
    """With its heads twice, under `lin` and `lins`, as `lpips.LPIPS` names them."""
    from safetensors.torch import save_file

    folder, original = squeeze
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    save_file({name: value.clone() for name, value in original.state_dict().items()}, tmp_path / "lpips.safetensors")
    assert len(load_file(tmp_path / "lpips.safetensors")) > len(load_file(folder / "lpips.safetensors"))
    a, b = torch.rand(2, 1, 3, 64, 64, generator=seeded(0))
    assert torch.allclose(PerceptualDistance(str(tmp_path))(a, b), original(2 * a - 1, 2 * b - 1).flatten(), rtol=1e-4)


def test_it_is_differentiable_and_survives_pickling(squeeze):
    distance = perceptual_distance(profile_with(perceptual_distance=str(squeeze[0])))
    a, b = torch.rand(2, 1, 3, 64, 64, generator=seeded(0))
    distance(a.requires_grad_(), b).sum().backward()
    assert a.grad.abs().max() > 0
    assert torch.equal(pickle.loads(pickle.dumps(distance))(a, b), distance(a, b))


def test_an_unknown_trunk_lists_the_known_ones_and_a_download_that_fails_the_way_out(no_network, monkeypatch, tmp_path):
    with pytest.raises(ModelUnavailable, match="alex, vgg, squeeze or untrained"):
        perceptual_distance(profile_with(perceptual_distance="resnet"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ModelUnavailable, match=r"vgg' \(role perceptual_distance\).*to untrained"):
        perceptual_distance(profile_with(perceptual_distance="vgg"))

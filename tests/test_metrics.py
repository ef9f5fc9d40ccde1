"""PSNR against its closed form, SSIM against scikit-image, LPIPS as whatever callable it is given."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from vfusion3d.data.images import on_white, resize
from vfusion3d.evaluation.metrics import lpips, psnr, ssim


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(3, 3, 24, 30, generator=generator)
    return (truth + 0.2 * torch.rand(truth.shape, generator=generator)).clamp(0, 1), truth


@pytest.mark.parametrize("error", [0.5, 0.1, 0.004])
def test_psnr_of_a_constant_error_is_minus_20_log10_of_it(error):
    truth = torch.full((2, 3, 8, 8), 0.5)
    image = truth.clone()
    image[1] += error
    got = psnr(image, truth)
    assert got[0] == math.inf
    assert got[1].item() == pytest.approx(-20 * math.log10(error), abs=1e-3)


def test_ssim_is_scikit_image_s_for_every_image_of_the_batch(pair):
    expected = [
        structural_similarity(
            image.permute(1, 2, 0).numpy().astype(np.float64),
            truth.permute(1, 2, 0).numpy().astype(np.float64),
            data_range=1.0,
            channel_axis=2,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        for image, truth in zip(*pair)
    ]
    assert 0.5 < min(expected) < 0.99
    np.testing.assert_allclose(ssim(*pair).numpy(), expected, atol=1e-4)


def test_ssim_of_one_image_is_one_number_and_one_for_equal_images(pair):
    image, _ = pair
    assert ssim(image[:1], image[:1]).shape == (1,)
    flat = torch.full_like(image, 0.9)
    assert ssim(image, image).numpy() == pytest.approx(1.0, abs=1e-4)
    assert ssim(flat, flat).numpy() == pytest.approx(1.0, abs=1e-4)


def test_ssim_of_an_image_smaller_than_its_window_says_so():
    small = torch.rand(1, 3, 10, 10)
    with pytest.raises(ValueError, match=r"11x11.*10x10"):
        ssim(small, small)


def test_lpips_flattens_what_the_perceptual_module_returns(pair):
    def as_the_lpips_package_does(a, b):
        return (a - b).abs().mean(dim=(1, 2, 3), keepdim=True)

    image, truth = pair
    assert torch.equal(lpips(as_the_lpips_package_does, image, truth), (image - truth).abs().mean(dim=(1, 2, 3)))


def test_a_perceptual_module_that_averages_the_batch_away_is_refused(pair):
    with pytest.raises(ValueError, match="one number an image"):
        lpips(lambda a, b: (a - b).abs().mean(), *pair)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_shapes_that_do_not_fit_are_named(metric):
    with pytest.raises(ValueError, match=r"\(1, 3, 16, 16\) and \(2, 3, 16, 16\)"):
        metric(torch.zeros(1, 3, 16, 16), torch.zeros(2, 3, 16, 16))
    with pytest.raises(ValueError, match=r"\(1, 1, 16, 16\)"):
        metric(torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 16, 16))


def test_transparent_pixels_become_white_whatever_their_colour_and_half_transparent_ones_half_white():
    rgba = torch.zeros(1, 4, 1, 3, dtype=torch.uint8)
    rgba[0, :, 0] = torch.tensor([[255, 0, 0, 0], [255, 0, 0, 255], [0, 0, 0, 51]], dtype=torch.uint8).T
    assert on_white(rgba)[0, :, 0].T.tolist() == [[1, 1, 1], [1, 0, 0], pytest.approx([0.8] * 3)]


def test_reducing_to_half_the_size_keeps_the_mean_and_a_flat_image_flat():
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    assert resize(image, 32) is image
    assert resize(image, 16).shape == (2, 3, 16, 16)
    assert resize(image, 16).mean().item() == pytest.approx(image.mean().item(), abs=0.01)
    assert torch.allclose(resize(torch.full((1, 3, 32, 32), 0.25), 16), torch.tensor(0.25))

"""Image metrics, one number an image: PSNR, SSIM and LPIPS (section 4.3 reports the last two).

All take two batches of images `(N, 3, H, W)` in [0, 1] and return `(N,)`, so that a caller decides what to average
over: the protocol averages over an object's views first, then over objects.
"""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

PerceptualDistance = Callable[[Tensor, Tensor], Tensor]  # (N, 3, H, W) twice, in [0, 1] -> (N,)

SSIM_WINDOW = 11  # pixels: no smaller image has an SSIM


def psnr(image: Float[Tensor, "n 3 h w"], truth: Float[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
    """Peak signal-to-noise ratio in decibels, -10 log10(MSE): the peak is 1, equal images give infinity.

    The whole image counts, its white background included. Raises ValueError on shapes that do not fit.
    """
    _check(image, truth)
    return -10 * (image - truth).square().flatten(1).mean(dim=1).log10()


def ssim(image: Float[Tensor, "n 3 h w"], truth: Float[Tensor, "n 3 h w"]) -> Float[Tensor, " n"]:
    """Structural similarity of Wang et al. 2004, with scikit-image's semantics: 1 for equal images.

    Gaussian window of 11 pixels and sigma 1.5, K1 = 0.01, K2 = 0.03, biased covariances; the mean over the three colour
    channels and over the pixels whose window lies inside the image. torchmetrics computes the map, on any device, but
    its own mean takes in the 5 pixels along the border too, where it mirrors the image: for a small picture on white
    that is another number. scikit-image's is the one given here: `structural_similarity(..., gaussian_weights=True,
    sigma=1.5, use_sample_covariance=False, data_range=1)`, equal to 1e-4 in float32.
    Raises ValueError on shapes that do not fit, and on images smaller than the window.
    """
    _check(image, truth)
    if min(image.shape[-2:]) < SSIM_WINDOW:
        raise ValueError(
            f"SSIM looks through a window of {SSIM_WINDOW}x{SSIM_WINDOW} pixels, the images have only "
            f"{image.shape[-2]}x{image.shape[-1]}: render them larger"
        )
    from torchmetrics.functional.image import structural_similarity_index_measure  # seconds, for one function

    _, similarity = structural_similarity_index_measure(
        image, truth, sigma=1.5, data_range=1.0, reduction="none", return_full_image=True
    )
    border = SSIM_WINDOW // 2
    return similarity[..., border:-border, border:-border].flatten(1).mean(dim=1)


def lpips(
    perceptual: PerceptualDistance, image: Float[Tensor, "n 3 h w"], truth: Float[Tensor, "n 3 h w"]
) -> Float[Tensor, " n"]:
    """Perceptual distance, 0 for equal images. perceptual: what `foundations.perceptual.perceptual_distance` returns.

    Offline that is a miniature stand-in: its numbers can be compared with each other, not with the paper's.
    Raises ValueError on shapes that do not fit.
    """
    _check(image, truth)
    distance = perceptual(image, truth)
    if distance.numel() != len(image):
        raise ValueError(
            f"the perceptual distance returned shape {tuple(distance.shape)} for {len(image)} images: "
            "it has to give one number an image"
        )
    return distance.reshape(len(image))


def _check(image: Tensor, truth: Tensor) -> None:
    if image.shape != truth.shape or image.ndim != 4 or image.shape[1] != 3:
        raise ValueError(
            f"two batches of images (N, 3, H, W) of the same shape are needed, "
            f"not {tuple(image.shape)} and {tuple(truth.shape)}"
        )

"""The miniature VAE: 64x64 pixels to 8x8x4 latents and back, the class that Stable Video Diffusion uses.

Learned by pixels, by edges (differences between neighbouring pixels, which keeps thin things sharp) and by a weak pull
of the latents towards a normal distribution. Left at that, it spends all four latents on edges and never finds a use
for the difference of green and purple. So three latents are drawn towards the mean colour of what they stand for.
Most steps show windows of a quarter of a picture, four times as many; the temporal layers of the decoder learn on runs
of frames. The decoder can learn on alone, with a perceptual distance: latents, and what a video model has learned of
them, stay what they are.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLTemporalDecoder
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, mse_loss

from vfusion3d.data.shards import VideoShards
from vfusion3d.foundations.perceptual import PerceptualDistance
from vfusion3d.learning.loop import Lesson
from vfusion3d.learning.precision import autocast
from vfusion3d.miniatures.training import Training, WebPictures, jitter_colours, random_crops

FRAMES = 4  # neighbours that are decoded together
WINDOW = 32  # pixels a side of what most steps show
WHOLE = 8  # of so many steps, two show whole pictures
ANCHOR = 0.1  # weights of the losses, beside 1 for pixels
EDGES = 0.25
KL = 1e-6
PERCEPTUAL = 0.05  # when the decoder learns alone
CONFIG = {
    "block_out_channels": [32, 32, 64, 64],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "layers_per_block": 1,
    "latent_channels": 4,
    "sample_size": 64,
}
TRAINING = Training(steps=3200, batch_size=48, learning_rate=4e-3, weight_decay=0.0, muon=True, seed=41)
DECODER = replace(TRAINING, steps=2500, batch_size=96, learning_rate=2e-3, seed=42, mixed_precision="bf16")


def vae_lesson(data: str | Path, training: Training = TRAINING, start: str | Path | None = None) -> Lesson:
    """A VAE, and the web world in `data`: single pictures, and every second time runs of `FRAMES` frames.

    start: the folder of such a VAE, to go on from.
    """
    pictures = WebPictures(data)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        vae = AutoencoderKLTemporalDecoder(**CONFIG)
    if start is not None:
        vae = AutoencoderKLTemporalDecoder.from_pretrained(start)

    def batch_of(step: int, places: Sequence[int]) -> tuple[Float[Tensor, "batch 3 size size"], int]:
        """Images in [0, 1], and how many of them in a row are one video."""
        rng, generator = training.random(step, places)
        whole = step // 2 % (WHOLE // 2) == 0
        size = pictures.size if whole else WINDOW
        count = -(-training.batch_size // (4 if whole else 1))
        if step % 2:
            return _runs(pictures.sources[1], rng, -(-count // FRAMES), size).float() / 255, FRAMES
        images = pictures(rng, count).images.float() / 255
        images = torch.cat([images[::2], jitter_colours(images[1::2], generator)])
        share = size / pictures.size
        return random_crops(images, generator, size, 0.8 * share, 1.2 * share), 1

    def losses_of(model, batch, generators):
        images, frames = batch
        return vae_losses(model, images * 2 - 1, frames, generators[0])

    return Lesson(vae, batch_of, losses_of, {"data": pictures.fingerprints})


def decoder_lesson(
    data: str | Path, start: str | Path, distance: PerceptualDistance, training: Training = DECODER
) -> Lesson:
    """The decoder of the VAE in the folder `start`, on the pictures and runs of frames of `vae_lesson`.

    distance: what weighs, beside pixels and edges, how alike a picture and its copy look.
    """
    lesson = vae_lesson(data, training, start)
    lesson.model.requires_grad_(False).decoder.requires_grad_(True)

    def losses_of(model, batch, generators):
        images, frames = batch
        with autocast(training.mixed_precision, lesson.model.device):  # the loop's own reaches a model called as such
            return decoder_losses(model, distance.to(lesson.model.device), images * 2 - 1, frames, generators[0])

    return replace(lesson, losses_of=losses_of)


@torch.no_grad()
def scale_latents(lesson: Lesson) -> None:
    """Set the scaling factor of a trained VAE so that the latents of some of its pictures have a deviation of 1."""
    vae = lesson.model
    images = torch.cat([lesson.batch_of(WHOLE * step, [1])[0] for step in range(8)])
    latents = vae.encode((images * 2 - 1).to(vae.device)).latent_dist.mean
    vae.register_to_config(scaling_factor=1 / latents.std().item())


def vae_losses(vae, images: Float[Tensor, "batch 3 h w"], frames: int, generator: torch.Generator) -> dict[str, Tensor]:
    """The losses for images in [-1, 1]; frames: how many of them in a row are one video."""
    bare = getattr(vae, "module", vae)
    images = images.to(bare.device)
    posterior, decoded = _encoded_and_decoded(bare, images, frames, generator)
    square = images.shape[-1] // posterior.mean.shape[-1]
    anchor = mse_loss(posterior.mean[:, :3], opponent(avg_pool2d(images, square)))
    pixels, edges = _pixels_and_edges(decoded, images)
    kl = posterior.kl().mean() / posterior.mean[0].numel()
    loss = pixels + ANCHOR * anchor + EDGES * edges + KL * kl
    return {"loss": loss, "pixels": pixels, "anchor": anchor, "edges": edges, "kl": kl}


def decoder_losses(
    vae, distance: PerceptualDistance, images: Float[Tensor, "batch 3 h w"], frames: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Pixels, edges and perceptual distance, for images in [-1, 1]; frames: as in `vae_losses`."""
    bare = getattr(vae, "module", vae)
    images = images.to(bare.device)
    _, decoded = _encoded_and_decoded(bare, images, frames, generator)
    decoded = decoded.float()
    pixels, edges = _pixels_and_edges(decoded, images)
    perceptual = distance(decoded / 2 + 0.5, images / 2 + 0.5).mean()
    loss = pixels + EDGES * edges + PERCEPTUAL * perceptual
    return {"loss": loss, "pixels": pixels, "edges": edges, "perceptual": perceptual}


def _encoded_and_decoded(
    vae, images: Float[Tensor, "batch 3 h w"], frames: int, generator: torch.Generator
) -> tuple[DiagonalGaussianDistribution, Float[Tensor, "batch 3 h w"]]:
    posterior = vae.encode(images).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=generator).to(images)
    return posterior, vae.decode(posterior.mean + posterior.std * noise, num_frames=frames).sample


def _pixels_and_edges(decoded: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    along, down = (mse_loss(decoded.diff(dim=axis), images.diff(dim=axis)) for axis in (-1, -2))
    return mse_loss(decoded, images), along + down


def opponent(images: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch 3 h w"]:
    """Colours as brightness, red against blue, green against purple, each of a deviation of about 1 in this world."""
    red, green, blue = images.unbind(dim=1)
    purple = (red + blue) / 2
    return torch.stack([2 * (red + green + blue) / 3, 2 * (red - blue), 4 * (green - purple)], dim=1)


@torch.no_grad()
def reconstruct(
    vae: AutoencoderKLTemporalDecoder, images: Float[Tensor, "batch 3 h w"]
) -> Float[Tensor, "batch 3 h w"]:
    """Images in [0, 1] through the VAE and back, each on its own."""
    latents = vae.encode((images * 2 - 1).to(vae.device)).latent_dist.mean
    return (vae.decode(latents, num_frames=1).sample / 2 + 0.5).clamp(0, 1).to(images.device)


def _runs(videos: VideoShards, rng: np.random.Generator, count: int, size: int) -> Tensor:
    """Neighbouring frames of `count` videos, of each the same window of `size` pixels a side."""
    runs = []
    for _ in range(count):
        index = int(rng.integers(len(videos)))
        start = int(rng.integers(len(videos.picture_names(index)) - FRAMES + 1))
        frames = videos.pictures(index, range(start, start + FRAMES))
        top, left = rng.integers(frames.shape[1] - size + 1, size=2)
        runs.append(frames[:, top : top + size, left : left + size])
    return torch.from_numpy(np.concatenate(runs)).permute(0, 3, 1, 2)

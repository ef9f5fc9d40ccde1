"""Image to video: the model that the paper turns into a source of 3D data (its EMU Video; here Stable Video Diffusion).

The rest of the code knows a video model as `VideoModel` says: what of it is temporal, how it is conditioned, how it is
noised and trained, how it generates, how it is saved and loaded. A second model is a second class with these methods.

Stable Video Diffusion (Blattmann et al., 2023): a UNet denoises the latents of all frames at once, conditioned on the
first frame twice (its latents beside every frame's, its CLIP embedding through cross-attention) and on three numbers
(frames a second, motion bucket, how much noise the first frame got). Noise and preconditioning are EDM's (Karras et
al., 2022): with x = y + sigma n, the UNet sees x / sqrt(sigma^2 + 1) at time log(sigma) / 4 and predicts
v = (n - sigma y) / sqrt(sigma^2 + 1); the loss is the plain mean square error of v.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from diffusers import StableVideoDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from vfusion3d.data.images import to_bytes
from vfusion3d.foundations.loading import (
    ModelUnavailable,
    check_configs,
    device_of,
    load_once,
    pretrained,
    role,
    source_of,
    unavailable,
)
from vfusion3d.learning.draws import Generators, drawn
from vfusion3d.runs.profiles import Profile
from vfusion3d.runs.quiet import keep_quiet
from vfusion3d.runs.reading import read_json

TEMPORAL = ("temporal_res_block", "temporal_transformer_blocks", "time_pos_embed", "time_mixer")
DROPPED = 0.1  # share of training samples without the condition, for classifier-free guidance
SHORT = 16  # latents a side up to which a CPU takes plain products; at 8, in bfloat16, they train 1.8 times faster
SETTINGS = "noise.json"  # beside model_index.json: what the pipeline's own files do not say


@dataclass(frozen=True)
class Noise:
    """log(sigma) of training is normal with this mean and deviation; augmentation: noise on the first frame.

    The defaults are those Stable Video Diffusion was trained with at its usual size.
    """

    mean: float = 0.7
    std: float = 1.6
    augmentation: float = 0.02


@dataclass(frozen=True)
class Condition:
    """What a video is generated from. numbers: fps - 1, motion bucket, noise augmentation."""

    embedding: Float[Tensor, "batch 1 width"]
    latents: Float[Tensor, "batch channels h w"]
    numbers: Float[Tensor, "batch 3"]

    def to(self, device: torch.device | str) -> "Condition":
        """The same on a device."""
        return Condition(self.embedding.to(device), self.latents.to(device), self.numbers.to(device))


class VideoModel(Protocol):
    """What the project asks of a video model. Videos are (batch, frames, 3, H, W) in [0, 1]."""

    network: nn.Module  # what learns; the rest of the model stays as it is

    @classmethod
    def from_pretrained(cls, source: str | Path, device: torch.device | str, dtype: torch.dtype) -> "VideoModel":
        """What `save_pretrained` wrote to a folder, or what the hub has by that name.

        Raises OSError, ValueError or RuntimeError where it cannot be had.
        """

    def save_pretrained(self, folder: str | Path) -> None:
        """Write all of it to a folder that does not exist yet, the network in the type that it learned in."""

    def to(self, device: torch.device | str) -> None:
        """Move all of it to a device."""

    def temporal_parameters(self) -> list[str]:
        """The names of the network's parameters that fine-tuning may change (section 3.2)."""

    def encode(self, videos: Float[Tensor, "batch frames 3 h w"]) -> Float[Tensor, "batch frames c h8 w8"]:
        """Videos as what is noised."""

    def condition(
        self, images: Float[Tensor, "batch 3 h w"], buckets: Sequence[int], fps: int, generator: Generators
    ) -> Any:
        """First frames, with how much shall move (0 to 255), as what the network is conditioned on: for `loss`.

        generator: one for all, or one a video, from which its random numbers come whatever it is computed with.
        """

    def loss(self, network: nn.Module, latents: Tensor, condition: Any, generator: Generators) -> Float[Tensor, ""]:
        """The model's own diffusion loss; network is its network, perhaps wrapped for several devices."""

    def generate(
        self,
        images: Float[Tensor, "batch 3 h w"],
        generator: list[torch.Generator],
        *,
        bucket: int,
        frames: int,
        steps: int,
        guidance: tuple[float, float],
        fps: int,
    ) -> Float[Tensor, "batch frames 3 h w"]:
        """One video from each first frame and from random numbers of its own, on the CPU.

        bucket: how much shall move. steps: of denoising. guidance: of the first and of the last frame.
        """


class StableVideoDiffusion:
    """A `StableVideoDiffusionPipeline` as a `VideoModel`."""

    def __init__(self, pipeline: StableVideoDiffusionPipeline, noise: Noise | None = None):
        self.pipeline, self.noise = pipeline, noise or Noise()
        pipeline.set_progress_bar_config(disable=True)
        if pipeline.device.type == "cpu" and pipeline.unet.config.sample_size <= SHORT:
            pipeline.unet.set_attn_processor(AttnProcessor())

    @classmethod
    def from_pretrained(
        cls, source: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> "StableVideoDiffusion":
        """From a hub name or a folder; the folder of a miniature also says how its noise was distributed.

        Raises FileNotFoundError that names folder and component where one is missing.
        """
        keep_quiet()
        if Path(source).is_dir():
            check_components(Path(source))
            check_configs(Path(source))
        pipeline = pretrained(StableVideoDiffusionPipeline, source, dtype=dtype, use_safetensors=True)
        pipeline.to(device)
        settings = Path(source) / SETTINGS
        return cls(pipeline, read_json(settings, Noise) if settings.exists() else None)

    @property
    def network(self) -> nn.Module:
        """The denoising UNet."""
        return self.pipeline.unet

    def to(self, device: torch.device | str) -> None:
        """Move the pipeline to a device."""
        self.pipeline.to(device)

    def temporal_parameters(self) -> list[str]:
        """Temporal residual blocks, temporal transformer blocks with their position embedding, and the mixers."""
        return [name for name, _ in self.network.named_parameters() if any(part in name for part in TEMPORAL)]

    @torch.no_grad()
    def encode(self, videos: Float[Tensor, "batch frames 3 h w"]) -> Float[Tensor, "batch frames c h8 w8"]:
        """Scaled latents."""
        vae = self.pipeline.vae
        pixels = (videos.flatten(0, 1) * 2 - 1).to(vae.device, vae.dtype)
        return (vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor).unflatten(0, (len(videos), -1))

    @torch.no_grad()
    def condition(
        self, images: Float[Tensor, "batch 3 h w"], buckets: Sequence[int], fps: int, generator: Generators
    ) -> Condition:
        """As the pipeline does it: the embedding of the clean image, the unscaled latents of the noised one."""
        vae = self.pipeline.vae
        embedding = self.embed(images)
        noised = images * 2 - 1 + self.noise.augmentation * drawn(torch.randn, images.shape, generator).to(images)
        latents = vae.encode(noised.to(vae.device, vae.dtype)).latent_dist.mode()
        return Condition(embedding, latents, self.numbers(buckets, fps).to(embedding))

    @torch.no_grad()
    def embed(self, images: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch 1 width"]:
        """The CLIP embeddings of images in [0, 1]."""
        return self.pipeline._encode_image(to_pil(images), self.pipeline.device, 1, False)

    def numbers(self, buckets: Sequence[int], fps: int) -> Float[Tensor, "batch 3"]:
        """What a condition says beside the image, on the CPU."""
        return torch.tensor([[fps - 1, bucket, self.noise.augmentation] for bucket in buckets])

    def loss(
        self, network: nn.Module, latents: Tensor, condition: Condition, generator: Generators
    ) -> Float[Tensor, ""]:
        """EDM's loss in its v form; a tenth of the samples learn without the first frame."""
        draw = drawn(torch.randn, latents.shape[:1], generator)
        noise = drawn(torch.randn, latents.shape, generator).to(latents)
        kept = (drawn(torch.rand, latents.shape[:1], generator) >= DROPPED).to(latents).view(-1, 1, 1)
        sigma = (self.noise.mean + self.noise.std * draw).exp().to(latents).view(-1, 1, 1, 1, 1)
        whole = (sigma.square() + 1).sqrt()
        first = (condition.latents * kept[..., None])[:, None].expand(-1, latents.shape[1], -1, -1, -1)
        seen = torch.cat([(latents + sigma * noise) / whole, first], dim=2)
        time = sigma.flatten().log() / 4
        predicted = network(seen, time, condition.embedding * kept, condition.numbers, return_dict=False)[0]
        return mse_loss(predicted.float(), ((noise - sigma * latents) / whole).float())

    @torch.no_grad()
    def generate(
        self,
        images: Float[Tensor, "batch 3 h w"],
        generator: torch.Generator | list[torch.Generator],
        *,
        bucket: int = 127,
        frames: int | None = None,
        steps: int = 25,
        guidance: tuple[float, float] = (1.0, 3.0),
        fps: int = 7,
    ) -> Float[Tensor, "batch frames 3 h w"]:
        """Videos in [0, 1] on the CPU.

        generator: one for all, or one a video. guidance: of the first and of the last frame, linear between them.
        """
        height, width = images.shape[-2:]
        made = self.pipeline(
            to_pil(images),
            height=height,
            width=width,
            num_frames=self.network.config.num_frames if frames is None else frames,
            num_inference_steps=steps,
            min_guidance_scale=guidance[0],
            max_guidance_scale=guidance[1],
            fps=fps,
            motion_bucket_id=bucket,
            noise_aug_strength=self.noise.augmentation,
            generator=generator,
            output_type="pt",
        )
        return made.frames.float().cpu()

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write the pipeline in the hub's layout, and beside it how its noise is distributed."""
        parts = (self.pipeline.unet, self.pipeline.vae, self.pipeline.image_encoder)
        before = [next(part.parameters()).dtype for part in parts]
        for part in parts:
            nn.Module.to(part, dtype)
        self.pipeline.save_pretrained(folder)
        for part, old in zip(parts, before, strict=True):
            nn.Module.to(part, old)
        for config in Path(folder).rglob("*.json"):  # which folder a part came from is nobody's business
            known = read_json(config, dict[str, Any])
            known.pop("_name_or_path", None)
            config.write_text(json.dumps(known, indent=2) + "\n")
        (Path(folder) / SETTINGS).write_text(json.dumps(asdict(self.noise), indent=2) + "\n")


@role("image_to_video")
def image_to_video(profile: Profile) -> VideoModel:
    """The profile's video model, on its device, in its dtype. Raises ModelUnavailable where it cannot be had.

    It is loaded once a process: who trains it takes `load_video_model` for a copy of their own.
    """
    return load_once(profile, "image_to_video", StableVideoDiffusion.from_pretrained)


@role("image_to_video")
def load_video_model(
    profile: Profile, source: str | Path | None = None, dtype: torch.dtype = torch.float32
) -> VideoModel:
    """A copy of one's own of the profile's video model, or of a fine-tuned one in a folder, to train it.

    dtype: of its numbers; training takes the default. Raises ModelUnavailable where it cannot be had.
    """
    name = str(source) if source is not None else source_of(profile, "image_to_video")
    try:
        return StableVideoDiffusion.from_pretrained(name, device_of(profile), dtype)
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        if source is not None:
            raise ModelUnavailable(f"the video model {name} could not be loaded: {reason}") from error
        raise unavailable(profile, "image_to_video", f"{name}: {reason}") from error


def check_components(folder: Path) -> None:
    """Raise FileNotFoundError where a pipeline's folder lacks a component that its `model_index.json` lists.

    The libraries would look for it elsewhere, or name a file and not the component.
    """
    index = folder / "model_index.json"
    if not index.exists():
        raise FileNotFoundError(f"{folder} has no model_index.json: it is no folder of a video model")
    for name, kind in read_json(index, dict[str, Any]).items():
        if name.startswith("_") or not isinstance(kind, list) or not kind or kind[0] is None:
            continue
        files = {"scheduler": ["scheduler_config.json"], "feature_extractor": ["preprocessor_config.json"]}
        for wanted in files.get(name, ["config.json", "*.safetensors"]):
            if not any((folder / name).glob(wanted)):
                raise FileNotFoundError(
                    f"{folder} lacks the component {name} ({name}/{wanted}): copy the whole folder, or make it again"
                )


def to_pil(images: Float[Tensor, "batch 3 h w"]) -> list[Image.Image]:
    """Images in [0, 1] as pictures: what the pipeline resizes by itself."""
    return [Image.fromarray(picture) for picture in to_bytes(images)]

"""Counts the floating point operations of the models of the paper profile: `flops` in book/rates.yaml.

    python benchmarks/flops.py

Every model is built without memory (torch's meta device) from the configuration that its weights on the hub have, and
torch counts its matrix products and convolutions, two operations a multiplication with addition. Of the backward pass
the rule of thumb is used: twice the forward pass for what learns, once for what only passes gradients on.
"""

import json

import open_clip
import torch
from diffusers import AutoencoderKLTemporalDecoder, UNet2DConditionModel, UNetSpatioTemporalConditionModel
from torch.utils.flop_counter import FlopCounterMode
from transformers import Dinov2Config, Dinov2Model

from vfusion3d.model.vfusion3d import VFusion3D

HIDDEN = 64  # width of the field decoder
VGG_128 = 2 * 15.3e9 * (128 / 224) ** 2  # LPIPS's trunk, on one picture of 128 pixels; 15.3 G multiply-adds at 224


@torch.no_grad()
def count(run) -> float:
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


def vfusion3d(image_size: int, views: int, rays: int, samples: int = 128) -> dict[str, float]:
    """Forward pass of the network, and of the renders of one object, `rays` in each of `views`; parameters."""
    model = VFusion3D(image_size=image_size).requires_grad_(False)
    image, camera = torch.zeros(1, 3, image_size, image_size), torch.zeros(1, 16)
    channels = 3 * model.config.triplane_channels
    point = 2 * (channels * HIDDEN + 2 * HIDDEN * HIDDEN + HIDDEN * 4)
    network = count(lambda: model(image, camera))
    return {"network": network, "render": float(views * rays * samples * point), "all": float(model.num_parameters())}


def video_vae() -> AutoencoderKLTemporalDecoder:
    """The VAE of Stable Video Diffusion, untrained."""
    return AutoencoderKLTemporalDecoder(
        block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4, layers_per_block=2
    )


def video_model() -> dict[str, float]:
    """Stable Video Diffusion, 16 frames of 512 pixels: one pass of the U-Net, and the VAE both ways."""
    unet = UNetSpatioTemporalConditionModel().requires_grad_(False).to("meta")  # some of it insists on memory
    latents, embedding = torch.zeros(1, 16, 8, 64, 64), torch.zeros(1, 1, 1024)
    step = count(lambda: unet(latents, torch.zeros(1), embedding, torch.zeros(1, 3)))
    vae = video_vae().requires_grad_(False).to("meta")
    encode = count(lambda: vae.encode(torch.zeros(16, 3, 512, 512)))
    decode = count(lambda: vae.decode(torch.zeros(16, 4, 64, 64), num_frames=16))
    parameters = {"all": sum(p.numel() for p in unet.parameters())}
    parameters["temporal"] = sum(p.numel() for n, p in unet.named_parameters() if "temporal" in n or "time_mixer" in n)
    return {"step": step, "encode": encode, "decode": decode, **parameters}


def text_to_image() -> dict[str, float]:
    """Stable Diffusion XL's U-Net at 1024 pixels, one pass."""
    unet = UNet2DConditionModel(
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    ).requires_grad_(False)
    added = {"text_embeds": torch.zeros(1, 1280), "time_ids": torch.zeros(1, 6)}
    step = count(
        lambda: unet(torch.zeros(1, 4, 128, 128), torch.zeros(1), torch.zeros(1, 77, 2048), added_cond_kwargs=added)
    )
    return {"step": step, "all": sum(p.numel() for p in unet.parameters())}


def image_features() -> float:
    """DINOv2-base on one picture of 224 pixels."""
    model = Dinov2Model(Dinov2Config(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, patch_size=14))
    model.requires_grad_(False)
    return count(lambda: model(torch.zeros(1, 3, 224, 224)))


def clip() -> float:
    """CLIP ViT-L-14 on one picture of 224 pixels."""
    model = open_clip.create_model("ViT-L-14", device="meta").requires_grad_(False)
    return count(lambda: model.encode_image(torch.zeros(1, 3, 224, 224)))


if __name__ == "__main__":
    torch.set_default_device("meta")
    found = {
        "vfusion3d at 512, 4 patches of 128": vfusion3d(512, 4, 128**2),
        "vfusion3d at 224, 4 patches of 128": vfusion3d(224, 4, 128**2),
        "lpips": {"patch": VGG_128},
        "video model": video_model(),
        "text to image": text_to_image(),
        "image features": {"picture": image_features()},
        "clip": {"picture": clip()},
    }
    for name, counts in found.items():
        print(f"{name}: {json.dumps({what: float(f'{n:.3g}') for what, n in counts.items()})}")

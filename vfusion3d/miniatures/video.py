"""The miniature video model: a `StableVideoDiffusionPipeline` of 16 frames of 64x64, trained from nothing.

VAE and CLIP are trained before and stay as they are; latents and CLIP embeddings of all videos of the web world are
computed once, and the UNet learns on them. Played backwards, a video is another one (a turntable is not: all of them
turn the same way); of a longer one, 16 frames are taken, at any pace.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from vfusion3d.data.shards import VideoShards
from vfusion3d.foundations.image_to_video import Condition, Noise, StableVideoDiffusion
from vfusion3d.learning.loop import Lesson
from vfusion3d.miniatures.clip import EMBEDDING, IMAGE_SIZE, MEAN, STD, VISION
from vfusion3d.miniatures.training import Training
from vfusion3d.runs.claim import write_whole
from vfusion3d.runs.progress import tqdm
from vfusion3d.runs.reading import read_tensors
from vfusion3d.world.motion import motion_bucket
from vfusion3d.world.web_world import FPS, FRAMES

NOISE = Noise(mean=2.5, std=1.8, augmentation=0.0)  # where things will be is decided while there is much of it
UNET = {
    "sample_size": 8,
    "block_out_channels": [64, 64],
    "down_block_types": ["CrossAttnDownBlockSpatioTemporal"] * 2,
    "up_block_types": ["CrossAttnUpBlockSpatioTemporal"] * 2,
    "layers_per_block": 1,
    "num_attention_heads": [2, 2],
    "cross_attention_dim": EMBEDDING,
    "addition_time_embed_dim": 32,
    "projection_class_embeddings_input_dim": 96,
    "num_frames": FRAMES,
}
SCHEDULER = {
    "beta_schedule": "scaled_linear",
    "interpolation_type": "linear",
    "prediction_type": "v_prediction",
    "sigma_min": 0.02,
    "sigma_max": 80.0,
    "timestep_spacing": "leading",
    "timestep_type": "continuous",
    "use_karras_sigmas": True,
}
TRAINING = Training(steps=2000, batch_size=8, learning_rate=1.0e-3, warmup=200, weight_decay=0.01, muon=True, seed=46)


def new_video_model(
    vae: AutoencoderKLTemporalDecoder, clip_state: dict[str, Tensor], seed: int
) -> StableVideoDiffusion:
    """A pipeline around a trained VAE and the image tower of a trained CLIP, with an untrained UNet."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNetSpatioTemporalConditionModel(**UNET)
    pipeline = StableVideoDiffusionPipeline(
        vae=vae.eval().requires_grad_(False),
        image_encoder=image_encoder(clip_state),
        unet=unet,
        scheduler=EulerDiscreteScheduler(**SCHEDULER),
        feature_extractor=CLIPImageProcessor(
            size={"shortest_edge": IMAGE_SIZE}, crop_size=IMAGE_SIZE, image_mean=list(MEAN), image_std=list(STD)
        ),
    )
    return StableVideoDiffusion(pipeline, NOISE)


def image_encoder(clip_state: dict[str, Tensor]) -> CLIPVisionModelWithProjection:
    """The image tower of an open_clip model as the class that the pipeline wants; the same function, other names."""
    heads = VISION["width"] // VISION["head_width"]
    config = CLIPVisionConfig(
        hidden_size=VISION["width"],
        intermediate_size=int(VISION["width"] * VISION["mlp_ratio"]),
        num_hidden_layers=VISION["layers"],
        num_attention_heads=heads,
        image_size=IMAGE_SIZE,
        patch_size=VISION["patch_size"],
        projection_dim=EMBEDDING,
        hidden_act="gelu",
    )
    model = CLIPVisionModelWithProjection(config)
    tower = {
        name.removeprefix("visual."): value.float() for name, value in clip_state.items() if name.startswith("visual.")
    }
    state = {
        "vision_model.embeddings.class_embedding": tower["class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": tower["conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": tower["positional_embedding"],
        "visual_projection.weight": tower["proj"].T.contiguous(),
    }
    for ours, theirs in {"ln_pre": "pre_layrnorm", "ln_post": "post_layernorm"}.items():
        for kind in ("weight", "bias"):
            state[f"vision_model.{theirs}.{kind}"] = tower[f"{ours}.{kind}"]
    parts = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj"}
    parts |= {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    for layer in range(VISION["layers"]):
        source = f"transformer.resblocks.{layer}"
        target = f"vision_model.encoder.layers.{layer}"
        for kind in ("weight", "bias"):
            for ours, theirs in parts.items():
                state[f"{target}.{theirs}.{kind}"] = tower[f"{source}.{ours}.{kind}"]
            for name, value in zip("qkv", tower[f"{source}.attn.in_proj_{kind}"].chunk(3), strict=True):
                state[f"{target}.self_attn.{name}_proj.{kind}"] = value.contiguous()
    missing, unexpected = model.load_state_dict(state, strict=False)
    if unexpected or any("position_ids" not in name for name in missing):
        raise ValueError(f"not an image tower of this CLIP: missing {missing}, unexpected {unexpected}")
    return model.eval().requires_grad_(False)


def of_turntables(videos: VideoShards) -> bool:
    """Whether these are the curated videos of `render_web`: most are turntables, and those all turn the same way."""
    return videos.index["settings"].get("curated", False)


@torch.no_grad()
def encode_all(model: StableVideoDiffusion, videos: VideoShards, path: str | Path, batch: int = 8) -> dict[str, Tensor]:
    """All that the lesson needs of all videos; kept in `path`, and read from there if it exists.

    latents (N, F, 4, h, w), scaled; embeddings (N, F, width): CLIP's, of every frame, as any may come first; of
    turntables of just the model's length (N, 1, width), as only frame 0 does; motion (N,), percent of the side a frame.
    """
    path = Path(path)
    if path.exists() and "embeddings" in (kept := read_tensors(path)[0]):
        return kept  # a file without embeddings was written by an older version
    latents: list[Tensor] = []
    embeddings: list[Tensor] = []
    for start in tqdm(range(0, len(videos), batch), desc="encoding videos", unit="batch"):
        frames = torch.stack([videos[i].frames for i in range(start, min(start + batch, len(videos)))]).float() / 255
        latents.append(model.encode(frames).half().cpu())
        whole = of_turntables(videos) and frames.shape[1] == model.network.config.num_frames
        firsts = frames[:, :1] if whole else frames
        embeddings.append(model.embed(firsts.flatten(0, 1)).view(*firsts.shape[:2], -1).half().cpu())
    motion = torch.tensor([videos.metadata(i)["motion"] for i in range(len(videos))])
    encoded = {"latents": torch.cat(latents), "embeddings": torch.cat(embeddings), "motion": motion}
    write_whole(path, partial(save_file, encoded))
    return encoded


def video_lesson(
    model: StableVideoDiffusion, videos: VideoShards, encoded: dict[str, Tensor], training: Training = TRAINING
) -> Lesson:
    """The UNet of a video model, and videos that were encoded before.

    Raises ValueError for a model that adds noise to first frames, which are encoded once here.
    """
    if model.noise.augmentation:
        raise ValueError(
            f"first frames are encoded once, without noise: noise.augmentation must be 0, not {model.noise}"
        )
    latents = encoded["latents"]
    embeddings = encoded["embeddings"]
    turntables = of_turntables(videos)
    stored = latents.shape[1]
    frames = model.network.config.num_frames
    scale = model.pipeline.vae.config.scaling_factor

    def batch_of(step: int, places: Sequence[int]) -> tuple[Float[Tensor, "batch frames c h w"], Condition]:
        """Latents, and what they are conditioned on: see `StableVideoDiffusion.condition`."""
        rng, _ = training.random(step, places)
        chosen = rng.integers(len(latents), size=training.batch_size)
        backwards = (rng.random(training.batch_size) < 0.5) & (not turntables)
        pace = rng.integers(1, (stored - 1) // (frames - 1) + 1, size=training.batch_size)
        order = rng.integers(stored - (frames - 1) * pace)[:, None] + pace[:, None] * np.arange(frames)
        order = np.where(backwards[:, None], order[:, ::-1], order)
        motions = encoded["motion"][chosen] * torch.from_numpy(pace)
        numbers = model.numbers([motion_bucket(float(motion)) for motion in motions], FPS)
        of = torch.from_numpy(chosen)
        places = torch.from_numpy(order)
        clean = latents[of[:, None], places].float()
        return clean, Condition(embeddings[of, places[:, 0]].float()[:, None], clean[:, 0] / scale, numbers)

    def losses_of(network, batch, generators):
        device = next(network.parameters()).device
        clean, condition = batch
        return {"loss": model.loss(network, clean.to(device), condition.to(device), generators[0])}

    return Lesson(model.network, batch_of, losses_of, {"data": [videos.fingerprint]})

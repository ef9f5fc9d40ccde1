"""Train VFusion3D on multi-view shards by the recipe of section 3.3: a whole run, from profile to model folder."""

import dataclasses
import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from vfusion3d.curation.labels import SyntheticShards
from vfusion3d.data.shards import MultiviewShards
from vfusion3d.data.subset import Subset
from vfusion3d.foundations.loading import source_of
from vfusion3d.foundations.perceptual import perceptual_distance
from vfusion3d.loop import LoopSettings, fingerprint, train
from vfusion3d.model.initialise import start_local
from vfusion3d.model.vfusion3d import ATTENTION, VFusion3D
from vfusion3d.profiles import Profile, Recipe
from vfusion3d.settings import claim_folder, save_whole
from vfusion3d.training.losses import Losses
from vfusion3d.training.schedule import learning_rate, total_steps
from vfusion3d.training.supervision import Supervision

SIZES = {
    # under 3 M parameters: most of them in the encoder, where a token is cheap
    "mini": {
        "patch_size": 8,
        "position_grid": 8,
        "encoder_width": 160,
        "encoder_layers": 6,
        "encoder_heads": 5,
        "camera_width": 64,
        "width": 128,
        "layers": 3,
        "heads": 4,
        "triplane_size": 12,
        "triplane_channels": 32,
        "samples_per_ray": 32,
        "source_distance": 1.5,
        "source_elevation": math.pi / 8,
    },
    "released": {},  # the defaults of VFusion3D
}


def new_model(profile: Profile, generator: torch.Generator) -> VFusion3D:
    """A model of the profile's size: from its bundled start if it names one, else from nothing.

    The released size takes its encoder from the role image_features (section 3.1: a pretrained DINO).
    """
    if profile.model.start:
        return VFusion3D.from_pretrained(profile.model.start)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        model = VFusion3D(image_size=profile.model.image_size, **SIZES[profile.model.size])
    if profile.model.size == "released":
        from transformers import Dinov2Model

        options = {"use_safetensors": True, "attn_implementation": ATTENTION}
        model.encoder.model = Dinov2Model.from_pretrained(source_of(profile, "image_features"), **options)
        model.encoder.model.embeddings.mask_token.requires_grad_(False)
        return model
    return start_local(model, generator)


def train_vfusion3d(
    profile: Profile,
    data: str | Path | MultiviewShards | SyntheticShards | Subset,
    folder: str | Path,
    *,
    recipe: Recipe | None = None,
    model: VFusion3D | None = None,
    seed: int = 0,
    show=None,
    show_every: int = 0,
    checkpoint_every: int = 50,
    stop_after: float = math.inf,
    overwrite: bool = False,
) -> VFusion3D:
    """Train on `data`, a folder of rendered shards or a data set at hand; checkpoint and log go to `folder`.

    recipe: by default `profile.training`; `profile.finetuning`, with a trained `model`, is section 3.3's fine-tuning.
    model: what to start from, else `new_model`. Interrupted, the same call goes on where it stopped; once done, it
    loads `folder/model` and returns. stop_after: seconds after which to stop early (`folder/model` is then not there).
    Raises ValueError where the folder holds a run of another recipe, data set, seed or start; with overwrite, that run
    is deleted.
    """
    folder, recipe, state = Path(folder), recipe or profile.training, PartialState(cpu=profile.device == "cpu")
    shards = MultiviewShards(data) if isinstance(data, str | Path) else data
    steps = total_steps(recipe, len(shards))
    given = model is not None or profile.model.start is not None
    model = new_model(profile, torch.Generator().manual_seed(seed)) if model is None else model
    perceptual = perceptual_distance(profile) if recipe.losses.lpips else None
    if state.is_main_process:
        settings = training_settings(profile, shards, recipe, model, given, seed)
        claim_folder(folder, settings, overwrite=overwrite)
    state.wait_for_everyone()
    if (folder / "model").is_dir():
        return VFusion3D.from_pretrained(folder / "model")
    supervision = Supervision(shards, recipe, model.config.image_size, steps, seed, state.num_processes)
    losses = Losses(recipe, perceptual)
    settings = LoopSettings(
        steps=steps,
        learning_rate=lambda step: learning_rate(recipe, step, steps),
        seed=seed,
        weight_decay=recipe.weight_decay,
        muon=recipe.optimizer == "muon",
        grad_clip=recipe.grad_clip,
        average=recipe.average,
        mixed_precision=recipe.mixed_precision,
        compile=recipe.compile,
        checkpoint_every=checkpoint_every,
    )
    watch = {"show": show and partial(show, model), "show_every": show_every, "stop_after": stop_after}
    done = train(model, supervision.batch, losses, settings, folder, device=profile.device, **watch)
    if done and state.is_main_process:
        save_whole(partial(save_model, model), folder / "model")
    return model


def training_settings(
    profile: Profile,
    data: MultiviewShards | SyntheticShards | Subset,
    recipe: Recipe,
    model: VFusion3D,
    given: bool,
    seed: int,
) -> dict[str, Any]:
    """What a training's folder is claimed with: two trainings that agree in it give the same model.

    model: where it starts; given: whether its weights matter, or are drawn from the seed.
    """
    return {
        "training": dataclasses.asdict(recipe),
        "model": {name: value for name, value in model.config.items() if not name.startswith("_")},
        "perceptual_distance": profile.foundations.perceptual_distance,
        "data": data.fingerprint,
        "seed": seed,
        "start": fingerprint(model) if given else None,
    }


def save_model(model: VFusion3D, folder: Path) -> None:
    """`save_pretrained` without the place where its start was loaded from, on this machine."""
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config.pop("_name_or_path", None)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")

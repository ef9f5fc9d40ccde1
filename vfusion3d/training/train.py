"""Train VFusion3D on multi-view shards by the recipe of section 3.3: a whole run, from profile to model folder."""

import math
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from vfusion3d.data.shards import MultiviewShards
from vfusion3d.data.subset import Subset
from vfusion3d.data.synthetic import SyntheticShards
from vfusion3d.foundations.loading import device_of, name_of, pretrained, source_of, unavailable
from vfusion3d.foundations.roles import Roles
from vfusion3d.learning.loop import Lesson, LoopSettings, learn, recorded
from vfusion3d.learning.processes import several_processes
from vfusion3d.model.initialise import start_local
from vfusion3d.model.sizes import SIZES, Config
from vfusion3d.model.vfusion3d import VFusion3D
from vfusion3d.runs.claim import Arguments
from vfusion3d.runs.memory import check_memory
from vfusion3d.runs.profiles import Profile, Recipe
from vfusion3d.runs.ranges import check_ranges
from vfusion3d.training.losses import Losses
from vfusion3d.training.schedule import learning_rate, total_steps
from vfusion3d.training.supervision import Supervision

SAMPLE_BYTES = 200  # that a sample of a ray keeps for the gradient, at least (240 with checkpointing, 1200 without)


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

        if profile.foundations.image_features.endswith(".py"):
            raise unavailable(profile, "image_features", "the encoder's weights come from a DINOv2, not from a file")
        source = source_of(profile, "image_features")
        model.encoder.model.load_state_dict(pretrained(Dinov2Model, source, use_safetensors=True).state_dict())
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
    several_processes(profile.device)  # gives each process its GPU, before anything is loaded
    shards = MultiviewShards(data) if isinstance(data, str | Path) else data
    lesson = training_lesson(Roles(profile), shards, recipe or profile.training, model, seed, checkpoint_every)
    trained = learn(
        lesson,
        folder,
        overwrite=overwrite,
        show=show and partial(show, lesson.model),
        show_every=show_every,
        stop_after=stop_after,
        device=profile.device,
    )
    return lesson.model if trained is None else VFusion3D.from_pretrained(trained).to(device_of(profile))


def training_lesson(
    roles: Roles,
    data: MultiviewShards | SyntheticShards | Subset,
    recipe: Recipe,
    model: VFusion3D | None,
    seed: int,
    checkpoint_every: int = 50,
) -> Lesson:
    """What `learn` takes to train on a data set by a recipe: two trainings of equal settings give the same model.

    model: where it starts, else `new_model`. Raises ValueError where the data have fewer views than the recipe wants.
    """
    check_ranges(seed=seed)
    given = model is not None or roles.profile.model.start is not None
    model = new_model(roles.profile, torch.Generator().manual_seed(seed)) if model is None else model
    if recipe.checkpointing:
        model.enable_gradient_checkpointing()
    steps = total_steps(recipe, len(data))
    at_once = recipe.micro_batch or math.ceil(recipe.batch_size / several_processes(roles.profile.device).num_processes)
    samples = recipe.views * (recipe.rays_per_view or recipe.patch_size**2) * recipe.samples_per_ray
    names = "training's batch_size (or micro_batch), views, patch_size and samples_per_ray"
    check_memory(names, at_once * samples * SAMPLE_BYTES, device_of(roles.profile))
    supervision = Supervision(data, recipe, model.config.image_size, steps, seed)
    losses = Losses(recipe, roles.perceptual_distance if recipe.losses.lpips else None)
    settings = {
        "training": recorded(recipe, roles.profile.device),
        "model": Arguments(Config, asdict(model.config)),
        "perceptual_distance": name_of(roles.profile, "perceptual_distance"),
        "data": data.fingerprint,
        "seed": seed,
    }
    if not given and roles.profile.model.size == "released":
        settings["encoder"] = name_of(roles.profile, "image_features")
    loop = LoopSettings(
        steps=steps,
        learning_rate=lambda step: learning_rate(recipe, step, steps),
        batch_size=recipe.batch_size,
        micro_batch=recipe.micro_batch,
        seed=seed,
        weight_decay=recipe.weight_decay,
        muon=recipe.optimizer == "muon",
        grad_clip=recipe.grad_clip,
        average=recipe.average,
        mixed_precision=recipe.mixed_precision,
        compile=recipe.compile,
        checkpoint_every=checkpoint_every,
    )
    return Lesson(model, supervision.batch, losses, settings, loop, given, model.save_pretrained)

"""Fine-tune the video model on orbits of 3D objects: only what is temporal learns (section 3.2).

A sample is the 16 views of an object on white as one video, its first frame (azimuth 0) the condition. No camera goes
in: all orbits are alike, except for the elevation, which the first frame shows. Everything is frozen but the temporal
convolutions and attentions, so the model keeps what it knows about pictures, and of uncommon things.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vfusion3d.data.images import on_white, resize
from vfusion3d.data.shards import MultiviewShards
from vfusion3d.foundations.image_to_video import VideoModel, load_video_model
from vfusion3d.foundations.loading import device_of
from vfusion3d.learning.draws import Generators, drawn, sample_generators
from vfusion3d.learning.loop import Lesson, LoopSettings, learn, recorded, samples_of_step
from vfusion3d.learning.processes import several_processes
from vfusion3d.runs.memory import check_memory
from vfusion3d.runs.profiles import Profile, Video

LATENTS_KEPT = 1 << 30  # pixels: of data sets up to this size the latents are kept in memory, about 100 MB


def finetune_video_model(
    profile: Profile,
    data: str | Path,
    folder: str | Path,
    *,
    objects: int | None = None,
    model: VideoModel | None = None,
    seed: int = 0,
    show: Callable[[VideoModel, int], None] | None = None,
    show_every: int = 0,
    checkpoint_every: int = 50,
    stop_after: float = math.inf,
    overwrite: bool = False,
) -> VideoModel:
    """Fine-tune by `profile.video` on the orbits in `data`; the pipeline goes to `FOLDER/model`.

    The log goes to `folder` too, and every `checkpoint_every` steps a checkpoint, which holds the whole network.

    objects: learn from the first so many only (Table 3). model: what to start from, by default the profile's video
    model. show(model, step): called every `show_every` steps and at the end. Interrupted, the same call goes on where
    it stopped; once done, it loads `folder/model` and returns. Raises ValueError where the folder holds a run of other
    settings (overwrite: it is deleted), and for orbits that cannot be made into videos.
    """
    several_processes(profile.device)  # gives each process its GPU, before anything is loaded
    model = load_video_model(profile) if model is None else model
    tuned = learn(
        orbit_lesson(profile, MultiviewShards(data), objects, model, seed, checkpoint_every),
        folder,
        overwrite=overwrite,
        show=show and partial(show, model),
        show_every=show_every,
        stop_after=stop_after,
        device=profile.device,
    )
    return model if tuned is None else type(model).from_pretrained(tuned, device_of(profile), torch.float32)


def orbit_lesson(
    profile: Profile, shards: MultiviewShards, objects: int | None, model: VideoModel, seed: int, checkpoint_every: int
) -> Lesson:
    """What `learn` takes to fine-tune a video model on the orbits of the first `objects` objects (None: all).

    Raises ValueError for more objects than there are and for orbits that cannot be made into videos.
    """
    recipe = profile.video
    objects = len(shards) if objects is None else objects
    if not 1 <= objects <= len(shards):
        raise ValueError(f"objects is {objects}, but {shards.folder} holds {len(shards)}")
    state = several_processes(profile.device)
    at_once = recipe.micro_batch or math.ceil(recipe.batch_size / state.num_processes)
    pixels = at_once * recipe.frames * recipe.size**2
    check_memory("video's batch_size (or micro_batch), frames and size", 3 * 4 * 4 * pixels, state.device)
    model.to(state.device)  # the loop moves only what learns
    learn_temporal_only(model)
    if recipe.checkpointing:
        model.network.enable_gradient_checkpointing()
    orbits = _Orbits(shards, model, recipe, objects, seed)
    settings = {
        "video": recorded(recipe, profile.device),
        "data": shards.fingerprint,
        "objects": objects,
        "seed": seed,
    }
    loop = LoopSettings(
        steps=recipe.steps,
        learning_rate=partial(learning_rate, recipe),
        batch_size=recipe.batch_size,
        micro_batch=recipe.micro_batch,
        seed=seed,
        weight_decay=recipe.weight_decay,
        muon=recipe.optimizer == "muon",
        mixed_precision=recipe.mixed_precision,
        checkpoint_every=checkpoint_every,
    )
    return Lesson(model.network, orbits.batch, orbits.losses, settings, loop, save=model.save_pretrained)


def learn_temporal_only(model: VideoModel) -> None:
    """Freeze all of the network but its temporal parameters."""
    learning = set(model.temporal_parameters())
    for name, parameter in model.network.named_parameters():
        parameter.requires_grad_(name in learning)


def temporal_share(model: VideoModel) -> float:
    """The share of the network's numbers that are temporal."""
    sizes = {name: parameter.numel() for name, parameter in model.network.named_parameters()}
    return sum(sizes[name] for name in model.temporal_parameters()) / sum(sizes.values())


def learning_rate(recipe: Video, step: int) -> float:
    """Linear warm-up, then constant, or falling to 0 along a cosine (`recipe.anneal`)."""
    rate = recipe.learning_rate * min(1.0, (step + 1) / max(recipe.warmup_steps, 1))
    return rate * 0.5 * (1 + math.cos(math.pi * step / recipe.steps)) if recipe.anneal else rate


class _Orbits:
    """What a step learns from: the first frames of orbits, and their latents, kept in memory for a small data set.

    Raises ValueError where the stored views are no multiple of the recipe's frames, ShardError that names the sample
    where one has fewer views than the first.
    """

    def __init__(self, shards: MultiviewShards, model: VideoModel, recipe: Video, objects: int, seed: int):
        self.shards = shards
        self.model = model
        self.recipe = recipe
        self.objects = objects
        self.seed = seed
        self.stored = len(shards.picture_names(0))
        self.kept: dict[int, Float[Tensor, "views c h8 w8"]] = {}
        pixels = len(shards) * self.stored * recipe.size**2
        self.keep = pixels <= LATENTS_KEPT
        self.order = orbit_views(self.stored, recipe.frames, shards.folder)

    def batch(self, step: int, places: Sequence[int]) -> tuple[list[tuple[int, int]], Float[Tensor, "b f 3 h w"]]:
        """Random objects, all of them once before any twice, and the view at which the orbit of each begins.

        And their pictures: whole orbits, or the first frame alone where the latents are kept.
        """
        batch_size = self.recipe.batch_size
        indices = samples_of_step(step, places, batch_size=batch_size, count=self.objects, seed=self.seed)
        among = self.stored if self.recipe.any_start else 1
        starts = drawn(partial(torch.randint, among), (len(indices),), sample_generators(self.seed + 1, step, places))
        chosen = list(zip(indices, starts.tolist(), strict=True))
        for index, _ in chosen:
            if (there := len(self.shards.picture_names(index))) != self.stored:
                raise self.shards.damaged(index, f"it has {there} views, the first sample {self.stored}")
        order = self.order[:1] if self.keep else self.order
        return chosen, torch.stack([self._views(index, start, order) for index, start in chosen])

    def losses(
        self, network: nn.Module, batch: tuple[list[tuple[int, int]], Tensor], generators: Generators
    ) -> dict[str, Float[Tensor, ""]]:
        """The model's own loss for a batch; network is its network, perhaps wrapped for several devices."""
        chosen, pictures = batch
        if self.keep:
            orbits = [self._latents(index)[self._turned(start, self.order)] for index, start in chosen]
            latents = torch.stack(orbits)
        else:
            latents = self.model.encode(pictures)
        buckets = [self.recipe.motion_bucket] * len(chosen)
        condition = self.model.condition(pictures[:, 0], buckets, self.recipe.fps, generators)
        return {"loss": self.model.loss(network, latents, condition, generators)}

    def _turned(self, start: int, order: Sequence[int]) -> list[int]:
        return [(start + view) % self.stored for view in order]

    def _views(self, index: int, start: int, order: Sequence[int]) -> Float[Tensor, "views 3 size size"]:
        return resize(on_white(self.shards.read(index, self._turned(start, order)).rgba), self.recipe.size)

    def _latents(self, index: int) -> Float[Tensor, "views c h8 w8"]:
        if index not in self.kept:
            views = resize(on_white(self.shards[index].rgba), self.recipe.size)
            self.kept[index] = self.model.encode(views[None])[0]
        return self.kept[index]


def orbit_video(
    shards: MultiviewShards, index: int, frames: int, size: int, start: int = 0
) -> Float[Tensor, "frames 3 size size"]:
    """The orbit of an object as a video on white, in [0, 1]: every n-th view stored, from view `start` on.

    View 0 stands at azimuth 0. Raises ValueError where the stored views are no multiple of `frames`.
    """
    stored = len(shards.picture_names(index))
    order = orbit_views(stored, frames, shards.folder)
    return resize(on_white(shards.read(index, [(start + view) % stored for view in order]).rgba), size)


def orbit_views(stored: int, frames: int, folder: Path) -> range:
    """Which of the stored views make a video of `frames` frames. Raises ValueError where they cannot be even."""
    if stored % frames:
        raise ValueError(
            f"{folder} holds orbits of {stored} views, from which no {frames} can be taken evenly: "
            f"render them with --views {frames}"
        )
    return range(0, stored, stored // frames)

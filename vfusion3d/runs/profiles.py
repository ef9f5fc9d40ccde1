"""One word sets the scale of everything: the profile.

A profile is a YAML file with every number that depends on the machine and none that does not. The five bundled ones
stand in `vfusion3d/profiles/`; `load_profile` also takes the path of your own. What a file may hold is exactly what the
dataclasses below say: an unknown, missing or mistyped key is an error that names it. `paper.yaml` holds the numbers
that the paper states (sections 3.2, 3.3, 4.1 and 4.3).
"""

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from vfusion3d.runs.ranges import RANGES, check_ranges
from vfusion3d.runs.reading import ReadingError, read_yaml

FOLDER = Path(__file__).parents[1] / "profiles"
KEPT = 2.7 / 4  # of the generated videos pass the paper's filter (section 3.2)


class ProfileError(ReadingError):
    """A profile that cannot be used; the message names the file, the key and what would be right."""


@dataclass(frozen=True)
class Data:
    """How much of everything (section 3.2). A view is one rendered image of an object."""

    objects_3d: int  # objects with a mesh: fine-tune the video model, and VFusion3D itself
    test_objects: int  # unseen objects of the 3D protocol
    eval_images: int  # single photos of section 4.2
    eval_prompts: int  # prompts of the text-to-3D table
    prompts: int
    videos: int  # generated, before filtering
    judged_videos: int  # judged by hand, for the filter
    render_size: int  # pixels a side of a stored view
    views_3d: int = 32
    shard_size: int = 100  # objects or videos in a file of data; a file is also the least that a job of many makes
    validation_objects: int = 40  # unseen objects on which recipes are chosen, never on those of the test

    def __post_init__(self):
        _positive(self, *(count.name for count in fields(self)))


@dataclass(frozen=True)
class Model:
    """Which VFusion3D is trained, and from where."""

    size: Literal["mini", "released"]
    image_size: int  # pixels a side of the input image
    start: str | None = None  # bundled weights to start from; null trains from nothing

    def __post_init__(self):
        _positive(self, "image_size")


@dataclass(frozen=True)
class Foundations:
    """Which model fills each role.

    A key is the name of the function in `vfusion3d.foundations` that plays the role. `mini` is the bundled miniature,
    `stand-in` a procedure without learned weights (it says so wherever a reader meets it), `untrained` the real
    architecture with random weights; anything else is a folder, the name of a pretrained
    model, or a Python file of your own (CONTRIBUTING.md).
    """

    image_to_video: str
    text_to_image: str
    image_features: str
    clip: str
    perceptual_distance: str
    saliency: str
    background_removal: str
    prompt_filter: str
    captioner: str
    aesthetic_score: str


@dataclass(frozen=True)
class Stage:
    """Some epochs at one rendering resolution (pixels a side), from which patches are cut."""

    resolution: int
    epochs: float

    def __post_init__(self):
        _positive(self, "resolution", "epochs")


@dataclass(frozen=True)
class LossWeights:
    """The weight of each loss. The paper's recipe has LPIPS and opacity; a pixel loss is only its baseline."""

    lpips: float = 1.0
    opacity: float = 1.0
    mse: float = 0.0
    l1: float = 0.0  # sharper than mse where two answers are possible: it prefers the likelier one to their mean

    def __post_init__(self):
        weights = (self.lpips, self.opacity, self.mse, self.l1)
        if not all(0 <= weight < float("inf") for weight in weights) or not any(weights):
            raise ProfileError(f"the weights of lpips, opacity, mse, l1 must be 0 or more and not all 0, not {weights}")


@dataclass(frozen=True)
class Recipe:
    """Section 3.3 as data. Each strategy of the paper is one switch:

    multi-stage training: `multi_stage` (false: each step draws a resolution between the first and the last stage's);
    image-level supervision: `losses.mse` 0; opacity loss: `losses.opacity`; camera noise: `camera_noise`.
    """

    batch_size: int  # objects a step, over all devices
    warmup_steps: int
    patch_size: int  # pixels a side of what is rendered and compared
    stages: tuple[Stage, ...]
    losses: LossWeights
    learning_rate: float = 4e-4
    optimizer: Literal["adamw", "muon"] = "adamw"  # the paper's; muon for miniatures: fewer steps are enough
    restart_after_stage: int | None = 2  # the learning rate starts again after this stage, counted from 1; null: never
    cooldown: float | None = None  # share of the steps, the last, in which a constant learning rate falls; null: cosine
    multi_stage: bool = True
    views: int = 4  # supervised views an object, the input among them
    rays_per_view: int = 0  # above 0: scattered rays near the object in place of patches (how the miniatures learn)
    samples_per_ray: int = 128  # half of them coarse, half fine
    camera_noise: float = 0.02  # uniform in [-camera_noise, camera_noise], on extrinsics and intrinsics
    weight_decay: float = 0.05
    grad_clip: float = 1.0  # largest gradient norm
    average: float = 0.0  # decay a step of a moving average of the weights, which is what is kept; 0: the last weights
    variety: bool = False  # half of the objects mirrored left-right, all with their colour channels in a random order
    mixed_precision: Literal["no", "bf16", "auto"] = "no"  # auto: bf16 where the device has instructions for it
    compile: bool = False  # the network through torch.compile; the renderer's shapes change from step to step
    micro_batch: int | None = None  # objects that a device computes at once, adding up gradients; null: its whole share
    checkpointing: bool = False  # forget what layers and samples computed, and compute it again for the gradient
    max_steps: int | None = None  # ends training early

    def __post_init__(self):
        _positive(self, "batch_size", "patch_size", "views", "learning_rate", "grad_clip")
        _not_negative(self, "warmup_steps", "camera_noise", "weight_decay", "rays_per_view")
        _share(self, "average", "cooldown")
        _in_range(self, "samples_per_ray")
        if self.samples_per_ray < 8 or self.samples_per_ray % 2:
            raise ProfileError(f"samples_per_ray must be even and at least 8, not {self.samples_per_ray}")
        if self.rays_per_view and self.losses.lpips:
            raise ProfileError("LPIPS compares patches: with rays_per_view, losses.lpips must be 0")
        for name in ("max_steps", "micro_batch"):
            if getattr(self, name) is not None:
                _positive(self, name)
        if not self.stages:
            raise ProfileError("stages is empty: give at least one {resolution, epochs}")
        smallest = min(stage.resolution for stage in self.stages)
        if self.patch_size > smallest:
            raise ProfileError(f"patch_size {self.patch_size} does not fit into the stage of resolution {smallest}")
        if self.restart_after_stage is not None and not 1 <= self.restart_after_stage <= len(self.stages):
            raise ProfileError(
                f"restart_after_stage {self.restart_after_stage} is none of the {len(self.stages)} stages"
            )

    @property
    def epochs(self) -> float:
        """Passes over the data in all stages together."""
        return sum(stage.epochs for stage in self.stages)


@dataclass(frozen=True)
class Video:
    """The data engine (section 3.2): how the video model is fine-tuned on orbits, and how it generates."""

    size: int  # pixels a side of its videos
    steps: int  # of fine-tuning
    batch_size: int  # videos a step, over all devices
    learning_rate: float
    inference_steps: int  # of denoising
    generate_batch: int  # videos that are generated at once; more are faster and need more memory
    frames: int = 16  # of a video, and views of the orbits that it learns from
    fps: int = 7
    motion_bucket: int = 127  # the same for all orbits, in fine-tuning and in generating
    guidance: tuple[float, ...] = (1.0, 3.0)  # of the first and of the last frame
    any_start: bool = False  # an orbit may begin at any stored view, not only at azimuth 0: for few objects
    optimizer: Literal["adamw", "muon"] = "adamw"
    anneal: bool = False  # the learning rate falls to 0 along a cosine
    warmup_steps: int = 0
    weight_decay: float = 0.01
    mixed_precision: Literal["no", "bf16", "auto"] = "no"  # of fine-tuning, and of float32 models that generate
    micro_batch: int | None = None  # videos that a device fine-tunes on at once, adding up gradients; null: its share
    checkpointing: bool = False  # forget what the network's blocks computed, and compute it again for the gradient

    def __post_init__(self):
        if self.micro_batch is not None:
            _positive(self, "micro_batch")
        _positive(self, "size", "steps", "batch_size", "learning_rate", "inference_steps", "generate_batch")
        _positive(self, "frames", "fps")
        _not_negative(self, "motion_bucket", "warmup_steps", "weight_decay")
        if self.motion_bucket > 255:
            raise ProfileError(f"motion_bucket is {self.motion_bucket}: Stable Video Diffusion knows 0 to 255")
        if len(self.guidance) != 2:
            raise ProfileError(f"guidance has two numbers, of the first and of the last frame, not {self.guidance}")


@dataclass(frozen=True)
class ExperimentSize:
    """How much the ablations may take (sections 4.3 and 4.4; `vfusion3d/experiments/`)."""

    seeds: int = 1  # of each row of a table
    scaling_seeds: int = 3  # of each point of Figure 7
    steps: int | None = None  # of training on a part of the synthetic data; null: what the recipe's epochs make
    views: int = 32  # compared, of each unseen object and of each prompt's
    second_video_model: str | None = None  # another one for image_to_video, a folder or a hub name; null: no such rows

    def __post_init__(self):
        _positive(self, "seeds", "scaling_seeds", "views")
        if self.steps is not None:
            _positive(self, "steps")


@dataclass(frozen=True)
class Profile:
    """Everything one run needs to know of its scale."""

    name: str
    description: str
    scale: int  # the paper's counts of prompts and videos are divided by this
    scale_3d: int  # the paper's counts of 3D objects are divided by this
    data: Data
    model: Model
    foundations: Foundations
    video: Video
    training: Recipe
    experiments: ExperimentSize = field(default_factory=ExperimentSize)
    finetuning: Recipe | None = None  # of the trained VFusion3D on 3D data (section 3.3); null: not at all
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"  # of the pretrained models in `foundations`
    workers: int | None = None  # processes that render, at most; null: one a CPU core

    def __post_init__(self):
        _positive(self, "scale", "scale_3d")
        if self.workers is not None:
            _positive(self, "workers")
        if not self.name or not self.name.replace("-", "").replace("_", "").isalnum():
            raise ProfileError(f"name {self.name!r} names folders: letters, digits, - and _ only")

    def scaled(self, count: int, least: int = 1) -> int:
        """A count of prompts or videos in the paper, at this profile's scale."""
        return max(least, round(count / self.scale))

    def scaled_3d(self, count: int, least: int = 1) -> int:
        """A count of 3D objects in the paper, at this profile's scale."""
        return max(least, round(count / self.scale_3d))


def profile_path(name_or_path: str | Path) -> Path:
    """The file of a bundled profile, or the path itself. Raises ProfileError where there is no such file."""
    bundled = sorted(path.stem for path in FOLDER.glob("*.yaml"))
    if str(name_or_path) in bundled:
        return FOLDER / f"{name_or_path}.yaml"
    if (path := Path(name_or_path)).is_file():
        return path
    raise ProfileError(f"no profile {str(name_or_path)!r}: use {', '.join(bundled)}, or the path of a .yaml file")


def load_profile(name_or_path: str | Path) -> Profile:
    """Reads and checks a profile: `smoke`, `laptop`, `overnight`, `gpu`, `paper` or the path of a YAML file.

    Raises ProfileError that names the file and the key, with the nearest known key for an unknown one.
    """
    path = profile_path(name_or_path)
    try:
        profile = read_yaml(path, Profile)
        own = {role: str(path.parent / name) for role, name in vars(profile.foundations).items() if name[-3:] == ".py"}
        profile = replace(profile, foundations=replace(profile.foundations, **own))  # as seen from the profile
    except ReadingError as error:
        raise ProfileError(str(error)) from error
    if path.resolve().parent != FOLDER.resolve() and (FOLDER / f"{profile.name}.yaml").is_file():
        raise ProfileError(f"{path}: name: {profile.name} is another profile's, whose results it would overwrite")
    return profile


def _in_range(config: Any, *names: str) -> None:
    try:
        check_ranges(**{name: getattr(config, name) for name in names})
    except ValueError as error:
        raise ProfileError(str(error)) from error


def _positive(config: Any, *names: str) -> None:
    _in_range(config, *(name for name in names if name in RANGES))
    for name in names:
        if not 0 < getattr(config, name) < float("inf"):
            raise ProfileError(f"{name} must be above 0, not {getattr(config, name)}")


def _share(config: Any, *names: str) -> None:
    for name in names:
        if (value := getattr(config, name)) is not None and not 0 <= value < 1:
            raise ProfileError(f"{name} must be at least 0 and below 1, not {value}")


def _not_negative(config: Any, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(config, name) < float("inf"):
            raise ProfileError(f"{name} must be 0 or more, not {getattr(config, name)}")

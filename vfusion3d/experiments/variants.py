"""A variant of the pipeline as data: the few lines that make a row of Tables 3 to 6 or a point of Figure 7.

The counts of a `Variant` are the paper's; `Variant.at` brings it to a profile, and from there on nobody scales again.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, Literal

from vfusion3d.runs.profiles import Profile, ProfileError, Recipe, load_profile
from vfusion3d.runs.reading import ReadingError, read_value, read_yaml
from vfusion3d.training.schedule import total_steps

VARIANTS = Path(__file__).with_name("variants.yaml")
FEWEST = 4  # videos to train on, the best by the filter's score where fewer pass it


@dataclass(frozen=True)
class Finetuning:
    """Training that goes on with 3D data (Table 5): how many objects, which of them, with how many views."""

    objects: int
    chosen: Literal["aesthetic", "random"] = "aesthetic"  # the best by the aesthetic score, or any
    views: int | None = None  # of an object; null: all that are stored

    def __post_init__(self):
        if self.objects < 1 or (self.views is not None and self.views < 1):
            raise ProfileError(f"objects and views must be at least 1, not {self.objects} and {self.views}")


@dataclass(frozen=True)
class Variant:
    """What one model is made of; `variants.yaml` says what each key means."""

    data: Literal["synthetic", "3d"] = "synthetic"
    generated: int | None = None
    videos: int | None = None
    video_objects: int | None = None
    second_video_model: bool = False
    recipe: dict = field(default_factory=dict)
    part: bool = False
    steps_of: str | None = None
    untrained: bool = False
    start: str | None = None
    finetuning: Finetuning | None = None

    def __post_init__(self):
        counts = {name: getattr(self, name) for name in ("generated", "videos", "video_objects")}
        given = {name: count for name, count in counts.items() if count is not None}
        if any(count < 1 for count in given.values()):
            raise ProfileError(f"{', '.join(given)} must be at least 1, not {list(given.values())}")
        if self.data == "3d" and given:
            raise ProfileError(f"{', '.join(given)}: there are no videos where data is 3d")
        if self.generated and self.videos:
            raise ProfileError("generated and videos: count the videos before the filter or after it, not both")
        if self.video_objects and not self.generated:
            raise ProfileError("video_objects: say in `generated` how many videos that video model makes")
        if self.second_video_model and not self.video_objects:
            raise ProfileError("second_video_model: say in `video_objects` how many 3D objects it learns from")
        if self.steps_of and self.part:
            raise ProfileError(f"steps_of: {self.steps_of} says how many steps; part would say it too")
        learns = given or self.recipe or self.part or self.steps_of or self.data == "3d"
        if self.untrained and (learns or self.start or self.finetuning):
            raise ProfileError("untrained: nothing is trained, so nothing else can be said of it")
        if self.start and learns:
            raise ProfileError(f"start: {self.start} is trained already; data and recipe stand there")
        if self.start and self.finetuning is None:
            raise ProfileError(f"start: the same model as {self.start}; say in `finetuning` what it goes on with")

    def at(self, profile: Profile) -> "Scaled":
        """The variant at a profile's scale: its counts, and its recipes. Raises ProfileError for a recipe there is not.

        Where the profile bounds the trainings on a part of the data, all of them take exactly so many steps. A
        fine-tuning on fewer objects takes no fewer steps than one on all, so that data is all that differs.
        """
        everything = profile.data.objects_3d
        if self.second_video_model and profile.experiments.second_video_model is None:
            raise ProfileError(
                f"profile {profile.name} has no second video model: name one in experiments.second_video_model "
                "(vfusion3d/weights/README.md says how the miniature of one is made)"
            )
        recipe = changed(profile.training, self.recipe)
        if self.finetuning and profile.finetuning is None:
            raise ProfileError(f"profile {profile.name} has no finetuning: give it a recipe")
        objects = finetuning = None
        if self.finetuning:
            objects = min(profile.scaled_3d(self.finetuning.objects), everything)
            finetuning = Learning(profile.finetuning, total_steps(profile.finetuning, everything), everything)
        return Scaled(
            variant=self,
            generated=self.generated and profile.scaled(self.generated),
            videos=self.videos and profile.scaled(self.videos),
            video_objects=self.video_objects and min(profile.scaled_3d(self.video_objects), everything),
            objects=objects,
            training=Learning(recipe, profile.experiments.steps if self.part else None),
            finetuning=finetuning,
        )


@dataclass(frozen=True)
class Learning:
    """A recipe, and the number of steps that it takes whatever the number of samples (None: its epochs make them).

    usual: for so many samples the recipe takes those steps by itself.
    """

    recipe: Recipe
    steps: int | None = None
    usual: int | None = None

    def steps_on(self, samples: int) -> int:
        """How many steps it takes for so many samples."""
        return total_steps(self.on(samples), samples)

    def on(self, samples: int) -> Recipe:
        """The recipe for so many samples: stages and learning rate divide the steps as before."""
        if self.steps is None or samples == self.usual:
            return self.recipe
        return in_steps(self.recipe, self.steps, samples)


@dataclass(frozen=True)
class Scaled:
    """A variant at a profile's scale. generated, videos: before and after the filter, None for all there are.

    video_objects, objects: 3D objects that a video model of its own learns from, and that the model is fine-tuned on.
    """

    variant: Variant
    generated: int | None
    videos: int | None
    video_objects: int | None
    objects: int | None
    training: Learning
    finetuning: Learning | None

    def taking(self, steps: int) -> "Scaled":
        """The same, trained for exactly so many steps."""
        return replace(self, training=replace(self.training, steps=steps))


@dataclass(frozen=True)
class Experiments:
    """All variants by name, and of each table which variant fills which row."""

    variants: dict[str, Variant]
    tables: dict[str, dict[str, str]]

    def variant(self, name: str) -> Variant:
        """The variant called `name`. Raises ProfileError with the names there are."""
        if name not in self.variants:
            raise ProfileError(f"there is no variant {name!r}: choose of {', '.join(self.variants)}")
        return self.variants[name]

    def of_table(self, table: str) -> list[str]:
        """The variants of a table or figure, in the order of its rows. Raises ProfileError for another name."""
        if table not in self.tables:
            raise ProfileError(f"no variants fill {table!r}: choose of {', '.join(self.tables)}")
        return list(self.tables[table].values())

    def in_order(self, names: Iterable[str]) -> list[str]:
        """The variants of these names (of variants or tables) without repetition, each after what it waits for."""
        order: list[str] = []
        for name in names:
            for one in self.of_table(name) if name in self.tables else [name]:
                before = [each for each in self.in_order(self.waits_for(one)) if each not in order]
                order += [*before, *[each for each in [one] if each not in order]]
        return order

    def waits_for(self, name: str) -> list[str]:
        """The variants that one starts from, or takes its number of steps from."""
        variant = self.variant(name)
        return [each for each in (variant.start, variant.steps_of) if each]

    def runs(
        self, profile: Profile, names: Iterable[str], seed: int = 0, seeds: int | None = None
    ) -> list[tuple[str, int]]:
        """Every (variant, seed) that these names (of variants or tables) stand for, in an order that works.

        seeds: how many, from `seed` on; by default as many as the profile gives the table.
        """
        found: list[tuple[str, int]] = []
        for name in names:
            wanted = seeds_of(profile, name, seed) if seeds is None else range(seed, seed + seeds)
            for variant in self.in_order([name]):
                found += [(variant, one) for one in wanted if (variant, one) not in found]
        return found


def seeds_of(profile: Profile, table: str, seed: int = 0) -> list[int]:
    """The seeds that the profile gives each row of a table, or each point of Figure 7."""
    count = profile.experiments.scaling_seeds if table.startswith("figure") else profile.experiments.seeds
    return list(range(seed, seed + count))


def load_experiments(path: str | Path = VARIANTS) -> Experiments:
    """Reads and checks `variants.yaml` or a file like it.

    Raises ProfileError that names file, variant and key for an unknown key, a recipe that cannot be, a `start` or a row
    of a table that names no variant, a start that starts from another one, and variants that wait for one another.
    """
    try:
        file = read_yaml(path, _File)
    except ReadingError as error:
        raise ProfileError(str(error)) from error
    try:
        return _checked(file)
    except ProfileError as error:
        raise ProfileError(f"{path}: {error}") from error


def changed(recipe: Recipe, changes: dict[str, Any]) -> Recipe:
    """The recipe with the keys of `changes`, nested as in YAML, in the place of its own. Raises ProfileError."""
    try:
        return read_value(Recipe, _merged(asdict(recipe), changes), "recipe")
    except ReadingError as error:
        raise ProfileError(str(error)) from error


def in_steps(recipe: Recipe, steps: int, samples: int) -> Recipe:
    """The recipe stretched or shortened to exactly `steps` steps for a data set of that many samples."""
    longer = steps * recipe.batch_size / samples / recipe.epochs
    stages = tuple(replace(stage, epochs=stage.epochs * longer) for stage in recipe.stages)
    recipe = replace(recipe, stages=stages, max_steps=steps)
    while total_steps(recipe, samples) < steps:  # a rounding below the last step
        stages = tuple(replace(stage, epochs=stage.epochs * (1 + 1e-9)) for stage in recipe.stages)
        recipe = replace(recipe, stages=stages)
    return recipe


@dataclass(frozen=True)
class _File:
    variants: dict[str, Variant]
    tables: dict[str, dict[str, str]]


def _checked(file: _File) -> Experiments:
    variants = file.variants
    recipe = load_profile("laptop").training
    for name, variant in variants.items():
        try:
            changed(recipe, variant.recipe)
        except ProfileError as error:
            raise ProfileError(f"{name}: {error}") from error
        other = variant.steps_of
        if other and (other not in variants or variants[other].steps_of or variants[other].untrained):
            why = "takes its steps from elsewhere" if other in variants else "does not exist"
            raise ProfileError(f"{name}: steps_of: {other} {why}: name a variant that is trained by its own recipe")
        if variant.start is None:
            continue
        if variant.start not in variants:
            raise ProfileError(f"{name}: start: there is no variant {variant.start!r}")
        if variants[variant.start].start or variants[variant.start].finetuning:
            raise ProfileError(f"{name}: start: {variant.start} is fine-tuned itself; start from its own start")
    for table, rows in file.tables.items():
        for row, name in rows.items():
            if name not in variants:
                raise ProfileError(f"tables.{table}.{row}: there is no variant {name!r}")
    experiments = Experiments(variants, file.tables)
    try:
        TopologicalSorter({name: experiments.waits_for(name) for name in variants}).prepare()
    except CycleError as error:
        circle = ", ".join(error.args[1][1:])
        raise ProfileError(f"{circle}: each waits for the next, in a circle: change a start or a steps_of") from error
    return experiments


def _merged(old: dict, changes: dict) -> dict:
    nested = {
        key: _merged(old[key], value)
        for key, value in changes.items()
        if isinstance(value, dict) and isinstance(old.get(key), dict)
    }
    return {**old, **changes, **nested}

"""What a notebook stands on, so that its cells hold the paper: profile, folders, data of earlier notebooks, figures.

    run = book.begin("06_train_vfusion3d", profile, run_dir, seed)
    run.diagram("VFusion3D")        # where we are in the pipeline
    run.plan()                      # what this notebook does, before it does it
    run.synthetic()                 # what notebook 05 made, or an error that says how to make it
    run.save(figure, "06_loss")     # written to figures/PROFILE/, and shown

Nothing is loaded before it is asked for.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from IPython.display import HTML, Markdown
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from vfusion3d import VFusion3D, evaluation, experiments
from vfusion3d.book.drawings import pipeline_map
from vfusion3d.book.plan import plan
from vfusion3d.data.render_dataset import made_of_files
from vfusion3d.data.shards import MultiviewShards, VideoShards
from vfusion3d.data.synthetic import SyntheticShards
from vfusion3d.foundations.roles import Roles
from vfusion3d.runs import layout
from vfusion3d.runs.claim import write_whole
from vfusion3d.runs.profiles import Profile, load_profile
from vfusion3d.runs.quiet import quiet_libraries
from vfusion3d.runs.reading import read_table
from vfusion3d.video.prompts import evaluation_prompts

if TYPE_CHECKING:
    from vfusion3d.evaluation.protocol import Predictor
    from vfusion3d.experiments.run import Result

RELEASED = "VFusion3D, released"
ONLY_3D = "only_3d_as_both"  # the variant of the row 3D data only: as many steps as VFusion3D took
TURNING = ("VFusion3D", "3D data only", "nearest training object", RELEASED)  # of the methods, those worth a full turn


def begin(name: str, profile: str, run_dir: str | Path, seed: int = 0) -> "Notebook":
    """The notebook `name`, such as "06_train_vfusion3d", of the run in `run_dir`. Raises ProfileError."""
    quiet_libraries()
    return Notebook(name, load_profile(profile), Path(run_dir), seed)


@dataclass(frozen=True)
class Notebook:
    """A notebook of a run. folder: where the run keeps its files. seed: of all that it draws."""

    name: str
    profile: Profile
    folder: Path
    seed: int

    # what it is about

    def diagram(self, stage: str) -> HTML:
        """Where we are in the pipeline, `stage` of Figure 2 (one of `drawings.PIPELINE`): a map of links."""
        return HTML(pipeline_map(stage, self.name))

    def plan(self) -> pd.DataFrame:
        """What the notebook does at this profile: counts, hours, disk."""
        return plan(self.name, self.profile)

    @property
    def overwrite(self) -> bool:
        """Whether what was made with other settings is made anew: at the scales where that takes minutes."""
        return self.profile.name in ("smoke", "laptop")

    @cached_property
    def roles(self) -> Roles:
        """The models of the profile's roles."""
        return Roles(self.profile)

    @property
    def device(self) -> torch.device:
        """Where models run."""
        return self.roles.device

    # what the run holds; each raises MissingArtifact, with the command and the notebook that make it

    def path(self, artifact: str, *names: str | int) -> Path:
        """The folder of an artifact of `layout`, such as "pretrained_model", whether or not it is there."""
        return getattr(layout, artifact)(self.folder, *names)

    def need(self, artifact: str, *names: str | int) -> Path:
        """The same, but it has to be there."""
        return getattr(layout, artifact).need(self.folder, *names)

    @cached_property
    def objects_3d(self) -> MultiviewShards:
        """The rendered 3D objects to learn from (notebook 01)."""
        return MultiviewShards(self.need("objects_3d"))

    @cached_property
    def unseen(self) -> MultiviewShards:
        """The rendered objects of the test (notebook 01)."""
        return MultiviewShards(self.need("test_data"))

    @cached_property
    def validation(self) -> MultiviewShards:
        """The rendered objects on which recipes are chosen (notebook 01)."""
        return MultiviewShards(self.need("validation_data"))

    @cached_property
    def halves(self) -> dict[str, str]:
        """Of each unseen object, by key: "common" or "uncommon"; "all" where nobody knows, as of mesh files."""
        names = {True: "common", False: "uncommon", None: "all"}
        known = [self.unseen.metadata(index).get("common") for index in range(len(self.unseen))]
        return dict(zip(self.unseen.keys, map(names.get, known), strict=True))

    @property
    def from_files(self) -> bool:
        """Whether the 3D data were made of mesh files, by `vfusion3d render --objects FOLDER`."""
        return made_of_files(self.path("objects_3d"))

    @cached_property
    def eval_prompts(self) -> list[str]:
        """The prompts of the text-to-3D table: those that notebook 02 held out."""
        return evaluation_prompts(self.profile, self.folder)

    @property
    def videos(self) -> VideoShards:
        """The generated multi-view videos (notebook 04)."""
        return VideoShards(self.need("synthetic_data"))

    def synthetic(self, threshold: float | None = 0.0) -> SyntheticShards:
        """The labelled videos (notebook 05) with scores from `threshold` on; None: all."""
        return SyntheticShards(self.need("synthetic_data"), self.need("synthetic_labels"), threshold)

    def log(self, artifact: str) -> pd.DataFrame:
        """The losses of a training, a row each step that was logged."""
        from vfusion3d.learning.loop import read_log

        return read_log(self.path(artifact))

    # what it shows

    @cached_property
    def figures(self) -> Path:
        """The folder of its figures and tables: figures/NAME for the run in runs/NAME. Made if need be."""
        inside = self.folder.parent.name == "runs"
        folder = self.folder.parents[1] / "figures" / self.folder.name if inside else self.folder / "figures"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def save(self, figure: Figure, name: str) -> Figure:
        """Write a figure as PDF and PNG; returned, for the cell to show."""
        evaluation.figures.save(figure, self.figures / name)
        return figure

    def table(self, table: pd.DataFrame, name: str, caption: str) -> Markdown:
        """Write a comparison (`tables.compare`); returned as Markdown, for the cell to show."""
        evaluation.tables.write_table(table, self.figures / name, caption)
        return Markdown(evaluation.tables.to_markdown(table))

    def scores(self, scores: pd.DataFrame, name: str) -> pd.DataFrame:
        """Write scores, a row an item, as NAME_scores.csv.gz beside the tables; returned as that file holds them."""
        path = evaluation.tables.write_scores(scores, self.figures / f"{name}_scores.csv.gz")
        return read_table(path, {"key": str})

    # single pictures (notebooks 08 and 09)

    def weights(self) -> dict[str, Path | str]:
        """The models that take part, by the names of their rows; says so where the one of 3D data only is missing."""
        found = {"VFusion3D": self.need("finetuned_model") / "model"}
        if missing := layout.experiment.missing(self.folder, ONLY_3D, self.seed):
            print(f"No row for 3D data only: {missing}.")
        else:
            found["3D data only"] = experiments.run.read_result(self.folder, ONLY_3D, self.seed).model
        return found | {"mini (bundled)": "mini", "base (bundled)": "base"}

    def models(self, released: str | Path | None = None) -> dict[str, "VFusion3D"]:
        """The models of `weights`, and the authors', where `released` says what `VFusion3D.from_released` loads."""
        found = {name: VFusion3D.from_pretrained(where) for name, where in self.weights().items()}
        if released is not None:
            found[RELEASED] = VFusion3D.from_released(released)
        return {name: model.to(self.device).eval() for name, model in found.items()}

    def told(self, models: Mapping[str, "VFusion3D"], methods: Iterable[str], size: int) -> dict[str, dict[str, float]]:
        """What `around` is told of each method: where its weights, or else the first's, expect a picture's camera.

        By method: "size" (pixels a side, the given one), "elevation" (radians), "distance" (world units). Raises
        StopIteration where there are no models.
        """
        configs = {name: models.get(name, next(iter(models.values()))).config for name in methods}
        return {
            name: {"size": size, "elevation": one.source_elevation, "distance": one.source_distance}
            for name, one in configs.items()
        }

    def export(self, task: str, images: Float[Tensor, "n 3 side side"], captions: Sequence[str]) -> list[str]:
        """Write the pictures of a task for other programs to read, and their captions. Returns their keys."""
        keys = evaluation.methods.item_keys(captions)
        evaluation.methods.export_items(self.path("evaluation_items", task), images, captions, keys)
        return keys

    def turns(
        self,
        task: str,
        predictors: Mapping[str, "Predictor"],
        images: Float[Tensor, "n 3 side side"],
        keys: Sequence[str],
        told: Mapping[str, Mapping[str, Any]],
    ) -> tuple[dict[str, Mapping[str, Tensor]], list[str]]:
        """A full turn around what each method makes of each picture, and which methods came from folders.

        Of `predictors`, those of `TURNING`, written as videos for the study; and whoever has a folder of the task.
        told: what `around` is told of each. The turns: by method and key, (32 views, 3, size, size) in [0, 1].
        """
        found = {}
        folder = self.path("rendered_views", task)
        methods = evaluation.methods
        for name in (name for name in TURNING if name in predictors):
            method = evaluation.around(predictors[name], views=methods.TURN_FRAMES, **told[name])
            found[name] = methods.render_turns(method, images, keys, folder / name, device=self.device)
        size = next(iter(told.values()))["size"]
        others = methods.method_folders(self.path("other_methods", task), keys, size=size, images=images)
        print("from folders:", ", ".join(others) or "nobody")
        return found | others, list(others)

    # experiments (notebooks 11 to 15)

    def trainings(self, table: str) -> pd.DataFrame:
        """What a table's rows train, one after the other."""
        planned = experiments.plan.planned_runs(self.profile, [table], self.seed)
        return experiments.plan.planned_table(planned)

    def results(self, table: str) -> dict[str, list["Result"]]:
        """What came of a table's rows: by row, a result a seed."""
        return experiments.results.read_table(self.profile, self.folder, table, self.seed)

    def tested(self, scores: pd.DataFrame) -> str:
        """How much was tested, and by which networks, for a caption."""
        items = scores.groupby("test")["key"].nunique()
        roles = self.profile.foundations
        who = f"CLIP: {roles.clip}, LPIPS: {roles.perceptual_distance}"
        return f"Ours ({self.profile.name}): {items['3d']} unseen objects, {items['text']} prompts. {who}."

    def verdicts(self, found: pd.DataFrame, table: str) -> Markdown:
        """Write what the scores say of the paper's claims (`results.verdicts`); returned for the cell to show."""
        write_whole(self.figures / f"{table}_verdicts.csv", partial(found.to_csv, index=False))
        return Markdown(experiments.results.as_markdown(found))

    def outputs(self, predictors: Mapping[str, "Predictor"], name: str, count: int = 8) -> Figure:
        """What the model of each row makes of the first unseen objects; written, and returned for the cell to show."""
        objects = [self.unseen[index] for index in range(min(count, len(self.unseen)))]
        size = self.profile.model.image_size
        sheet = experiments.results.outputs_sheet(predictors, objects, size=size, device=self.device)
        return self.save(sheet, name)

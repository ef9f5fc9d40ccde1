"""Where a run keeps what it makes: the one table of the artifacts in `runs/<profile>/`, in the order of the notebooks.

    objects_3d(run_dir)           its folder, whether or not anything is there yet
    objects_3d.need(run_dir)      the same; MissingArtifact names what is missing, the command and the notebook
    objects_3d.missing(run_dir)   that message, "" where everything is there

A task, or a variant and its seed, follow the run's folder: `experiment.need(run_dir, "only_3d", 0)`.
"""

from dataclasses import dataclass
from pathlib import Path


class MissingArtifact(FileNotFoundError):
    """Something an earlier step makes is not there yet."""


@dataclass(frozen=True)
class Artifact:
    """Something a run keeps: its folder, what is in it when it is whole, and who makes it.

    path, command: with places for the names that some artifacts have (a task; a variant and its seed). command: of
    `vfusion3d`. notebook: by the first name where it depends on that.
    """

    path: str
    files: tuple[str, ...]
    notebook: str | dict[str, str] = ""
    command: str = ""

    def __call__(self, run_dir: str | Path, *names: str | int) -> Path:
        """The folder in `run_dir`."""
        return Path(run_dir) / self.path.format(*names)

    def need(self, run_dir: str | Path, *names: str | int, profile: str | None = None) -> Path:
        """The folder in `run_dir`. Raises MissingArtifact where something of it is not there (see `missing`)."""
        if problem := self.missing(run_dir, *names, profile=profile):
            raise MissingArtifact(problem)
        return self(run_dir, *names)

    def missing(self, run_dir: str | Path, *names: str | int, profile: str | None = None) -> str:
        """What is not there yet, and the command and the notebook that make it; "" where everything is.

        profile: as one tells a command; by default what the run's folder is called.
        """
        folder = self(run_dir, *names)
        run_dir = Path(run_dir)
        lacking = [folder / file for file in self.files if not (folder / file).exists()]
        if not lacking:
            return ""
        inside = run_dir.parent.name == "runs"  # where a command looks by itself
        profile = profile or (run_dir.name if inside else "laptop")
        where = "" if inside and run_dir.name == profile else f" --run-dir {run_dir}"
        notebook = self.notebook[str(names[0])] if isinstance(self.notebook, dict) else self.notebook
        makers = [f"`vfusion3d {self.command.format(*names)} --profile {profile}{where}`"] if self.command else []
        makers += [f"the notebook {notebook}"] if notebook else []
        everything = "make reproduce" if profile == "laptop" else f"make reproduce PROFILE={profile}"
        return f"{lacking[0]} does not exist yet; {' or '.join(makers)} makes it (`{everything}` makes everything)"


INDEX = ("index.json",)  # of shards
MODEL = ("model",)  # of a training: a folder that `from_pretrained` reads
TASKS = {"image_to_3d": "08_image_to_3d", "text_to_3d": "09_text_to_3d"}  # of single pictures (section 4.2)

# Shards of the rendered objects: the 3D data to learn from, and unseen ones to choose recipes and to test on.
objects_3d = Artifact("data/train_3d", INDEX, "01_render_3d_data", "render")
validation_data = Artifact("data/validation", INDEX, "01_render_3d_data", "render")
test_data = Artifact("data/test", INDEX, "01_render_3d_data", "render")
prompt_table = Artifact("data/prompts", ("prompts.parquet",), "02_prompts", "prompts")
video_model = Artifact("video_model", MODEL, "03_finetune_video_model", "finetune-video")
# Shards of the generated multi-view videos; what learned to judge them; shards of their scores, elevations and masks.
synthetic_data = Artifact("data/synthetic", INDEX, "04_generate_synthetic_data", "generate")
curation_models = Artifact("curation", ("quality.skops", "elevation.skops"), "05_filter_and_label", "curate")
synthetic_labels = Artifact("data/labels", INDEX, "05_filter_and_label", "curate")
pretrained_model = Artifact("vfusion3d", MODEL, "06_train_vfusion3d", "train")
finetuned_model = Artifact("vfusion3d_finetuned", MODEL, "07_finetune_on_3d_data", "train --finetune")
# Of a task: the input pictures KEY.png; a full turn around what each method made of them, METHOD/KEY.mp4; and such
# turns by other programs (or METHOD/KEY/*.png), which a person puts there.
evaluation_items = Artifact("items/{}", ("captions.csv",), TASKS)
rendered_views = Artifact("views/{}", ("VFusion3D",), TASKS)
other_methods = Artifact("methods/{}", ())
# The answers of the user study, a CSV a rater; those of simulated raters in the folder `simulated`.
user_study = Artifact("user_study", (), "10_user_study", "study")
# Of a variant of the ablations and a seed: its trainings and scores. Of all 3D objects: the ranking of Table 5.
experiment = Artifact(
    "experiments/{}/seed-{}", ("result.json", "scores.csv.gz"), "", "experiment {} --seed {} --seeds 1"
)
aesthetic_scores = Artifact("experiments/aesthetic", ("scores.csv",), "13_ablation_3d_finetuning")

"""Where a run keeps what it makes: the one list of the folders in `runs/<profile>/`, in the order of the notebooks.

Every function but `require` takes the run's folder and returns a path in it, whether or not anything is there yet.
"""

from pathlib import Path


def training_data(run_dir: Path) -> Path:
    """Shards of the rendered 3D training objects (notebook 01)."""
    return run_dir / "data" / "train_3d"


def test_data(run_dir: Path) -> Path:
    """Shards of the rendered unseen objects (notebook 01)."""
    return run_dir / "data" / "test"


def prompt_table(run_dir: Path) -> Path:
    """The run that collects prompts; the table is the file `prompts.parquet` in it (notebook 02)."""
    return run_dir / "data" / "prompts"


def video_model(run_dir: Path) -> Path:
    """The run that fine-tunes the video model; the pipeline is the folder `model` in it (notebook 03)."""
    return run_dir / "video_model"


def synthetic_data(run_dir: Path) -> Path:
    """Shards of the generated multi-view videos (notebook 04)."""
    return run_dir / "data" / "synthetic"


def curation_models(run_dir: Path) -> Path:
    """`annotations.csv`, and what learned from it and from 3D data: `quality.skops`, `elevation.skops` (05)."""
    return run_dir / "curation"


def synthetic_labels(run_dir: Path) -> Path:
    """Shards of scores, elevations and masks of the generated videos (notebook 05)."""
    return run_dir / "data" / "labels"


def pretrained_model(run_dir: Path) -> Path:
    """The run that trains VFusion3D on synthetic data; the model is the folder `model` in it (notebook 06)."""
    return run_dir / "vfusion3d"


def finetuned_model(run_dir: Path) -> Path:
    """The run that fine-tunes it on 3D data; the model is the folder `model` in it (notebook 07)."""
    return run_dir / "vfusion3d_finetuned"


def evaluation_items(run_dir: Path, task: str) -> Path:
    """Input pictures KEY.png and `captions.csv` of the task `image_to_3d` (notebook 08) or `text_to_3d` (09)."""
    return run_dir / "items" / task


def rendered_views(run_dir: Path, task: str) -> Path:
    """A full turn around what each method made of each item: METHOD/KEY.mp4 (notebooks 08 and 09)."""
    return run_dir / "views" / task


def other_methods(run_dir: Path, task: str) -> Path:
    """Turns that other programs made of the items: METHOD/KEY.mp4 or METHOD/KEY/*.png, put there by a person."""
    return run_dir / "methods" / task


def user_study(run_dir: Path) -> Path:
    """The answers of the user study, a CSV a rater; those of simulated raters in `simulated` (notebook 10)."""
    return run_dir / "user_study"


def experiment(run_dir: Path, name: str, seed: int) -> Path:
    """A variant of the ablations with one seed: its trainings and its scores (notebooks 11 to 15)."""
    return run_dir / "experiments" / name / f"seed-{seed}"


def aesthetic_scores(run_dir: Path) -> Path:
    """How pleasing each 3D object is, by which Table 5 ranks them: the table is the file `scores.csv` in it."""
    return run_dir / "experiments" / "aesthetic"


class MissingArtifact(FileNotFoundError):
    """Something an earlier notebook makes is not there yet."""


def require(path: str | Path, made_by: str) -> Path:
    """`path`, which the notebook `made_by` makes. Raises MissingArtifact that says so where it does not exist."""
    path = Path(path)
    if not path.exists():
        folders = path.parts
        name = folders[folders.index("runs") + 1] if "runs" in folders[:-2] else "laptop"
        command = "make reproduce" if name == "laptop" else f"make reproduce PROFILE={name}"
        raise MissingArtifact(
            f"{path} does not exist yet. The notebook {made_by} makes it: run that first, or `{command}`, "
            f"which runs every notebook in order."
        )
    return path

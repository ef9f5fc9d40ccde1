"""What a run of the notebooks really did, counted from what lies on the disk: the plan is held against it.

Nothing here asks the profile or the planner. A count that a file does not hold by itself (the filter sees 8 frames of
a video) is written down from the paper.
"""

import json
import re
from collections import Counter
from pathlib import Path

import cv2
import nbformat
import pandas as pd
import yaml

from vfusion3d.curation.curate import ELEVATION, load_model
from vfusion3d.curation.judgements import JUDGEMENTS
from vfusion3d.data.shards import Shards
from vfusion3d.experiments.variants import VARIANTS

FILTER_FRAMES = 8  # of a video (section 3.2)
SINGLE = {"image_to_3d": "table_1_scores.csv.gz", "text_to_3d": "table_2_scores.csv.gz"}
TABLES = {"11": "table_3", "12": "table_4", "13": "table_5", "14": "table_6", "15": "figure_7"}


def known_shares(run_dir: Path) -> dict[str, float]:
    """What the filters kept in this run, by the planner's names."""
    web = prompts(run_dir).query("source == 'web'")
    scores = [known["score"] for known in Shards(run_dir / "data" / "labels").index["labels"]]
    shares = {"captions of the web": web["split"].eq("train").mean()}
    shares["all videos"] = sum(score >= 0 for score in scores) / len(scores)
    for folder in (run_dir / "experiments").glob("*/seed-0"):
        facts = json.loads((folder / "result.json").read_text())["facts"]
        if facts.get("generated"):
            shares[folder.parent.name] = facts["good"] / facts["generated"]
    return shares


def done(notebook: str, directory: Path) -> dict[str, float]:
    """The steps of a notebook, by the planner's names, as often as they were done in the run in `directory`."""
    run_dir, number = directory / "runs" / "smoke", notebook.split("_")[0]
    if number in TABLES:
        return ablation(TABLES[number], run_dir)
    return {
        "00": quickstart,
        "01": rendered,
        "02": collected,
        "03": lambda run: {"fine-tuning of the video model": samples(run / "video_model", "video")},
        "04": lambda run: generated(run / "data" / "synthetic"),
        "05": curated,
        "05b": lambda run: {"picture to mesh": len(list((run / "inside").glob("*.glb")))},
        "06": lambda run: {"pre-training": samples(run / "vfusion3d"), "evaluation": compared(directory, notebook)},
        "07": lambda run: finetuned(run, directory, notebook),
        "08": image_to_3d,
        "09": text_to_3d,
        "10": studied,
        "A1": miniatures,
        "A2": piloted,
    }[number](run_dir)


def quickstart(run_dir: Path) -> dict[str, float]:
    folder = run_dir / "quickstart"
    return {
        "picture to mesh": len(list(folder.glob("*.glb"))),
        "frames of a turntable": frames_in(folder / "turntable.mp4"),
    }


def rendered(run_dir: Path) -> dict[str, float]:
    return {
        "views of 3D training objects": pictures_in(run_dir / "data" / "train_3d"),
        "views of validation objects": pictures_in(run_dir / "data" / "validation"),
        "views of unseen objects": pictures_in(run_dir / "data" / "test"),
    }


def collected(run_dir: Path) -> dict[str, float]:
    sources = prompts(run_dir)["source"].value_counts()
    return {"captions of 3D objects": sources["3D"], "captions of the web, read": sources["web"]}


def generated(folder: Path, before: str = "") -> dict[str, float]:
    videos = Shards(folder)
    steps = videos.index["settings"]["video"]["inference_steps"]
    return {f"{before}first frames": len(videos), f"{before}{len(videos):,} videos": len(videos) * steps}


def labelled(folder: Path, before: str = "") -> dict[str, float]:
    masks = pictures_in(folder)
    return {
        f"{before}frames that the filter sees": FILTER_FRAMES * len(Shards(folder)),
        f"{before}frames that give the elevation": masks,  # all frames of a video, whose number 4 divides
        f"{before}masks": masks,
    }


def curated(run_dir: Path) -> dict[str, float]:
    judged = len(pd.read_csv(run_dir / "curation" / JUDGEMENTS))
    network = load_model(run_dir / "curation" / ELEVATION).regressor_[-1]
    seen = network.t_ // network.n_iter_  # features of 4 views, averaged, each of them also mirrored
    return {
        "videos judged good or bad": judged,
        "frames that the filter learns from": FILTER_FRAMES * judged,
        **labelled(run_dir / "data" / "labels"),
        "views for the elevation's training": 4 * seen / 2,
        "the same, each also in a mirror": 4 * seen,
    }


def finetuned(run_dir: Path, directory: Path, notebook: str) -> dict[str, float]:
    told = len(pd.read_csv(directory / "figures" / "smoke" / "07_elevation.csv"))
    objects = len(Shards(run_dir / "data" / "test"))
    return {
        "fine-tuning on 3D data": samples(run_dir / "vfusion3d_finetuned"),
        "evaluation, before and after": compared(directory, notebook),
        "evaluation with elevations told, guessed and true": told * objects * (views_of(directory, notebook) // 2),
    }


def figures_of(run_dir: Path) -> Path:
    return run_dir.parents[1] / "figures" / run_dir.name


def image_to_3d(run_dir: Path) -> dict[str, float]:
    novel = pd.read_csv(figures_of(run_dir) / "08_unseen_objects_scores.csv.gz")["views"].sum()
    return {**turns(run_dir, "image_to_3d"), "novel views of unseen objects": novel}


def text_to_3d(run_dir: Path) -> dict[str, float]:
    drawn = len(list((run_dir / "items" / "text_to_3d").glob("*.png")))
    return {"images of the prompts": drawn, **turns(run_dir, "text_to_3d")}


def turns(run_dir: Path, task: str) -> dict[str, float]:
    return {
        "full turns": sum(map(frames_in, (run_dir / "views" / task).glob("*/*.mp4"))),
        "views that CLIP compares": pd.read_csv(figures_of(run_dir) / SINGLE[task])["views"].sum(),
    }


def studied(run_dir: Path) -> dict[str, float]:
    answers = pd.read_csv(run_dir / "user_study" / "simulated" / "answers.csv")
    methods = {"VFusion3D", *answers["baseline"]}
    films = [film for film in (run_dir / "views").glob("*/*/*.mp4") if film.parent.name in methods]
    return {"answers of people": len(answers), "frames that simulated raters see": sum(map(frames_in, films))}


def ablation(table: str, run_dir: Path) -> dict[str, float]:
    """What was trained and evaluated for the first time for this table, in the order of `variants.yaml`."""
    content = yaml.safe_load(VARIANTS.read_text())
    found, before = Counter(), set()
    for other, rows in content["tables"].items():
        labels = {name: row for row, name in rows.items()}
        others = ("start", "steps_of")  # what a variant waits for
        names = {*labels, *(content["variants"][name].get(key) for name in labels for key in others)} - {None}
        made = {
            folder
            for name in names
            for folder in (run_dir / "experiments" / name).glob("seed-*")
            if other.startswith("figure") or folder.name == "seed-0"
        }
        if other == table:
            break
        before |= made
    for folder in made - before:
        label = labels.get(folder.parent.name, folder.parent.name)
        if (folder / "videos").exists():
            found[f"{label}: fine-tuning of the video model"] += samples(folder / "video_model", "video")
            found.update(generated(folder / "videos", f"{label}: "))
            found.update(labelled(folder / "labels", f"{label}: "))
        for part, what in (("trained", "training"), ("finetuned", "fine-tuning")):
            if (folder / part / "model").exists():
                found[f"{label}: {what}"] += samples(folder / part)
        views = json.loads((folder / "result.json").read_text())["settings"]["views"]
        found["evaluation of the variants"] += views * len(pd.read_csv(folder / "scores.csv.gz"))
    return dict(found)


def miniatures(run_dir: Path) -> dict[str, float]:
    return {
        "frames of the web world": pictures_in(run_dir / "data" / "web" / "videos"),
        "views of random primitives": pictures_in(run_dir / "data" / "primitives"),
    }


def piloted(run_dir: Path) -> dict[str, float]:
    objects = run_dir / "data" / "pilots"
    asked = 2 * 4 * len(Shards(objects))  # two models, four views each
    return {"views of unseen objects": pictures_in(objects), "evaluation of the base, twice": asked}


def prompts(run_dir: Path) -> pd.DataFrame:
    return pd.read_parquet(run_dir / "data" / "prompts" / "prompts.parquet")


def samples(folder: Path, recipe: str = "training") -> int:
    """Steps of a training, by its log, times its batch."""
    batch = json.loads((folder / "settings.json").read_text())[recipe]["batch_size"]
    return int(pd.read_csv(folder / "log.csv")["step"].max()) * batch


def pictures_in(folder: Path) -> int:
    shards = json.loads((folder / "index.json").read_text())["shards"]
    names = [name for shard in shards for sample in shard["samples"] for name in sample["members"]]
    return sum(name.endswith((".png", ".jpg")) for name in names)


def frames_in(film: Path) -> int:
    reader, count = cv2.VideoCapture(str(film)), 0
    while reader.read()[0]:
        count += 1
    return count


def views_of(directory: Path, notebook: str) -> int:
    """The notebook's parameter `views`, in its executed copy."""
    first = nbformat.read(directory / "papermill_runs" / "smoke" / f"{notebook}.ipynb", 4).cells
    return int(re.search(r"^views = (\d+)", "\n".join(cell.source for cell in first), re.MULTILINE)[1])


def compared(directory: Path, notebook: str) -> int:
    """Views that the table of notebook 06 or 07 compares, by its caption, of each method that we have."""
    name = {"06": "06_synthetic_data", "07": "07_finetuning"}[notebook[:2]]
    folder = directory / "figures" / "smoke"
    objects, views = re.search(r"(\d+) unseen objects, (\d+) views each", (folder / f"{name}.tex").read_text()).groups()
    methods = pd.read_csv(folder / f"{name}.csv")["psnr/smoke"].notna().sum()
    return int(objects) * int(views) * methods

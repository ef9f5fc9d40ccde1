"""A folder of real meshes goes the whole road, from 3D data over synthetic videos to the final model and its scores."""

import numpy as np
import pandas as pd
import pytest
import trimesh
import yaml

from vfusion3d import book
from vfusion3d.cli.main import main
from vfusion3d.curation.judgements import Judgement, Judgements
from vfusion3d.data.shards import VideoShards
from vfusion3d.runs import layout
from vfusion3d.runs.profiles import FOLDER

SHAPES = {
    "a red mug": trimesh.creation.annulus(0.3, 0.4, 0.8),
    "a blue chair": trimesh.creation.box([1, 1, 0.3]),
    "a green teapot": trimesh.creation.icosphere(subdivisions=2),
    "a yellow lamp": trimesh.creation.cone(0.5, 1.0),
    "a white car": trimesh.creation.box([2, 1, 0.6]),
    "an orange boat": trimesh.creation.capsule(1.0, 0.4),
    "a purple book": trimesh.creation.box([1, 0.7, 0.2]),
    "a black guitar": trimesh.creation.torus(0.6, 0.2),
}


def small_profile(folder):
    """`smoke`, at its smallest in everything, in a file of its own."""
    small = yaml.safe_load((FOLDER / "smoke.yaml").read_text()) | {"name": "meshes", "workers": 1}
    small["data"] |= {"prompts": 16, "videos": 16, "judged_videos": 16, "eval_images": 2, "eval_prompts": 2}
    small["video"] |= {"steps": 1, "inference_steps": 1, "generate_batch": 16}
    small["training"] |= {"max_steps": 1, "batch_size": 2, "samples_per_ray": 8}
    small["finetuning"] |= {"max_steps": 1, "batch_size": 1, "samples_per_ray": 8}
    (folder / "meshes.yaml").write_text(yaml.safe_dump(small))
    return folder / "meshes.yaml"


def write_meshes(folder):
    for number, (caption, mesh) in enumerate(SHAPES.items()):
        mesh = mesh.copy()
        mesh.visual.face_colors = [40 + 25 * number, 200 - 20 * number, 90, 255]
        mesh.export(folder / f"{number}.{'glb' if number % 2 else 'obj'}")
        (folder / f"{number}.txt").write_text(caption)


def judge_every_second(run_dir, path):
    """A person who calls half of the videos good: of a video model of one step, the simulated judge likes none."""
    videos = VideoShards(layout.synthetic_data(run_dir))
    judgements = Judgements(path, videos)
    judgements.judge_all(Judgement(key, number % 2 == 0, "a test") for number, key in enumerate(videos.keys))


def test_a_folder_of_eight_meshes_goes_through_every_command(tmp_path):
    meshes, run_dir = tmp_path / "shapes", tmp_path / "run"
    meshes.mkdir()
    write_meshes(meshes)
    (tmp_path / "asked.txt").write_text("a wide pink mushroom\na striped red and white rocket\n")
    own = ["--profile", str(small_profile(tmp_path)), "--run-dir", str(run_dir)]
    for command in (
        ["render", "--objects", str(meshes)],
        ["prompts", "--eval-prompts", str(tmp_path / "asked.txt")],
        ["finetune-video"],
        ["generate"],
        ["curate", "--judgements", str(tmp_path / "mine.csv")],
        ["train"],
        ["train", "--finetune"],
        ["evaluate"],
        ["evaluate", "--validation"],
    ):
        if command[0] == "curate":
            judge_every_second(run_dir, tmp_path / "mine.csv")
        assert main([*command, *own]) == 0, command
    run = book.begin("08_image_to_3d", own[1], run_dir)
    assert run.from_files
    assert run.eval_prompts == ["a wide pink mushroom", "a striped red and white rocket"]
    assert set(run.halves.values()) == {"all"}
    sets = (run.objects_3d, run.validation, run.unseen)
    assert sorted(shards.caption(i) for shards in sets for i in range(len(shards))) == sorted(SHAPES)
    scores = pd.read_csv(run_dir / "evaluation_3d.csv")
    assert scores.groupby("method")["key"].nunique().eq(len(run.unseen)).all()
    assert np.isfinite(scores[["psnr", "ssim", "lpips"]]).all(axis=None)
    chosen_on = pd.read_csv(run_dir / "validation_3d.csv")
    assert chosen_on.groupby("method")["key"].nunique().eq(len(run.validation)).all()
    assert layout.finetuned_model.need(run_dir)
    with pytest.raises(SystemExit):
        main(["render", *own, "--objects", "primitives"])

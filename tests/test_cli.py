"""The `vfusion3d` command, as a person types it."""

import subprocess
import sys

import imageio_ffmpeg
import numpy as np
import pandas as pd
import pytest
import trimesh
from PIL import Image
from tiny_model import tiny_model

from vfusion3d.cli import BACKGROUNDS, build_parser, main

COMMANDS = ("reconstruct", "render", "prompts", "train", "evaluate", "experiment")


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    tiny_model().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def photos(tmp_path):
    """Two good pictures, an empty one, and one without an object."""
    folder = tmp_path / "photos"
    folder.mkdir()
    pixels = np.full((80, 80, 3), 255, np.uint8)
    pixels[20:60, 30:50] = (200, 40, 90)
    Image.fromarray(pixels).save(folder / "a good one.png")
    Image.fromarray(pixels[::-1, :, ::-1].copy()).save(folder / "b.jpg")
    (folder / "empty.png").touch()
    Image.new("RGB", (64, 64), "white").save(folder / "wall.png")
    return folder


def run(*arguments, weights=None) -> int:
    small = ["--weights", weights, "--resolution", "16", "--device", "cpu"] if weights else []
    return main([*map(str, arguments), *small])


def exit_code_of_a_wrong_command_line(*arguments) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return stopped.value.code


# ------------------------------------------------------------------------------------------------------ reconstruct


def test_good_pictures_go_on_past_broken_ones_and_the_exit_code_is_1(photos, tmp_path, weights):
    process = subprocess.run(
        [
            *(sys.executable, "-m", "vfusion3d.cli", "reconstruct", str(photos), str(tmp_path / "missing.jpg")),
            *("-o", str(tmp_path / "out"), "--weights", weights, "--resolution", "16", "--device", "cpu"),
        ],
        capture_output=True,
        text=True,
    )
    assert process.returncode == 1
    complaints = [line for line in process.stderr.splitlines() if line.startswith("vfusion3d reconstruct: ")]
    assert len(complaints) == 3
    for name, reason in (("empty.png", "is empty"), ("wall.png", "no object found"), ("missing.jpg", "no such file")):
        (line,) = [line for line in complaints if name in line]
        assert reason in line
        assert line.count(name) == 1
    assert "Traceback" not in process.stderr
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["a good one.glb", "b.glb"]
    assert len(process.stdout.splitlines()) == 2
    for name in ("a good one", "b"):
        (mesh,) = trimesh.load(tmp_path / "out" / f"{name}.glb").dump()
        assert len(mesh.faces) > 0
        assert mesh.visual.kind == "vertex"


def test_one_picture_to_a_mesh_and_a_video(photos, tmp_path, weights, capsys):
    mesh, video = tmp_path / "new" / "photo.ply", tmp_path / "photo.mp4"
    code = run("reconstruct", photos / "b.jpg", "-o", mesh, "--video", video, "--video-size", 16, weights=weights)
    assert code == 0
    assert trimesh.load(mesh).visual.kind == "vertex"
    assert imageio_ffmpeg.count_frames_and_secs(str(video))[0] == 48
    assert f"{photos / 'b.jpg'} -> {mesh} and {video}" in capsys.readouterr().out


def test_what_the_model_sees_can_be_written_too(photos, tmp_path, weights):
    cutout = tmp_path / "seen" / "b.png"
    assert run("reconstruct", photos / "b.jpg", "-o", tmp_path, "--cutout", cutout, weights=weights) == 0
    seen = np.asarray(Image.open(cutout))
    assert seen.shape == (64, 64, 3)
    assert (seen[0] > 250).all()  # the border is white
    assert seen.min() < 200


def test_elevation_is_given_in_degrees(photos, tmp_path, weights, monkeypatch):
    from vfusion3d import ImageTo3DPipeline

    seen = []
    real = ImageTo3DPipeline.__call__

    def spy(self, images, **options):
        seen.append(options)
        return real(self, images, **options)

    monkeypatch.setattr(ImageTo3DPipeline, "__call__", spy)
    output = ["-o", tmp_path, "--format", "obj"]
    assert (
        run("reconstruct", photos / "b.jpg", *output, "--elevation", "30", "--background", "plain", weights=weights)
        == 0
    )
    assert run("reconstruct", photos / "b.jpg", *output, weights=weights) == 0
    assert [options["elevation"] for options in seen] == [pytest.approx(np.pi / 6), None]
    assert [options["background"] for options in seen] == ["plain", "auto"]
    assert (tmp_path / "b.obj").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["a.png", "b.png", "-o", "out.glb"], "one file for 2 pictures; give a folder"),
        (["a.png", "b.png", "-o", "out", "--video", "out.mp4"], "one file for 2 pictures; give a folder"),
        (["a.png", "-o", "out.stl"], "must end in .glb, .obj, .ply"),
        (["a.png", "-o", "out.glb", "--video", "out.avi"], "must end in .mp4, .gif"),
        (["a.png", "x/a.jpg", "-o", "out"], "would both become out/a.glb"),
        (["a.png", "--elevation", "90"], "between -90 and 90 degrees"),
        (["a.png", "--resolution", "4"], "between 8 and 1024"),
        (["a.png", "--background", "blue"], "invalid choice: 'blue'"),
        ([], "IMAGE"),
    ],
)
def test_a_command_line_that_makes_no_sense_ends_at_once(arguments, complaint, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert exit_code_of_a_wrong_command_line("reconstruct", *arguments) == 2
    assert complaint in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_is_several_pictures_even_with_one_in_it(photos, capsys):
    for name in ("b.jpg", "empty.png", "wall.png"):
        (photos / name).unlink()
    assert exit_code_of_a_wrong_command_line("reconstruct", photos, "-o", "out.glb") == 2


def test_a_folder_without_pictures_is_a_failure(tmp_path, capsys):
    assert run("reconstruct", tmp_path) == 1
    assert capsys.readouterr().err.startswith(f"vfusion3d reconstruct: {tmp_path}: has no pictures")


def test_unknown_weights_are_one_line(photos, tmp_path, capsys):
    assert run("reconstruct", photos / "b.jpg", "-o", tmp_path, weights="no-such-weights") == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("vfusion3d")]
    assert line.startswith("vfusion3d reconstruct: weights 'no-such-weights' cannot be loaded")


# -------------------------------------------------------------------------------------------------- the other pages


def test_render_writes_shards_that_training_can_read(tmp_path, capsys):
    from vfusion3d.data.shards import MultiviewShards

    arguments = ["--count", 2, "--views", 3, "--size", 32, "--workers", 1, "--seed", 5, "--profile", "smoke"]
    assert run("render", "--objects", "primitives", "-o", tmp_path / "shards", *arguments) == 0
    shards = MultiviewShards(tmp_path / "shards", verify=True)
    assert len(shards) == 2
    assert tuple(shards[1].rgba.shape) == (3, 4, 32, 32)
    assert shards[1].metadata["seed"] == 5
    assert capsys.readouterr().out.strip().endswith("index.json")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--objects", "primitives"], "belong together"),
        (["-o", "shards"], "belong together"),
        (["--shard", "2", "--shards", "2"], "K must be from 0 to N - 1"),
    ],
)
def test_render_refuses_half_an_order(arguments, complaint, capsys):
    assert exit_code_of_a_wrong_command_line("render", *arguments) == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["train"], "`vfusion3d render --profile smoke` makes it"),
        (["prompts"], "`vfusion3d render --profile smoke` makes it"),
        (["prompts", "--corpus", "nowhere.txt"], "nowhere.txt does not exist: give a file of captions"),
        (["evaluate"], "`vfusion3d render --profile smoke` makes it"),
        (["render", "--objects", "nowhere", "-o", "shards"], "--objects nowhere: no such folder"),
    ],
)
def test_what_is_missing_is_named_with_the_command_that_makes_it(arguments, complaint, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(*arguments, "--profile", "smoke") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert complaint in line


def test_an_unknown_profile_is_one_line(capsys):
    assert run("train", "--profile", "huge") == 1
    assert "no profile 'huge'" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_page_of_help_has_an_example_that_parses(command, capsys):
    assert exit_code_of_a_wrong_command_line(command, "--help") == 0
    page = capsys.readouterr().out
    examples = [line.split("(")[0].split() for line in page.splitlines() if line.startswith(f"  vfusion3d {command}")]
    assert examples
    for example in examples:
        assert build_parser().parse_args(example[1:]).command == command


def test_help_needs_no_heavy_import():
    code = (
        "import sys, vfusion3d.cli as cli; cli.build_parser().format_help();"
        "print([m for m in ('torch', 'numpy', 'diffusers', 'cv2', 'trimesh') if m in sys.modules])"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"


def test_the_help_lists_the_backgrounds_there_are():
    from vfusion3d.foundations import background_removal

    assert BACKGROUNDS == background_removal.BACKGROUNDS


def test_pictures_and_outputs_are_looked_for_before_weights_are(tmp_path, capsys):
    """The weights do not exist: who sees a complaint about them has waited for nothing."""
    assert main(["reconstruct", str(tmp_path / "nothere.jpg"), "--weights", "nowhere"]) == 1
    assert "nothere.jpg: no such file; check the path" in capsys.readouterr().err
    (tmp_path / "text.txt").write_text("")
    assert exit_code_of_a_wrong_command_line("reconstruct", "a.jpg", "-o", tmp_path / "text.txt" / "a.glb") == 2
    assert "text.txt is a file, not a folder" in capsys.readouterr().err


def test_evaluate_writes_a_row_for_every_object_and_method(tmp_path, weights, capsys):
    rendered = ["--objects", "primitives", "-o", tmp_path / "shards", "--count", 1, "--views", 2, "--size", 32]
    assert run("render", *rendered, "--workers", 1, "--profile", "smoke") == 0
    table = tmp_path / "new" / "scores.csv"
    arguments = ["--data", tmp_path / "shards", "--weights", weights, "-o", table, "--profile", "smoke"]
    assert run("evaluate", *arguments) == 0
    rows = pd.read_csv(table)
    assert sorted(rows.method) == ["VFusion3D", "input view repeated", "white image"]
    assert set(rows.views) == {1}
    assert np.isfinite(rows[["psnr", "ssim", "lpips"]].to_numpy()).all()
    assert [file.name for file in table.parent.iterdir()] == ["scores.csv"]
    printed = capsys.readouterr().out
    assert all(f"{psnr:.4f}" in printed for psnr in rows.psnr)

"""The `vfusion3d` command, as a person types it."""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.parse

import imageio_ffmpeg
import numpy as np
import pandas as pd
import pytest
import trimesh
import yaml
from PIL import Image

from vfusion3d.cli.main import build_parser, main
from vfusion3d.cli.reconstruct import BACKGROUNDS
from vfusion3d.foundations.image_features import dino_features
from vfusion3d.foundations.loading import BUNDLED
from vfusion3d.runs.lock import only_writer
from vfusion3d.runs.profiles import profile_path

COMMANDS = (
    "reconstruct",
    "app",
    "render",
    "prompts",
    "finetune-video",
    "generate",
    "curate",
    "train",
    "evaluate",
    "study",
    "experiment",
)


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
    small = ["--weights", weights, "--resolution", "16", "--faces", "500", "--device", "cpu"] if weights else []
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
            *("--faces", "500", "--texture", "32"),
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
    assert "Loading weights" not in process.stderr
    written = ["a good one.glb", "b.glb", "contact_sheet.png", "index.html", "reconstructions.json", "viewers"]
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == written
    assert len(process.stdout.splitlines()) == 3
    for name in ("a good one", "b"):
        (mesh,) = trimesh.load(tmp_path / "out" / f"{name}.glb").dump()
        assert len(mesh.faces) > 0
        assert mesh.visual.kind == "texture"
    record = json.loads((tmp_path / "out" / "reconstructions.json").read_text())["reconstructions"]
    assert sorted("error" in entry for entry in record) == [False, False, True, True, True]
    good = next(entry for entry in record if entry["picture"].endswith("b.jpg"))
    assert good["outputs"] == ["b.glb"]
    assert good["watertight"] is True
    assert good["settings"]["resolution"] == 16
    assert good["seconds"] > 0
    assert {"elevation", "background", "notices", "faces"} <= good.keys()


def test_a_folder_is_gone_on_with_and_its_page_names_everything_safely(photos, tmp_path, weights, capsys, monkeypatch):
    from vfusion3d import ImageTo3DPipeline

    (photos / "wall.png").unlink()
    (photos / "empty.png").unlink()
    (photos / "b.jpg").rename(photos / "b #1 <i>&'\".jpg")
    seen = []
    real = ImageTo3DPipeline.__call__
    monkeypatch.setattr(
        ImageTo3DPipeline, "__call__", lambda self, image, **how: seen.append(image) or real(self, image, **how)
    )
    order = ["reconstruct", photos, "-o", photos, "--format", "obj", "--texture", 16]
    assert run(*order, weights=weights) == 0
    assert len(seen) == 2
    page = (photos / "index.html").read_text()
    assert "<i>" not in page
    assert "b #1 &lt;i&gt;&amp;" in page
    for address in re.findall(r'(?:href|src)="([^"]+)"', page):
        assert (photos / urllib.parse.unquote(address)).is_file(), address
    assert Image.open(photos / "contact_sheet.png").size == (7 * 128, 2 * 144)
    before = {file: file.stat().st_mtime_ns for file in photos.glob("*.obj")}
    capsys.readouterr()
    assert run(*order, weights=weights) == 0
    assert len(seen) == 2, "neither made again, nor a texture or the sheet taken for a photo"
    assert "2 of 2 were there" in capsys.readouterr().out
    assert run(*order, "--keep-all", weights=weights) == 0
    assert "is there, made with keep_all False (--overwrite makes it again)" in capsys.readouterr().out
    next(photos.glob("b*.obj")).unlink()
    assert run(*order, weights=weights) == 0
    assert len(seen) == 3, "what is missing is made"
    assert run(*order, "--overwrite", weights=weights) == 0
    assert len(seen) == 5
    assert all(file.stat().st_mtime_ns != before[file] for file in photos.glob("*.obj"))
    assert len(json.loads((photos / "reconstructions.json").read_text())["reconstructions"]) == 2


def test_a_second_command_for_the_same_folder_ends_in_one_line(photos, tmp_path, weights, capsys):
    with only_writer(tmp_path / "out"):
        assert run("reconstruct", photos, "-o", tmp_path / "out", weights=weights) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"out is being written by process {os.getpid()}" in line
    assert not (tmp_path / "out").exists()


def test_a_record_without_settings_of_today_says_so(photos, tmp_path, weights, capsys):
    (tmp_path / "b.glb").touch()
    entry = '{"picture": "b.jpg", "outputs": ["b.glb"], "settings": {}}'
    (tmp_path / "reconstructions.json").write_text(f'{{"reconstructions": [{entry}]}}')
    for other in set(photos.iterdir()) - {photos / "b.jpg"}:
        other.unlink()
    assert run("reconstruct", photos, "-o", tmp_path, weights=weights) == 0
    assert "b.glb is there, made with weights None" in capsys.readouterr().out


def test_one_bar_counts_pictures_meshes_and_frames_and_is_there_at_once(photos, tmp_path, weights, monkeypatch, capsys):
    import vfusion3d.runs.progress as progress

    bars = []
    real = progress.tqdm.__init__
    monkeypatch.setattr(progress.tqdm, "__init__", lambda self, *a, **how: bars.append(self) or real(self, *a, **how))
    monkeypatch.setattr("vfusion3d.cli.reconstruct.TURN", 2)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    video = ["--video", tmp_path / "v", "--video-size", 16, "--texture", 0]
    assert run("reconstruct", photos, "-o", tmp_path / "m", *video, weights=weights) == 1
    shown = [bar for bar in bars if getattr(bar, "unit", None) == "step"]
    assert [(bar.total, bar.n) for bar in shown] == [(4 * (3 + 2), 4 * (3 + 2))], "broken pictures count as well"
    bars_and_errors = capsys.readouterr().err
    assert bars_and_errors.index("0/20") < bars_and_errors.index(f"loading {weights}") < bars_and_errors.index("1 of 4")


def test_a_log_gets_a_line_for_each_picture_and_no_bar(photos, tmp_path, weights, capsys):
    for broken in set(photos.iterdir()) - {photos / "b.jpg"}:
        broken.unlink()
    assert run("reconstruct", photos, "-o", tmp_path, "--texture", 0, weights=weights) == 0
    said = capsys.readouterr()
    assert "b.jpg -> " in said.out
    assert said.err == ""


def test_of_the_processes_of_torchrun_the_first_talks_and_each_names_its_error(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    said = []
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        assert main(["experiment", "--list"]) == 0
        said.append(capsys.readouterr().out)
        assert main(["evaluate", "--profile", str(tmp_path / "none.yaml")]) == 1
        assert "none.yaml" in capsys.readouterr().err
    assert "table_4" in said[0]
    assert said[1] == ""


def test_a_page_of_help_tells_only_defaults_that_say_something():
    pages = next(action for action in build_parser()._actions if action.choices).choices
    assert len(pages) > 10
    for page in pages.values():
        assert "(default: False)" not in page.format_help()
        assert "(default: [" not in page.format_help()
    assert "(default: mini base)" in " ".join(pages["app"].format_help().split())


def test_a_record_of_something_else_is_named(photos, weights, capsys):
    (photos / "reconstructions.json").write_text("[1]")
    assert run("reconstruct", photos, "-o", photos, weights=weights) == 1
    assert "reconstructions.json: the file must be a mapping" in capsys.readouterr().err
    for entry in ('{"picture": "a", "outputs": []}', '{"picture": "a", "outputs": ["a.glb"], "elevation": "high"}'):
        (photos / "reconstructions.json").write_text(f'{{"reconstructions": [{entry}]}}')
        assert run("reconstruct", photos, "-o", photos, weights=weights) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert re.search(r"reconstructions\.json: .*(outputs|elevation) must .*: move it away", line)


@pytest.mark.parametrize("name", ["index.html", "contact_sheet.png"])
def test_a_page_of_somebody_else_is_not_replaced_by_the_gallery(photos, tmp_path, weights, capsys, name):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / name).write_text("mine")
    assert run("reconstruct", photos, "-o", tmp_path / "site", weights=weights) == 1
    assert f"{name}: is not by this command, and would be replaced" in capsys.readouterr().err
    assert (tmp_path / "site" / name).read_text() == "mine"
    assert len(list((tmp_path / "site").iterdir())) == 1


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


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["photo.png", "--cutout", "photo.png"], "--cutout photo.png: is the same as the picture photo.png"),
        (["photo.png", "--cutout", "."], "--cutout photo.png: is the same as the picture photo.png"),
        (["photo.png", "--cutout", "sub/../photo.png"], "is the same as the picture photo.png"),
        (["photo.png", "--cutout", "symbolic.png"], "is the same as the picture photo.png"),
        (["symbolic.png", "--cutout", "photo.png"], "is the same as the picture symbolic.png"),
        (["photo.png", "--cutout", "hard.png"], "is the same as the picture photo.png"),
        (["film.gif", "-o", "out", "--video", "film.gif"], "--video film.gif: is the same as the picture film.gif"),
        (["sub", "--cutout", "linked"], "would be taken for yours the next time"),
        (["photo.png", "-o", "a.glb", "--video", "a.gif"], "-o a.glb and --video a.gif would be the same file"),
        (["photo.png", "sub/photo.png", "-o", "out"], "would both become out/photo.glb"),
        (["photo.png", "-o", "dir.glb/a.glb", "--cutout", "dir.glb"], "must end in .png, or be a folder"),
        (["photo.png", "-o", "w/config.glb", "--weights", "w"], "-o w/config.glb: lies in --weights w, which is read"),
        (["photo.png", "-o", "photo.png/a.glb"], "photo.png is a file, not a folder"),
    ],
)
def test_no_output_of_reconstruct_is_an_input_or_another_output(arguments, complaint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for folder in ("sub", "w"):
        (tmp_path / folder).mkdir()
    for name in ("photo.png", "film.gif", "sub/photo.png", "dir.glb"):
        (tmp_path / name).write_text(name)
    (tmp_path / "symbolic.png").symlink_to("photo.png")
    os.link(tmp_path / "photo.png", tmp_path / "hard.png")
    (tmp_path / "linked").symlink_to("sub")
    (tmp_path / "a.glb").symlink_to("a.gif")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert exit_code_of_a_wrong_command_line("reconstruct", *arguments) == 2
    assert complaint in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ("render --objects data -o data", "-o data: is the same as --objects data"),
        ("render --objects data -o .", "-o .: holds --objects data, which is read"),
        ("render --objects data -o data/out", "-o data/out: lies in --objects data, which is read"),
        ("render --objects primitives -o words.txt", "-o words.txt: is a file; give a folder"),
        ("prompts --corpus run/data/prompts/prompts.parquet", "holds --corpus run/data/prompts/prompts.parquet"),
        ("train --data data -o data", "-o data: is the same as --data data"),
        ("train --data data --weights out/model -o out", "-o out: holds --weights out/model, which is read"),
        ("train --data data -o run/own.yaml", "-o run/own.yaml: is a file; give a folder"),
        ("evaluate --data data --weights w -o data", "-o data: is a folder; give a file"),
        ("evaluate --data data --weights w -o data/index.json", "lies in --data data, which is read"),
        ("evaluate --data data --weights w -o run/own.yaml", "is the same as --profile run/own.yaml"),
    ],
)
def test_no_output_of_any_command_is_in_or_around_an_input(command, complaint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for folder in ("data", "run/data/prompts", "out/model"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("data/index.json", "words.txt", "run/data/prompts/prompts.parquet"):
        (tmp_path / name).write_text("{}")
    own = profile_path("smoke").read_text().replace("name: smoke", "name: own")
    (tmp_path / "run" / "own.yaml").write_text(own)
    common = ["--profile", "run/own.yaml", "--run-dir", "run"]
    assert exit_code_of_a_wrong_command_line(*command.split(), *common) == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize("module", ["argparse", "vfusion3d.cli.page", "vfusion3d.cli.model"])
def test_an_interrupt_while_modules_are_imported_is_one_line(module, tmp_path):
    code = f"""
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is started without
class Finder:
    def find_spec(self, name, *_):
        if name == {module!r}:
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt as error:
                raise ImportError("as some libraries do") from error
sys.modules.pop({module!r}, None)
sys.meta_path.insert(0, Finder())
sys.argv[1:] = ["train"]
from vfusion3d.cli.__main__ import run
run()
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert (process.returncode, process.stdout, process.stderr) == (130, "", "vfusion3d: interrupted\n")


@pytest.mark.parametrize("arguments", [["~nobody-here/a.png"], ["b.png", "--weights", "~nobody-here/w"]])
def test_the_home_of_nobody_is_no_place_and_is_named(arguments, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (photos / "a good one.png").rename("b.png")
    assert run("reconstruct", *arguments, "-o", "x.glb") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search("~nobody-here/(a.png|w): no such file", line)


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
        (["a.png", "-o", "out.fbx"], "must end in .glb, .obj, .ply, .stl"),
        (["a.png", "-o", "out.glb", "--video", "out.avi"], "must end in .mp4, .gif"),
        (["a.png", "x/a.jpg", "-o", "out"], "would both become out/a.glb"),
        (["a.png", "--elevation", "90"], "between -90 and 90 degrees"),
        (["a.png", "--resolution", "4"], "between 8 and 1024"),
        (["a.png", "--faces", "7"], "must be 100 or more, or 0"),
        (["a.png", "--texture", "4"], "between 16 and 8192, or 0"),
        (["a.png", "--threshold", "0"], "must be a density over 0"),
        (["a.png", "--threshold", "nan"], "must be a density over 0"),
        (["a.png", "--opacity", "1"], "must be between 0 and 1"),
        (["a.png", "--box", "0.5", "0", "0.4", "1"], "left, top, right, bottom from 0 to 1"),
        (["a.png", "--box", "0", "0", "nan", "1"], "left, top, right, bottom from 0 to 1"),
        (["a.png", "--background", "blue"], "invalid choice: 'blue'"),
        (["a.png", "--weights", ""], "--weights is given without a value"),
        (["a.png", "--weights="], "--weights is given without a value"),
        (["a.png", ""], "an argument is given without a value"),
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


def test_what_was_rendered_from_mesh_files_is_never_replaced_by_procedural_objects(tmp_path, capsys):
    meshes = tmp_path / "meshes"
    meshes.mkdir()
    for number in range(4):
        trimesh.creation.box([1, 1, 1 + number]).export(meshes / f"box {number}.obj")
    own = ["--profile", "smoke", "--run-dir", str(tmp_path / "run"), "--size", "16", "--views", "2", "--workers", "1"]
    assert main(["render", "--objects", str(meshes), *own]) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.*")}
    assert main(["render", "--overwrite", *own]) == 0
    assert "was made of mesh files and stays" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.*")} == before
    (tmp_path / "run" / "data" / "train_3d" / "index.json").unlink()  # as if it had been interrupted
    assert main(["render", "--overwrite", *own]) == 1
    assert "train_3d" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--objects", "primitives"], "--objects without -o takes a folder of mesh files"),
        (["-o", "shards"], "-o is for --objects"),
        (["--shard", "2", "--shards", "2"], "K must be from 0 to N - 1"),
    ],
)
def test_render_refuses_half_an_order(arguments, complaint, capsys):
    assert exit_code_of_a_wrong_command_line("render", *arguments) == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["finetune-video"], "`vfusion3d render --profile smoke` or"),
        (["generate"], "prompts.parquet does not exist yet; `vfusion3d prompts --profile smoke` or"),
        (["train"], "synthetic/index.json does not exist yet; `vfusion3d generate --profile smoke` or"),
        (["train", "--finetune"], "vfusion3d/model does not exist yet; `vfusion3d train --profile smoke` or"),
        (["train", "--data", "nowhere"], "nowhere/index.json is missing: render the data"),
        (["prompts"], "`vfusion3d render --profile smoke` or"),
        (["prompts", "--corpus", "nowhere.txt"], "nowhere.txt does not exist: give a file of captions"),
        (["evaluate"], "`vfusion3d render --profile smoke` or"),
        (["render", "--objects", "nowhere", "-o", "shards"], "--objects nowhere: no such folder"),
    ],
)
def test_what_is_missing_is_named_with_the_command_that_makes_it(arguments, complaint, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(*arguments, "--profile", "smoke") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert complaint in line


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """A run with rendered objects, prompts and a fine-tuned video model, and its tiny profile."""
    root = tmp_path_factory.mktemp("engine")
    settings = yaml.safe_load(profile_path("smoke").read_text())
    settings |= {"name": "tiny", "data": settings["data"] | {"videos": 3}}
    settings["video"] |= {"frames": 4, "steps": 1, "inference_steps": 1}
    (root / "tiny.yaml").write_text(yaml.safe_dump(settings))
    how = ["--profile", root / "tiny.yaml", "--run-dir", root / "run"]
    rendered = ["--objects", "common", "--count", 2, "--views", 4, "--size", 32, "--workers", 1, "--profile", "smoke"]
    for data in ("train_3d", "test"):
        assert run("render", *rendered, "-o", root / "run" / "data" / data) == 0
    (root / "run" / "data" / "prompts").mkdir()
    captions = ["a red mug", "a blue car", "a green tree", "a mug nobody asked for"]
    table = pd.DataFrame({"caption": captions, "split": "train"})
    table.to_parquet(root / "run" / "data" / "prompts" / "prompts.parquet")
    assert run("finetune-video", *how, "--objects", 1) == 0
    return how


def test_finetune_video_leaves_a_model_and_strips_of_unseen_objects(engine, capsys):
    folder = engine[-1] / "video_model"
    assert (folder / "model" / "model_index.json").exists()
    assert [path.name for path in (folder / "strips").iterdir()] == ["step-000001.png"]
    assert Image.open(folder / "strips" / "step-000001.png").size == (4 * 64, 2 * 64)
    assert len(pd.read_csv(folder / "log.csv")) == 1
    assert run("finetune-video", *engine, "--objects", 2) == 1
    assert "objects: 1 there, 2 now" in capsys.readouterr().err
    assert run("finetune-video", *engine, "--weights", "nowhere/at/all", "-o", folder.parent / "new") == 1
    assert "there is no such folder" in capsys.readouterr().err


def test_generate_makes_the_profiles_videos_shard_by_shard(engine, capsys):
    from vfusion3d.data.shards import VideoShards

    folder = engine[-1] / "data" / "synthetic"
    assert run("generate", *engine, "--shard", 1, "--shards", 2) == 0  # one shard only, and it is the other part's
    assert "the other parts are still to be made" in capsys.readouterr().out
    assert run("generate", *engine, "--shard", 0, "--shards", 2) == 0
    videos = VideoShards(folder, verify=True)
    assert [video.caption for video in videos] == ["a red mug", "a blue car", "a green tree"]
    assert videos[0].frames.shape == (4, 3, 64, 64)
    assert run("generate", *engine, "--weights", "mini") == 1
    assert "model: " in capsys.readouterr().err
    assert run("generate", *engine, "--seed", 1, "--overwrite", "--weights", "mini") == 0
    assert VideoShards(folder).fingerprint != videos.fingerprint


def test_generate_without_a_fine_tuned_model_says_which_command_makes_it(engine, tmp_path, capsys):
    shutil.copytree(engine[-1] / "data" / "prompts", tmp_path / "data" / "prompts")
    assert run("generate", *engine[:2], "--run-dir", tmp_path) == 1
    error = capsys.readouterr().err
    assert "video_model/model does not exist yet; `vfusion3d finetune-video --profile" in error
    assert exit_code_of_a_wrong_command_line("generate", "--shard", 2, "--shards", 2) == 2


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
        "import sys, vfusion3d.cli.main as cli; cli.build_parser().format_help();"
        "print([m for m in ('torch', 'numpy', 'diffusers', 'cv2', 'trimesh') if m in sys.modules])"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"


def test_a_photo_to_3d_loads_no_library_that_it_can_do_without(tmp_path):
    disc = np.full((64, 64, 3), 255, np.uint8)
    disc[16:48, 16:48] = (200, 40, 40)
    Image.fromarray(disc).save(tmp_path / "photo.png")
    small = ("--resolution", "32", "--texture", "64", "--cutout", "seen.png")
    slow = ("accelerate", "diffusers", "lpips", "matplotlib", "onnxruntime", "pandas", "pyvista", "sklearn", "sympy")
    slow += ("torch._dynamo", "torchvision", "transformers")
    code = (
        "import sys; from vfusion3d.cli.main import main;"
        f"code = main(['reconstruct', 'photo.png', '-o', 'photo.glb', *{small}]);"
        f"print(code, [module for module in {slow} if module in sys.modules])"
    )
    process = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert process.stdout.splitlines()[-1] == "0 []"
    assert (tmp_path / "photo.glb").stat().st_size > 1000


def test_a_box_and_an_opacity_choose_what_is_taken_for_the_object(tmp_path, weights):
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[16:48, 4:28] = (200, 40, 40, 255)
    pixels[16:48, 36:60] = (40, 40, 200, 255)
    pixels[16:32, 36:60, 3] = 100  # the blue thing's upper half: 39% opaque
    Image.fromarray(pixels).save(tmp_path / "two.png")
    seen = {}
    for name, options in (("blue", []), ("lower", ["--opacity", 0.6])):
        there = tmp_path / name
        box = ["--box", 0.5, 0, 1, 1, *options]
        assert run("reconstruct", tmp_path / "two.png", "-o", there, "--cutout", there, *box, weights=weights) == 0
        seen[name] = np.asarray(Image.open(there / "two.png")).astype(int)
    for picture in seen.values():
        assert not (picture[..., 0] - picture[..., 2] > 50).any(), "nothing red"
    height, width = (np.ptp(np.nonzero((seen["lower"] < 128).any(2))[axis]) + 1 for axis in (0, 1))
    assert width / height == pytest.approx(24 / 16, abs=0.1)
    assert (seen["blue"][..., 2] > seen["blue"][..., 0] + 50).sum() > (seen["lower"] < 128).any(2).sum()


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


def _synthetic_run(run_dir):
    """Two generated videos of which the filter keeps the first, and one rendered object."""
    from vfusion3d.curation.labels import Labeller, label_videos
    from vfusion3d.data.shards import ShardWriter, encode_video, shard_path, write_index
    from vfusion3d.runs.layout import objects_3d, synthetic_data, synthetic_labels

    videos = synthetic_data(run_dir)
    with ShardWriter(shard_path(videos, 0)) as writer:
        for shade in (40, 200):
            frames = np.full((16, 32, 32, 3), 255, np.uint8)
            frames[:, 8:24, 12:20] = shade
            writer.write(f"{shade:03d}", encode_video(frames, "a box", {}))
    write_index(videos)

    class Dark:
        def decision_function(self, features):
            return 0.9 - features.mean(axis=1)

        def predict(self, features):
            return np.full(len(features), 0.3)

    labeller = Labeller(lambda images: images.mean(dim=(2, 3)), Dark(), Dark(), lambda images: 1 - images[:, :1])
    label_videos(videos, synthetic_labels(run_dir), labeller, settings={})
    rendered = ["--objects", "primitives", "-o", objects_3d(run_dir), "--count", 1, "--views", 4, "--size", 32]
    assert run("render", *rendered, "--workers", 1, "--profile", "smoke") == 0


def test_train_learns_from_the_videos_that_the_filter_keeps_and_then_from_3d_data(tmp_path, weights, capsys):
    from vfusion3d import VFusion3D
    from vfusion3d.data.shards import MultiviewShards
    from vfusion3d.data.synthetic import SyntheticShards
    from vfusion3d.learning.loop import fingerprint
    from vfusion3d.runs.profiles import profile_path

    run_dir, profile = tmp_path / "run", tmp_path / "short.yaml"
    profile.write_text(profile_path("smoke").read_text().replace("name: smoke", "name: short"))
    _synthetic_run(run_dir)
    common = ["--profile", profile, "--run-dir", run_dir]
    assert run("train", *common, "--weights", weights) == 0
    assert "the filter keeps 1 of 2 videos" in capsys.readouterr().out
    first = json.loads((run_dir / "vfusion3d" / "settings.json").read_text())
    assert not (run_dir / "vfusion3d_finetuned").exists()
    synthetic = SyntheticShards(run_dir / "data" / "synthetic", run_dir / "data" / "labels")
    assert first["data"] == synthetic.fingerprint
    assert len(first["training"]["stages"]) == 5

    assert run("train", *common, "--finetune") == 0
    second = json.loads((run_dir / "vfusion3d_finetuned" / "settings.json").read_text())
    trained = VFusion3D.from_pretrained(run_dir / "vfusion3d" / "model")
    assert second["start"] == fingerprint(trained) != first["start"]
    assert second["data"] == MultiviewShards(run_dir / "data" / "train_3d").fingerprint
    assert len(second["training"]["stages"]) == 1
    assert fingerprint(VFusion3D.from_pretrained(run_dir / "vfusion3d_finetuned" / "model")) != fingerprint(trained)

    judged = [*common, "--data", run_dir / "data" / "train_3d"]
    capsys.readouterr()
    assert run("evaluate", *judged) == 0
    assert str(run_dir / "vfusion3d_finetuned" / "model") in capsys.readouterr().out
    later = (run_dir / "vfusion3d_finetuned" / "model").stat().st_mtime + 10
    os.utime(run_dir / "vfusion3d" / "model", (later, later))
    assert run("evaluate", *judged) == 0
    assert f"{run_dir / 'vfusion3d' / 'model'}\n" in capsys.readouterr().out


def test_fine_tuning_needs_a_recipe(tmp_path, capsys):
    from vfusion3d.runs.profiles import profile_path

    profile, text = tmp_path / "plain.yaml", profile_path("smoke").read_text().replace("name: smoke", "name: plain")
    profile.write_text(text[: text.index("finetuning:")] + "device: cpu\n")
    assert run("train", "--finetune", "--profile", profile) == 1
    assert "the profile plain has no `finetuning`" in capsys.readouterr().err


def test_a_command_silences_libraries_that_are_imported_later_and_lets_our_own_warnings_through(repository):
    script = """
import warnings
from vfusion3d.runs.quiet import keep_quiet, quiet_libraries
keep_quiet()
quiet_libraries()
from diffusers.utils import logging
keep_quiet()
logging.get_logger("diffusers.models").error("a note of a library")
list(logging.tqdm(range(3)))
warnings.warn_explicit("of a library", UserWarning, "x.py", 1, module="diffusers.models")
warnings.warn_explicit("of ours", UserWarning, "x.py", 1, module="vfusion3d.clip")
"""
    made = subprocess.run([sys.executable, "-c", script], cwd=repository, capture_output=True, text=True, check=True)
    assert made.stderr.strip().splitlines() == ["x.py:1: UserWarning: of ours"]


def test_a_bundled_network_shows_no_bar_in_a_program_that_asked_for_nothing_and_others_still_do(monkeypatch, capsys):
    from transformers.utils import logging

    monkeypatch.setattr(logging, "_tqdm_active", True)
    dino_features(str(BUNDLED / "image_features"))
    assert capsys.readouterr().err == ""
    list(logging.tqdm(range(3)))
    assert "3/3" in capsys.readouterr().err

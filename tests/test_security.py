"""What SECURITY.md promises of files, models and folders of strangers (of the study's server: test_study.py)."""

import ast
import functools
import pickle
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from huggingface_hub import constants
from PIL import Image

from vfusion3d.book import run as book_run
from vfusion3d.book.summary import write_summary
from vfusion3d.data import blender
from vfusion3d.data.images import FORMATS, only_listed_formats
from vfusion3d.data.mesh_files import load_mesh
from vfusion3d.foundations.background_removal import ImageError
from vfusion3d.foundations.clip import load_clip
from vfusion3d.foundations.loading import hub_commit, load_once, name_of, only_numbers, pretrained
from vfusion3d.model.preprocess import load_image
from vfusion3d.runs.profiles import load_profile

ROOT = Path(__file__).resolve().parents[1]
PROMISES = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nnewpath 0 0 moveto showpage\n"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@functools.cache
def sources() -> dict[Path, list[ast.AST]]:
    """What stands in every file of the package."""
    paths = sorted((ROOT / "vfusion3d").rglob("*.py"))
    return {path: list(ast.walk(ast.parse(path.read_text(encoding="utf-8")))) for path in paths}


def calls(name: str) -> list[tuple[str, ast.Call]]:
    """Every call of a function or method, such as "torch.load" or ".from_pretrained", in the package, by its file."""
    return [
        (path.relative_to(ROOT / "vfusion3d").as_posix(), node)
        for path, nodes in sources().items()
        for node in nodes
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(name)
    ]


def options(call: ast.Call) -> dict[str, str]:
    return {each.arg: ast.unparse(each.value) for each in call.keywords if each.arg}


def test_every_promise_names_tests_that_exist():
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", PROMISES)
    assert len(named) > 12
    for file, test in named:
        assert f"def {test}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), test


# Nothing through pickle


def test_no_module_unpickles():
    for path, nodes in sources().items():
        if path.name == "guard.py":  # what our own two processes say to each other through a pipe; no file
            continue
        for node in nodes:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if ast.unparse(node) == "from joblib import cpu_count":
                continue
            assert not {"pickle", "joblib", "dill", "cloudpickle", "shelve", "marshal"} & set(names), path
    assert all(options(call).get("allow_pickle") == "False" for _, call in calls("np.load"))


def test_torch_files_are_read_for_their_numbers_only_and_in_two_places():
    found = calls("torch.load") + calls("load_state_dict_from_url")
    assert {file for file, _ in found} == {"foundations/aesthetic_score.py", "model/released.py"}
    assert all(options(call)["weights_only"] == "True" for _, call in found)
    assert not calls("torch.jit.load") + calls("torch.hub.load")


def test_what_could_fall_back_to_another_format_is_asked_for_safetensors():
    asked = [call for _, call in calls("pretrained") if isinstance(call.func, ast.Name) and len(call.args) == 2]
    weights = [call for call in asked if not re.search("Tokenizer|Processor|AestheticHead", ast.unparse(call.args[0]))]
    assert len(weights) >= 6
    assert all(options(call).get("use_safetensors") == "True" for call in weights)


class Runs:
    """Unpickled, it leaves a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_library_that_unpickles_inside_a_role_runs_no_code(tmp_path):
    torch.save({"weight": Runs(tmp_path / "ran")}, tmp_path / "weights.pth")
    profile = load_profile("smoke")

    def load(source, device, dtype):
        return torch.load(tmp_path / "weights.pth", weights_only=False)  # as torchvision's download does

    with pytest.raises(OSError, match="role captioner"):
        load_once(_with(profile, captioner=str(tmp_path)), "captioner", load)
    with pytest.raises(pickle.UnpicklingError), only_numbers():
        torch.load(tmp_path / "weights.pth", weights_only=False)
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / "weights.pth", weights_only=False)  # and outside it would have
    assert (tmp_path / "ran").exists()


def test_a_clip_without_safetensors_is_none(tmp_path):
    (tmp_path / "open_clip_config.json").write_text("{}")
    torch.save({"weight": Runs(tmp_path / "ran")}, tmp_path / "open_clip_pytorch_model.bin")
    with pytest.raises(ValueError, match=r"open_clip_model\.safetensors"):
        load_clip(str(tmp_path))
    assert not (tmp_path / "ran").exists()


# Models of the hub


def _with(profile, **roles):
    return replace(profile, foundations=replace(profile.foundations, **roles))


def test_a_model_of_the_hub_is_pinned_to_a_commit_which_settings_record(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--someone--dino"
    (folder / "snapshots" / COMMIT).mkdir(parents=True)
    (folder / "snapshots" / COMMIT / "config.json").write_text("{}")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path), raising=False)
    assert hub_commit("someone/dino") == ("someone/dino", COMMIT)
    assert hub_commit(f"someone/else@{COMMIT}") == ("someone/else", COMMIT)
    with pytest.raises(OSError, match="the hub cannot be reached, and someone/dino@v9 was not downloaded before"):
        hub_commit("someone/dino@v9")
    for name in ("vgg", "mini", str(tmp_path)):
        assert hub_commit(name) == (name, None)
    profile = load_profile("smoke")
    assert name_of(_with(profile, image_features="someone/dino"), "image_features") == f"someone/dino@{COMMIT}"
    assert name_of(_with(profile, clip="ViT-L-14/openai"), "clip") == "ViT-L-14/openai"
    assert name_of(_with(profile, clip=str(tmp_path)), "clip") == str(tmp_path)

    class Asked:
        @staticmethod
        def from_pretrained(name, **how):
            return name, how

    assert pretrained(Asked, "someone/dino", dtype=1) == ("someone/dino", {"dtype": 1, "revision": COMMIT})
    assert pretrained(Asked, tmp_path, dtype=1) == (str(tmp_path), {"dtype": 1})


def test_every_model_of_the_hub_is_loaded_at_its_commit():
    """`pretrained` is the only caller of a library's `from_pretrained`; the others are this package's own classes."""
    ours = {"VFusion3D", "StableVideoDiffusion", "ImageTo3DPipeline", "type(model)", "kind"}
    for file, call in calls(".from_pretrained"):
        if not file.startswith("miniatures/"):  # which read the folders that they wrote
            assert ast.unparse(call.func).removesuffix(".from_pretrained") in ours, (file, ast.unparse(call))
    for file, call in calls("hf_hub_download") + calls("snapshot_download"):
        assert "revision" in options(call), file


def test_no_code_of_a_model_is_run():
    assert not [
        file
        for name in ("from_pretrained", "pretrained")
        for file, call in calls(name)
        if options(call).get("trust_remote_code", "False") != "False"
    ]


# Pictures


def test_a_picture_that_would_start_another_program_is_no_picture(tmp_path, monkeypatch):
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was started"))
    for name in ("photo.png", "photo.eps"):
        (tmp_path / name).write_bytes(EPS)
        with pytest.raises(ImageError, match="is not a picture this can read"):
            load_image(tmp_path / name)
        with only_listed_formats(), pytest.raises(Image.UnidentifiedImageError):
            Image.open(tmp_path / name)
    assert Image.open(tmp_path / "photo.eps").format == "EPS"  # elsewhere Pillow is as it was


def test_a_texture_of_a_mesh_is_one_of_the_listed_formats(tmp_path, monkeypatch):
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was started"))
    quad = "v 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 0 1\n"
    (tmp_path / "a.obj").write_text(f"mtllib a.mtl\n{quad}usemtl m\nf 1/1 2/2 3/3\n")
    (tmp_path / "a.mtl").write_text("newmtl m\nmap_Kd t.png\n")
    (tmp_path / "t.png").write_bytes(EPS)
    try:
        mesh = load_mesh(tmp_path / "a.obj")
    except ValueError as error:
        assert "a.obj" in str(error)  # noqa: PT017
    else:
        parts = mesh.geometry.values() if isinstance(mesh, trimesh.Scene) else [mesh]
        assert all(
            getattr(part.visual, "material", None) is None or part.visual.material.image is None for part in parts
        )


@pytest.mark.parametrize("kind", [*FORMATS, "MPO"])
def test_each_listed_format_is_read(tmp_path, kind):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))
    if kind == "AVIF" and kind not in Image.SAVE:
        pytest.skip("this Pillow writes no AVIF")
    picture.save(tmp_path / "picture", kind)
    assert load_image(tmp_path / "picture").size == (16, 16)


def test_pictures_are_opened_in_one_place():
    for file, call in calls("Image.open"):
        assert file.startswith("data/") or "formats" in options(call), file
    assert not calls("imread") + calls("read_image") + calls("imageio.imopen")


# Folders, notebooks, pages


def test_a_blender_of_the_current_folder_or_of_another_user_is_not_started(tmp_path, monkeypatch):
    monkeypatch.delenv(blender.PYTHON_VARIABLE, raising=False)
    monkeypatch.setattr(blender, "__file__", str(tmp_path / "repository" / "vfusion3d" / "data" / "blender.py"))
    for root in ("here", "repository"):
        python = tmp_path / root / ".venv-blender" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.touch()
    monkeypatch.chdir(tmp_path / "here")
    assert blender.blender_python() == tmp_path / "repository" / ".venv-blender" / "bin" / "python"
    (tmp_path / "repository" / ".venv-blender").chmod(0o777)
    with pytest.raises(blender.BlenderMissingError, match="another user"):
        blender.blender_python()
    (tmp_path / "repository").rename(tmp_path / "gone")
    with pytest.raises(blender.BlenderMissingError, match="make blender"):
        blender.blender_python()


def test_a_notebooks_path_is_a_path_and_no_template():
    from papermill.parameterize import parameterize_path

    for path in ("a{run_dir}.ipynb", "{0.__class__}/b.ipynb", "}{.ipynb", "plain.ipynb"):
        assert parameterize_path(book_run._as_it_is(Path(path)), {"run_dir": "elsewhere"}) == path


def test_names_of_files_cannot_write_into_the_summary(tmp_path):
    names = ['08_"onload="alert(1)', "javascript:alert(1)", "<script>alert(1)<", "a?b#c%d"]
    runs, figures = tmp_path / "papermill_runs" / "smoke", tmp_path / "figures" / "smoke"
    for folder in (runs, figures):
        folder.mkdir(parents=True)
    for name in names:
        (runs / f"{name}.ipynb").write_text('{"metadata": {}}')
        (figures / f"figure_4_x{name.replace('/', '')}.png").touch()
    page = write_summary("smoke", tmp_path).read_text()
    assert "<script" not in page
    assert 'href="javascript:' not in page
    assert '"onload="' not in page
    assert "a%3Fb%23c%25d.ipynb" in page

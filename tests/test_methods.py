"""Folders of other methods' views, with real files: each frame has a colour of its own, which says where it stands."""

import colorsys
import shutil
import subprocess
from functools import partial

import imageio_ffmpeg
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from vfusion3d.evaluation.methods import (
    MethodFolderError,
    export_items,
    item_keys,
    method_folders,
    onto_white,
    own_pictures,
    read_turn,
    render_turns,
    shared_background,
    write_turn,
)
from vfusion3d.foundations.captioner import captioner
from vfusion3d.model.preprocess import prepare
from vfusion3d.runs.profiles import load_profile

SIZE = 32


def hues(count: int) -> torch.Tensor:
    """Colours (count, 3) around the colour wheel."""
    return torch.tensor([colorsys.hsv_to_rgb(number / count, 0.7, 0.9) for number in range(count)])


def frames(count: int, height: int = 48, width: int = 48) -> np.ndarray:
    plain = (hues(count) * 255).round().byte().numpy()
    return np.broadcast_to(plain[:, None, None], (count, height, width, 3)).copy()


def write_video(path, pictures: np.ndarray, *options: str):
    """A video by the plain ffmpeg writer: what another program would have made."""
    _, height, width, _ = pictures.shape
    writer = imageio_ffmpeg.write_frames(
        str(path), (width, height), fps=10, macro_block_size=1, output_params=[*options]
    )
    writer.send(None)
    for picture in pictures:
        writer.send(picture)
    writer.close()
    return path


def middle(views: torch.Tensor) -> torch.Tensor:
    return views[:, :, views.shape[-1] // 2, views.shape[-1] // 2]


@pytest.fixture
def methods(tmp_path):
    """Two methods and two items: videos of one, pictures of the other."""
    for key in ("a", "b"):
        (tmp_path / "Videos").mkdir(exist_ok=True)
        write_video(tmp_path / "Videos" / f"{key}.mp4", frames(24))
        folder = tmp_path / "Pictures" / key
        folder.mkdir(parents=True)
        for number, picture in enumerate(frames(12)):
            Image.fromarray(picture).save(folder / f"view{number}.png")  # 10 comes after 9, not after 1
    return tmp_path


def test_videos_and_pictures_give_uniform_views_in_their_order(methods):
    found = method_folders(methods, ["a", "b"], size=SIZE, views=4)
    assert list(found) == ["Pictures", "Videos"]
    for method in found.values():
        assert list(method) == ["a", "b"]
        views = method["b"]
        assert views.shape == (4, 3, SIZE, SIZE)
        assert torch.allclose(middle(views), hues(4), atol=0.03)  # every third, every sixth; H.264 rounds colours


def test_a_turn_with_fewer_views_gives_all_of_them(methods):
    assert torch.allclose(middle(read_turn(methods / "Pictures" / "a", SIZE, 99)), hues(12), atol=0.01)
    assert len(read_turn(methods / "Videos" / "a.mp4", SIZE, 99)) == 24


def test_transparent_pictures_and_gifs_are_on_white_and_what_is_not_square_is_shown_whole(tmp_path):
    (tmp_path / "M" / "a").mkdir(parents=True)
    wide = np.zeros((20, 40, 4), np.uint8)
    wide[:, :20] = (255, 0, 0, 255)
    Image.fromarray(wide).save(tmp_path / "M" / "a" / "0.png")
    (views,) = method_folders(tmp_path, ["a"], size=40)["M"]["a"]
    assert (views[:, :9] == 1).all()  # above the picture
    assert views[:, 20, 10].tolist() == pytest.approx([1, 0, 0])
    assert (views[:, 12:28, 22:] == 1).all()  # where it was transparent, whatever colour lay below
    Image.fromarray(wide).save(tmp_path / "turn.gif", save_all=True, append_images=[Image.fromarray(wide)])
    turn = read_turn(tmp_path / "turn.gif", 40, 8)
    assert len(turn) >= 1
    assert turn[0, :, 20, 10].tolist() == pytest.approx([1, 0, 0], abs=0.05)
    assert turn[0, :, 20, 30].tolist() == pytest.approx([1, 1, 1])


def test_a_missing_item_is_named_with_its_method_and_what_to_add(methods):
    (methods / "Videos" / "b.mp4").unlink()
    with pytest.raises(MethodFolderError, match=r"Videos has no views of b, c: add b\.mp4 or b/\*\.png") as error:
        method_folders(methods, ["a", "b", "c"], size=SIZE)
    assert "Pictures has no views of c" in str(error.value)


def test_an_unknown_item_is_left_out_with_a_warning_that_names_it(methods):
    shutil.rmtree(methods / "Pictures")
    with pytest.warns(UserWarning, match="Videos: no item is called b"):
        found = method_folders(methods, ["a"], size=SIZE)
    assert list(found["Videos"]) == ["a"]


def test_no_folder_means_no_method(tmp_path):
    assert method_folders(tmp_path / "nowhere", ["a"], size=SIZE) == {}
    (tmp_path / "README.txt").write_text("put methods here")
    (tmp_path / ".cache").mkdir()
    assert method_folders(tmp_path, ["a"], size=SIZE) == {}


@pytest.mark.parametrize("kept", [0.5, 0.98])
@pytest.mark.parametrize("options", [(), ("-movflags", "+faststart")], ids=["index last", "index first"])
def test_a_video_that_was_cut_off_is_an_error_and_not_a_shorter_turn(tmp_path, kept, options):
    noise = np.random.default_rng(0).integers(0, 255, (24, 48, 48, 3), dtype=np.uint8)
    whole = write_video(tmp_path / "a.mp4", noise, *options)
    assert len(read_turn(whole, SIZE, 99)) == 24
    data = whole.read_bytes()
    whole.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(MethodFolderError, match=r"a\.mp4 .*it is damaged or cut off, export it again"):
        read_turn(whole, SIZE, 4)


def test_files_that_hold_no_pictures_are_named(tmp_path):
    def fails(name, match):
        with pytest.raises(MethodFolderError, match=match):
            read_turn(tmp_path / name, SIZE, 4)

    (tmp_path / "empty.mp4").touch()
    fails("empty.mp4", r"empty\.mp4 is empty")
    (tmp_path / "text.mp4").write_text("not a video " * 100)
    fails("text.mp4", r"text\.mp4 cannot be read")
    (tmp_path / "folder").mkdir()
    fails("folder", "folder holds no pictures")
    (tmp_path / "folder" / "0.png").write_text("not a picture")
    fails("folder", r"folder: .*0\.png")
    sound = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "lavfi", "-i", "sine=d=0.1", tmp_path / "sound.mp4"]
    subprocess.run(sound, check=True)
    fails("sound.mp4", r"sound\.mp4 cannot be read")


def test_one_item_given_twice_is_an_error(methods):
    (methods / "Videos" / "a").mkdir()
    with pytest.raises(MethodFolderError, match=r"Videos has both a and a\.mp4"):
        method_folders(methods, ["a", "b"], size=SIZE)


def test_exported_items_can_be_read_back_and_old_ones_go(tmp_path):
    captions = ["A red mug, with a handle!", "a house"]
    keys = item_keys(captions)
    assert keys == ["01-a-red-mug-with-a-handle", "02-a-house"]
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    export_items(tmp_path, images.flip(0), ["old", "older"], ["x", "01-a-red-mug-with-a-handle"])
    (tmp_path / "mine.png").touch()
    export_items(tmp_path, images, captions, keys)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "01-a-red-mug-with-a-handle.png",
        "02-a-house.png",
        "captions.csv",
        "mine.png",
    ]
    table = pd.read_csv(tmp_path / "captions.csv")
    assert table.to_dict("list") == {"key": keys, "caption": captions}
    for key, image in zip(keys, images, strict=True):
        stored = np.asarray(Image.open(tmp_path / f"{key}.png")) / 255
        assert np.abs(stored - image.permute(1, 2, 0).numpy()).max() < 0.5 / 255 + 1e-6


def test_no_two_captions_share_a_key():
    captions = ["a " + "very " * 30 + "long one", "a " + "very " * 30 + "long other", "茶", ""]
    keys = item_keys(captions)
    assert len(set(keys)) == 4
    assert max(map(len, keys)) < 70
    assert keys[2:] == ["03", "04"]


def test_our_own_turns_take_part_as_another_method_s_folder_would(tmp_path):
    def method(image):  # its views have the picture's colour, darker and darker
        return image[:, :, :1, :1] * torch.linspace(1, 0.5, 16)[:, None, None, None].expand(-1, 3, 64, 64)

    images = hues(2)[:, :, None, None].expand(-1, 3, 8, 8)
    turns = render_turns(method, images, ["a", "b"], tmp_path / "Ours")
    found = method_folders(tmp_path, ["a", "b"], size=64, views=16)["Ours"]
    for key, image in zip("ab", images, strict=True):
        assert torch.equal(turns[key], method(image[None]))
        assert torch.allclose(middle(found[key]), middle(turns[key]), atol=0.03)


@pytest.mark.parametrize("size", [64, 150])
def test_a_written_turn_keeps_its_shape_and_its_colours(tmp_path, size):
    views = torch.ones(6, 3, size, size)
    views[:, :, : size // 2, : size // 2] = hues(6)[:, :, None, None]
    write_turn(views, tmp_path / "a.mp4")
    meta = next(imageio_ffmpeg.read_frames(str(tmp_path / "a.mp4")))
    assert meta["codec"] == "h264"
    assert meta["size"] == (max(size, 128),) * 2
    again = read_turn(tmp_path / "a.mp4", size, 6)
    assert (again - views).abs().mean() < 0.02
    quarter = partial(torch.mean, dim=(2, 3))
    assert torch.allclose(quarter(again[..., : size // 2 - 2, : size // 2 - 2]), hues(6), atol=0.03)


def orbit_of_a_mark(count: int, first: int, background: tuple, side: int = 64) -> np.ndarray:
    """Frames of a grey disc with a coloured mark that goes round it once; frame `first` has it where frame 0 should."""
    y, x = np.mgrid[:side, :side] - side / 2 + 0.5
    pictures = np.empty((count, side, side, 3), np.uint8)
    for number in range(count):
        angle = 2 * np.pi * (number - first) / count
        pictures[number] = background
        pictures[number][np.hypot(x, y) < side * 0.4] = (120, 120, 120)
        mark = np.hypot(x - side * 0.25 * np.cos(angle), y - side * 0.25 * np.sin(angle)) < side * 0.1
        pictures[number][mark] = (200, 40, 40)
    return pictures


@pytest.mark.parametrize("background", [(255, 255, 255), (0, 0, 0), (127, 127, 127 + 60)])
@pytest.mark.parametrize(("count", "first"), [(16, 0), (36, 9)])
def test_a_turn_comes_as_it_is_whatever_its_background_length_and_start(tmp_path, background, count, first):
    (tmp_path / "Theirs").mkdir()
    video = write_video(tmp_path / "Theirs" / "a.mp4", orbit_of_a_mark(count, first, background))
    wanted = torch.from_numpy(orbit_of_a_mark(4, 0, (255, 255, 255))).movedim(-1, 1) / 255
    found = method_folders(tmp_path, ["a"], size=64, views=4, images=wanted[:1])["Theirs"]["a"]
    assert (found - wanted).abs().mean() < 0.02
    corners = found[..., :8, :8]
    assert (1 - corners).abs().max() < 0.02
    if first:
        assert (read_turn(video, 64, 4) - wanted).abs().mean() > 0.02


def test_a_black_part_inside_an_object_stays_black_on_a_black_background():
    picture = np.zeros((64, 64, 4), np.uint8)
    picture[..., 3] = 255
    picture[16:48, 16:48, :3] = 200
    picture[28:36, 28:36, :3] = 0
    picture = Image.fromarray(picture)
    pixels = np.asarray(onto_white(picture, shared_background([picture])))[..., :3]
    assert (pixels[0] == 255).all()
    assert (pixels[32, 32] == 0).all()
    assert (pixels[20, 20] == 200).all()
    assert shared_background([Image.fromarray(np.full((8, 8, 4), 255, np.uint8))]) is None


def test_pictures_of_one_s_own_have_the_captions_beside_them_or_the_captioner_s(tmp_path):
    for number, name in enumerate(("b", "a", "c")):
        picture = np.zeros((40, 50, 4), np.uint8)
        picture[10:30, 5:25] = (40 * number, 90, 200, 255)
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
    (tmp_path / "a.txt").write_text("a blue box\n")
    (tmp_path / "captions.csv").write_text("key,caption\nb,a box of the list\n")
    describe = captioner(load_profile("smoke"))
    images, captions = own_pictures(tmp_path, 64, describe, torch.Generator())
    assert captions == ["a blue box", "a box of the list", ""]  # the stand-in cannot see the third
    assert images.shape == (3, 3, 64, 64)
    assert torch.equal(images[1], prepare(tmp_path / "b.png", 64).image)
    seen = own_pictures(tmp_path, 64, lambda views, generator, description=None: "seen", torch.Generator())[1]
    assert seen == ["a blue box", "a box of the list", "seen"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(MethodFolderError, match="holds no pictures"):
        own_pictures(tmp_path / "empty", 64, describe, torch.Generator())

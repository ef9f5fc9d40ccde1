"""The test on single images, with a CLIP whose features and therefore whose cosines are known in closed form."""

import math
from dataclasses import replace

import pytest
import torch
from tiny_model import tiny_model
from torch.nn.functional import normalize

from vfusion3d import ImageTo3DPipeline
from vfusion3d.cameras import (
    azimuth_elevation_distance,
    camera_vector,
    default_intrinsics,
    look_at_origin,
    sphere_position,
)
from vfusion3d.evaluation.baselines import repeat_input, white
from vfusion3d.evaluation.protocol import model_predictor
from vfusion3d.evaluation.single_images import around, evaluate_single_images, orbit_of, prompt_images
from vfusion3d.evaluation.tables import differences
from vfusion3d.foundations.text_to_image import text_to_image
from vfusion3d.runs.profiles import load_profile

SIZE = 32


class ColourClip:
    """Sees the mean colour of a picture, reads the names of three colours."""

    def image_features(self, images):
        return normalize(images.mean(dim=(2, 3)), dim=-1)

    def text_features(self, texts):
        return torch.eye(3)[[("red", "green", "blue").index(text) for text in texts]]


def plain(*colours, size=SIZE):
    return torch.tensor(colours, dtype=torch.float32)[:, :, None, None].expand(-1, 3, size, size)


RED, GREEN, BLUE = torch.eye(3).tolist()
ITEMS = {"captions": ["red", "green"], "keys": ["a", "b"], "size": SIZE}


def evaluate(methods, images=None, **changed):
    images = plain(RED, GREEN, size=48) if images is None else images
    arguments = ITEMS | changed
    return evaluate_single_images(methods, images, arguments.pop("captions"), ColourClip(), **arguments)


def test_similarities_are_the_mean_cosines_over_the_turn():
    both = math.sqrt(0.5)
    method = {"half": lambda image: plain(RED, [1.0, 1.0, 0.0], BLUE, BLUE)}
    a, b = evaluate(method, plain(RED, GREEN), captions=["red", "blue"]).itertuples()
    assert (a.method, a.key, a.caption, a.views) == ("half", "a", "red", 4)
    assert (a.clip_text, a.clip_image) == pytest.approx(((1 + both) / 4,) * 2)
    assert b.clip_text == pytest.approx(0.5)  # two of its four views are blue
    assert b.clip_image == pytest.approx(both / 4)


def test_the_repeated_input_has_an_image_similarity_of_one_and_white_has_not():
    baselines = {"repeated": repeat_input, "white": white}
    methods = {name: around(predict, size=SIZE, elevation=0.3) for name, predict in baselines.items()}
    table = evaluate(methods).set_index(["method", "key"])
    assert table.loc["repeated", "clip_image"].tolist() == pytest.approx([1, 1])
    assert table.loc["repeated", "clip_text"].tolist() == pytest.approx([1, 1])
    assert table.loc["white", "clip_text"].tolist() == pytest.approx([3**-0.5] * 2)


def test_views_that_exist_already_are_found_by_their_key():
    turns = {"b": plain(GREEN, GREEN), "a": plain(BLUE)}
    table = evaluate({"folder": turns})
    assert table.key.tolist() == ["a", "b"]
    assert table.clip_image.tolist() == [0, 1]
    assert table.views.tolist() == [1, 2]


def test_fewer_views_are_taken_at_equal_distances():
    turn = {"turn": lambda image: plain(RED, GREEN, BLUE, BLUE)}
    assert evaluate(turn, views=2).clip_text.tolist() == [0.5, 0]  # the first and the third
    assert evaluate(turn, views=9).views.tolist() == [4, 4]  # no more than there are


def test_a_method_s_scores_do_not_depend_on_who_else_takes_part():
    one, other = (lambda image: plain(RED, BLUE)), (lambda image: plain(GREEN))
    alone, together = evaluate({"one": one}), evaluate({"other": other, "one": one})
    assert together[together.method == "one"].reset_index(drop=True).equals(alone)


def test_errors_name_the_method_and_the_item():
    with pytest.raises(ValueError, match=r"small returned \(1, 3, 8, 8\) for a"):
        evaluate({"small": lambda image: plain(RED, size=8)})
    with pytest.raises(ValueError, match=r"broken returned.*not finite for a"):
        evaluate({"broken": lambda image: plain(RED) * math.nan})
    with pytest.raises(ValueError, match="none returned"):
        evaluate({"none": lambda image: plain(RED)[:0]})
    with pytest.raises(ValueError, match="2 images, 1 captions"):
        evaluate({"white": lambda image: plain(RED)}, captions=["red"])
    with pytest.raises(ValueError, match="share a key in a, a"):
        evaluate({"white": lambda image: plain(RED)}, keys=["a", "a"])


def test_the_model_turns_as_the_pipeline_s_asset_does():
    model, picture = tiny_model(), torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1))
    asset = ImageTo3DPipeline(model)(picture, background="keep")
    turn = orbit_of(model, size=SIZE, views=8)(asset.image[None])
    assert torch.allclose(turn, asset.render(size=SIZE), atol=1e-4)
    assert not torch.allclose(turn[0], turn[4], atol=1e-3)  # it does turn


def test_the_model_is_told_the_camera_that_it_was_trained_for_unless_another_is_given():
    model, told = tiny_model(), []
    model.register_forward_pre_hook(lambda _, given: told.append(given[1]))
    for elevation in (None, 0.7):
        orbit_of(model, size=SIZE, views=2, elevation=elevation)(torch.ones(1, 3, 64, 64))
    for camera, elevation in zip(told, (model.config.source_elevation, 0.7), strict=True):
        azimuth, seen, distance = azimuth_elevation_distance(camera[:, :12].view(1, 3, 4))
        assert (azimuth.item(), seen.item()) == pytest.approx((0, elevation), abs=1e-6)
        assert distance.item() == pytest.approx(model.config.source_distance)
    assert camera_vector(camera[:, :12].view(1, 3, 4), default_intrinsics(1)).equal(camera)


def test_a_predictor_is_asked_for_a_full_turn_that_begins_at_the_picture():
    asked = []

    def note(image, camera, cam2world, intrinsics, size):
        asked.extend([camera[0], cam2world])
        return repeat_input(image, camera, cam2world, intrinsics, size)

    assert around(note, size=SIZE, views=4, elevation=0.2)(torch.ones(1, 3, 64, 64)).shape == (4, 3, SIZE, SIZE)
    source, wanted = asked
    assert torch.allclose(source[0], wanted[0, 0])
    azimuth, elevation, _ = azimuth_elevation_distance(wanted[0])
    assert azimuth.diff().remainder(2 * math.pi).tolist() == pytest.approx([math.pi / 2] * 3, abs=1e-5)
    assert elevation.tolist() == pytest.approx([0.2] * 4, abs=1e-5)


def test_a_prompt_s_picture_depends_on_the_seed_and_its_place_alone():
    profile = load_profile("smoke")
    prompts = ["a red mug", "a green mug", "a blue mug"]
    pictures = prompt_images(text_to_image(profile), prompts, 3, SIZE)
    assert pictures.shape == (3, 3, SIZE, SIZE)
    assert pictures[:, :, 0, 0].min() == 1  # on white
    assert prompt_images(text_to_image(profile), prompts[:2], 3, SIZE).equal(pictures[:2])
    assert not prompt_images(text_to_image(profile), prompts[:1], 4, SIZE).equal(pictures[:1])
    reddest = (pictures[:, 0] - pictures[:, 2]).sum(dim=(1, 2)).argmax()
    bluest = (pictures[:, 2] - pictures[:, 0]).sum(dim=(1, 2)).argmax()
    assert (reddest.item(), bluest.item()) == (0, 2)


@torch.no_grad()
def test_weights_that_know_one_camera_are_told_that_one_and_see_the_wanted_views_as_far_from_it():
    released = tiny_model()
    released.config = replace(released.config, source_distance=1.0, source_elevation=0.0)
    asked = {}
    planes, turned = released(torch.ones(1, 3, 64, 64), torch.zeros(1, 16)), torch.rand(1, 3, 64, 64)

    def forward(image, camera):
        asked["camera"] = camera
        return planes

    released.forward = forward
    elevation, azimuths = 0.6, torch.tensor([0.0, 1.0, 2.5])
    camera = look_at_origin(sphere_position(0.0, elevation)[None]), default_intrinsics(1)
    wanted = look_at_origin(sphere_position(azimuths, torch.tensor([0.6, 0.2, 0.4])))[None]
    views = model_predictor(released)(turned, camera, wanted, default_intrinsics(1, 3), 16)
    expected = torch.tensor([[0.0, 0, 1, 1, 1, 0, 0, 0, 0, 1, 0, 0, 0.75, 0.75, 0.5, 0.5]])  # at (1, 0, 0), f = 0.75
    assert torch.allclose(asked["camera"], expected, atol=1e-6)
    level = look_at_origin(sphere_position(0.0, 0.0)[None])  # from there, and 1.5 away, the input is seen
    direct = released.render(planes, level[None], default_intrinsics(1, 1), 16).rgb.clamp(0, 1)
    assert torch.allclose(views[:, :1], direct, atol=1e-5)
    down = torch.tensor(  # the world tipped about y by the elevation: the second and third view the same way
        [[math.cos(0.6), 0, math.sin(0.6)], [0, 1, 0], [-math.sin(0.6), 0, math.cos(0.6)]]
    )
    tipped = released.render(planes, (down @ wanted[0])[None], default_intrinsics(1, 3), 16).rgb.clamp(0, 1)
    assert torch.allclose(views, tipped, atol=1e-5)
    ours = tiny_model()
    ours.forward = forward
    model_predictor(ours)(turned, camera, wanted, default_intrinsics(1, 3), 16)
    assert torch.allclose(asked["camera"], camera_vector(*camera))  # which learned from all cameras at distance 1.5


def test_a_picture_without_a_caption_has_an_image_similarity_alone():
    class Silent(ColourClip):
        def text_features(self, texts):
            return torch.eye(3)[[0 for _ in texts]]

    methods = {name: (lambda image: plain(RED, GREEN)) for name in ("ours", "other")}
    images = plain(RED, GREEN, size=48)
    table = evaluate_single_images(methods, images, ["", "red"], Silent(), keys=["a", "b"], size=SIZE)
    assert table.clip_text.isna().tolist() == [True, False] * 2
    assert table.clip_image.notna().all()
    nobody = table.assign(clip_text=float("nan"))
    assert set(differences(nobody, "ours").metric) == {"clip_image"}

"""The web world: captioned pictures and videos of everything, and how much they move."""

import json
import math

import numpy as np
import pytest
import torch

from vfusion3d import cameras
from vfusion3d.data.shards import MultiviewShards, ShardError, VideoShards
from vfusion3d.data.surfaces import Light
from vfusion3d.world.captions import PHRASES
from vfusion3d.world.catalogue import UNCOMMON
from vfusion3d.world.motion import MOST, motion_bucket, motion_of
from vfusion3d.world.web_world import ARCS, CURATED_ARCS, MOTIONS, Scene, camera_path, film, render_web, sample_scene


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("web") / "videos"
    render_web(folder, 10, frames=4, size=48, seed=3, shard_size=4)
    return VideoShards(folder)


def texture(shift: float, size: int = 64) -> np.ndarray:
    """A smooth pattern, moved to the right by `shift` pixels."""
    x, y = np.meshgrid(np.arange(size) - shift, np.arange(size))
    grey = 127 + 60 * np.sin(x / 3.1) * np.cos(y / 4.3) + 50 * np.sin(x / 9 + y / 7)
    return np.repeat(np.uint8(grey)[..., None], 3, axis=2)


@pytest.mark.parametrize("speed", [0.5, 1.0, 2.0])
def test_motion_is_the_speed_of_a_moving_pattern_in_percent_of_the_side(speed):
    video = np.stack([texture(speed * frame) for frame in range(5)])
    assert motion_of(video) == pytest.approx(100 * speed / 64, rel=0.15)


def test_a_still_or_single_picture_does_not_move():
    assert motion_of(np.stack([texture(0)] * 3)) < 0.01
    assert motion_of(texture(0)[None]) == 0


def test_buckets_go_from_0_to_255_with_the_motion():
    assert [motion_bucket(motion) for motion in (0.0, MOST / 2, MOST, 9 * MOST)] == [0, 128, 255, 255]


def test_a_video_has_its_frames_caption_and_measured_motion(videos):
    assert len(videos) == 10
    sample = videos[7]
    assert sample.frames.shape == (4, 3, 48, 48)
    assert sample.frames.dtype == torch.uint8
    assert sample.metadata["camera"] in MOTIONS
    assert all(name in sample.caption for name in sample.metadata["categories"])
    frames = sample.frames.permute(0, 2, 3, 1).numpy()
    assert motion_of(frames) == pytest.approx(sample.metadata["motion"], abs=0.1)  # JPEG changes little
    json.dumps(sample.metadata)


def test_pictures_are_videos_of_one_frame(tmp_path):
    render_web(tmp_path / "pictures", 2, frames=1, size=32)
    pictures = VideoShards(tmp_path / "pictures")
    assert [sample.frames.shape for sample in pictures] == [(1, 3, 32, 32)] * 2
    assert [sample.metadata["motion"] for sample in pictures] == [0.0, 0.0]


def test_the_same_seed_gives_the_same_bytes(videos, tmp_path):
    render_web(tmp_path / "again", 10, frames=4, size=48, seed=3, shard_size=4)
    assert VideoShards(tmp_path / "again").fingerprint == videos.fingerprint
    render_web(tmp_path / "other", 10, frames=4, size=48, seed=4, shard_size=4)
    assert VideoShards(tmp_path / "other").fingerprint != videos.fingerprint


def test_multiview_data_are_not_taken_for_videos_without_a_word(videos):
    wrong = MultiviewShards(videos.folder)
    with pytest.raises(ShardError, match=r"has no cameras\.json"):
        wrong[0]


def test_no_camera_goes_around_in_a_full_circle():
    swept = []
    for seed in range(300):
        _, cam2world = camera_path(np.random.default_rng(seed), 16)
        azimuth = cameras.azimuth_elevation_distance(cam2world)[0].numpy()
        swept.append(np.ptp(np.unwrap(azimuth)))
    assert max(swept) < ARCS[1] + 0.2  # a camera aside of its orbit turns a little more
    assert min(swept) == pytest.approx(0, abs=1e-5)


def test_curated_videos_show_one_object_on_white_mostly_on_turntables_and_never_a_full_circle():
    swept = []
    for seed in range(300):
        kind, cam2world = camera_path(np.random.default_rng(seed), 16, curated=True)
        azimuth, elevation, _ = (part.numpy() for part in cameras.azimuth_elevation_distance(cam2world))
        if kind == "arc":
            steps = np.diff(np.unwrap(azimuth))
            assert np.allclose(steps, steps[0], atol=1e-4)
            assert np.ptp(elevation) < 1e-4
            swept.append(steps.sum())  # all of them the same way round
    assert len(swept) > 240
    assert min(swept) > CURATED_ARCS[0] - 1e-4
    assert max(swept) < CURATED_ARCS[1] + 1e-4 < 2 * math.pi
    for seed in range(20):
        scene = sample_scene(np.random.default_rng(seed), curated=True)
        assert len(scene.objects) == 1
        assert (scene.background, scene.light) == ("white", Light())
        assert (scene.panorama == 1).all()


def test_captions_use_words_that_the_grammar_knows_and_show_uncommon_things_too():
    scenes = [sample_scene(np.random.default_rng(seed)) for seed in range(60)]
    known = {word for phrase in PHRASES for word in phrase.replace("-", " ").split()}
    known |= {"a", "an", "and", "of", "on", "photo", "picture", "image", "background"}
    words = {word for scene in scenes for word in scene.caption.replace("-", " ").split()}
    assert words <= known
    assert any(spec.category in UNCOMMON for scene in scenes for spec in scene.objects)
    assert {len(scene.objects) for scene in scenes} == {1, 2, 3}


def test_the_background_turns_with_the_camera_and_stands_still_with_it():
    import trimesh

    speck = trimesh.creation.icosphere(radius=1e-3)
    panorama = np.random.default_rng(0).uniform(0, 1, (9, 16, 3))
    scene = Scene((), trimesh.Scene([speck]), Light(), "clouds", panorama, "")
    still = cameras.orbit_cameras(1, 0.2)
    aside = still.clone()
    aside[..., 3] += 0.2  # what is infinitely far away does not move
    turned = cameras.orbit_cameras(2, 0.2)[1:]
    first, second, third = film(scene, torch.cat([still, aside, turned]), 32)
    assert np.abs(first.astype(int) - second).max() < 2
    assert np.abs(first.astype(int) - third).mean() > 20


def test_light_of_ones_own_brightens_the_side_it_comes_from():
    import trimesh

    from vfusion3d.data.render import render_views

    box = trimesh.creation.box([0.8, 0.8, 0.8])
    cam2world = cameras.orbit_cameras(2, 0.0)  # from +x and from -x
    views = render_views(box, cam2world, cameras.INTRINSICS, 16, shading=Light(0.5, (0.4, 0, 0))).rgba
    lit, unlit = views[:, 8, 8, 0] / 200  # the grey of a mesh without colours
    assert lit == pytest.approx(0.9, abs=0.01)
    assert unlit == pytest.approx(0.1, abs=0.01)
    with pytest.raises(ValueError, match="Cycles"):
        render_views(box, cam2world, cameras.INTRINSICS, 16, shading=Light(), backend="blender")


def test_the_camera_never_dips_below_a_floor():
    for seed in range(200):
        _, cam2world = camera_path(np.random.default_rng(seed), 8, raised=True)
        assert (cam2world[:, 2, 3] > -0.75 + 0.3).all()
        assert math.isfinite(cam2world.sum())

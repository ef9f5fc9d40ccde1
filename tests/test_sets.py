"""Nothing is in two sets: training, validation, test, and what the video model learns from."""

import dataclasses
import itertools

import numpy as np
import pytest
import trimesh

from vfusion3d.cameras import azimuth_elevation_distance
from vfusion3d.cli.main import main
from vfusion3d.data.render_dataset import MeshFolder, object_draws
from vfusion3d.runs.profiles import load_profile
from vfusion3d.world.captions import describe, meaning
from vfusion3d.world.catalogue import COMMON
from vfusion3d.world.sources import ProceduralObjects, data_sets
from vfusion3d.world.unseen import UnseenObjects, eval_prompts, held_out, sample_apart
from vfusion3d.world.web_world import FRAMES, _Job, camera_path, render_web


def specs(one, count):
    """What the objects of a procedural set are, without building them."""
    for index in range(count):
        rng, *_ = object_draws(one.seed, index)
        if isinstance(one.objects, UnseenObjects):
            yield one.objects.spec(index, rng)
        else:
            yield sample_apart(rng, one.objects.categories, held_out(one.objects.apart_from))


@pytest.mark.parametrize("seed", [0, 7])
def test_no_object_caption_or_mesh_seed_is_in_two_sets(seed):
    sets = [list(specs(one, 500)) for one in data_sets(load_profile("paper"), seed)]
    captions = [{meaning(describe(spec)) for spec in one} for one in sets]
    prompts = set(map(meaning, eval_prompts(40)))
    assert all(len(one) > 300 for one in captions)
    for (one, said), (other, says) in itertools.combinations(zip(sets, captions, strict=True), 2):
        assert not said & says
        assert not {spec.seed for spec in one} & {spec.seed for spec in other}
    assert not prompts & (captions[0] | captions[1])
    by_chance = {meaning(describe(spec)) for spec in specs(data_sets(load_profile("paper"), seed)[2], 500)}
    drawn = [sample_apart(object_draws(seed, index)[0], COMMON, frozenset()) for index in range(500)]
    assert sum(meaning(describe(spec)) in by_chance for spec in drawn) > 10  # what there would be else


def test_an_object_that_is_held_out_for_nothing_is_what_it_was():
    rng = [np.random.default_rng([0, 3]) for _ in range(2)]
    assert ProceduralObjects(COMMON)(3, rng[0]).metadata == ProceduralObjects(COMMON, apart_from=0)(3, rng[1]).metadata


def write_mesh(folder, name, caption="", bytes_of=None):
    path = folder / f"{name}.ply"
    if bytes_of:
        path.write_bytes((folder / f"{bytes_of}.ply").read_bytes())
    else:
        trimesh.creation.box([1, 2, 1 + sum(name.encode()) % 97]).export(path)
    if caption:
        path.with_suffix(".txt").write_text(caption)


def test_a_folder_of_meshes_is_divided_and_what_is_alike_stays_together(tmp_path):
    for number in range(12):
        write_mesh(tmp_path, f"mesh_{number:02d}", "a chair" if number < 3 else "")
    write_mesh(tmp_path, "copy", bytes_of="mesh_05")
    smoke = load_profile("smoke")
    few = dataclasses.replace(smoke, data=dataclasses.replace(smoke.data, test_objects=3, validation_objects=2))
    sets = [one.objects for one in data_sets(few, meshes=MeshFolder(str(tmp_path)))]
    names = [{path.stem for path in one.paths} for one in sets]
    assert [len(one) for one in names] == [8, 2, 3]
    assert len(set.union(*names)) == 13
    for alike in ({"mesh_00", "mesh_01", "mesh_02"}, {"copy", "mesh_05"}):
        assert sum(bool(alike & one) for one in names) == 1
    assert [len(one) for one in sets] == [len(one.paths) for one in sets]


def test_a_folder_that_is_too_small_to_hold_something_out_is_one_line(tmp_path, capsys):
    meshes = tmp_path / "meshes"
    meshes.mkdir()
    for number in range(3):
        write_mesh(meshes, f"mesh_{number}")
    arguments = ["render", "--profile", "smoke", "--objects", str(meshes), "--run-dir", str(tmp_path / "run")]
    assert main(arguments) == 1
    assert "3 mesh files" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_second_video_model_sees_nothing_of_the_tests_and_nothing_uncommon_from_behind(tmp_path):
    job = _Job(FRAMES, 64, 404, curated=True, uncommon_turn=False, apart_from=0)
    usual = _Job(FRAMES, 64, 404, curated=True)
    drawn, before = ([one.scene(np.random.default_rng([404, i])) for i in range(60)] for one in (job, usual))
    said = [{meaning(text) for text in (scene.caption, *map(describe, scene.objects))} for scene in drawn]
    assert not held_out(0) & set.union(*said)
    assert sum(meaning(scene.caption) in held_out(0) for scene in before) > 3  # what there would be else

    def turned(short):
        """How far each of 60 cameras goes round, in degrees."""
        for seed in range(60):
            _, cam2world = camera_path(np.random.default_rng(seed), FRAMES, curated=True, short=short)
            azimuth = np.unwrap(azimuth_elevation_distance(cam2world)[0].numpy())
            yield np.degrees(np.ptp(azimuth))

    assert max(turned(True)) < 90  # 60 degrees of arc, and what panning aside adds
    assert np.median(list(turned(False))) > 299
    assert render_web(tmp_path, 1, size=16, uncommon_turn=False, apart_from=0).exists()

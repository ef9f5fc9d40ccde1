"""Rendering a data set: the same bytes for any number of workers and kills, and the cameras of the paper."""

import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from vfusion3d import cameras
from vfusion3d.data.render import render_views
from vfusion3d.data.render_dataset import MeshFolder, made_of_files, render_dataset
from vfusion3d.data.shards import MultiviewShards, VideoShards, encode_video, written_keys
from vfusion3d.data.write_shards import write_shards
from vfusion3d.runs.claim import DEFAULTS, claim_folder, write_record
from vfusion3d.world.sources import ProceduralObjects, RandomPrimitives

pytest.importorskip("pyvista")

SETTINGS = {"views": 4, "size": 24, "seed": 7, "shard_size": 5}


def checksums(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("rendered")
    render_dataset(folder, RandomPrimitives(), 12, **SETTINGS)
    return folder


def test_the_samples_show_the_objects_of_their_seeds_from_the_stored_cameras(rendered):
    from vfusion3d.world.primitives import random_primitives

    data = MultiviewShards(rendered, verify=True)
    assert data.keys == [f"{index:08d}" for index in range(12)]
    for index in (0, 7, 11):
        sample = data[index]
        rng = np.random.default_rng([7, index])
        rng.uniform(), rng.integers(2**63)  # the elevation and the seed of the cameras come first
        again = render_views(random_primitives(rng), sample.cam2world, sample.intrinsics, 24).rgba
        assert (again == sample.rgba.permute(0, 2, 3, 1).numpy()).all()
        assert sample.metadata["seed"] == 7
        assert sample.metadata["index"] == index
    assert len({data[index].rgba.numpy().tobytes() for index in range(12)}) == 12


def test_cameras_stand_as_the_paper_says(rendered):
    data = MultiviewShards(rendered)
    elevations = [sample.metadata["elevation"] for sample in data]
    assert 0 <= min(elevations) < 0.2
    assert 0.5 < max(elevations) <= math.pi / 4
    for sample in data:
        ideal = cameras.orbit_cameras(4, sample.metadata["elevation"])
        assert torch.allclose(sample.cam2world[..., :3], ideal[..., :3], atol=1e-6)
        shift = sample.cam2world[..., 3] - ideal[..., 3]
        assert shift.abs().max() <= 0.05 + 1e-6
        assert shift.abs().max() > 0.01
        assert torch.equal(sample.intrinsics, cameras.default_intrinsics(4))


def test_two_workers_write_the_bytes_that_one_writes(rendered, tmp_path):
    render_dataset(tmp_path, RandomPrimitives(), 12, workers=2, **SETTINGS)
    assert checksums(tmp_path) == checksums(rendered)


def test_parts_on_several_machines_write_the_bytes_of_the_whole(rendered, tmp_path):
    render_dataset(tmp_path, RandomPrimitives(), 12, part=(1, 2), **SETTINGS)
    assert not (tmp_path / "index.json").exists()
    render_dataset(tmp_path, RandomPrimitives(), 12, part=(0, 2), **SETTINGS)
    assert checksums(tmp_path) == checksums(rendered)


@pytest.mark.parametrize("workers", [1, 2])
def test_kill_9_in_the_middle_and_going_on_gives_the_bytes_of_an_undisturbed_run(rendered, tmp_path, workers):
    code = (
        "from vfusion3d.data.render_dataset import render_dataset\n"
        "from vfusion3d.world.sources import RandomPrimitives\n"
        "if __name__ == '__main__':\n"
        f"    render_dataset({str(tmp_path)!r}, RandomPrimitives(), 12, workers={workers}, **{SETTINGS!r})\n"
    )
    script = tmp_path.with_suffix(".py")
    script.write_text(code)
    for stop_after in (2, 7) if workers == 1 else (7,):  # in the middle of the first and of the second shard
        process = subprocess.Popen([sys.executable, str(script)], start_new_session=True)
        deadline = time.monotonic() + 240
        while process.poll() is None and time.monotonic() < deadline:
            if sum(len(written_keys(tmp_path / f"shard-{shard:06d}.tar")) for shard in range(3)) >= stop_after:
                break
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.returncode == -signal.SIGKILL, "it had finished before it could be killed"
        _wait_for_group(process.pid)  # the workers leave with their parent
        assert not (tmp_path / "index.json").exists()
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("shard-*.tar")}
    render_dataset(tmp_path, RandomPrimitives(), 12, **SETTINGS)
    assert checksums(tmp_path) == checksums(rendered)
    assert all((tmp_path / name).stat().st_mtime_ns == written for name, written in before.items())


def _wait_for_group(group: int) -> None:
    for _ in range(300):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError("workers outlived their parent")


def test_a_finished_folder_is_left_alone_and_other_settings_are_refused(rendered):
    before = {path.name: path.stat().st_mtime_ns for path in rendered.glob("*.tar")}
    render_dataset(rendered, RandomPrimitives(), 12, **SETTINGS)
    assert before == {path.name: path.stat().st_mtime_ns for path in rendered.glob("*.tar")}
    with pytest.raises(ValueError, match="size: 24 there, 32 now"):
        render_dataset(rendered, RandomPrimitives(), 12, **{**SETTINGS, "size": 32})


def test_procedural_objects_bring_their_captions_and_stay_in_their_categories(tmp_path):
    from vfusion3d.world.objects import COMMON

    render_dataset(tmp_path, ProceduralObjects(tuple(COMMON[:2])), 4, **SETTINGS)
    for sample in MultiviewShards(tmp_path):
        assert sample.metadata["category"] in COMMON[:2]
        assert sample.metadata["category"] in sample.caption
        assert (sample.rgba[:, 3] > 0).float().mean() > 0.02


def test_a_folder_of_mesh_files_goes_on_past_what_cannot_be_used_and_the_last_lines_say_so(tmp_path, capsys):
    from vfusion3d.cli.main import main

    files, folder = tmp_path / "files", tmp_path / "rendered"
    files.mkdir()
    for name in ("a_red_box", "c"):
        trimesh.creation.box(extents=(1, 1, 3)).export(files / f"{name}.ply")
    (files / "b.obj").write_text("v 0 0 0\n")
    (files / "c.txt").write_text("a grey box\n")
    (files / "d.obj").write_text("mtllib gone.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 1\nf 1 2 3\n")
    (files / "e.obj").write_text("v 0 0 0\nv 1 0 0\nv 1 0 0.0001\nf 1 2 3\n")  # as thin as a hair
    (files / "f.fbx").write_bytes(b"Kaydara")
    (files / "g.obj").symlink_to("on a disk that is not there")
    os.mkfifo(files / "a_red_box.txt")  # which would be waited for
    how = ["--views", "4", "--size", "24", "--seed", "7", "--workers", "1", "--up", "y"]
    assert main(["render", "--objects", str(files), "-o", str(folder), *how]) == 1
    said, told = capsys.readouterr()
    last = told.rstrip().splitlines()[-1]
    assert last.startswith(f"vfusion3d render: left out: {files / 'b.obj'}: ")
    assert last.endswith(", and 2 more: see above")
    data = MultiviewShards(folder)
    assert [sample.caption for sample in data] == ["a red box", "a grey box", "d"]
    assert [sample.metadata["file"] for sample in data] == ["a_red_box.ply", "c.ply", "d.obj"]
    wide, high = ((data[0].rgba[0, 3] > 127).any(side).sum() for side in (0, 1))
    assert wide > 1.5 * high  # its long side is not its height: --up y lays it down
    assert data[2].metadata["left_out"] == ["the materials of gone.mtl, which is missing"]
    assert set(data.index["skipped"]) == {"00000001", "00000004", "00000005"}
    assert data.index["passed_over"] == ["f.fbx"]
    for words in (
        "used 3 of 6",
        "b.obj: ",
        "d.obj: the materials of",
        "nothing to see in 4 of its 4",
        "index.json",
        "f.fbx",
    ):
        assert words in said


def test_a_batch_with_a_sample_too_few_is_refused_and_shifts_no_key(tmp_path):
    def make(indices):
        return [encode_video(np.zeros((1, 8, 8, 3), np.uint8), "", {"index": index}) for index in indices if index != 2]

    with pytest.raises(ValueError, match="shorter"):
        write_shards(tmp_path, make, 8, settings={}, batch=2, shard_size=4)
    assert written_keys(tmp_path / "shard-000000.tar") == ["00000000", "00000001"]


def test_machines_that_begin_together_claim_their_folder_one_by_one(tmp_path, monkeypatch):
    def make(indices):
        return [encode_video(np.zeros((1, 8, 8, 3), np.uint8), "", {"index": index}) for index in indices]

    def slowly(*arguments, **options):
        inside.append("begins")
        time.sleep(0.1)
        claim_folder(*arguments, **options)
        inside.append("ends")

    inside = []
    monkeypatch.setattr(sys.modules[write_shards.__module__], "claim_folder", slowly)
    with ThreadPoolExecutor(3) as machines:
        parts = [
            machines.submit(write_shards, tmp_path, make, 3, settings={}, shard_size=1, part=(k, 3)) for k in range(3)
        ]
    assert [part.exception() for part in parts] == [None] * 3
    assert inside == ["begins", "ends"] * 3
    assert len(VideoShards(tmp_path, verify=True)) == 3


def test_shards_have_the_sizes_and_samples_the_keys_that_are_asked_for(tmp_path):
    def make(indices):
        asked.append(list(indices))
        return [encode_video(np.zeros((1, 8, 8, 3), np.uint8), "", {"index": index}) for index in indices]

    asked, names = [], ["a", "b", "c", "d", "e"]
    write_shards(tmp_path / "uneven", make, 5, settings={}, batch=2, keys=names, shard_size=[3, 0, 2])
    data = VideoShards(tmp_path / "uneven", verify=True)
    assert asked == [[0, 1], [2], [3, 4]]  # no batch crosses a border
    assert [len(shard["samples"]) for shard in data.index["shards"]] == [3, 0, 2]
    assert data.keys == names
    with pytest.raises(ValueError, match="the shards hold 4 samples, not 5"):
        write_shards(tmp_path / "few", make, 5, settings={}, shard_size=[3, 1])
    assert not (tmp_path / "few").exists()


def test_a_render_of_an_older_version_that_knew_no_backend_goes_on(tmp_path):
    render_dataset(tmp_path, RandomPrimitives(), 1, **SETTINGS)
    known = json.loads((tmp_path / "settings.json").read_text())
    del known["backend"], known[DEFAULTS]
    (tmp_path / "settings.json").write_text(json.dumps(known))
    render_dataset(tmp_path, RandomPrimitives(), 1, **SETTINGS)
    with pytest.raises(ValueError, match="backend: pyvista there, blender now"):
        render_dataset(tmp_path, RandomPrimitives(), 1, backend="blender", **SETTINGS)


def test_more_objects_than_the_folder_has_are_refused_before_anything_is_written(tmp_path):
    (tmp_path / "files").mkdir()
    trimesh.creation.box().export(tmp_path / "files" / "box.ply")
    with pytest.raises(ValueError, match="count is 2, but there are only 1 objects"):
        render_dataset(tmp_path / "rendered", MeshFolder(str(tmp_path / "files")), 2, **SETTINGS)
    assert not (tmp_path / "rendered").exists()


def test_a_part_goes_on_with_its_own_settings_and_deletes_nothing_of_others(tmp_path):
    for part in ((0, 2), (1, 2)):
        render_dataset(tmp_path, RandomPrimitives(), 1, part=part, overwrite=True, **SETTINGS)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert tmp_path / "index.json" in before
    with pytest.raises(ValueError, match=f"{tmp_path} was made with other settings.*cannot overwrite it"):
        render_dataset(tmp_path, RandomPrimitives(), 1, part=(0, 2), overwrite=True, **{**SETTINGS, "seed": 5})
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"views": 0}, "views must be"),
        ({"workers": 0}, "workers must be"),
        ({"part": (2, 2)}, "part must be"),
    ],
)
def test_values_out_of_range_are_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        render_dataset(tmp_path, RandomPrimitives(), 1, **{**SETTINGS, **change})


@pytest.mark.parametrize("objects", [None, 3, ["MeshFolder"], {"name": "ProceduralObjects"}, {}])
def test_only_a_record_of_a_folder_of_meshes_says_that_files_were_rendered(tmp_path, objects):
    assert not made_of_files(tmp_path)
    write_record(tmp_path / "settings.json", {"objects": objects})
    assert not made_of_files(tmp_path)
    write_record(tmp_path / "settings.json", {"objects": {"name": "MeshFolder"}})
    assert made_of_files(tmp_path)

"""Shards: deterministic, whole or not there, readable by plain webdataset, and honest about damage."""

import errno
import hashlib
import io
import json
import math
import tarfile

import cv2
import numpy as np
import pytest
import torch

from vfusion3d import cameras
from vfusion3d.data import shards
from vfusion3d.data.shards import MultiviewShards, ShardError, ShardWriter, encode_sample, shard_path, write_index
from vfusion3d.data.subset import Subset

VIEWS, SIZE = 3, 10


def make_sample(number: int):
    rng = np.random.default_rng(number)
    rgba = rng.integers(0, 256, (VIEWS, SIZE, SIZE, 4), dtype=np.uint8)
    cam2world = cameras.orbit_cameras(VIEWS, 0.1 * number)
    intrinsics = cameras.default_intrinsics(VIEWS)
    members = encode_sample(rgba, cam2world, intrinsics, f"object é {number}", {"category": "mug", "number": number})
    return rgba, cam2world, members


@pytest.fixture
def folder(tmp_path):
    for shard in range(2):
        with ShardWriter(shard_path(tmp_path, shard)) as writer:
            for number in range(shard * 4, shard * 4 + 4):
                writer.write(f"{number:03d}", make_sample(number)[2])
    write_index(tmp_path)
    return tmp_path


def test_what_was_written_is_read_back_exactly(folder):
    data = MultiviewShards(folder, verify=True)
    assert len(data) == 8
    assert data.keys == [f"{number:03d}" for number in range(8)]
    for number, sample in enumerate(data):
        rgba, cam2world, _ = make_sample(number)
        assert (sample.rgba == torch.from_numpy(rgba).permute(0, 3, 1, 2)).all()
        assert torch.equal(sample.cam2world, cam2world)
        assert (sample.intrinsics == cameras.default_intrinsics(VIEWS)).all()
        assert sample.caption == f"object é {number}"
        assert sample.metadata == {"category": "mug", "number": number} == data.metadata(number)
    assert data[-1].key == "007"
    with pytest.raises(IndexError, match="8 samples"):
        data[8]


def test_some_views_are_those_views(folder):
    data = MultiviewShards(folder)
    whole, some = data[5], data.read(5, [2, 0])
    assert (some.rgba == whole.rgba[[2, 0]]).all()
    assert (some.cam2world == whole.cam2world[[2, 0]]).all()
    with pytest.raises(ValueError, match="views 0 to 2"):
        data.read(5, [3])


def test_views_beyond_a_hundred_stay_in_their_order(tmp_path):
    rgba = np.zeros((102, 2, 2, 4), np.uint8)
    rgba[..., 3] = np.arange(102)[:, None, None]
    with ShardWriter(shard_path(tmp_path, 0)) as writer:
        writer.write("a", encode_sample(rgba, torch.eye(3, 4).repeat(102, 1, 1), torch.ones(102, 4), "", {}))
    write_index(tmp_path)
    assert MultiviewShards(tmp_path)[0].rgba[:, 3, 0, 0].tolist() == list(range(102))


def test_the_same_samples_give_the_same_bytes(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    with ShardWriter(shard_path(other, 0)) as writer:
        for number in range(4):
            writer.write(f"{number:03d}", make_sample(number)[2])
    assert shard_path(other, 0).read_bytes() == shard_path(folder, 0).read_bytes()


def test_a_shard_cut_anywhere_goes_on_to_the_same_bytes(folder, tmp_path_factory):
    whole = shard_path(folder, 0).read_bytes()
    cuts = [0, 1, 511, 512, 700, *np.random.default_rng(0).integers(0, len(whole), 20), len(whole) - 1024, len(whole)]
    for number, cut in enumerate(cuts):
        path = shard_path(tmp_path_factory.mktemp("cut"), 0)
        path.with_name(path.name + ".partial").write_bytes(whole[:cut])
        with ShardWriter(path) as writer:
            kept = list(writer.keys)
            assert kept == shards.written_keys(path) == [f"{number:03d}" for number in range(len(kept))]
            for number in range(len(kept), 4):
                writer.write(f"{number:03d}", make_sample(number)[2])
        assert path.read_bytes() == whole
        assert not path.with_name(path.name + ".partial").exists()


def test_a_writer_left_by_an_error_leaves_no_finished_shard(tmp_path):
    def interrupted():
        with ShardWriter(shard_path(tmp_path, 0)) as writer:
            writer.write("a", make_sample(0)[2])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not shard_path(tmp_path, 0).exists()
    assert shards.written_keys(shard_path(tmp_path, 0)) == ["a"]
    with pytest.raises(FileNotFoundError, match="no finished shard"):
        write_index(tmp_path)


def test_a_shard_that_is_finished_while_it_is_looked_at_shows_its_keys(folder, tmp_path, monkeypatch):
    path = shard_path(tmp_path, 0)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(shard_path(folder, 0).read_bytes())
    scan = shards._scan

    def scan_late(found):
        if found == partial and partial.exists():
            partial.rename(path)
        return scan(found)

    monkeypatch.setattr(shards, "_scan", scan_late)
    assert shards.written_keys(path) == shards.written_keys(shard_path(folder, 0)) != []


def test_a_full_disk_names_the_file_and_keeps_what_is_whole(tmp_path):
    resource = pytest.importorskip("resource")  # a limit on the file's size stands in for the full disk
    import signal

    members = make_sample(0)[2]
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    writer = ShardWriter(shard_path(tmp_path, 0))
    writer.write("a", members)
    written = writer.partial.stat().st_size
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (written + 1500, before[1]))
    try:
        with pytest.raises(OSError, match=r"shard-000000\.tar\.partial") as raised:
            writer.write("b", members)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert raised.value.errno == errno.EFBIG
    assert "1 whole samples are kept" in str(raised.value)
    assert writer.partial.stat().st_size == written
    writer.write("b", members)  # there is room again
    writer.finish()
    write_index(tmp_path)
    assert MultiviewShards(tmp_path, verify=True).keys == ["a", "b"]


def test_two_writers_of_one_shard_are_refused(tmp_path):
    pytest.importorskip("fcntl")
    first = ShardWriter(shard_path(tmp_path, 0))
    with pytest.raises(OSError, match="another process"):
        ShardWriter(shard_path(tmp_path, 0))
    first.finish()
    with pytest.raises(FileExistsError, match="finished"):
        ShardWriter(shard_path(tmp_path, 0))


@pytest.mark.parametrize("key", ["a.b", "a/b", "", "a b"])
def test_keys_that_would_break_a_shard_are_refused(tmp_path, key):
    writer = ShardWriter(shard_path(tmp_path, 0))
    with pytest.raises(ValueError, match="key"):
        writer.write(key, make_sample(0)[2])
    writer.write("good", make_sample(0)[2])
    with pytest.raises(ValueError, match="already"):
        writer.write("good", make_sample(0)[2])
    writer.close()


def test_python_s_tarfile_and_webdataset_read_the_shards(folder):
    webdataset = pytest.importorskip("webdataset")
    with tarfile.open(shard_path(folder, 0)) as archive:
        assert len(archive.getnames()) == 4 * (VIEWS + 3)
    samples = list(webdataset.WebDataset(str(shard_path(folder, 0)), shardshuffle=False).decode("rgba8"))
    assert [sample["__key__"] for sample in samples] == ["000", "001", "002", "003"]
    rgba, cam2world, _ = make_sample(2)
    assert (samples[2]["view01.png"] == rgba[1]).all()
    assert np.allclose(samples[2]["cameras.json"]["cam2world"], cam2world, atol=1e-6)
    assert samples[2]["txt"] == "object é 2"
    assert samples[2]["json"]["number"] == 2


def test_the_index_holds_counts_checksums_and_the_place_of_every_member(folder):
    index = json.loads((folder / "index.json").read_text())
    assert index["samples"] == 8
    for number, shard in enumerate(index["shards"]):
        data = (folder / shard["name"]).read_bytes()
        assert shard["sha256"] == hashlib.sha256(data).hexdigest()
        for entry, sample in enumerate(shard["samples"]):
            for name, content in make_sample(number * 4 + entry)[2].items():
                offset, size = sample["members"][name]
                assert data[offset : offset + size] == content


def test_a_truncated_missing_or_changed_shard_is_an_error_that_names_it(folder):
    path = shard_path(folder, 1)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ShardError, match=r"shard-000001\.tar is truncated"):
        MultiviewShards(folder)
    with pytest.raises(ShardError, match=r"shard-000001\.tar"):
        write_index(folder)
    path.unlink()
    with pytest.raises(ShardError, match=r"shard-000001\.tar is missing"):
        MultiviewShards(folder)
    offset, _ = json.loads((folder / "index.json").read_text())["shards"][1]["samples"][0]["members"]["view01.png"]
    path.write_bytes(whole[: offset + 30] + bytes([whole[offset + 30] ^ 255]) + whole[offset + 31 :])
    with pytest.raises(ShardError, match=r"shard-000001\.tar does not match its checksum"):
        MultiviewShards(folder, verify=True)
    path.write_bytes(whole[:offset] + bytes(20) + whole[offset + 20 :])
    with pytest.raises(ShardError, match=r"shard-000001\.tar, sample 004 is damaged"):
        MultiviewShards(folder)[4]


def test_a_shard_truncated_while_it_is_open_is_an_error_too(folder):
    data = MultiviewShards(folder)
    path = shard_path(folder, 1)
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(ShardError, match=r"shard-000001\.tar is truncated"):
        data[7]


def test_a_folder_without_an_index_or_with_a_broken_one_says_what_to_do(folder):
    (folder / "index.json").write_text("{")
    with pytest.raises(ShardError, match=r"index\.json"):
        MultiviewShards(folder)
    (folder / "index.json").unlink()
    with pytest.raises(FileNotFoundError, match="render the data"):
        MultiviewShards(folder)


def test_data_loader_workers_read_the_same_samples(folder):
    data = MultiviewShards(folder)
    expected = data[0].rgba  # opens the file in this process first
    loader = torch.utils.data.DataLoader(data, batch_size=None, num_workers=2)
    loaded = list(loader)
    assert [sample.key for sample in loaded] == data.keys
    assert (loaded[0].rgba == expected).all()


def test_reading_needs_no_renderer():
    import subprocess
    import sys

    code = (
        "import sys; sys.modules.update(dict.fromkeys(('pyvista', 'vtkmodules', 'vtk', 'trimesh')));"
        "import vfusion3d.data.shards"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def spoiled_cameras(name, change):
    def spoil(members):
        known = json.loads(members["cameras.json"])
        known[name] = change(known[name])
        return {"cameras.json": json.dumps(known).encode()}

    return spoil


def view(*shape, dtype=np.uint8):
    return lambda members: {"view01.png": cv2.imencode(".png", np.zeros(shape, dtype))[1].tobytes()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (spoiled_cameras("cam2world", lambda known: [[*rows, [0.0, 0.0, 0.0, 1.0]] for rows in known]), "shape"),
        (spoiled_cameras("cam2world", lambda known: known[:2]), "view 3 is missing|2 cameras and 3 views"),
        (spoiled_cameras("cam2world", lambda known: "x"), r"cam2world must be a list"),
        (
            spoiled_cameras("cam2world", lambda known: [[[math.nan] * 4] * 3] * 3),
            r"cam2world.* must be a finite number",
        ),
        (spoiled_cameras("cam2world", lambda known: (2 * np.array(known)).tolist()), "no rotations"),
        (spoiled_cameras("cam2world", lambda known: (np.array(known) * [1, 1, -1, 1]).tolist()), "no rotations"),
        (spoiled_cameras("intrinsics", lambda known: known[:2]), r"intrinsics has the shape \(2, 4\)"),
        (spoiled_cameras("intrinsics", lambda known: [[0.0] * 4] * 3), "focal"),
        (lambda members: {"cameras.json": b"{}"}, "missing: cam2world, intrinsics"),
        (view(SIZE, SIZE, 4, dtype=np.uint16), "8 bits"),
        (view(SIZE, SIZE), "neither an RGBA PNG"),
        (view(SIZE, SIZE + 1, 4), "same shape"),
        (lambda members: {"txt": b"\xff"}, "txt: "),
        (lambda members: {"json": b"[1]"}, "must be a mapping"),
    ],
)
def test_a_sample_that_is_not_what_it_should_be_is_named_and_ends_no_loop_in_silence(tmp_path, change, message):
    with ShardWriter(shard_path(tmp_path, 0)) as writer:
        for number in range(2):
            members = make_sample(number)[2]
            changed = {**members, **(change(members) if number else {})}
            writer.write(f"{number:03d}", {**changed, "json": changed["json"]})
    write_index(tmp_path)
    read = []
    with pytest.raises(ShardError, match=rf"shard-000000\.tar, sample 001 is damaged.*({message})"):
        read.extend(sample.key for sample in MultiviewShards(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index: index["shards"][0].update(bytes="x"), r"shards\[0\]\.bytes must be of type int"),
        (lambda index: index["shards"][0].update(name="../data/shard-000000.tar"), "no shard of its folder"),
        (lambda index: index["shards"][0].pop("name"), r"missing: shards\[0\]\.name"),
        (lambda index: index["shards"].clear(), "lists no sample"),
        (lambda index: index["shards"].pop(), None),
        (lambda index: index["shards"].append(index["shards"][0]), "lists the sample 000 twice"),
        (lambda index: index["shards"][0]["samples"][0].update(key="a/../b"), "samples of shard-000000"),
        (lambda index: index["shards"][0]["samples"][0]["members"].update(txt=[0, 10**9]), "samples of shard-000000"),
        (lambda index: index["shards"][0]["samples"][0]["members"].update(txt=[-1, 3]), "samples of shard-000000"),
        (lambda index: index["shards"][0]["samples"].append(7), "samples of shard-000000"),
    ],
)
def test_an_index_that_is_none_or_leaves_its_folder_is_refused_with_its_name(folder, change, message):
    index = json.loads((folder / "index.json").read_text())
    change(index)
    (folder / "index.json").write_text(json.dumps(index))
    if message is None:
        assert len(MultiviewShards(folder)) == 4
        return
    with pytest.raises(ShardError, match=r"index\.json.*" + message):
        MultiviewShards(folder)


def test_a_shard_may_be_a_link_to_another_disk(folder, tmp_path_factory):
    path, elsewhere = shard_path(folder, 1), tmp_path_factory.mktemp("elsewhere") / "shard-000001.tar"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    assert len([sample.key for sample in MultiviewShards(folder)]) == 8


def test_a_shard_with_a_sample_twice_is_refused(folder):
    path = shard_path(folder, 0)
    whole = path.read_bytes()[: -2 * 512]
    path.write_bytes(whole + whole + bytes(2 * 512))
    with pytest.raises(ShardError, match=r"shard-000000\.tar holds the sample 000 twice"):
        write_index(folder)


def test_a_subset_names_views_that_are_there(folder):
    data = MultiviewShards(folder)
    assert len(list(Subset(data, [0, 1], views=[2, 0]))) == 2
    with pytest.raises(ValueError, match=r"sample 000 has 3 views, a subset names \[3\]"):
        Subset(data, [0, 1], views=[3])


def member(name, kind=tarfile.REGTYPE, size=0):
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, "/etc/hostname" if kind == tarfile.SYMTYPE else ""
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    "before",
    [
        member("x.txt", size=-512),  # the next header would be this one, for ever
        member("x.txt", size=-4096),
        member("x.txt", tarfile.SYMTYPE),
        member("x.txt", tarfile.FIFOTYPE),
        member("../x.txt"),
        member("k" * 200 + ".txt"),
        member("000.view00.png"),  # which the sample has a second time
    ],
)
def test_what_no_writer_of_samples_puts_into_a_shard_is_refused_by_name(folder, before):
    path = shard_path(folder, 0)
    path.write_bytes(before + path.read_bytes())
    with pytest.raises(ShardError, match=rf"{path.name} holds .*(x\.txt|LongLink|view00).*delete it"):
        write_index(folder)


def test_an_archive_that_keeps_times_to_the_microsecond_is_read_as_it_was(folder):
    path, before = shard_path(folder, 0), MultiviewShards(folder)[0]
    with tarfile.open(path) as old:
        members = [(info, old.extractfile(info).read()) for info in old]
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as new:
        for info, content in members:
            info.mtime = 12.5
            new.addfile(info, io.BytesIO(content))
        size = new.offset + 1024
    path.write_bytes(path.read_bytes()[:size])
    write_index(folder)
    assert torch.equal(MultiviewShards(folder)[0].rgba, before.rgba)

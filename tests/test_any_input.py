"""Any bytes and any JSON in our files: a value, or one of our errors, which names the file (by hypothesis)."""

import dataclasses
import io
import json
import math
import shutil
import tarfile

import numpy as np
import pytest
import torch
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from tiny_model import tiny_model

from vfusion3d import VFusion3D, cameras
from vfusion3d.data.shards import MultiviewShards, ShardWriter, encode_sample, shard_path, write_index
from vfusion3d.data.synthetic import read_labels
from vfusion3d.model.check import check_folder
from vfusion3d.runs.profiles import load_profile
from vfusion3d.runs.reading import ReadingError, parse_json, read_table, read_yaml

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["../x", ""])
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner))


@st.composite
def changed(draw, content):
    """A copy of JSON in which one value, anywhere, is another one or is gone, or the bytes are cut or spoiled."""
    copy = json.loads(json.dumps(content))
    place = copy
    while isinstance(place, dict | list) and place:
        key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[key], dict | list) or not place[key] or draw(st.booleans()):
            if draw(st.integers(0, 3)):
                place[key] = draw(values)
            else:
                del place[key]
            break
        place = place[key]
    data = json.dumps(copy).encode(errors="surrogatepass")
    if not draw(st.integers(0, 4)):
        start = draw(st.integers(0, len(data)))
        data = data[:start] + draw(st.binary(max_size=3)) + data[start + draw(st.integers(0, 5)) :]
    return data


def value_or_our_error(read, name):
    """What `read()` returns, None where it raises one of our errors; that must name the file in one short line."""
    try:
        return read()
    except ReadingError as error:
        said = str(error)
    assert name in said
    assert len(said) < 600
    return None


@given(data=st.binary(max_size=60) | values.map(lambda value: json.dumps(value).encode(errors="surrogatepass")))
@example(data=b'{"a": 1e999}')
@example(data=b"[" * 100_000)
def test_any_bytes_are_json_or_an_error_of_ours(data):
    read = value_or_our_error(lambda: parse_json(data, "x.json"), "x.json")
    if read is not None and b"999" not in data:
        json.dumps(read, allow_nan=False, ensure_ascii=False).encode()


@given(text=st.text(max_size=60) | values.map(lambda value: yaml.safe_dump(value, allow_unicode=True)))
@example(text="a: !!int ''")
@example(text="a: &a [*a]")
@example(text="{? {a: 1} : 2}")
def test_any_text_is_yaml_or_an_error_of_ours(tmp_path, text):
    path = tmp_path / "x.yaml"
    path.write_bytes(text.encode(errors="surrogatepass"))
    value_or_our_error(lambda: read_yaml(path), "x.yaml")


@given(data=st.binary(max_size=80) | st.text(alphabet='a,1.\n"-e\r', max_size=80).map(str.encode))
@example(data=b'step,loss\n"1\n",2\n')
def test_any_bytes_are_a_table_or_an_error_of_ours(tmp_path, data):
    path = tmp_path / "x.csv"
    path.write_bytes(b"step,loss\n" + data)
    table = value_or_our_error(lambda: read_table(path, {"step": int, "loss": float}), "x.csv")
    assert table is None or (table.step.dtype == int and table.loss.dtype == float)


SMOKE = dataclasses.asdict(load_profile("smoke")) | {"name": "mine"}


@given(data=changed(SMOKE))
def test_any_profile_is_one_or_an_error_of_ours(tmp_path, data):
    path = tmp_path / "mine.yaml"
    path.write_bytes(data)  # JSON is YAML
    profile = value_or_our_error(lambda: load_profile(path), "mine.yaml")
    if profile is not None:
        assert profile.data.views_3d >= 1
        assert math.isfinite(profile.training.learning_rate)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    orbit, lens = cameras.orbit_cameras(2, 0.3), cameras.default_intrinsics(2)
    with ShardWriter(shard_path(folder, 0)) as writer:
        for key in "ab":
            writer.write(key, encode_sample(np.zeros((2, 4, 4, 4), np.uint8), orbit, lens, "x", {"elevation": 0.3}))
    write_index(folder, settings={"videos": "v"}, labels=[{"score": 0.5, "elevation": 0.3}] * 2)
    return folder


def index_of(folder):
    return json.loads((folder / "index.json").read_text())


@given(draws=st.data())
def test_any_index_and_any_labels_are_read_whole_or_an_error_of_ours(tmp_path, data, draws):
    copy = tmp_path / "copy"
    shutil.copytree(data, copy, dirs_exist_ok=True)
    (copy / "index.json").write_bytes(draws.draw(changed(index_of(data))))
    read = value_or_our_error(lambda: [list(MultiviewShards(copy)), read_labels(copy)], "copy")
    if read is not None:
        samples, (_, labels, _) = read
        assert len({sample.key for sample in samples}) == len(samples) == len(labels) > 0
        assert all(sample.cam2world.shape == (2, 3, 4) for sample in samples)
        assert all(math.isfinite(label["score"] + label["elevation"]) for label in labels)


def cameras_of(folder):
    return MultiviewShards(folder).json(0, "cameras.json")


@given(draws=st.data())
def test_any_cameras_are_finite_rotations_one_a_view_or_an_error_of_ours(tmp_path, data, draws):
    content = draws.draw(changed(cameras_of(data)))
    path = shard_path(tmp_path, 0)
    with tarfile.open(shard_path(data, 0)) as old, tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as new:
        for member in old:
            body = content if member.name == "a.cameras.json" else old.extractfile(member).read()
            member.size = len(body)
            new.addfile(member, io.BytesIO(body))
        size = new.offset + 1024
    path.write_bytes(path.read_bytes()[:size])
    write_index(tmp_path)
    sample = value_or_our_error(lambda: MultiviewShards(tmp_path)[0], "shard-000000.tar, sample a")
    if sample is not None:
        assert sample.cam2world.shape == (2, 3, 4)
        assert sample.intrinsics.shape == (2, 4)
        turned = sample.cam2world[..., :3] @ sample.cam2world[..., :3].mT
        torch.testing.assert_close(turned, torch.eye(3).expand(2, 3, 3), atol=2e-3, rtol=0)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    tiny_model().save_pretrained(folder)
    return folder


@given(draws=st.data())
def test_any_config_of_weights_is_a_model_or_an_error_of_ours(tmp_path, weights, draws):
    copy = tmp_path / "copy"
    shutil.copytree(weights, copy, dirs_exist_ok=True)
    (copy / "config.json").write_bytes(draws.draw(changed(json.loads((weights / "config.json").read_text()))))
    value_or_our_error(lambda: check_folder(VFusion3D, copy), "copy")


@pytest.mark.parametrize("key", ["radius", "source_distance"])
@pytest.mark.parametrize("value", [2**32, 1.3407807929942597e154])  # as a whole number, and squared, too much for torch
def test_a_length_that_nobody_can_mean_is_named(tmp_path, weights, key, value):
    shutil.copytree(weights, tmp_path / "copy")
    config = json.loads((weights / "config.json").read_text()) | {key: value}
    (tmp_path / "copy" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ReadingError, match=f"config.json: {key} must be .*1000 at most"):
        check_folder(VFusion3D, tmp_path / "copy")

"""How a role finds its model: one code path, once a process, and one error that a person can act on."""

import json
import time
from dataclasses import fields, replace

import pytest
import torch
from huggingface_hub import constants
from transformers import Dinov2Model

from vfusion3d.foundations import loading
from vfusion3d.foundations.loading import (
    BUNDLED,
    ModelUnavailable,
    check_configs,
    device_of,
    dtype_of,
    load_once,
    pretrained,
    source_of,
)
from vfusion3d.runs.profiles import Foundations, ProfileError, load_profile


def profile(role: str, name: str, **changes):
    """The smoke profile with one model exchanged."""
    smoke = load_profile("smoke")
    return replace(smoke, foundations=replace(smoke.foundations, **{role: name}), **changes)


def test_a_miniature_is_a_bundled_folder_and_a_folder_is_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "BUNDLED", tmp_path)
    (tmp_path / "clip").mkdir()
    assert source_of(profile("clip", "mini"), "clip") == str(tmp_path / "clip")
    assert source_of(profile("clip", str(tmp_path)), "clip") == str(tmp_path)
    assert source_of(profile("clip", "ViT-L-14/openai"), "clip") == "ViT-L-14/openai"


def test_a_miniature_that_is_not_bundled_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "BUNDLED", tmp_path / "weights")
    with pytest.raises(ModelUnavailable, match=r"'mini' \(role clip\).*weights/clip.*foundations\.clip to a folder"):
        source_of(profile("clip", "mini"), "clip")


def test_a_folder_that_is_not_there_is_not_looked_for_on_the_hub(tmp_path):
    with pytest.raises(ModelUnavailable, match="no such folder"):
        source_of(profile("clip", str(tmp_path / "gone")), "clip")


@pytest.mark.parametrize("name", ["someone/model", "someone/model@v2"])
def test_without_a_network_a_name_of_the_hub_says_so_at_once_and_blames_no_model(name, no_network, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    started = time.monotonic()
    with pytest.raises(OSError, match=f"the hub cannot be reached, and {name} was not downloaded before"):
        pretrained(Dinov2Model, name)
    assert time.monotonic() - started < 10  # the library tries five times, for 23 s


def test_a_model_is_loaded_once_for_each_source_and_type(tmp_path):
    calls = []

    def load(*how):
        calls.append(how)
        return object()

    first = profile("captioner", str(tmp_path))
    assert load_once(first, "captioner", load) is load_once(first, "captioner", load)
    half = replace(first, dtype="bfloat16")
    assert load_once(half, "captioner", load) is not load_once(first, "captioner", load)
    cpu = torch.device("cpu")
    assert calls == [(str(tmp_path), cpu, torch.float32), (str(tmp_path), cpu, torch.bfloat16)]


def test_whatever_goes_wrong_names_model_role_and_way_out_and_is_tried_again(tmp_path):
    def fail(*how):
        raise KeyError("no\nnetwork")

    def work(*how):
        return "loaded"

    there = profile("text_to_image", str(tmp_path))
    with pytest.raises(OSError, match=r"role text_to_image.*no.*network.*\.text_to_image to stand-in") as error:
        load_once(there, "text_to_image", fail)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)
    assert load_once(there, "text_to_image", work) == "loaded"


def test_auto_is_a_gpu_if_there_is_one(monkeypatch):
    auto = replace(load_profile("smoke"), device="auto", dtype="float16")
    for there, device in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert device_of(auto) == torch.device(device)
    with pytest.raises(ProfileError, match="smoke runs on cuda, and PyTorch finds no GPU here"):
        device_of(replace(auto, device="cuda"))
    assert dtype_of(auto) == torch.float16


def test_the_advice_names_no_miniature_that_is_not_bundled(tmp_path, monkeypatch):
    there = profile("image_features", str(tmp_path))
    (tmp_path / "image_features").mkdir()
    for bundled, ways in ((tmp_path, "stand-in, mini or"), (tmp_path / "empty", "stand-in or")):
        monkeypatch.setattr(loading, "BUNDLED", bundled)
        advice = str(loading.unavailable(there, "image_features", "no network"))
        assert f"set foundations.image_features to {ways} a folder" in advice


def test_every_role_has_a_word_for_running_offline():
    bundled = {folder.name for folder in loading.BUNDLED.iterdir()}
    assert {field.name for field in fields(Foundations)} <= loading.OFFLINE.keys() | bundled


def test_a_config_whose_sizes_nobody_can_mean_is_named_before_anything_is_allocated(tmp_path):
    known = json.loads((BUNDLED / "image_features" / "config.json").read_text())
    for folder in (path for path in BUNDLED.iterdir() if path.is_dir()):
        check_configs(folder)
    for change, message in (
        ({"hidden_size": 10**9}, r"config\.json: hidden_size is 1000000000"),
        ({"num_hidden_layers": 10**6}, r"config\.json: 1000000 layers of width 128 would need .* GB"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(known | change))
        with pytest.raises(ValueError, match=message):
            check_configs(tmp_path)
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(ValueError, match=r"config\.json is not whole JSON"):
        check_configs(tmp_path)

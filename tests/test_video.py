"""The data engine: what learns when the video model is fine-tuned; and that who generates makes no difference."""

import dataclasses
import errno
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLTemporalDecoder
from open_clip import CLIP
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from vfusion3d import cameras
from vfusion3d.data.images import on_white
from vfusion3d.data.render_dataset import render_dataset
from vfusion3d.data.shards import MultiviewShards, ShardError, ShardWriter, VideoShards, shard_path, write_index
from vfusion3d.foundations.image_to_video import load_video_model
from vfusion3d.foundations.loading import BUNDLED, ModelUnavailable
from vfusion3d.learning.precision import resolve
from vfusion3d.miniatures import clip, vae
from vfusion3d.miniatures.video import new_video_model
from vfusion3d.runs.profiles import load_profile
from vfusion3d.video.finetune import finetune_video_model, learn_temporal_only, orbit_video, temporal_share
from vfusion3d.video.generate import generate_batch, generate_videos, sample_generator
from vfusion3d.video.strips import first_frames, keep_strips, read_strips, videos_from
from vfusion3d.world.captions import CaptionError
from vfusion3d.world.sources import ProceduralObjects

FRAMES = 4
SMOKE = load_profile("smoke")
RECIPE = dataclasses.replace(SMOKE.video, frames=FRAMES, inference_steps=1, generate_batch=2, steps=3, batch_size=2)
PROFILE = dataclasses.replace(SMOKE, video=RECIPE)
PROMPTS = [f"a {colour} {thing}" for colour in ("red", "blue", "green") for thing in ("mug", "rocket", "tree")]


def new_model():
    torch.manual_seed(0)
    tower = CLIP(**clip.config()).state_dict()
    return new_video_model(AutoencoderKLTemporalDecoder(**vae.CONFIG), tower, seed=0)


@pytest.fixture(scope="module")
def model():
    """In double precision: in single, another batch size takes another convolution and changes what is seen."""
    whole = new_model()
    for part in (whole.pipeline.unet, whole.pipeline.vae, whole.pipeline.image_encoder):
        torch.nn.Module.to(part, torch.float64)
    return whole


@pytest.fixture(scope="module")
def orbits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("orbits") / "data"
    render_dataset(folder, ProceduralObjects(("mug", "car")), 3, views=8, size=64, seed=1)
    return folder


def colours(prompts, generator, size):
    """A text-to-image model: a picture of one random colour a prompt."""
    colour = torch.rand(len(prompts), 3, 1, 1, generator=generator)
    return colour.expand(-1, -1, size, size)


def test_an_orbit_is_every_nth_view_from_azimuth_0_on_white(orbits):
    shards = MultiviewShards(orbits)
    video = orbit_video(shards, 1, FRAMES, 64)
    stored = shards[1]
    assert torch.equal(video, on_white(stored.rgba[::2]))
    azimuth = cameras.azimuth_elevation_distance(stored.cam2world[::2])[0]
    assert azimuth.cos().tolist() == pytest.approx([1, 0, -1, 0], abs=0.1)
    assert azimuth.sin().tolist() == pytest.approx([0, 1, 0, -1], abs=0.1)
    assert orbit_video(shards, 1, FRAMES, 32).shape == (FRAMES, 3, 32, 32)
    with pytest.raises(ValueError, match=r"orbits of 8 views.*--views 5"):
        orbit_video(shards, 1, 5, 64)


def test_only_temporal_parameters_learn_and_all_others_stay_bit_for_bit(orbits, tmp_path):
    model = new_model()
    start = {name: value.clone() for name, value in model.network.state_dict().items()}
    others = {
        name: value.clone()
        for part in (model.pipeline.vae, model.pipeline.image_encoder)
        for name, value in part.state_dict().items()
    }
    finetune_video_model(PROFILE, orbits, tmp_path / "run", model=model, seed=4)
    temporal = set(model.temporal_parameters())
    after = model.network.state_dict()
    assert all(torch.equal(start[name], after[name]) for name in start if name not in temporal)
    moved = [not torch.equal(start[name], after[name]) for name in temporal]
    assert np.mean(moved) > 0.9
    now = {
        name: value
        for part in (model.pipeline.vae, model.pipeline.image_encoder)
        for name, value in part.state_dict().items()
    }
    assert all(torch.equal(others[name], now[name]) for name in others)


def test_the_share_that_learns_is_that_of_the_temporal_parameters():
    model = new_model()
    share = temporal_share(model)
    learn_temporal_only(model)
    learning = sum(p.numel() for p in model.network.parameters() if p.requires_grad)
    assert share == pytest.approx(learning / sum(p.numel() for p in model.network.parameters()))
    assert 0.2 < share < 0.6


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_model_that_stands_on_the_cpu_is_fine_tuned_where_the_profile_says(orbits, tmp_path):
    profile = dataclasses.replace(PROFILE, device="cuda")
    model = finetune_video_model(profile, orbits, tmp_path / "run", model=new_model(), seed=4)
    assert {part.device.type for part in (model.pipeline.vae, model.pipeline.image_encoder)} == {"cuda"}


def test_a_checkpoint_is_written_as_often_as_asked(orbits, tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr("vfusion3d.learning.loop.save_checkpoint", lambda folder, step, *_: written.append(step))
    finetune_video_model(PROFILE, orbits, tmp_path / "run", model=new_model(), seed=4, checkpoint_every=2)
    assert written == [2, 3]  # of 3 steps


def test_a_stopped_fine_tuning_goes_on_to_the_same_weights_and_is_loaded_once_done(orbits, tmp_path):
    whole = finetune_video_model(PROFILE, orbits, tmp_path / "whole", model=new_model(), seed=4)
    stopped = tmp_path / "stopped"
    finetune_video_model(PROFILE, orbits, stopped, model=new_model(), seed=4, stop_after=0)
    assert not (stopped / "model").exists()
    again = finetune_video_model(PROFILE, orbits, stopped, model=new_model(), seed=4)
    loaded = finetune_video_model(PROFILE, orbits, stopped, model=new_model(), seed=4)
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[name])
        assert torch.equal(value, loaded.network.state_dict()[name])
    with pytest.raises(ValueError, match="objects: 3 there, 1 now"):
        finetune_video_model(PROFILE, orbits, stopped, model=new_model(), seed=4, objects=1)
    with pytest.raises(ValueError, match="holds 3"):
        finetune_video_model(PROFILE, orbits, tmp_path / "new", model=new_model(), objects=4)


class Fade(nn.Module):
    """Frame t is the first frame, faded to white by `pace` * t; `tone` is the part that knows pictures."""

    def __init__(self):
        super().__init__()
        self.pace = nn.Parameter(torch.tensor(0.1))
        self.tone = nn.Parameter(torch.tensor(1.0))

    def forward(self, first, frames):
        left = 1 - self.pace * torch.arange(frames)[:, None, None, None]
        return 1 - (1 - self.tone * first[:, None]) * left


class FadingVideos:
    """Another video model than Stable Video Diffusion: what `VideoModel` says, and nothing else."""

    def __init__(self, network):
        self.network = network

    @classmethod
    def from_pretrained(cls, source, device, dtype):
        network = Fade()
        network.load_state_dict(load_file(Path(source) / "fade.safetensors"))
        return cls(network.to(device, dtype))

    def save_pretrained(self, folder):
        folder.mkdir()
        save_file(self.network.state_dict(), folder / "fade.safetensors")

    def to(self, device):
        self.network.to(device)

    def temporal_parameters(self):
        return ["pace"]

    def encode(self, videos):
        return videos

    def condition(self, images, buckets, fps, generator):
        return {"first": images, "fps": fps}

    def loss(self, network, latents, condition, generator):
        return (network(condition["first"], latents.shape[1]) - latents).square().mean()

    @torch.no_grad()
    def generate(self, images, generator, *, bucket, frames, steps, guidance, fps):
        assert len(generator) == len(images)
        return self.network(images, frames).clamp(0, 1)


def test_a_video_model_of_another_class_is_fine_tuned_saved_loaded_and_generates(orbits, tmp_path):
    recipe = dataclasses.replace(RECIPE, learning_rate=0.05, warmup_steps=0, mixed_precision="auto")
    profile = dataclasses.replace(PROFILE, video=recipe)
    show = keep_strips(tmp_path / "strips", torch.full((1, 3, 64, 64), 0.5), RECIPE, seed=0)
    learned = finetune_video_model(profile, orbits, tmp_path / "run", model=FadingVideos(Fade()), show=show)
    pace = learned.network.pace.item()
    assert pace != pytest.approx(0.1, abs=0.01)
    assert learned.network.tone.item() == 1
    recorded = json.loads((tmp_path / "run" / "settings.json").read_text())["video"]["mixed_precision"]
    assert recorded == resolve("auto", learned.network.pace.device)
    loaded = finetune_video_model(profile, orbits, tmp_path / "run", model=FadingVideos(Fade()))
    assert isinstance(loaded, FadingVideos)
    assert loaded is not learned
    assert loaded.network.pace.item() == pace
    other = FadingVideos(Fade())
    other.network.tone.data.fill_(0.5)
    with pytest.raises(ValueError, match="start: "):
        finetune_video_model(profile, orbits, tmp_path / "run", model=other)

    generate(tmp_path / "videos", loaded)
    for index, sample in enumerate(VideoShards(tmp_path / "videos")):
        drawn = colours(PROMPTS[index : index + 1], sample_generator(5, index), 1)[0, :, 0, 0]
        wanted = [1 - (1 - drawn) * (1 - pace * frame) for frame in range(FRAMES)]
        shown = sample.frames.float().mean(dim=(2, 3)) / 255
        assert torch.allclose(shown, torch.stack(wanted).clamp(0, 1), atol=0.02)
    strip = read_strips(tmp_path / "strips", 64)[RECIPE.steps]
    assert strip[0, 1].mean().item() == pytest.approx(1 - 0.5 * (1 - pace), abs=0.01)


def without(orbits, folder, key, member):
    """The same shard, but one sample lacks a member."""
    shards = MultiviewShards(orbits)
    with ShardWriter(shard_path(folder, 0)) as writer:
        for index, name in enumerate(shards.keys):
            members = shards.index["shards"][0]["samples"][index]["members"]
            kept = {m: shards.member(index, m) for m in members if (name, m) != (key, member)}
            writer.write(name, kept)
    write_index(folder)
    return folder


@pytest.mark.parametrize(
    ("view", "missing"), [(3, r"view04\.png follows without number 3"), (7, "it has 7 views, the first sample 8")]
)
def test_fine_tuning_names_the_sample_and_the_view_that_is_missing(orbits, tmp_path, view, missing):
    key = MultiviewShards(orbits).keys[1]
    broken = without(orbits, tmp_path / "data", key, f"view{view:02d}.png")
    with pytest.raises(ShardError, match=rf"shard-000000\.tar, sample {key} is damaged \({missing}"):
        finetune_video_model(PROFILE, broken, tmp_path / "run", model=new_model(), seed=4)
    with pytest.raises(ShardError, match=rf"sample {key} is damaged.*\b{view}\b.*missing"):
        MultiviewShards(broken)[1]
    assert len(MultiviewShards(broken)[0].rgba) == 8  # the others can be read


@pytest.mark.parametrize(
    ("gone", "component"),
    [
        ("unet", "component unet"),
        ("vae/diffusion_pytorch_model.safetensors", "component vae"),
        ("image_encoder/config.json", "component image_encoder"),
        ("feature_extractor/preprocessor_config.json", "component feature_extractor"),
        ("model_index.json", "no model_index.json"),
    ],
)
def test_a_video_model_without_a_component_names_folder_and_component(gone, component, tmp_path):
    folder = tmp_path / "fine_tuned"
    shutil.copytree(BUNDLED / "image_to_video", folder)
    path = folder / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(ModelUnavailable, match=rf"{folder} (lacks the|has) {component}"):
        load_video_model(SMOKE, folder)
    foundations = dataclasses.replace(SMOKE.foundations, image_to_video=str(folder))
    with pytest.raises(ModelUnavailable, match=rf"{folder} (lacks the|has) {component}"):
        load_video_model(dataclasses.replace(SMOKE, foundations=foundations))


def test_a_disk_that_fills_up_while_a_model_learns_loses_no_checkpoint(orbits, tmp_path, monkeypatch):
    whole = finetune_video_model(PROFILE, orbits, tmp_path / "whole", model=new_model(), seed=4)
    written, how = [], {"model": None, "seed": 4, "checkpoint_every": 1}

    def fills_up(tensors, path, metadata):
        written.append(metadata["step"])
        if len(written) == 2:
            path.write_bytes(b"the beginning of")
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        save_file(tensors, path, metadata)

    monkeypatch.setattr("vfusion3d.learning.loop.save_file", fills_up)
    with pytest.raises(OSError, match=r"the disk is full.*run again.*checkpoint\.safetensors") as raised:
        finetune_video_model(PROFILE, orbits, tmp_path / "run", **how | {"model": new_model()})
    assert raised.value.errno == errno.ENOSPC
    assert not list((tmp_path / "run").glob("*.partial"))
    again = finetune_video_model(PROFILE, orbits, tmp_path / "run", **how | {"model": new_model()})
    assert written == ["1", "2", "2", "3"]
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[name])


def test_strips_at_intervals_come_from_the_same_frames_and_noise_and_are_made_once(orbits, tmp_path):
    first = first_frames(MultiviewShards(orbits), 2, RECIPE.size)
    show = keep_strips(tmp_path / "run" / "strips", first, RECIPE, seed=1)
    model = finetune_video_model(PROFILE, orbits, tmp_path / "run", model=new_model(), seed=4, show=show, show_every=2)
    start, expected = new_model(), videos_from(first, model, RECIPE, seed=1)
    show(start, 0)
    strips = read_strips(tmp_path / "run" / "strips", RECIPE.size)
    assert list(strips) == [0, 2, 3]
    assert strips[3].shape == (2, FRAMES, 3, 64, 64)
    assert torch.allclose(strips[3], expected, atol=0.51 / 255)
    assert not torch.equal(strips[0], strips[3])
    show(model, 0)  # there already
    assert torch.equal(read_strips(tmp_path / "run" / "strips", RECIPE.size)[0], strips[0])


def generate(folder, model, prompts=PROMPTS, draw=colours, recipe=RECIPE, **options):
    options = {"drawn_by": "test", "seed": 5, "shard_size": 4, **options}
    return generate_videos(folder, prompts, draw, model, recipe, **options)


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos") / "whole"
    generate(folder, model)
    return folder


def test_every_prompt_gets_its_video_and_says_so(whole):
    videos = VideoShards(whole, verify=True)
    assert [sample.caption for sample in videos] == PROMPTS
    assert [sample.metadata["prompt"] for sample in videos] == PROMPTS
    assert videos[8].frames.shape == (FRAMES, 3, 64, 64)
    assert len(videos.index["shards"]) == 3


def test_several_workers_make_the_bytes_of_one(whole, model, tmp_path):
    generate(tmp_path / "parts", model, part=(1, 2))
    assert not (tmp_path / "parts" / "index.json").exists()
    generate(tmp_path / "parts", model, part=(0, 2))
    assert VideoShards(tmp_path / "parts").fingerprint == VideoShards(whole).fingerprint


def test_a_killed_worker_goes_on_where_it_stopped_and_draws_nothing_twice(whole, model, tmp_path):
    drawn = []

    def dies(prompts, generator, size):
        if len(drawn) == 6:
            raise KeyboardInterrupt
        drawn.extend(prompts)
        return colours(prompts, generator, size)

    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "killed", model, draw=dies)
    rest = []
    generate(tmp_path / "killed", model, draw=lambda p, g, s: rest.extend(p) or colours(p, g, s))
    assert rest == PROMPTS[6:]
    assert VideoShards(tmp_path / "killed").fingerprint == VideoShards(whole).fingerprint


def test_a_sample_depends_on_its_index_and_on_no_other_sample(model):
    images, videos = generate_batch([2, 7], PROMPTS, colours, model, RECIPE, seed=5)
    alone_images, alone = generate_batch([7], PROMPTS, colours, model, RECIPE, seed=5)
    assert torch.equal(images[1:], alone_images)
    assert torch.allclose(videos[1:], alone, atol=1e-6)


def test_videos_of_some_prompts_are_those_among_all(whole, model, tmp_path):
    generate(tmp_path / "some", model, indices=[7, 2, 3])
    some, all_of_them = VideoShards(tmp_path / "some"), VideoShards(whole)
    assert [sample.metadata["index"] for sample in some] == [7, 2, 3]
    for sample in some:
        apart = sample.frames.int() - all_of_them[sample.metadata["index"]].frames.int()
        assert apart.abs().max() <= 1
        assert sample.caption == PROMPTS[sample.metadata["index"]]
    with pytest.raises(ValueError, match="indices: "):
        generate(tmp_path / "some", model, indices=[7, 2, 4])


def test_no_prompts_and_other_settings_are_refused(whole, model, tmp_path):
    with pytest.raises(ValueError, match="no prompts"):
        generate(tmp_path / "none", model, prompts=[])
    with pytest.raises(ValueError, match="text_to_image: test there, better now"):
        generate(whole, model, drawn_by="better")
    with pytest.raises(ValueError, match="prompts: "):
        generate(whole, model, prompts=[*PROMPTS[:-1], "a hat"])
    other = new_model()
    with torch.no_grad():
        next(other.network.parameters()).add_(1)
    with pytest.raises(ValueError, match="model: "):
        generate(whole, other)
    with pytest.raises(ValueError, match=r"video\.inference_steps: 1 there, 2 now"):
        generate(whole, model, recipe=dataclasses.replace(RECIPE, inference_steps=2))


def test_what_only_fine_tuning_or_memory_depends_on_may_change(whole, model, tmp_path):
    shutil.copytree(whole, tmp_path / "videos")
    (tmp_path / "videos" / "shard-000001.tar").unlink()
    recipe = dataclasses.replace(RECIPE, learning_rate=1.0, warmup_steps=9, generate_batch=1)
    generate(tmp_path / "videos", model, recipe=recipe)
    assert (tmp_path / "videos" / "shard-000001.tar").read_bytes() == (whole / "shard-000001.tar").read_bytes()


def test_a_prompt_that_cannot_be_drawn_is_left_out_and_listed_and_the_others_go_on(whole, model, tmp_path):
    def picky(prompts, generator, size):
        if prompts == [PROMPTS[3]]:
            raise CaptionError("cannot draw a rocket")
        return colours(prompts, generator, size)

    def broken(prompts, generator, size):
        raise ValueError("out of range")

    generate(tmp_path / "picky", model, draw=picky)
    videos = VideoShards(tmp_path / "picky", verify=True)
    assert [sample.caption for sample in videos] == PROMPTS[:3] + PROMPTS[4:]
    assert videos.index["skipped"] == {"00000003": "cannot draw a rocket"}
    generate(tmp_path / "picky", model, draw=None)  # nothing is left to do
    with pytest.raises(ValueError, match="out of range"):  # a fault is no property of a prompt
        generate(tmp_path / "broken", model, draw=broken)
    assert torch.equal(videos[8 - 1].frames, VideoShards(whole)[8].frames)


def test_a_disk_that_fills_up_while_videos_are_written_keeps_the_whole_ones(whole, model, tmp_path, monkeypatch):
    class AlmostFull(io.FileIO):
        room = 60_000  # bytes: the first shard and a part of the second

        def write(self, data):
            fits = bytes(data[: AlmostFull.room])
            if not fits:
                raise OSError(errno.ENOSPC, "No space left on device")
            AlmostFull.room -= len(fits)
            return super().write(fits)

    def opened(path, mode, buffering=-1):
        return AlmostFull(path, mode) if buffering == 0 and "+" in mode else open(path, mode, buffering)

    monkeypatch.setattr("vfusion3d.data.shards.open", opened, raising=False)
    with pytest.raises(OSError, match=r"the disk is full.* are kept, without sample 0000000\d.*shard-\d+\.tar"):
        generate(tmp_path / "videos", model)
    monkeypatch.undo()
    rest = []
    generate(tmp_path / "videos", model, draw=lambda p, g, s: rest.extend(p) or colours(p, g, s))
    assert 0 < len(rest) < len(PROMPTS)
    assert VideoShards(tmp_path / "videos").fingerprint == VideoShards(whole).fingerprint

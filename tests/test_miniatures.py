"""How the miniatures learn: their batches, their losses, and that each can be trained, stopped and taken up again."""

import dataclasses
import json
import time
from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.utils.tensorboard import SummaryWriter

from vfusion3d.data.shards import VideoShards
from vfusion3d.foundations.aesthetic_score import aesthetic_score
from vfusion3d.foundations.clip import clip as clip_role
from vfusion3d.foundations.image_features import image_features
from vfusion3d.foundations.image_to_video import Noise, image_to_video
from vfusion3d.foundations.perceptual import PerceptualDistance, perceptual_distance
from vfusion3d.learning.loop import fingerprint
from vfusion3d.miniatures import clip, features, perceptual, vae, video
from vfusion3d.miniatures.evaluate import (
    caption_accuracy,
    degradation_curves,
    nearer_rate,
    neighbour_accuracy,
    render_probe,
    zero_shot_accuracy,
)
from vfusion3d.miniatures.make import ORDER, TRAININGS, make_miniature, training_hours
from vfusion3d.miniatures.training import Training, WebPictures, jitter_colours, learn, random_crops
from vfusion3d.runs.profiles import load_profile
from vfusion3d.world.catalogue import DRAWN
from vfusion3d.world.web_world import render_web


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    folder = tmp_path_factory.mktemp("web")
    render_web(folder / "pictures", 12, frames=1, seed=1)
    render_web(folder / "videos", 4, seed=2)
    return folder


@pytest.fixture(scope="module")
def probe():
    return render_probe(2, seed=5)


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def quick(training: Training, steps: int = 2, batch_size: int = 4) -> Training:
    return dataclasses.replace(training, steps=steps, batch_size=batch_size, warmup=1)


def test_half_of_the_pictures_are_frames_of_videos(web):
    drawn = WebPictures(web)(np.random.default_rng(0), 8)
    assert drawn.images.shape == (8, 3, 64, 64)
    moving = [metadata["motion"] > 0 for metadata in drawn.metadata]
    assert not any(moving[::2])
    assert all(caption and metadata["categories"] for caption, metadata in zip(drawn.captions, drawn.metadata))


def test_pictures_that_are_alike_share_the_first_colour(web):
    pictures = WebPictures(web)
    for seed in range(3):
        drawn = pictures(np.random.default_rng(seed), 6, alike=True)
        assert len({metadata["objects"][0]["colours"][0] for metadata in drawn.metadata}) == 1


def test_a_crop_of_the_whole_picture_is_the_picture_or_its_mirror():
    images = torch.rand(8, 3, 16, 16, generator=gen())
    crops = random_crops(images, gen(1), 16, smallest=1.0, largest=1.0)
    same = [torch.allclose(crop, image, atol=1e-5) for crop, image in zip(crops, images, strict=True)]
    mirrored = [torch.allclose(crop, image.flip(-1), atol=1e-5) for crop, image in zip(crops, images, strict=True)]
    assert all(a != b for a, b in zip(same, mirrored, strict=True))
    assert any(same)
    assert any(mirrored)


def test_jittered_colours_keep_greys_grey_and_shapes_in_place():
    grey = torch.full((16, 3, 4, 4), 0.5)
    jittered = jitter_colours(grey, gen())
    assert (jittered.amax(1) - jittered.amin(1)).max() < 1e-5
    halves = torch.zeros(16, 3, 4, 4)
    halves[..., 2:] = torch.tensor([0.9, 0.2, 0.1]).view(3, 1, 1)
    jittered = jitter_colours(halves, gen())
    assert jittered.std(dim=-2).max() < 1e-6  # rows are alike as before
    assert jittered[:, :, 0, 3].std(dim=0).min() > 0.05  # each picture has another colour


def test_the_tokenizer_knows_all_captions_and_ends_where_clip_looks(tmp_path):
    model = open_clip.CLIP(**clip.config())
    clip.save_clip(model.state_dict(), tmp_path)
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tmp_path}")
    texts = ["A tall two-tone red and white hot air balloon", "a zebra on a blue background"]
    ids = tokenizer(texts)
    assert torch.equal(ids, clip.tokenize(clip.new_tokenizer(), texts))
    assert ids.shape == (2, clip.TEXT["context_length"])
    unknown = tokenizer.tokenizer.unk_token_id
    assert (ids[0] != unknown).all()
    assert (ids[1] == unknown).sum() == 1
    end = tokenizer.tokenizer.eos_token_id
    assert end == clip.config()["text_cfg"]["vocab_size"] - 1  # the text tower reads at the largest id
    assert (ids == end).sum(dim=1).tolist() == [1, 1]


def test_the_resizing_of_training_is_the_interpolation_of_use():
    images = torch.rand(2, 3, 48, 48, generator=gen())
    size = (clip.IMAGE_SIZE, clip.IMAGE_SIZE)
    wanted = torch.nn.functional.interpolate(images, size, mode="bicubic", antialias=True, align_corners=False)
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (clip.MEAN, clip.STD))
    assert torch.allclose(clip.normalised(images), (wanted - mean) / std, atol=1e-4)


def test_clip_trains_and_is_read_by_open_clip(web, tmp_path):
    folder = make_miniature("clip", web, tmp_path, quick(clip.TRAINING), device="cpu")
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    saved = load_file(folder / "open_clip_model.safetensors")
    weights = {name: value for name, value in model.state_dict().items() if name in saved}
    assert len(weights) > 50
    assert all(torch.equal(value.half(), saved[name]) for name, value in weights.items())
    grey = transform(Image.new("RGB", (64, 64), (100, 150, 200)))
    ours = clip.normalised(torch.tensor([100, 150, 200]).div(255).view(1, 3, 1, 1).expand(1, 3, 64, 64))
    assert torch.allclose(grey, ours[0], atol=1e-3)


def test_a_stopped_miniature_goes_on_to_the_same_weights(web, tmp_path):
    training = quick(features.TRAINING, steps=3)

    def lesson(training=training):
        return features.features_lesson(web, training)

    whole, again = lesson(), lesson()
    assert learn(whole, training, tmp_path / "whole", device="cpu")
    assert not learn(lesson(), training, tmp_path / "stopped", device="cpu", stop_after=0)
    assert learn(again, training, tmp_path / "stopped", device="cpu")
    pairs = zip(whole.model.state_dict().values(), again.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    other = dataclasses.replace(training, seed=9)
    with pytest.raises(ValueError, match=r"start: .*training\.seed: 43 there, 9 now"):
        learn(lesson(other), other, tmp_path / "whole", device="cpu")


def test_the_trunk_learns_by_naming_and_rests_while_the_weights_learn_and_stay_positive(web, tmp_path):
    naming, ranking = quick(perceptual.NAMING), quick(perceptual.RANKING)
    lesson = perceptual.naming_lesson(web, naming)
    distance = lesson.model.distance[0]
    fresh = {name: value.clone() for name, value in distance.state_dict().items()}
    assert learn(lesson, naming, tmp_path / "trunk", device="cpu")
    named = {name: value.clone() for name, value in distance.state_dict().items()}
    assert learn(perceptual.ranking_lesson(web, lesson.model, ranking), ranking, tmp_path / "weights", device="cpu")
    ranked = distance.state_dict()
    moved = {
        name: (not torch.equal(fresh[name], named[name]), not torch.equal(named[name], ranked[name])) for name in fresh
    }
    assert all(moved[name] == (True, False) for name in moved if name.startswith("net.") and name.endswith("weight"))
    assert all(moved[name] == (False, True) for name in moved if name.startswith("lin"))
    perceptual.keep_positive(distance)
    assert all((weights.model[-1].weight >= 0).all() for weights in distance.lins)
    distance.eval()
    images = torch.rand(2, 3, 64, 64, generator=gen()) * 2 - 1
    assert distance(images, images).abs().max() == 0
    assert (distance(images, images.flip(0)) > 0).all()


def test_the_second_step_starts_alike_however_many_random_numbers_were_drawn_before(web):
    naming = perceptual.naming_lesson(web, perceptual.NAMING).model
    starts = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        starts.append(fingerprint(perceptual.ranking_lesson(web, naming).model))
    assert starts[0] == starts[1]


def test_labels_are_the_words_of_all_objects_in_the_picture():
    mug = {"category": "mug", "colours": ["red", "white"], "pattern": "striped", "proportion": "tall"}
    duck = {"category": "rubber duck", "colours": ["yellow"], "pattern": "plain", "proportion": ""}
    labels = perceptual.labels_of([mug, duck])
    named = {name for name, label in zip(perceptual.LABELS, labels.tolist(), strict=True) if label}
    assert named == {"mug", "red", "white", "striped", "tall", "rubber duck", "yellow", "plain"}


@pytest.mark.parametrize("change", perceptual.CHANGES)
def test_stronger_changes_change_more_pixels(change):
    images = [
        torch.rand(1, 3, 8, 8, generator=gen(seed)).repeat_interleave(8, 2).repeat_interleave(8, 3) for seed in range(6)
    ]
    errors = [
        np.mean([(change(image, amount, gen(7)) - image).square().mean().item() for image in images])
        for amount in (0.1, 0.5, 1.0)
    ]
    assert 0 <= errors[0] < errors[1] < errors[2]


def test_shuffling_moves_patches_and_invents_none():
    image = torch.rand(1, 3, 32, 32, generator=gen())
    shuffled = perceptual.shuffled(image, 1.0, gen(1))
    assert not torch.equal(shuffled, image)
    assert torch.equal(shuffled.flatten().sort().values, image.flatten().sort().values)


def test_the_nearer_of_a_triplet_is_the_weaker_change():
    images = torch.rand(12, 3, 8, 8, generator=gen()).repeat_interleave(8, 2).repeat_interleave(8, 3)
    triplet, nearer = perceptual.triplets(images, gen(2))
    assert triplet.shape == (3, 12, 3, 64, 64)
    assert set(nearer.flatten().tolist()) == {-1.0, 1.0}


def test_the_vae_trains_and_scales_its_latents_to_one(web, tmp_path):
    training = quick(vae.TRAINING, batch_size=8)
    lesson = vae.vae_lesson(web, training)
    assert learn(lesson, training, tmp_path, device="cpu")
    vae.scale_latents(lesson)
    model = lesson.model
    images = WebPictures(web)(np.random.default_rng(5), 8).images.float() / 255
    with torch.no_grad():
        latents = model.encode(images * 2 - 1).latent_dist.mean * model.config.scaling_factor
    assert latents.shape == (8, 4, 8, 8)
    assert 0.5 < latents.std() < 2
    assert vae.reconstruct(model, images).shape == images.shape


def test_a_decoder_that_learns_alone_leaves_the_latents_what_they_are(web, tmp_path):
    training = quick(vae.DECODER, batch_size=8)
    with pytest.raises(ValueError, match="pass its model folder as start"):
        make_miniature("vae_decoder", web, tmp_path, training, device="cpu")
    torch.manual_seed(0)
    vae.AutoencoderKLTemporalDecoder(**vae.CONFIG, scaling_factor=0.37).save_pretrained(tmp_path / "start")
    (tmp_path / "start" / "training.json").write_text('{"trainings": []}')
    PerceptualDistance("untrained").save_pretrained(tmp_path / "perceptual_distance" / "model")
    start = tmp_path / "start"
    made = make_miniature("vae_decoder", web, tmp_path, training, start=start, device="cpu")
    before, after = (vae.AutoencoderKLTemporalDecoder.from_pretrained(folder) for folder in (start, made))
    moved = {name: not torch.equal(value, after.state_dict()[name]) for name, value in before.state_dict().items()}
    assert not any(value for name, value in moved.items() if not name.startswith("decoder."))
    assert np.mean([value for name, value in moved.items() if name.startswith("decoder.")]) > 0.9
    assert after.config.scaling_factor == 0.37


def test_a_vae_with_a_latent_for_every_colour_has_no_anchor_loss():
    """A VAE without the anchor can stay blind to green against purple."""
    images = torch.rand(4, 3, 8, 8, generator=gen()).repeat_interleave(4, 2).repeat_interleave(4, 3) * 2 - 1
    red, green, blue = torch.nn.functional.avg_pool2d(images, 8).unbind(1)
    faithful = torch.stack([(red + green + blue) * 2 / 3, 2 * (red - blue), 4 * green - 2 * red - 2 * blue, green], 1)
    blind = faithful * torch.tensor([1.0, 1, 0, 1])[:, None, None]

    def losses(means):
        posterior = DiagonalGaussianDistribution(torch.cat([means, torch.full_like(means, -30)], dim=1))
        encode, decode = SimpleNamespace(latent_dist=posterior), SimpleNamespace(sample=images)
        fake = SimpleNamespace(encode=lambda _: encode, decode=lambda *_, **__: decode, device="cpu")
        return vae.vae_losses(fake, images, 1, gen())

    assert losses(faithful)["anchor"] < 1e-10
    assert losses(blind)["anchor"] == pytest.approx(faithful[:, 2].square().mean().item() / 3, rel=1e-4)
    assert losses(blind)["loss"] > losses(faithful)["loss"]


def test_the_vae_takes_only_neighbours_for_a_video(web):
    """Unrelated pictures must not be decoded as the frames of one: the temporal layers would learn to mix them."""
    lesson = vae.vae_lesson(web, quick(vae.TRAINING, batch_size=8))
    pictures, alone = lesson.batch_of(0, [0])
    runs, frames = lesson.batch_of(1, [0])
    assert (alone, frames) == (1, vae.FRAMES)
    within = runs.unflatten(0, (-1, frames)).diff(dim=1).abs().mean()
    assert within < 0.3 * pictures.diff(dim=0).abs().mean()
    seen = []

    class Watcher(torch.nn.Module):
        def encode(self, images):
            return lesson.model.encode(images)

        def decode(self, latents, num_frames):
            seen.append(num_frames)
            return lesson.model.decode(latents, num_frames=num_frames)

        device = torch.device("cpu")

    for batch in ((pictures, alone), (runs, frames)):
        lesson.losses_of(Watcher(), batch, [gen()])
    assert seen == [1, vae.FRAMES]


def test_the_video_model_trains_on_latents_that_are_computed_once(web, tmp_path):
    torch.manual_seed(0)
    tower = open_clip.CLIP(**clip.config()).state_dict()
    model = video.new_video_model(vae.AutoencoderKLTemporalDecoder(**vae.CONFIG), tower, seed=0)
    videos = VideoShards(web / "videos")
    encoded = video.encode_all(model, videos, tmp_path / "encoded.safetensors", batch=3)
    shapes = {name: tuple(value.shape) for name, value in encoded.items()}
    assert shapes == {"latents": (4, 16, 4, 8, 8), "embeddings": (4, 16, clip.EMBEDDING), "motion": (4,)}
    frames = videos[3].frames.float() / 255
    assert torch.allclose(encoded["latents"][3].float(), model.encode(frames[None])[0], atol=0.02)
    again = video.encode_all(model, None, tmp_path / "encoded.safetensors")
    save_file({name: encoded[name] for name in ("latents", "motion")}, tmp_path / "older.safetensors")
    anew = video.encode_all(model, videos, tmp_path / "older.safetensors")  # of a version that kept no embeddings
    assert torch.equal(anew["embeddings"], encoded["embeddings"])
    assert torch.equal(again["latents"], encoded["latents"])
    before = {name: p.clone() for name, p in model.network.named_parameters()}
    training = quick(video.TRAINING, batch_size=2)
    lesson = video.video_lesson(model, videos, encoded, training)
    clean, seen = lesson.batch_of(0, [0])
    for latents, embedding, first in zip(clean, seen.embedding, seen.latents, strict=True):
        of, place = (encoded["latents"].float() == latents[0]).flatten(2).all(2).nonzero()[0].tolist()
        wanted = model.condition(videos[of].frames[place : place + 1].float() / 255, [127], video.FPS, gen())
        assert torch.allclose(embedding, wanted.embedding[0], atol=2e-3)
        assert torch.allclose(first, wanted.latents[0], atol=2e-2)
    assert learn(lesson, training, tmp_path / "run", device="cpu")
    moved = [not torch.equal(before[name], p) for name, p in model.network.named_parameters()]
    assert np.mean(moved) > 0.95


def test_of_whole_turntables_only_the_first_frame_is_embedded(tmp_path):
    render_web(tmp_path / "videos", 2, frames=16, size=64, seed=8, curated=True)
    videos = VideoShards(tmp_path / "videos")
    torch.manual_seed(0)
    tower = open_clip.CLIP(**clip.config()).state_dict()
    model = video.new_video_model(vae.AutoencoderKLTemporalDecoder(**vae.CONFIG), tower, seed=0)
    encoded = video.encode_all(model, videos, tmp_path / "encoded.safetensors")
    wanted = [model.condition(one.frames[:1].float() / 255, [0], video.FPS, gen()).embedding for one in videos]
    assert torch.allclose(encoded["embeddings"].float(), torch.cat(wanted), atol=2e-3)
    lesson = video.video_lesson(model, videos, encoded, quick(video.TRAINING, batch_size=2))
    assert lesson.batch_of(0, [0])[1].embedding.shape == (2, 1, clip.EMBEDDING)


def test_a_video_model_that_noises_first_frames_does_not_learn_from_clean_ones():
    tower = open_clip.CLIP(**clip.config()).state_dict()
    model = video.new_video_model(vae.AutoencoderKLTemporalDecoder(**vae.CONFIG), tower, seed=0)
    model.noise = Noise(augmentation=0.02)
    with pytest.raises(ValueError, match=r"must be 0, not Noise\(.*augmentation=0\.02"):
        video.video_lesson(model, None, {})


@pytest.mark.parametrize("curated", [False, True])
def test_of_a_longer_video_16_frames_are_taken_at_any_pace_turntables_only_forwards(tmp_path, curated):
    render_web(tmp_path / "videos", 2, frames=40, size=64, seed=8, curated=curated)
    videos = VideoShards(tmp_path / "videos")
    torch.manual_seed(0)
    tower = open_clip.CLIP(**clip.config()).state_dict()
    model = video.new_video_model(vae.AutoencoderKLTemporalDecoder(**vae.CONFIG), tower, seed=0)
    places = torch.arange(40.0).view(1, 40, 1, 1, 1) + torch.tensor([0.0, 100.0]).view(2, 1, 1, 1, 1)
    embeddings = places[..., 0, 0].expand(2, 40, clip.EMBEDDING)
    encoded = {"latents": places.expand(2, 40, 4, 8, 8), "embeddings": embeddings, "motion": torch.tensor([0.5, 1.0])}
    lesson = video.video_lesson(model, videos, encoded, quick(video.TRAINING, batch_size=64))
    latents, condition = lesson.batch_of(0, [0])
    seen = latents[:, :, 0, 0, 0].long()
    steps = seen.diff(dim=1)
    assert (steps == steps[:, :1]).all()
    assert set(steps[:, 0].tolist()) == ({1, 2} if curated else {-2, -1, 1, 2})
    assert seen.min() >= 0
    assert (seen % 100).max() < 40
    assert torch.equal(condition.embedding[:, 0, 0], seen[:, 0].float())
    for frames, numbers in zip(seen, condition.numbers.tolist(), strict=True):
        of, pace = int(frames[0]) // 100, abs(int(frames[1] - frames[0]))
        assert numbers == [video.FPS - 1, video.motion_bucket(pace * (0.5 + 0.5 * of)), 0]


class NamesByColour:
    """A CLIP that knows each caption's picture by heart: the perfect one, or one that always answers the same."""

    def __init__(self, probe, texts, blind=False):
        self.probe, self.known, self.blind = probe, texts, blind

    def image_features(self, images):
        at = [next(i for i, view in enumerate(self.probe.views) if torch.equal(view, image)) for image in images]
        return self.text_features([self.known[0 if self.blind else i] for i in at])

    def text_features(self, texts):
        words = sorted(set(self.known))
        return torch.stack([torch.tensor([float(word == text) for word in words]) for text in texts])


def test_accuracies_are_1_for_who_knows_and_chance_for_who_does_not(probe):
    prompts = [f"a photo of {'an' if name[0] in 'aeiou' else 'a'} {name}" for name in probe.categories]
    assert zero_shot_accuracy(NamesByColour(probe, prompts), probe.views, probe.categories) == 1
    blind = zero_shot_accuracy(NamesByColour(probe, prompts, blind=True), probe.views, probe.categories)
    assert blind == pytest.approx(1 / len(DRAWN))
    assert caption_accuracy(NamesByColour(probe, probe.captions), probe.views, probe.captions, among=20) == 1
    blind = NamesByColour(probe, probe.captions, blind=True)
    assert caption_accuracy(blind, probe.views, probe.captions, among=20) <= 1 / 20
    with pytest.raises(ValueError, match="give more objects"):
        caption_accuracy(blind, probe.views, probe.captions, among=1000)


def test_neighbours_are_found_by_features_and_the_nearer_view_by_a_distance(probe):
    def pixels(images):
        return images.flatten(1)

    gallery = dataclasses.replace(probe, views=probe.views.repeat(5, 1, 1, 1) + 0.001, categories=probe.categories * 5)
    assert neighbour_accuracy(pixels, gallery, probe) > 0.9
    assert neighbour_accuracy(lambda images: torch.ones(len(images), 2), gallery, probe) < 0.2

    def mse(a, b):
        return (a - b).square().mean(dim=(1, 2, 3))

    assert nearer_rate(mse, probe) > 0.7
    assert nearer_rate(lambda a, b: -mse(a, b), probe) < 0.3


def test_the_squared_error_grows_with_every_degradation(probe):
    def mse(a, b):
        return (a - b).square().mean(dim=(1, 2, 3))

    curves = degradation_curves(mse, probe.views[:12])
    assert list(curves) == ["blurred", "noisy", "shuffled"]
    assert (curves.iloc[0] == 0).all()
    assert (curves.diff().iloc[1:] > 0).all().all()


def test_a_probe_shows_each_category_from_two_sides_that_are_near(probe):
    assert probe.categories == list(DRAWN) * 2
    difference = (probe.views - probe.aside).abs().mean(dim=(1, 2, 3))
    assert (difference > 0).any()
    assert difference.mean() < (probe.views - probe.views.roll(1, 0)).abs().mean()
    assert len(set(probe.captions)) > len(DRAWN)


def test_each_miniature_is_made_in_the_layout_that_its_role_loads(web, tmp_path):
    steps = {name: quick(training) for name, training in TRAININGS.items()}
    with pytest.raises(FileNotFoundError, match="make the miniature vae first"):
        make_miniature("image_to_video", web, tmp_path, steps["image_to_video"], device="cpu")
    made = {name: make_miniature(name, web, tmp_path, steps[name], device="cpu") for name in ORDER}
    assert all((folder / "training.json").is_file() and (folder / "log.csv").is_file() for folder in made.values())
    assert not any((folder / "README.md").exists() for folder in made.values())
    assert made["clip"] == make_miniature("clip", web, tmp_path, steps["clip"], device="cpu")  # at once
    longer = dataclasses.replace(steps["clip"], steps=99)
    with pytest.raises(ValueError, match=rf"training\.steps: {steps['clip'].steps} there, 99 now"):
        make_miniature("clip", web, tmp_path, longer, device="cpu")
    roles = {name: str(folder) for name, folder in made.items() if name != "vae"}
    smoke = load_profile("smoke")
    profile = dataclasses.replace(smoke, foundations=dataclasses.replace(smoke.foundations, **roles))
    images = torch.rand(2, 3, 64, 64, generator=gen())
    assert clip_role(profile).image_features(images).shape == (2, clip.EMBEDDING)
    assert image_features(profile)(images).shape == (2, features.CONFIG["hidden_size"])
    assert perceptual_distance(profile)(images, images.flip(0)).shape == (2,)
    assert aesthetic_score(profile)(images).shape == (2,)
    videos = image_to_video(profile).generate(images, gen(), steps=1)
    assert videos.shape == (2, 16, 3, 64, 64)


def test_the_hours_of_all_processes_are_counted_and_not_those_between_them(tmp_path):
    for run, hours in (("trunk", 1.5), ("trunk", 0.25), ("weights", 0.5)):
        with SummaryWriter(tmp_path / run) as log:
            log.add_scalar("loss", 1.0, walltime=time.time() + hours * 3600)
    assert training_hours(tmp_path) == pytest.approx(2.25, abs=0.01)


@pytest.mark.parametrize("name", ["image_features", "perceptual_distance"])
def test_a_miniature_goes_on_from_a_finished_one_and_its_note_tells_both(name, web, tmp_path):
    still = dataclasses.replace(quick(TRAININGS[name], steps=1), learning_rate=0.0)
    first = make_miniature(name, web, tmp_path / "first", quick(TRAININGS[name]), device="cpu")
    second = make_miniature(name, web, tmp_path / "second", still, start=first, device="cpu")
    weights = [load_file(next(folder.glob("*.safetensors"))) for folder in (first, second)]
    same = [torch.equal(weights[0][key], weights[1][key]) for key in weights[0] if "lin" not in key]
    assert same
    assert all(same)
    trainings = json.loads((second / "training.json").read_text())["trainings"]
    assert [training["steps"] for training in trainings] == [2, 1]


def test_an_unknown_miniature_is_refused_with_the_names_there_are(web, tmp_path):
    with pytest.raises(ValueError, match="clip, image_features"):
        make_miniature("dino", web, tmp_path)

"""The video model's face to the project: what is temporal, how it is conditioned, noised, trained and sampled."""

import json

import pytest
import torch
from diffusers import AutoencoderKLTemporalDecoder
from open_clip import CLIP
from torch import nn
from torch.nn.functional import mse_loss

from vfusion3d.foundations.image_to_video import SETTINGS, Condition, Noise, StableVideoDiffusion, to_pil
from vfusion3d.learning.draws import sample_generators
from vfusion3d.miniatures import clip, vae, video

FRAMES = 4


@pytest.fixture(scope="module")
def clip_model():
    torch.manual_seed(0)
    return CLIP(**clip.config()).eval()


@pytest.fixture(scope="module")
def model(clip_model):
    torch.manual_seed(0)
    return video.new_video_model(AutoencoderKLTemporalDecoder(**vae.CONFIG), clip_model.state_dict(), seed=0)


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_image_encoder_is_the_image_tower_of_clip(model, clip_model, images):
    seen = clip.normalised(images)
    with torch.no_grad():
        ours = model.pipeline.image_encoder(seen).image_embeds
        assert torch.allclose(ours, clip_model.encode_image(seen), atol=1e-5)


def test_an_image_tower_of_another_clip_is_refused(clip_model):
    state = {name: value for name, value in clip_model.state_dict().items() if "ln_post" not in name}
    with pytest.raises(KeyError):
        video.image_encoder(state)


def test_temporal_parameters_are_those_that_mix_frames(model, images):
    """Changing one of the others must act on each frame alone; here: with mixers shut, frames do not see each other."""
    names = set(model.temporal_parameters())
    unet = model.network
    assert 0.2 < sum(unet.get_parameter(n).numel() for n in names) / sum(p.numel() for p in unet.parameters()) < 0.6
    for kind in ("temporal_res_block", "temporal_transformer_blocks", "time_pos_embed", "time_mixer"):
        assert any(kind in name for name in names)
    shut = {name: p.clone() for name, p in unet.named_parameters() if "mix_factor" in name}
    assert set(shut) <= names
    latents = torch.randn(1, FRAMES, 8, 8, 8, generator=gen())
    changed = latents.clone()
    changed[:, 1] += 1
    arguments = torch.tensor([0.3]), torch.zeros(1, 1, 96), torch.zeros(1, 3)
    with torch.no_grad():
        open_difference = (unet(latents, *arguments).sample - unet(changed, *arguments).sample)[:, 3].abs().max()
        for name in shut:  # resnets take the temporal branch by 1 - sigmoid, transformers too
            unet.get_parameter(name).fill_(100.0)
        closed_difference = (unet(latents, *arguments).sample - unet(changed, *arguments).sample)[:, 3].abs().max()
        for name, value in shut.items():
            unet.get_parameter(name).copy_(value)
    assert open_difference > 1e-4
    assert closed_difference < 1e-6


def test_a_video_s_noise_and_loss_are_the_same_in_any_company(model, images):
    latents = torch.randn(2, FRAMES, 4, 8, 8, generator=gen())

    def loss(which):
        own = sample_generators(1, 2, which)
        condition = model.condition(images[which], [127] * len(which), 7, own)
        return model.loss(model.network, latents[which], condition, own)

    together, first, second = (loss(which) for which in ([0, 1], [0], [1]))
    torch.testing.assert_close(together, (first + second) / 2)
    assert abs(first - second) > 1e-3


def test_a_network_that_knows_the_answer_has_no_loss_and_the_scheduler_decodes_its_answer(model):
    """The loss's target is what the pipeline's own scheduler turns back into the clean latents."""
    latents = torch.randn(3, FRAMES, 4, 8, 8, generator=gen())
    condition = Condition(torch.ones(3, 1, 96), torch.ones(3, 4, 8, 8), torch.zeros(3, 3))
    seen = {}

    class Oracle(nn.Module):
        def forward(self, sample, time, embedding, numbers, return_dict):
            sigma = (4 * time).exp().view(-1, 1, 1, 1, 1)
            noised = sample[:, :, :4] * (sigma**2 + 1).sqrt()
            seen.update(sigma=sigma, noised=noised, embedding=embedding, first=sample[:, :, 4:])
            noise = (noised - latents) / sigma
            seen["v"] = (noise - sigma * latents) / (sigma**2 + 1).sqrt()
            return (seen["v"],)

    assert model.loss(Oracle(), latents, condition, gen()) < 1e-8
    scheduler = model.pipeline.scheduler
    scheduler.set_timesteps(5)
    for sigma, noised, v, clean in zip(seen["sigma"], seen["noised"], seen["v"], latents, strict=True):
        scheduler.sigmas = torch.tensor([sigma.item(), 0.0])
        scheduler._step_index = 0
        decoded = scheduler.step(v, scheduler.timesteps[0], noised).pred_original_sample
        assert mse_loss(decoded, clean) < 1e-4 * max(1.0, sigma.item() ** 2)


def test_a_tenth_of_the_samples_learn_without_the_first_frame(model):
    count = 400
    latents = torch.zeros(count, 1, 4, 2, 2)
    condition = Condition(torch.ones(count, 1, 96), torch.ones(count, 4, 2, 2), torch.zeros(count, 3))
    seen = {}

    class Watcher(nn.Module):
        def forward(self, sample, time, embedding, numbers, return_dict):
            seen.update(first=sample[:, 0, 4:], embedding=embedding)
            return (sample[:, :, :4],)

    model.loss(Watcher(), latents, condition, gen())
    without = seen["first"].flatten(1).eq(0).all(1)
    assert torch.equal(without, seen["embedding"].flatten(1).eq(0).all(1))
    assert 0.05 < without.float().mean() < 0.15


def test_the_condition_is_what_the_pipeline_itself_makes_of_the_image(model, images):
    seen = {}

    def watch(module, arguments, options):
        seen.setdefault("sample", arguments[0])
        seen.setdefault("embedding", options["encoder_hidden_states"])
        seen.setdefault("numbers", options["added_time_ids"])

    hook = model.network.register_forward_pre_hook(watch, with_kwargs=True)
    try:
        model.generate(images, gen(), bucket=99, frames=FRAMES, steps=1, guidance=(1.0, 2.0))
    finally:
        hook.remove()
    condition = model.condition(images, [99, 99], 7, gen())
    half = len(images)  # the first half is without the condition
    assert torch.allclose(seen["embedding"][half:], condition.embedding, atol=1e-4)
    assert torch.allclose(seen["numbers"][half:], condition.numbers)
    for frame in range(FRAMES):
        assert torch.allclose(seen["sample"][half:, frame, 4:], condition.latents, atol=2e-2)  # its image is of bytes


def test_the_generator_alone_decides_the_video(model, images):
    one, same, other = (model.generate(images, gen(seed), frames=FRAMES, steps=2) for seed in (0, 0, 1))
    assert one.shape == (2, FRAMES, 3, 64, 64)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert one.min() >= 0
    assert one.max() <= 1


def test_encoded_videos_are_scaled_latents(model):
    videos = torch.rand(2, FRAMES, 3, 64, 64, generator=gen())
    latents = model.encode(videos)
    assert latents.shape == (2, FRAMES, 4, 8, 8)
    with torch.no_grad():
        alone = model.pipeline.vae.encode(videos[1, 2:3] * 2 - 1).latent_dist.mode()[0]
    assert torch.allclose(latents[1, 2], alone * model.pipeline.vae.config.scaling_factor, atol=1e-5)


def test_a_saved_model_loads_with_its_noise_and_without_it_has_the_published_one(model, images, tmp_path):
    model.save_pretrained(tmp_path / "model", torch.float16)
    loaded = StableVideoDiffusion.from_pretrained(tmp_path / "model", "cpu", torch.float32)
    assert loaded.noise == video.NOISE
    before, after = (each.generate(images, gen(), frames=FRAMES, steps=1) for each in (model, loaded))
    assert torch.allclose(before, after, atol=2e-3)
    assert json.loads((tmp_path / "model" / SETTINGS).read_text())["mean"] == video.NOISE.mean
    (tmp_path / "model" / SETTINGS).unlink()
    assert StableVideoDiffusion.from_pretrained(tmp_path / "model", "cpu", torch.float32).noise == Noise(0.7, 1.6, 0.02)


def test_a_saved_model_does_not_say_which_folder_its_parts_were_loaded_from(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    StableVideoDiffusion.from_pretrained(tmp_path / "model", "cpu", torch.float32).save_pretrained(tmp_path / "again")
    assert not [path for path in (tmp_path / "again").rglob("*.json") if str(tmp_path) in path.read_text()]


def test_pictures_survive_as_bytes(images):
    picture = to_pil(images)[1]
    assert picture.size == (64, 64)
    assert abs(picture.getpixel((5, 9))[2] / 255 - images[1, 2, 9, 5]) < 1 / 255

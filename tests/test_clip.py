"""CLIP and the aesthetic score on top of it, loaded from folders in open_clip's and the hub's layout."""

from dataclasses import replace

import open_clip
import pytest
import torch
from PIL import Image
from tiny_foundations import CAPTIONS, profile_with, save_clip

from vfusion3d.foundations.aesthetic_score import AestheticHead, aesthetic_score
from vfusion3d.foundations.clip import clip
from vfusion3d.foundations.loading import ModelUnavailable
from vfusion3d.runs.profiles import load_profile
from vfusion3d.world.unseen import eval_prompts


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("clip")


@pytest.fixture(scope="module")
def model(folder):
    return save_clip(folder)


@pytest.fixture
def loaded(folder, model):
    return clip(profile_with(clip=str(folder)))


def pictures(count: int, height: int, width: int) -> torch.Tensor:
    """Smooth pictures of bytes, as floats in [0, 1]."""
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    return (smooth * 255).round() / 255


@pytest.mark.parametrize(("height", "width"), [(224, 224), (500, 500), (64, 64), (300, 260)])
def test_tensors_are_prepared_as_open_clip_prepares_pictures(loaded, folder, height, width):
    transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")[2]
    images = pictures(2, height, width)
    as_pictures = [Image.fromarray((image * 255).byte().movedim(0, -1).numpy()) for image in images]
    expected = torch.stack([transform(picture) for picture in as_pictures])
    prepared = loaded.prepare(images)
    assert prepared.shape == (2, 3, 224, 224)
    assert (prepared - expected).abs().max() < 1.5 / 255 / 0.2  # PIL rounds to bytes, twice


def test_features_are_the_models_own_of_unit_length(loaded, model):
    images = pictures(3, 224, 224)
    mean, std = torch.tensor([0.4, 0.5, 0.6])[:, None, None], torch.tensor([0.2, 0.3, 0.25])[:, None, None]
    with torch.no_grad():
        expected = model.encode_image((images - mean) / std)
    features = loaded.image_features(images)
    assert torch.allclose(features, expected / expected.norm(dim=-1, keepdim=True), atol=1e-4)
    texts = loaded.text_features(CAPTIONS)
    assert texts.shape == (3, 16)
    assert torch.allclose(texts.norm(dim=-1), torch.ones(3), atol=1e-5)
    assert torch.allclose(loaded.text_features(["a red mug"]), texts[:1], atol=1e-5)
    assert (texts[0] - texts[2]).abs().max() > 1e-3


def test_an_unknown_word_is_named_once_and_known_ones_never(loaded, recwarn):
    loaded.text_features(CAPTIONS)
    assert not recwarn
    with pytest.warns(UserWarning, match="does not know the word 'dragon'.*'a red DRAGON!'.*foundations.clip"):
        loaded.text_features(["a red mug", "a red DRAGON!", "a green dragon"])
    assert len(recwarn) == 0
    loaded.text_features(["a red dragon"])
    assert not recwarn


def test_the_bundled_clip_knows_every_word_of_the_evaluation_prompts(recwarn):
    clip(load_profile("smoke")).text_features(eval_prompts(40))
    assert not [warning for warning in recwarn if "does not know" in str(warning.message)]


def test_the_folders_own_tokenizer_is_used(loaded):
    (tokens,) = loaded.tokenizer(["a red mug"]).tolist()
    words = loaded.tokenizer.tokenizer.convert_ids_to_tokens(tokens)
    assert words[:5] == ["[BOS]", "a", "red", "mug", "[EOS]"]
    assert set(words[5:]) == {"[PAD]"}


def test_similarities_are_cosines_of_pairs(loaded):
    images = pictures(3, 64, 64)
    seen, texts = loaded.image_features(images), loaded.text_features(CAPTIONS)
    for i in range(3):
        assert loaded.text_similarity(images, CAPTIONS)[i].item() == pytest.approx(float(seen[i] @ texts[i]), abs=1e-5)
    with pytest.raises(ValueError, match="one text an image"):
        loaded.text_similarity(images, CAPTIONS[:2])


def test_half_precision_gives_nearly_the_same_in_float32(loaded, folder):

    half = clip(replace(profile_with(clip=str(folder)), dtype="bfloat16"))
    images = pictures(2, 64, 64)
    assert half.image_features(images).dtype == torch.float32
    assert (
        torch.nn.functional.cosine_similarity(half.image_features(images), loaded.image_features(images)).min() > 0.99
    )
    assert half.text_features(CAPTIONS).dtype == torch.float32


def test_a_folder_without_weights_is_no_random_model(folder, model, tmp_path):
    (tmp_path / "open_clip_config.json").write_text((folder / "open_clip_config.json").read_text())
    with pytest.raises(ModelUnavailable, match=r"role clip.*pretrained"):
        clip(profile_with(clip=str(tmp_path)))


def test_an_architecture_without_its_tag_lists_the_tags():
    with pytest.raises(ModelUnavailable, match=r"ViT-L-14/TAG.*openai.*foundations\.clip to mini"):
        clip(profile_with(clip="ViT-L-14"))


@pytest.mark.parametrize(("tag", "quick"), [("openai", True), ("laion2b_s32b_b82k", False)])
def test_a_tags_activation_is_the_one_it_was_trained_with(monkeypatch, tag, quick):
    """open_clip only warns of OpenAI's weights in an architecture without their QuickGELU."""
    asked = {}

    def create(name, **options):
        asked.update(options, name=name)
        raise RuntimeError("seen enough")

    monkeypatch.setattr(open_clip, "create_model_and_transforms", create)
    with pytest.raises(ModelUnavailable):
        clip(profile_with(clip=f"ViT-L-14/{tag}"))
    assert (asked["name"], asked["pretrained"], asked["force_quick_gelu"]) == ("ViT-L-14", tag, quick)


def test_the_paper_profiles_clip_is_one_that_open_clip_knows():
    architecture, tag = load_profile("paper").foundations.clip.split("/")
    assert tag in open_clip.list_pretrained_tags_by_model(architecture)


@pytest.mark.parametrize("name", ["ViT-L-14/openai", "laion/CLIP-of-no-one"])
def test_without_a_network_the_error_names_model_role_and_way_out(no_network, name):
    with pytest.raises(ModelUnavailable, match=rf"{name}' \(role clip\).*foundations\.clip to mini"):
        clip(profile_with(clip=name))


def test_the_aesthetic_score_is_its_head_on_clips_features(loaded, folder, tmp_path):
    torch.manual_seed(0)
    AestheticHead(features=16, hidden=(8,)).save_pretrained(tmp_path)
    score = aesthetic_score(profile_with(clip=str(folder), aesthetic_score=str(tmp_path)))
    images = pictures(4, 64, 64)
    weights = {name: value.double() for name, value in AestheticHead.from_pretrained(tmp_path).state_dict().items()}
    first, last = ([weights[f"layers.{n}weight"], weights[f"layers.{n}bias"]] for n in ("0.0.", "1."))

    def by_hand(features):
        hidden = features.double() @ first[0].T + first[1]
        hidden = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2  # GELU
        return (hidden @ last[0].T + last[1])[..., 0].float()

    features = loaded.image_features(images)
    assert torch.allclose(score(images), by_hand(features), atol=1e-5)
    objects = images.view(2, 2, 3, 64, 64)
    assert torch.allclose(score(objects), by_hand(features.view(2, 2, -1).mean(1)), atol=1e-5), "features averaged"


def test_laions_file_is_a_linear_head(loaded, folder, tmp_path):
    torch.manual_seed(0)
    linear = torch.nn.Linear(16, 1)
    torch.save(linear.state_dict(), tmp_path / "head.pth")
    images = pictures(3, 64, 64)
    score = aesthetic_score(profile_with(clip=str(folder), aesthetic_score=str(tmp_path / "head.pth")))
    with torch.no_grad():
        assert torch.allclose(score(images), linear(loaded.image_features(images))[:, 0], atol=1e-5)


def test_a_head_for_another_clip_is_refused(folder, model, tmp_path):
    AestheticHead(features=768).save_pretrained(tmp_path)
    with pytest.raises(ModelUnavailable, match=r"role aesthetic_score.*768 features.*16"):
        aesthetic_score(profile_with(clip=str(folder), aesthetic_score=str(tmp_path)))


def test_laions_head_without_a_network_says_where_to_put_what(no_network, folder, model, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(
        ModelUnavailable,
        match=r"role aesthetic_score.*sa_0_4_vit_l_14_linear\.pth.*\.aesthetic_score to mini or a folder that holds",
    ):
        aesthetic_score(profile_with(clip=str(folder), aesthetic_score="laion"))

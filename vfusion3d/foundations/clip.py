"""CLIP: how well pictures and sentences fit (the metrics of section 4.2, Cap3D's choice of captions).

`mini` or a folder is open_clip's own layout (`open_clip_config.json`, `open_clip_model.safetensors`, and a Hugging Face
tokenizer where the config names one). Anything else is `architecture/tag` of open_clip, such as `ViT-L-14/openai`, or
the name of an open_clip model on the hub.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import normalize

from vfusion3d.foundations.loading import hub_commit, is_open_clip, load_once, role
from vfusion3d.runs.profiles import Profile

PRECISION = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}  # open_clip's words


@dataclass(frozen=True)
class Clip:
    """A loaded CLIP. Features are float32, of unit length, on the device of the images, or of the model for texts."""

    model: nn.Module
    tokenizer: Callable[[list[str]], Int[Tensor, "N length"]]
    steps: Sequence[Callable]  # open_clip's own: resize and crop
    normalise: Callable[[Tensor], Tensor]  # open_clip's own: mean and standard deviation
    device: torch.device
    dtype: torch.dtype
    noticed: set[str] = field(default_factory=set)  # unknown words of which a person has been told

    def prepare(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 side side"]:
        """open_clip's transform of a picture, for a batch of tensors in [0, 1]: antialiased bicubic, no PIL."""
        images = images.float()
        for step in self.steps:
            images = step(images)
        return self.normalise(images.clamp(0, 1))  # as a picture of bytes, which cannot overshoot either

    @torch.no_grad()
    def image_features(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B D"]:
        """Images in [0, 1], of any size, to unit vectors."""
        seen = self.prepare(images.to(self.device)).to(self.dtype)
        return normalize(self.model.encode_image(seen).float(), dim=-1).to(images.device)

    @torch.no_grad()
    def text_features(self, texts: Sequence[str]) -> Float[Tensor, "N D"]:
        """Sentences to unit vectors. What is longer than the model's context is cut off.

        Warns, once a word, where the tokenizer has one id for all words that it does not know.
        """
        self._notice_unknown_words(texts)
        tokens = self.tokenizer(list(texts)).to(self.device)
        return normalize(self.model.encode_text(tokens).float(), dim=-1)

    def _notice_unknown_words(self, texts: Sequence[str]) -> None:
        words = getattr(self.tokenizer, "tokenizer", None)  # of Hugging Face; open_clip's own can spell any word
        unknown = getattr(words, "unk_token_id", None)
        if unknown is None or not words.is_fast or not texts:
            return
        read = words(list(texts), return_offsets_mapping=True)
        for text, ids, places in zip(texts, read["input_ids"], read["offset_mapping"], strict=True):
            met = {text[start:end].lower() for token, (start, end) in zip(ids, places, strict=True) if token == unknown}
            for word in sorted(word for word in met - self.noticed if any(map(str.isalpha, word))):
                self.noticed.add(word)
                warnings.warn(
                    f"CLIP does not know the word {word!r}: it takes all such words for the same one, so that its "
                    f"scores for texts like {text!r} say little. Name a CLIP that knows it in foundations.clip",
                    stacklevel=4,
                )

    def text_similarity(self, images: Float[Tensor, "B 3 H W"], texts: Sequence[str]) -> Float[Tensor, "B"]:
        """Cosine in [-1, 1] between each image and its own text: CLIP text similarity (section 4.2)."""
        if len(images) != len(texts):
            raise ValueError(f"one text an image is needed, not {len(texts)} for {len(images)}")
        return (self.image_features(images) * self.text_features(texts).to(images.device)).sum(dim=-1)


@role("clip")
def clip(profile: Profile) -> Clip:
    """The profile's CLIP, on its device, in its dtype. Raises ModelUnavailable where it cannot be had."""
    return load_once(profile, "clip", load_clip)


def load_clip(source: str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Clip:
    """The CLIP at `source` (see above), frozen. Raises ValueError for an architecture without its pretrained tag."""
    import open_clip

    tag: str | None = None
    gelu = False
    architecture, _, wanted = source.partition("/")
    if is_open_clip(source) and not Path(source).is_dir():
        known = open_clip.list_pretrained_tags_by_model(architecture)
        if wanted.lower() not in known:
            raise ValueError(f"write {architecture}/TAG, with one of the tags {', '.join(known)}")
        name = architecture
        tag = wanted
        gelu = open_clip.get_pretrained_cfg(name, tag).get("quick_gelu", False)  # open_clip itself only warns
    else:
        folder = Path(source) if Path(source).is_dir() else _download(source)
        if not any(folder.glob("*.safetensors")):  # open_clip would take any file with weights
            raise ValueError(f"{source} has no pretrained weights in a file open_clip_model.safetensors")
        name = f"local-dir:{folder}"
    model, _, transform = open_clip.create_model_and_transforms(
        name, pretrained=tag, precision=PRECISION[dtype], device=device, force_quick_gelu=gelu, require_pretrained=True
    )
    *steps, normalise = transform.transforms
    model.requires_grad_(False).eval()
    return Clip(model, open_clip.get_tokenizer(name), steps, normalise, torch.device(device), dtype)


def _download(source: str) -> Path:
    """The folder of a model of the hub at its commit: its weights as safetensors, nothing else that is large."""
    from huggingface_hub import snapshot_download

    name, revision = hub_commit(source)
    wanted = ["*.json", "*.txt", "open_clip*.safetensors"]
    return Path(snapshot_download(name, revision=revision, allow_patterns=wanted, ignore_patterns=["*/*"]))

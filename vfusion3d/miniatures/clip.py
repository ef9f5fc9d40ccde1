"""The miniature CLIP: an open_clip model of the usual shape, small, with a tokenizer of its own few words.

It learns from the captions of the web world by open_clip's loss. Every second batch shows things of one colour only:
colours tell pictures apart so easily that shapes are learned late otherwise. The folder that `save_clip` writes has the
layout of the hub: `open_clip.create_model_and_transforms("local-dir:FOLDER")` and `get_tokenizer` read it.
"""

import functools
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

import open_clip
import torch
from jaxtyping import Float, Int
from open_clip import ClipLoss
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.transforms.functional import normalize
from transformers import PreTrainedTokenizerFast

from vfusion3d.learning.loop import Lesson
from vfusion3d.miniatures.training import Training, WebPictures, random_crops
from vfusion3d.runs.reading import read_tensors
from vfusion3d.world.captions import FILLERS, PHRASES
from vfusion3d.world.catalogue import CATEGORY_NAMES, COLOURS, PROPORTIONS
from vfusion3d.world.patterns import PATTERNS

IMAGE_SIZE = 224
MEAN = open_clip.OPENAI_DATASET_MEAN
STD = open_clip.OPENAI_DATASET_STD
VISION = {"image_size": IMAGE_SIZE, "patch_size": 32, "width": 96, "layers": 4, "head_width": 24, "mlp_ratio": 4.0}
TEXT = {"context_length": 24, "width": 96, "heads": 4, "layers": 2}
EMBEDDING = 96
WEIGHTS = "open_clip_model.safetensors"
LARGEST_SCALE = math.log(100)
TRAINING = Training(steps=2400, batch_size=192, learning_rate=1.5e-3, weight_decay=0.05, muon=True, seed=42)


def clip_lesson(data: str | Path, training: Training = TRAINING, start: str | Path | None = None) -> Lesson:
    """An open_clip model and the captioned pictures of the web world in `data`.

    start: a folder that `save_clip` wrote, to go on from.
    """
    pictures = WebPictures(data)
    tokenizer = new_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        model = open_clip.CLIP(**config(), init_logit_scale=math.log(10))
    if start is not None:
        model.load_state_dict(read_tensors(Path(start) / WEIGHTS)[0])

    def batch_of(step: int, places: Sequence[int]):
        rng, generator = training.random(step, places)
        drawn = pictures(rng, training.batch_size, alike=bool(step % 2))
        images = random_crops(drawn.images.float() / 255, generator, drawn.images.shape[-1])
        return images, tokenize(tokenizer, drawn.captions)

    return Lesson(model, batch_of, _contrast, {"data": pictures.fingerprints})


def normalised(images: Float[Tensor, "batch 3 h h"]) -> Float[Tensor, "batch 3 224 224"]:
    """Images in [0, 1] as the image tower takes them: resized (bicubic, as two matrix products) and normalised."""
    resize = _bicubic(images.shape[-1]).to(images)
    return normalize(resize @ images @ resize.T, MEAN, STD)


@functools.cache
def _bicubic(side: int) -> Float[Tensor, "224 side"]:
    """What `interpolate` does to one column of pixels."""
    columns = torch.eye(side)[None, None]
    return interpolate(columns, (IMAGE_SIZE, side), mode="bicubic", antialias=True, align_corners=False)[0, 0]


def save_clip(state: dict[str, Tensor], folder: str | Path) -> None:
    """Write what open_clip reads: its config, the weights in half precision, the tokenizer."""
    folder = Path(folder)
    new_tokenizer().save_pretrained(folder)
    preprocess = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "squash"}
    saved = {"model_cfg": config(), "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(saved, indent=2) + "\n")
    half = {name: value.to("cpu", torch.float16).contiguous() for name, value in state.items()}
    save_file(half, folder / WEIGHTS)


def new_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer that knows the words of the world; others become [UNK].

    The last id is the end of a text, as CLIP's text tower wants it.
    """
    vocabulary = _vocabulary()
    ids = {word: number for number, word in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("[BOS]", ids["[BOS]"]), ("[EOS]", ids["[EOS]"])]
    tokenizer.post_processor = processors.TemplateProcessing(single="[BOS] $A [EOS]", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="[BOS]", eos_token="[EOS]", unk_token="[UNK]", pad_token="[PAD]"
    )


def tokenize(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> Int[Tensor, "texts length"]:
    """Ids as open_clip's own wrapper of such a tokenizer gives them."""
    length = TEXT["context_length"]
    return tokenizer(texts, max_length=length, padding="max_length", truncation=True, return_tensors="pt").input_ids


def _vocabulary() -> list[str]:
    named = [*CATEGORY_NAMES, *COLOURS, *PROPORTIONS, *PATTERNS, *PHRASES, *FILLERS, "background"]
    words = sorted({word for name in named for word in re.findall(r"\w+|[^\w\s]", name)})
    return ["[PAD]", "[UNK]", "[BOS]", *words, "[EOS]"]


def config() -> dict:
    """The arguments of `open_clip.CLIP`."""
    text = {**TEXT, "vocab_size": len(_vocabulary()), "hf_tokenizer_name": "words"}
    return {"embed_dim": EMBEDDING, "vision_cfg": VISION, "text_cfg": text}


def _contrast(model: nn.Module, batch, generators: list[torch.Generator]) -> dict[str, Tensor]:
    images, texts = batch
    bare = getattr(model, "module", model)
    device = bare.logit_scale.device
    with torch.no_grad():
        bare.logit_scale.clamp_(max=LARGEST_SCALE)
    seen, read, scale = model(normalised(images.to(device)), texts.to(device))
    right = (seen @ read.T).argmax(dim=1) == torch.arange(len(seen), device=device)
    return {"loss": ClipLoss()(seen, read, scale), "right": right.float().mean(), "scale": scale}

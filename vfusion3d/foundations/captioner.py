"""The captioner: from rendered views of a 3D object to one caption of it (section 3.2; Cap3D, Luo et al., 2023).

Cap3D's three steps: several captions of each view by BLIP-2; of each view's, the one that CLIP finds nearest to the
view; one summary of these by a chat model. `stand-in`: no learned weights, the object's own description, which came
with it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vfusion3d.foundations.chat import Chat, chat
from vfusion3d.foundations.clip import Clip, clip
from vfusion3d.foundations.loading import load_once, pretrained, role
from vfusion3d.runs.profiles import Profile

CAPTIONS_A_VIEW = 5  # as in Cap3D
LONGEST_CAPTION, LONGEST_SUMMARY = 30, 60  # tokens
TEMPLATE = Path(__file__).with_name("captioner.txt").read_text(encoding="utf-8").strip()

Captioner = Callable[..., str]


@role("captioner")
def captioner(profile: Profile) -> Captioner:
    """The profile's captioner: a function (views, generator, description=None) to one caption.

    views: (V, 3, H, W) in [0, 1], of one object. generator: draws BLIP-2's captions. description: what is known of the
    object; the stand-in returns it, and raises ValueError where there is none; the real one does not look at it. That
    one uses the profile's clip and its prompt_filter's chat model too. Raises ModelUnavailable where one of the three
    cannot be had.
    """
    if profile.foundations.captioner == "stand-in":
        return own_description
    blip = load_once(profile, "captioner", load_blip)
    judge = clip(profile)
    writer = chat(profile)

    def caption(views: Float[Tensor, "V 3 H W"], generator: torch.Generator, description: str | None = None) -> str:
        return summary(writer, best_captions(judge, views, view_captions(blip, views, generator)))

    return caption


def own_description(views: Float[Tensor, "V 3 H W"], generator: torch.Generator, description: str | None = None) -> str:
    """The stand-in: the description itself."""
    if not description:
        raise ValueError(
            "the captioner is a stand-in, which needs the object's own description: "
            "pass one, or set foundations.captioner to a BLIP-2 model"
        )
    return description


@dataclass(frozen=True)
class Blip:
    """A loaded BLIP-2 and its processor."""

    model: nn.Module
    processor: Callable


def load_blip(source: str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Blip:
    """The BLIP-2 at `source`, a folder or a hub name."""
    from transformers import Blip2ForConditionalGeneration, Blip2Processor

    model = pretrained(Blip2ForConditionalGeneration, source, dtype=dtype, use_safetensors=True)
    return Blip(model.requires_grad_(False).eval().to(device), pretrained(Blip2Processor, source))


@torch.no_grad()
def view_captions(blip: Blip, views: Float[Tensor, "V 3 H W"], generator: torch.Generator) -> list[list[str]]:
    """Step 1: some captions of each view, drawn by nucleus sampling."""
    pixels = blip.processor(images=list(views.float().cpu()), do_rescale=False, return_tensors="pt")["pixel_values"]
    model = blip.model
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))  # transformers takes no generator
        tokens = model.generate(
            pixel_values=pixels.to(model.device, model.dtype),
            do_sample=True,
            top_p=0.9,
            num_return_sequences=CAPTIONS_A_VIEW,
            max_new_tokens=LONGEST_CAPTION,
        )
    captions = [" ".join(text.split()) for text in blip.processor.batch_decode(tokens, skip_special_tokens=True)]
    return [captions[i : i + CAPTIONS_A_VIEW] for i in range(0, len(captions), CAPTIONS_A_VIEW)]


def best_captions(judge: Clip, views: Float[Tensor, "V 3 H W"], captions: Sequence[Sequence[str]]) -> list[str]:
    """Step 2: of each view's captions the one whose CLIP features are nearest to the view's."""
    features = judge.image_features(views).cpu()  # (V, D)
    texts = [judge.text_features(of_view).cpu() for of_view in captions]  # V times (N, D)
    return [of_view[int((text @ view).argmax())] for of_view, text, view in zip(captions, texts, features, strict=True)]


def summary(writer: Chat, captions: Sequence[str]) -> str:
    """Step 3: one caption of all, the first line of the answer; where that is empty, the first view's caption."""
    question = TEMPLATE.format(captions="\n".join(f"- {caption}" for caption in captions))
    (answer,) = writer.answers([question], LONGEST_SUMMARY)
    return answer.partition("\n")[0].strip(" \"'") or captions[0]

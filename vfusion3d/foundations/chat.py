"""A chat model that answers one question at a time: the LLM behind the prompt filter and behind Cap3D's summary."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from vfusion3d.foundations.loading import load_once, pretrained, role, unavailable
from vfusion3d.runs.profiles import Profile
from vfusion3d.runs.progress import tqdm

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BATCH = 16  # questions at once


@dataclass(frozen=True)
class Chat:
    """A loaded causal language model. It answers greedily: the same question gets the same answer."""

    model: nn.Module
    tokenizer: "PreTrainedTokenizerBase"

    @torch.no_grad()
    def answers(self, questions: Sequence[str], longest: int, progress: str | None = None) -> list[str]:
        """The answer to each question, of at most `longest` tokens. progress: what a progress bar is to say."""
        answers = []
        for start in tqdm(range(0, len(questions), BATCH), desc=progress, disable=progress is None, leave=False):
            texts = [self._as_chat(question) for question in questions[start : start + BATCH]]
            has_template = self.tokenizer.chat_template is not None  # which brings its own special tokens
            tokens = self.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=not has_template)
            ids, mask = (tokens[name].to(self.model.device) for name in ("input_ids", "attention_mask"))
            out = self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=longest,
                do_sample=False,
                temperature=None,  # what the model's own config says of sampling
                top_p=None,
                top_k=None,
                pad_token_id=self.tokenizer.pad_token_id,
            )
            answers += self.tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)
        return [answer.strip() for answer in answers]

    def _as_chat(self, question: str) -> str:
        if self.tokenizer.chat_template is None:
            return question
        messages = [{"role": "user", "content": question}]  # no system message: not every template takes one
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


@role("prompt_filter")
def chat(profile: Profile) -> Chat:
    """The chat model that the profile names as its prompt filter, on its device, in its dtype.

    Raises ModelUnavailable where it cannot be had, or is a stand-in.
    """
    if profile.foundations.prompt_filter == "stand-in":
        raise unavailable(profile, "prompt_filter", "a stand-in answers no questions, name a chat model")
    return load_once(profile, "prompt_filter", load_chat)


def load_chat(source: str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Chat:
    """The model and the tokenizer at `source`, a folder or a hub name; the tokenizer pads on the left."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = pretrained(AutoTokenizer, source, padding_side="left", trust_remote_code=False)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model = pretrained(AutoModelForCausalLM, source, dtype=dtype, use_safetensors=True, trust_remote_code=False)
    return Chat(model.requires_grad_(False).eval().to(device), tokenizer)

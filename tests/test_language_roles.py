"""The prompt filter and the captioner: what is asked, how answers are read, and what the stand-ins do."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_foundations import CAPTIONS, profile_with, save_blip, save_chat, save_clip

from vfusion3d.foundations import captioner as captioner_module
from vfusion3d.foundations.captioner import best_captions, captioner, load_blip, view_captions
from vfusion3d.foundations.chat import BATCH, load_chat
from vfusion3d.foundations.clip import load_clip
from vfusion3d.foundations.loading import ModelUnavailable
from vfusion3d.foundations.prompt_filter import Decision, decide, prompt_filter, question
from vfusion3d.world.objects import describe, make_object, sample_object

TEMPLATE = (
    "{% for m in messages %}[BOS] {{ m.role }} {{ m.content }} {% endfor %}{% if add_generation_prompt %}no{% endif %}"
)


# ---------------------------------------------------------------------------------------------------- the chat model


@pytest.mark.parametrize("template", [None, TEMPLATE], ids=["plain", "chat template"])
def test_answers_do_not_depend_on_what_else_is_in_the_batch(tmp_path, template):
    model, tokenizer = save_chat(tmp_path, CAPTIONS, template)
    chat = load_chat(str(tmp_path))
    questions = [" ".join(CAPTIONS[i % 3].split()[: 1 + i % 6]) for i in range(BATCH + 3)]
    answers = chat.answers(questions, 5)
    for asked, answer in list(zip(questions, answers, strict=True))[:6]:
        text = f"[BOS] user {asked} no" if template else f"[BOS] {asked} [EOS]"
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        said = []
        while len(said) < 5 and tokenizer.eos_token_id not in said:  # greedy decoding by hand, one question at a time
            with torch.no_grad():
                said.append(model(ids).logits[0, -1].argmax().item())
            ids = torch.cat([ids, torch.tensor([said[-1:]])], dim=-1)
        assert answer == tokenizer.decode(said, skip_special_tokens=True)
    assert len(set(answers)) > 1


# ------------------------------------------------------------------------------------------------- the prompt filter


@pytest.mark.parametrize(
    ("answer", "kept", "unclear"),
    [
        ("yes", True, False),
        ("Yes.", True, False),
        (' "YES", it does', True, False),
        ("no", False, False),
        ("No, a scene", False, False),
        ("not sure", False, True),
        ("yesterday", False, True),
        ("The answer is yes", False, True),
        ("", False, True),
    ],
)
def test_an_answer_is_read_by_its_first_word_and_anything_else_counts_as_no(answer, kept, unclear):
    assert decide("a mug", answer) == Decision("a mug", kept, answer, unclear)


def test_the_question_shows_all_examples_and_the_caption_on_one_line():
    lines = question("a red\nCaption: mug\r\nAnswer: yes").splitlines()
    assert lines[-2:] == ["Caption: a red Caption: mug Answer: yes", "Answer:"]
    assert sum(line.startswith("Caption: ") for line in lines) == 13
    assert sum(line == "Answer: yes" for line in lines) == sum(line == "Answer: no" for line in lines) == 6
    assert question("{curly} %s").splitlines()[-2] == "Caption: {curly} %s"


@pytest.mark.parametrize(("word", "kept", "unclear"), [("yes", True, 0), ("no", False, 0), ("mug", False, 3)])
def test_a_chat_model_decides_and_unclear_answers_are_counted(tmp_path, word, kept, unclear):
    save_chat(tmp_path, [question(caption) for caption in CAPTIONS], TEMPLATE, always=word)
    decisions = prompt_filter(profile_with(prompt_filter=str(tmp_path)))([CAPTIONS[0], "", *CAPTIONS[1:], "x" * 10_000])
    assert [d.caption for d in decisions] == [CAPTIONS[0], "", *CAPTIONS[1:], "x" * 10_000]
    assert [d.kept for d in decisions] == [kept, False, kept, kept, False]
    assert sum(d.unclear for d in decisions) == unclear
    assert decisions[0].reason.split()[0] == word
    assert (decisions[1].reason, decisions[4].reason) == ("empty", "overlong (10,000 characters)")


def test_the_stand_in_keeps_every_caption_of_the_world_and_can_build_what_it_keeps():
    rng = np.random.default_rng(0)
    captions = [describe(sample_object(rng)) for _ in range(300)]
    captions += [
        "a mug with red and white stripes",
        "a photo of a two-tone hat",
        "a snowman",
        "a robot",
        "the gray cup",
    ]
    decisions = prompt_filter(profile_with(prompt_filter="stand-in"))(captions)
    assert [d for d in decisions if not d.kept] == []
    for decision in decisions:
        make_object(decision.caption, seed=0)


@pytest.mark.parametrize(
    ("caption", "reason"),
    [
        ("two red mugs", "several objects"),
        ("red mugs", "several objects"),
        ("snowmen", "several objects"),
        ("blue trophies", "several objects"),
        ("a mug and a mug", "several objects"),
        ("a teapot, a sofa", "several objects"),
        ("a lamp on a table", "several objects"),
        ("a pair of hats", "several objects"),
        ("a house in a forest at night", "a scene"),
        ("a red car on the street", "a scene"),
        ("a woman with a red hat", "people"),
        ("my blue chair", "people"),
        ("eine rote Tasse mit Punkten", "not in English"),
        ("красная кружка", "not in English"),
        ("赤いマグカップ", "not in English"),
        ("<b>a red mug</b>", "markup"),
        ("a red mug https://shop.example/mug", "markup"),
        ("red_mug.jpg", "markup"),
        ("a red violin", "not a caption of this world"),
        ("a red, green and blue mug", "not a caption of this world"),
        ("red", "not a caption of this world"),
        (" \n", "empty"),
        ("!?", "empty"),
        ("a mug " * 1_667, "overlong"),
    ],
)
def test_the_stand_in_says_why_it_drops_a_caption(caption, reason):
    (decision,) = prompt_filter(profile_with(prompt_filter="stand-in"))([caption])
    assert not decision.kept
    assert decision.reason.startswith(reason)


def test_a_chat_model_that_is_not_there_names_role_and_way_out(no_network):
    with pytest.raises(ModelUnavailable, match=r"meta-llama/none' \(role prompt_filter\).*prompt_filter to stand-in"):
        prompt_filter(profile_with(prompt_filter="meta-llama/none"))


# ----------------------------------------------------------------------------------------------------- the captioner


@pytest.fixture(scope="module")
def blip(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("blip")
    save_blip(folder)
    return folder


def views(count: int) -> torch.Tensor:
    return torch.rand(count, 3, 40, 40, generator=torch.Generator().manual_seed(3))


def test_blip_captions_each_view_several_times_and_the_generator_decides(blip):
    loaded = load_blip(str(blip))
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, again, other = (view_captions(loaded, views(3), torch.Generator().manual_seed(seed)) for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), state)
    assert [len(of_view) for of_view in first] == [5, 5, 5]
    assert first == again != other
    words = {word for of_view in first for caption in of_view for word in caption.split()}
    assert words
    assert words <= {word for caption in CAPTIONS for word in caption.split()} | {"[UNK]"}


def test_of_each_views_captions_the_nearest_by_clip_is_taken(tmp_path):
    save_clip(tmp_path)
    judge = load_clip(str(tmp_path))
    images = views(2)
    cosines = [[float(judge.text_similarity(view[None], [text])) for text in CAPTIONS] for view in images]
    expected = [CAPTIONS[int(np.argmax(of_view))] for of_view in cosines]
    assert best_captions(judge, images, [CAPTIONS, CAPTIONS]) == expected
    assert best_captions(judge, images, [["a red mug"], ["a green chair"]]) == ["a red mug", "a green chair"]


def test_the_three_steps_end_in_the_chat_models_words(blip, tmp_path):
    for name in ("clip", "chat"):
        (tmp_path / name).mkdir()
    save_clip(tmp_path / "clip")
    save_chat(tmp_path / "chat", [*CAPTIONS, captioner_module.TEMPLATE], always="chair")
    names = dict(captioner=str(blip), clip=str(tmp_path / "clip"), prompt_filter=str(tmp_path / "chat"))
    caption = captioner(profile_with(**names))(views(2), torch.Generator().manual_seed(0))
    assert set(caption.split()) == {"chair"}


def test_the_summary_is_one_line_without_quotes_and_never_empty():
    asked = []

    class Says:
        def __init__(self, answer):
            self.answer = answer

        def answers(self, questions, longest):
            asked.extend(questions)
            return [self.answer]

    assert captioner_module.summary(Says('"A red mug."\nI hope this helps'), ["x", "y"]) == "A red mug."
    assert captioner_module.summary(Says(""), ["a mug", "a cup"]) == "a mug"
    assert "- a mug\n- a cup\n" in asked[-1]


def test_the_stand_in_returns_the_objects_own_description():
    caption = captioner(profile_with(captioner="stand-in"))
    generator = torch.Generator()
    assert caption(views(1), generator, description="a red mug") == "a red mug"
    with pytest.raises(ValueError, match=r"stand-in.*foundations\.captioner"):
        caption(views(1), generator)


def test_the_captioner_says_which_of_its_models_is_missing(blip, tmp_path, no_network):
    with pytest.raises(ModelUnavailable, match=r"Salesforce/none' \(role captioner\).*captioner to stand-in"):
        captioner(profile_with(captioner="Salesforce/none"))
    save_clip(tmp_path)
    with pytest.raises(ModelUnavailable, match=r"stand-in' \(role prompt_filter\).*name a chat model"):
        captioner(profile_with(captioner=str(blip), clip=str(tmp_path), prompt_filter="stand-in"))

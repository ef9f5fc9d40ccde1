"""Prompts: what is read, cleaned and dropped, what is held out, and that a kill or a large corpus changes nothing."""

import gzip
import subprocess
import sys
import time
import timeit
import tracemalloc
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from pyarrow import parquet
from tiny_foundations import profile_with, save_chat

from vfusion3d.cli.main import main
from vfusion3d.foundations.prompt_filter import Decision, prompt_filter, question
from vfusion3d.runs.profiles import load_profile
from vfusion3d.video import prompts as prompts_module
from vfusion3d.video.clean import clean, same_caption_key
from vfusion3d.video.corpus import CorpusError, check_corpus, read_captions
from vfusion3d.video.ledger import Ledger, Prompt
from vfusion3d.video.prompts import (
    collect_prompts,
    evaluation_prompts,
    held_out_captions,
    judge,
    read_prompts,
)
from vfusion3d.world.captions import describe, make_object, meaning
from vfusion3d.world.catalogue import COMMON, UNCOMMON
from vfusion3d.world.unseen import eval_prompts
from vfusion3d.world.web_captions import WEB_CAPTIONS, labelled_captions, web_captions

HELD_OUT = {"evaluation prompts": ["a striped red and white mug", "a purple rubber duck"]}
CAPTIONS = [
    "a striped red and white mug",  # held out
    "A  Green chair.",
    "the green chair",  # a duplicate
    "",
    "two green chairs",
    "<b>a blue hat</b> https://shop.example/hat",
    "a cup with white and red stripes",  # held out, in other words
    "a yellow car " * 1000,
    "A ROBOT",
    "a violin in Paris",
]
KEPT = ["A Green chair.", "a blue hat", "a robot"]


def profile_for(count: int):
    smoke = load_profile("smoke")
    return replace(smoke, data=replace(smoke.data, prompts=count))


def corpus_of(path: Path, captions=CAPTIONS) -> Path:
    path.write_text("".join(f"{caption}\n" for caption in captions), encoding="utf-8")
    return path


def collected(folder: Path, corpus: Path, count: int = 1000, **options) -> pd.DataFrame:
    table = collect_prompts(profile_for(count), folder, held_out=HELD_OUT, corpus=corpus, **options)
    return pd.read_parquet(table)


def keep_all(captions):
    return [Decision(caption, True, "") for caption in captions]


# ---------------------------------------------------------------------------------------------------------- reading


def test_text_packed_text_and_parquet_give_the_same_captions_and_the_same_table(tmp_path):
    text = corpus_of(tmp_path / "corpus.txt")
    packed, parquet = tmp_path / "corpus.txt.gz", tmp_path / "corpus.parquet"
    packed.write_bytes(gzip.compress(text.read_bytes()))
    pd.DataFrame({"url": "x", "caption": CAPTIONS}).to_parquet(parquet)
    for file in (text, packed, parquet):
        assert list(read_captions(file)) == CAPTIONS
    tables = [collected(tmp_path / f"out{number}", file) for number, file in enumerate((text, packed, parquet))]
    assert tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])


def test_line_ends_byte_order_marks_and_broken_bytes_are_survived(tmp_path):
    file = tmp_path / "corpus.txt"
    file.write_bytes("\ufeffa mug\r\nein Stück\n".encode() + b"caf\xe9 \xff\nlast")
    assert list(read_captions(file)) == ["a mug", "ein Stück", "caf\ufffd \ufffd", "last"]


def test_a_parquet_file_may_have_empty_cells(tmp_path):
    pd.DataFrame({"caption": ["a mug", None]}).to_parquet(tmp_path / "corpus.parquet")
    assert list(read_captions(tmp_path / "corpus.parquet")) == ["a mug", ""]


@pytest.mark.parametrize("content", [b"", b"\n \n\t\n"])
def test_an_empty_corpus_is_refused_and_nothing_is_left_behind(tmp_path, content):
    (tmp_path / "none.txt").write_bytes(content)
    with pytest.raises(CorpusError, match=r"none\.txt is empty: a corpus has one caption a line"):
        collected(tmp_path / "out", tmp_path / "none.txt")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "make", "complaint"),
    [
        ("no.txt", lambda path: None, "does not exist: give a file of captions"),
        ("folder.txt", Path.mkdir, "is a folder, not a file"),
        ("list.csv", lambda path: path.write_text("a mug"), r"must end in \.txt, \.txt\.gz, \.parquet"),
        ("torn.txt.gz", lambda path: path.write_bytes(gzip.compress(b"a mug\n" * 999)[:-20]), "is broken"),
        ("text.txt.gz", lambda path: path.write_text("a mug"), "is broken"),
        ("text.parquet", lambda path: path.write_text("a mug"), "is not a whole parquet file"),
        (
            "other.parquet",
            lambda path: pd.DataFrame({"TEXT": ["a"], "url": ["b"]}).to_parquet(path),
            r"no column 'caption' \(its columns: TEXT, url\): rename the one to read",
        ),
        (
            "numbers.parquet",
            lambda path: pd.DataFrame({"caption": [1]}).to_parquet(path),
            "the column 'caption' holds int64, it must hold text",
        ),
    ],
)
def test_a_corpus_that_cannot_be_read_is_named_with_the_fix(tmp_path, name, make, complaint):
    make(tmp_path / name)
    with pytest.raises(CorpusError, match=complaint) as raised:
        check_corpus(tmp_path / name)
    assert name in str(raised.value)


# --------------------------------------------------------------------------------------------------------- cleaning


@pytest.mark.parametrize(
    ("caption", "cleaned"),
    [
        ("  a \t red\u00a0 mug\u200b ", "a red mug"),
        ("a ｒｅｄ ｍｕｇ", "a red mug"),  # full-width letters
        ("cafe\u0301", "caf\u00e9"),  # an accent of its own becomes part of its letter
        ("<p class='x'>a red mug</p><br/>", "a red mug"),
        ("&lt;b&gt;a red&nbsp;mug&lt;/b&gt; &amp; more", "a red mug & more"),
        ("a<script>alert('a hat')</script> mug", "a mug"),
        ("a&lt;script&gt;alert('a hat')&lt;/script&gt; mug", "a mug"),
        ("a red mug https://shop.example/?id=3 #love #Mug @friend", "a red mug"),
        ("a red mug me@home.example", "a red mug"),
        ("a red mug | Some Shop", "a red mug"),
        ("😍😍 a red mug ✨👍🏽❤️", "a red mug"),
        ("A RED MUG", "a red mug"),
        ("“a red mug”", "a red mug"),
        ("price < 5 and > 3", "price < 5 and > 3"),
        ("красная кружка", "красная кружка"),
    ],
)
def test_cleaning_leaves_the_plain_text(caption, cleaned):
    assert (clean(caption).caption, clean(caption).trouble) == (cleaned, "")
    assert clean(cleaned).caption == cleaned  # cleaning what is clean does nothing


@pytest.mark.parametrize(
    ("caption", "trouble"),
    [
        ("", "empty"),
        ("... !? 12", "empty"),
        ("#love #art", "nothing left"),
        ("https://example.org", "nothing left"),
        ("ab", "too few letters"),
        ("red_mug-3.JPEG", "a file name"),
        ("a r\ufffdd mug", "unreadable characters"),
        ("x" * 10_000, "overlong (10,000 characters)"),
        ("<" * 10_000, "overlong (10,000 characters)"),
        ("a red mug, " * 20, "overlong (218 characters)"),
    ],
)
def test_a_caption_that_cannot_be_used_says_why(caption, trouble):
    assert clean(caption).trouble == trouble
    assert len(clean(caption).caption) <= 200


def test_captions_that_are_made_to_be_slow_to_read_take_at_most_the_square_of_their_length():
    def seconds(caption):
        return min(timeit.repeat(lambda: clean(caption), timer=time.process_time, repeat=5, number=1))

    nasty = [piece * 2000 for piece in "<@|.#&\u0301"] + [
        "<a" * 999,
        "<!--" * 499,
        "<script>" * 249,
        "a@" * 999,
        "a." * 999,
    ]
    for caption in nasty:
        assert seconds(caption[:2000]) < 6 * seconds(caption[:1000])


def test_case_space_punctuation_and_articles_make_no_other_caption():
    same = ["a red mug", "A Red  Mug.", "the red mug", "red mug", "RED-MUG!"]
    assert {same_caption_key(caption) for caption in same} == {"red mug"}
    assert len({same_caption_key(caption) for caption in ("a red mug", "a mug red", "red mugs")}) == 3


# ------------------------------------------------------------------------------------------- what becomes of captions


def test_every_caption_that_was_read_is_in_the_table_with_what_became_of_it(tmp_path):
    table = collected(tmp_path / "out", corpus_of(tmp_path / "in.txt"))
    assert list(table.columns) == ["caption", "source", "decision", "reason", "split"]
    web = table[table.source == "web"]
    assert [reason.split(" (")[0] for reason in web.reason] == [
        "held out: evaluation prompts",
        "",
        "duplicate",
        "clean: empty",
        "filter: several objects",
        "",
        "held out: evaluation prompts",
        "clean: overlong",
        "",
        "filter: not a caption of this world",
    ]
    assert list(web.caption[web.split == "train"]) == KEPT
    assert list(web.decision == "keep") == list(web.split == "train")
    assert web.caption.str.len().max() <= 200
    held = table[table.split == "eval"]
    assert list(held.caption) == HELD_OUT["evaluation prompts"]
    assert set(held.source) == {"evaluation prompts"}


def test_a_dropped_caption_says_what_holds_it_out_and_what_is_trained_on_holds_nothing_out(tmp_path):
    corpus = corpus_of(tmp_path / "in.txt", ["a grey snowman", "a blue hat"])
    path = collect_prompts(
        profile_for(9), tmp_path / "out", held_out={"unseen objects": ["a gray snowman"]}, corpus=corpus
    )
    assert list(pd.read_parquet(path).reason) == ["", "held out: unseen objects", ""]
    for name in ("web", "3D"):
        with pytest.raises(ValueError, match=f"held_out names {name}, where captions to train on come from"):
            collect_prompts(profile_for(9), tmp_path / "new", held_out={name: ["a hat"]}, corpus=corpus)
    assert not (tmp_path / "new").exists()


def test_no_evaluation_prompt_can_be_trained_on_in_whatever_words(tmp_path):
    """Each is put into the corpus as it is, and in the words of others; the filter lets everything through."""
    others = []
    for caption in eval_prompts(40):
        spec = make_object(caption, 0)
        others += [caption, caption.upper(), f"<i>{caption}</i> #art", f"a photo of the {caption[2:]}."]
        others += [f"{spec.category}, {spec.proportion} {spec.pattern}, {' and '.join(reversed(spec.colours))}"]
        others += [caption.replace("grey", "gray").replace("mug", "cup").replace("sofa", "couch").replace(" ", "  ")]
    never = dict.fromkeys(map(meaning, eval_prompts(40)), "evaluation prompts")
    rows = judge([*others, "a green mug on wheels"], "web", keep_all, never=never)
    assert [row.caption for row in rows if row.decision == "keep"] == ["a green mug on wheels"]

    table = tmp_path / "out"
    held = {"evaluation prompts": eval_prompts(40)}
    path = collect_prompts(profile_for(10**6), table, held_out=held, corpus=corpus_of(tmp_path / "in.txt", others))
    assert read_prompts(path) == []
    assert read_prompts(path, "eval") == eval_prompts(40)


def test_of_the_bundled_corpus_nothing_to_train_on_means_the_same_as_an_evaluation_prompt(tmp_path):
    """Seen from the objects: no prompt always becomes what an evaluation prompt asks for."""
    held = {"evaluation prompts": eval_prompts(40), "unseen objects": ["a blue car", "a grey snowman"]}
    path = collect_prompts(profile_for(3000), tmp_path / "out", held_out=held)
    prompts, never = read_prompts(path), {*held["evaluation prompts"], *held["unseen objects"]}
    assert len(prompts) == 3000
    for prompt in prompts:
        become = {describe(make_object(prompt, seed)) for seed in range(4)}
        assert len(become) > 1 or not become & never, prompt


def test_the_evaluation_prompts_are_fixed_distinct_and_half_common():
    prompts = eval_prompts(40)
    assert prompts[:4] == eval_prompts(4)
    assert len(set(map(meaning, prompts))) == 40
    categories = [make_object(prompt, 0).category for prompt in prompts]
    assert sum(category in COMMON for category in categories) == 20
    assert set(categories) == {*COMMON, *UNCOMMON}


def test_meaning_ignores_order_fillers_plurals_and_synonyms_only():
    same = ["a striped red and white mug", "a cup with white and red stripes", "Photo of THE red, white, stripy mug"]
    assert len(set(map(meaning, same))) == 1
    assert len(set(map(meaning, ["a red mug", "a blue mug", "a red hat", "a tall red mug", "a red violin"]))) == 5


def test_a_chat_model_can_be_the_filter(tmp_path):
    asked = [question(caption) for caption in CAPTIONS if len(caption) < 200]
    (tmp_path / "chat").mkdir()
    save_chat(tmp_path / "chat", asked, always="yes")
    profile = profile_with(prompt_filter=str(tmp_path / "chat"))
    how = {"held_out": HELD_OUT, "corpus": corpus_of(tmp_path / "in.txt")}
    path = collect_prompts(profile, tmp_path / "out", **how)
    assert read_prompts(path) == ["A Green chair.", "two green chairs", "a blue hat", "a robot", "a violin in Paris"]


def test_collecting_stops_at_the_count_and_reads_no_further(tmp_path):
    table = collected(tmp_path / "out", corpus_of(tmp_path / "in.txt"), count=2)
    assert list(table.caption[table.split == "train"]) == KEPT[:2]
    assert len(table[table.source == "web"]) == CAPTIONS.index("<b>a blue hat</b> https://shop.example/hat") + 1


# ------------------------------------------------------------------------------- long work: kills, size, other settings


def test_a_run_that_is_killed_goes_on_to_the_same_table_and_asks_about_nothing_twice(tmp_path, monkeypatch):
    corpus = corpus_of(tmp_path / "in.txt", [caption for _, caption in web_captions(400)])
    monkeypatch.setitem(prompts_module.BATCH, "web", 32)
    asked, real = [], prompt_filter(load_profile("smoke"))

    def filter_that_dies(after):
        def keep(captions):
            if len(asked) >= after:
                raise KeyboardInterrupt
            asked.append(list(captions))
            return real(captions)

        return keep

    whole = collected(tmp_path / "whole", corpus)
    for after in (3, 8, 10**6):
        monkeypatch.setattr(prompts_module, "prompt_filter", lambda profile, after=after: filter_that_dies(after))
        if after < 10**6:
            with pytest.raises(KeyboardInterrupt):
                collected(tmp_path / "killed", corpus)
            assert not (tmp_path / "killed" / "prompts.parquet").exists()
    assert collected(tmp_path / "killed", corpus).equals(whole)
    words = Counter(caption for batch in asked for caption in batch)
    assert set(words.values()) == {1}
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == ["prompts.parquet", "settings.json"]
    monkeypatch.setattr(prompts_module, "prompt_filter", lambda profile: filter_that_dies(0))
    assert collected(tmp_path / "killed", corpus).equals(whole)  # finished: nothing is asked any more


def test_a_process_that_is_shot_goes_on_to_the_same_table(tmp_path):
    """SIGKILL in the middle of a batch, so that nothing can be tidied up."""
    corpus = corpus_of(tmp_path / "in.txt", [caption for _, caption in web_captions(1500, seed=2)])
    code = f"""
import os, signal
from vfusion3d.video import prompts
from vfusion3d.runs.profiles import load_profile
from dataclasses import replace
real, asked = prompts.prompt_filter(load_profile("smoke")), []
def keep(captions):
    asked.append(captions)
    if len(asked) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(captions)
prompts.prompt_filter = lambda profile: keep
smoke = load_profile("smoke")
profile = replace(smoke, data=replace(smoke.data, prompts=1000))
prompts.collect_prompts(profile, {str(tmp_path / "shot")!r}, held_out={HELD_OUT!r}, corpus={str(corpus)!r})
"""
    shot = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert shot.returncode == -9
    assert (tmp_path / "shot" / "work.partial").exists()
    assert collected(tmp_path / "shot", corpus).equals(collected(tmp_path / "whole", corpus))


def test_memory_does_not_grow_with_the_corpus(tmp_path):
    """300,000 lines, all different, one of 20 MB among them: what is in memory stays a fraction of the file."""
    file = tmp_path / "large.txt"
    with open(file, "w") as out:
        for number in range(300_000):
            out.write(f"caption number {number} of many that nobody will ever keep\n")
            if number == 1000:
                out.write("x" * 20_000_000 + "\n")
    tracemalloc.start()
    assert sum(1 for _ in read_captions(file)) == 300_001
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_memory_of_collecting_stays_flat_while_the_table_grows(tmp_path, monkeypatch):
    """Six times the captions, all of them kept: the same memory of Python's own objects.

    SQLite's and Arrow's buffers are not seen; they have sizes of their own.
    """
    monkeypatch.setattr(prompts_module, "prompt_filter", lambda profile: keep_all)
    monkeypatch.setattr(prompts_module, "ROWS", 512)
    peaks = []
    for number, count in enumerate((1_000, 1_000, 6_000)):  # the first one imports what it needs
        file = corpus_of(tmp_path / f"{number}.txt", [f"thing number {i} of a kind" for i in range(count)])
        tracemalloc.start()
        path = collect_prompts(profile_for(10**6), tmp_path / str(number), held_out={}, corpus=file)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(read_prompts(path)) == count
    assert peaks[2] < 1.5 * peaks[1]


def test_other_settings_never_mix_in(tmp_path):
    corpus = corpus_of(tmp_path / "in.txt")
    collected(tmp_path / "out", corpus)
    with pytest.raises(ValueError, match=r"prompts: 1000 there, 7 now"):
        collected(tmp_path / "out", corpus, count=7)
    corpus_of(corpus, [*CAPTIONS, "a blue book"])
    with pytest.raises(ValueError, match="corpus: "):
        collected(tmp_path / "out", corpus)
    with pytest.raises(ValueError, match="held_out: "):
        collect_prompts(profile_for(1000), tmp_path / "out", held_out={"evaluation prompts": ["a hat"]}, corpus=corpus)
    table = collected(tmp_path / "out", corpus, overwrite=True)
    assert list(table.caption[table.split == "train"]) == [*KEPT, "a blue book"]


def test_two_processes_do_not_collect_into_one_folder(tmp_path, monkeypatch):
    corpus = corpus_of(tmp_path / "in.txt")

    def second(captions):
        with pytest.raises(OSError, match="is being written by process"):
            collected(tmp_path / "out", corpus)
        return keep_all(captions)

    monkeypatch.setattr(prompts_module, "prompt_filter", lambda profile: second)
    collected(tmp_path / "out", corpus)


def test_a_ledger_that_is_there_is_opened_by_one_process_at_a_time(tmp_path):
    with Ledger(tmp_path / "work.partial"):
        pass
    with Ledger(tmp_path / "work.partial") as first:
        with pytest.raises(OSError, match="another process collects prompts here"):
            Ledger(tmp_path / "work.partial")
        first.write("web", [Prompt("a mug", "web", "keep", split="train")], ["mug"])


def test_a_ledger_that_breaks_while_it_is_read_names_its_file(tmp_path):
    many = [Prompt("x" * 200, "web", "drop", f"{number}") for number in range(20_000)]  # more than SQLite caches
    with Ledger(tmp_path / "work.partial") as ledger:
        ledger.write("web", many, [prompt.reason for prompt in many])
    with Ledger(tmp_path / "work.partial") as ledger:
        with open(tmp_path / "work.partial", "r+b") as file:
            file.write(b"\xff" * (tmp_path / "work.partial").stat().st_size)
        for read in (lambda: ledger.read("web"), lambda: ledger.known("7"), lambda: list(ledger.batches(10))):
            with pytest.raises(OSError, match=r"work\.partial: .*malformed"):
                read()


def test_a_full_disk_is_one_error_that_names_the_file_and_what_is_safe(tmp_path):
    with Ledger(tmp_path / "work.partial") as ledger:
        ledger.write("web", [Prompt("a mug", "web", "keep", split="train")], ["mug"])
        ledger._file.execute("PRAGMA max_page_count = 8")  # SQLite's own full disk
        many = [Prompt("x" * 200, "web", "drop", "duplicate")] * 1000
        with pytest.raises(OSError, match=r"the disk is full .* what was finished is kept.*work\.partial"):
            ledger.write("web", many, ["hat"])
        assert (ledger.read("web"), ledger.trainable) == (1, 1)
        assert ledger.known("mug")
        assert not ledger.known("hat")
        assert [[prompt.caption for prompt in batch] for batch in ledger.batches(10)] == [["a mug"]]


def test_a_disk_that_is_full_when_the_table_is_written_costs_nothing_that_was_done(tmp_path, monkeypatch):
    corpus = corpus_of(tmp_path / "in.txt")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(parquet.ParquetWriter, "write_table", full)
        with pytest.raises(OSError, match=r"the disk is full.*prompts\.parquet"):
            collected(tmp_path / "out", corpus)
    assert (tmp_path / "out" / "work.partial").exists()
    monkeypatch.setattr(prompts_module, "judge", None)  # nothing is judged again
    table = collected(tmp_path / "out", corpus)
    assert list(table.caption[table.split == "train"]) == KEPT


# ------------------------------------------------------------------------------------- what is bundled, and the command


def test_the_bundled_corpus_is_what_its_generator_makes():
    made = [caption for _, caption in web_captions()]
    assert list(read_captions(WEB_CAPTIONS)) == made
    assert not any("\n" in caption or "\r" in caption for caption in made)
    assert WEB_CAPTIONS.stat().st_size < 500_000
    assert max(map(len, made)) == 10_000


def test_the_bundled_corpus_has_every_category_and_enough_for_the_gpu_profile(tmp_path):
    gpu = load_profile("gpu").data
    path = collect_prompts(profile_for(10**6), tmp_path / "out", held_out=HELD_OUT)
    kept = read_prompts(path)
    categories = Counter(make_object(caption, 0).category for caption in kept)
    assert set(categories) == {*COMMON, *UNCOMMON}
    assert min(categories.values()) > 50
    assert len(kept) >= gpu.prompts - gpu.objects_3d * 0.7  # the rest are captions of 3D objects


def test_the_labelled_captions_are_300_different_lines_of_the_corpus_with_both_labels():
    labelled = labelled_captions()
    assert len(labelled) == labelled.caption.nunique() == 300
    assert set(labelled.caption) <= set(read_captions(WEB_CAPTIONS))
    assert set(labelled.label) == {"keep", "drop"}
    assert (labelled.note[labelled.label == "drop"] != "").all()  # every drop says why
    assert min(Counter(labelled.label).values()) > 100


def test_captions_of_3d_objects_come_from_the_captioner_with_views_of_the_object(tmp_path, monkeypatch):
    from vfusion3d.data.render_dataset import render_dataset
    from vfusion3d.data.shards import MultiviewShards
    from vfusion3d.world.sources import ProceduralObjects

    render_dataset(tmp_path / "objects", ProceduralObjects(), 5, views=16, size=32)
    shards = MultiviewShards(tmp_path / "objects")
    own = [shards.caption(i) for i in range(5)]
    seen = []

    def captioner(profile):
        def caption(views, generator, description=None):
            seen.append((tuple(views.shape), generator.initial_seed()))
            return description

        return caption

    monkeypatch.setattr(prompts_module, "captioner", captioner)
    table = collected(tmp_path / "out", corpus_of(tmp_path / "in.txt"), objects=tmp_path / "objects", seed=3)
    assert [shape for shape, _ in seen] == [(8, 3, 32, 32)] * 5
    assert len({seed for _, seed in seen}) == 5
    objects = table[table.source == "3D"]
    assert list(objects.caption) == own
    assert list(table.caption[table.split == "train"]) == [*dict.fromkeys(own), *KEPT]


def test_the_captioner_is_loaded_only_where_an_object_is_left(tmp_path, monkeypatch):
    def unavailable(profile):
        raise AssertionError("nothing is left to caption")

    monkeypatch.setattr(prompts_module, "captioner", unavailable)
    assert len(collected(tmp_path / "out", corpus_of(tmp_path / "in.txt")))


def test_the_command_makes_the_table_and_says_where(tmp_path, capsys):
    small = ["--profile", "smoke", "--run-dir", str(tmp_path)]
    rendered = ["--count", "3", "--views", "2", "--size", "32", "--workers", "1"]
    assert main(["render", *small, *rendered]) == 0
    assert main(["prompts", *small, "--seed", "1"]) == 0
    *_, counts, path = capsys.readouterr().out.strip().splitlines()
    assert counts == "40 of 40 prompts"
    table = pd.read_parquet(path)
    assert set(table.source) == {"evaluation prompts", "unseen objects", "validation objects", "3D", "web"}
    assert len(table[table.source == "evaluation prompts"]) == 4

    mine = corpus_of(tmp_path / "mine.txt")
    assert main(["prompts", *small, "--corpus", str(mine)]) == 1
    assert "was made with other settings" in capsys.readouterr().err
    assert main(["prompts", *small, "--corpus", str(mine), "--eval-prompts", str(mine), "--overwrite"]) == 0
    counts, path = capsys.readouterr().out.strip().splitlines()[-2:]
    assert "of 40 prompts: " in counts
    assert "mine.txt has no more" in counts
    own = [line.strip() for line in mine.read_text().splitlines() if line.strip()]
    assert evaluation_prompts(load_profile("smoke"), tmp_path) == own != eval_prompts(len(own))
    assert held_out_captions(load_profile("smoke"), tmp_path)["evaluation prompts"] == own  # until told otherwise
    (tmp_path / "none.txt").touch()
    assert main(["prompts", *small, "--corpus", str(tmp_path / "none.txt")]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("vfusion3d prompts: ")
    assert "none.txt is empty" in line

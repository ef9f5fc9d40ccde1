"""Prompt collection and filtering (section 3.2): from a corpus of captions and from 3D objects to prompts.

Captions of 3D objects come first, then those of the web until there are as many prompts as the profile wants. Each is
cleaned; a duplicate is dropped, and so is what means the same as an evaluation prompt; of the web's captions the rest
is put before the prompt filter, in batches. What is dropped stays in the table, with the reason.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch

from vfusion3d.data.images import on_white, uniform_frames
from vfusion3d.data.shards import MultiviewShards
from vfusion3d.foundations.caption_rules import OVERLONG
from vfusion3d.foundations.captioner import Captioner, captioner
from vfusion3d.foundations.loading import name_of
from vfusion3d.foundations.prompt_filter import Decision, PromptFilter, prompt_filter
from vfusion3d.runs import layout
from vfusion3d.runs.claim import SETTINGS, Kind, claim_folder, made_with, short_name, write_whole
from vfusion3d.runs.lock import LOCK, only_writer
from vfusion3d.runs.profiles import Profile
from vfusion3d.runs.progress import tqdm
from vfusion3d.runs.ranges import check_ranges
from vfusion3d.runs.reading import read_table
from vfusion3d.video.clean import clean, same_caption_key
from vfusion3d.video.corpus import check_corpus, read_captions
from vfusion3d.video.ledger import Ledger, Prompt
from vfusion3d.world.captions import meaning
from vfusion3d.world.unseen import eval_prompts
from vfusion3d.world.web_captions import WEB_CAPTIONS

PROMPTS = "prompts.parquet"
WORK = "work.partial"
LEDGER = (WORK, f"{WORK}-journal")  # the second is SQLite's, and outlives a kill
KIND = Kind("prompts", (PROMPTS, *LEDGER))
WEB = "web"  # the two sources of what can be trained on
OBJECTS = "3D"
EVALUATION = "evaluation prompts"  # and of what is held out, the prompts of the text-to-3D table
BATCH = {WEB: 512, OBJECTS: 16}  # captions between two moments at which a kill loses nothing
CAPTIONED_VIEWS = 8  # of an object, as in Cap3D
ROWS = 2**14  # of the table that are in memory at a time


def collect_prompts(
    profile: Profile,
    folder: str | Path,
    *,
    held_out: Mapping[str, Sequence[str]],
    objects: str | Path | None = None,
    corpus: str | Path = WEB_CAPTIONS,
    seed: int = 0,
    overwrite: bool = False,
) -> Path:
    """Collect `profile.data.prompts` prompts into `folder`/prompts.parquet; returns that path.

    held_out: evaluation prompts by where they come from; they are in the table as the split "eval", and no prompt that
    can be trained on means the same as one of them (`meaning`). objects: shards of 3D objects (`MultiviewShards`),
    captioned by the captioner role. corpus: a file for `read_captions`; it is read no further than needed, and there
    are fewer prompts where it ends too soon. seed: of the captioner. The table has one row for each caption that was
    read; its columns are the fields of `Prompt`.

    Interrupted at any moment, the same call goes on where it stopped; what is finished is not done again. Raises
    CorpusError for a corpus that cannot be read, ValueError where the folder holds prompts of other settings
    (overwrite: they are deleted) and where something held out comes from "web" or "3D", the names of what is trained
    on, ModelUnavailable where a model cannot be had, OSError where nothing can be written, InUse where another process
    collects prompts here.
    """
    check_ranges(seed=seed)
    folder = Path(folder)
    if taken := held_out.keys() & BATCH.keys():
        raise ValueError(f"held_out names {', '.join(sorted(taken))}, where captions to train on come from: rename it")
    shards = [] if objects is None else MultiviewShards(objects)
    settings = {
        "prompts": profile.data.prompts,
        "prompt_filter": name_of(profile, "prompt_filter"),
        "captioner": name_of(profile, "captioner"),
        "corpus": check_corpus(corpus),
        "objects": shards.fingerprint if shards else None,
        "held_out": short_name("\n".join(f"{source}: {text}" for source, texts in held_out.items() for text in texts)),
        "seed": seed,
    }
    over = (folder / PROMPTS).exists() and not any((folder / name).exists() for name in (*LEDGER, LOCK))
    if over and made_with(folder / SETTINGS, settings):
        return folder / PROMPTS
    with only_writer(folder):
        claim_folder(folder, settings, KIND, overwrite=overwrite)
        if not (folder / PROMPTS).exists():
            _collect_all(profile, folder, held_out, shards, corpus, seed)
        for name in LEDGER:
            (folder / name).unlink(missing_ok=True)
    return folder / PROMPTS


def _collect_all(
    profile: Profile, folder: Path, held_out: Mapping[str, Sequence[str]], shards: Sequence, corpus: Path, seed: int
) -> None:
    wanted = profile.data.prompts
    keep = prompt_filter(profile)
    never = {meaning(clean(caption).caption): source for source, captions in held_out.items() for caption in captions}
    with Ledger(folder / WORK) as ledger:
        for source, captions in held_out.items():
            if not ledger.read(source):
                ledger.write(source, [Prompt(caption, source, "keep", split="eval") for caption in captions])
        start = ledger.trainable
        with tqdm(total=wanted, initial=start, unit="prompt", desc="collecting prompts") as bar:
            done = ledger.read(OBJECTS)
            left = done < len(shards) and start < wanted
            captions = object_captions(captioner(profile), shards, seed, done) if left else ()
            _collect(ledger, OBJECTS, captions, _all, never, wanted, bar)
            captions = itertools.islice(read_captions(corpus), ledger.read(WEB), None)
            _collect(ledger, WEB, captions, keep, never, wanted, bar)
        _write_table(ledger, folder / PROMPTS)


def read_prompts(path: str | Path, split: str = "train") -> list[str]:
    """The prompts of one split ("train" or "eval") of a table, in its order. Raises ValueError for another split."""
    if split not in ("train", "eval"):
        raise ValueError(f"split must be train or eval, not {split!r}")
    again = "delete its folder and collect the prompts again"
    return read_table(path, {"caption": str}, again, where=("split", split)).caption.tolist()


def held_out_captions(profile: Profile, run_dir: str | Path, own: str | Path | None = None) -> dict[str, list[str]]:
    """What a run never trains on, for `collect_prompts`: the evaluation prompts, and the captions of unseen objects.

    own: a file of prompts to evaluate with (`read_captions`); by default `evaluation_prompts`. Raises MissingArtifact
    where the objects are not rendered, CorpusError for a file that cannot be read.
    """
    chosen = evaluation_prompts(profile, run_dir)
    if own is not None:
        check_corpus(own)
        chosen = [caption.strip() for caption in read_captions(own) if caption.strip()]
    captions = {EVALUATION: chosen}
    for name, artifact in {"unseen objects": layout.test_data, "validation objects": layout.validation_data}.items():
        shards = MultiviewShards(artifact.need(run_dir))
        captions[name] = [shards.caption(index) for index in range(len(shards))]
    return captions


def evaluation_prompts(profile: Profile, run_dir: str | Path) -> list[str]:
    """The prompts that a run is evaluated with: of one's own, which it holds out already (`collect_prompts`), or else
    the procedural world's, as many as the profile says."""
    bundled = eval_prompts(profile.data.eval_prompts)
    table = layout.prompt_table(run_dir) / PROMPTS
    if not table.exists():
        return bundled
    again = "delete its folder and collect the prompts again"
    kept = read_table(table, {"caption": str}, again, where=("source", EVALUATION)).caption.tolist()
    ours = kept[:1] == bundled[:1] and kept == eval_prompts(len(kept))  # of a profile with more of them, or fewer
    return bundled if ours else kept


def object_captions(describe: Captioner, shards: Sequence, seed: int, start: int = 0) -> Iterator[str]:
    """The captions of 3D objects from object `start` on, each of 8 uniform views; a caption depends on its object."""
    for index in range(start, len(shards)):
        count = len(shards.picture_names(index))
        sample = shards.read(index, uniform_frames(count, min(count, CAPTIONED_VIEWS)))
        draws = torch.Generator().manual_seed(seed * 10**9 + index)
        yield describe(on_white(sample.rgba), draws, description=sample.caption)


def judge(
    captions: Sequence[str],
    source: str,
    keep: PromptFilter,
    known: Callable[[str], bool] = lambda key: False,
    never: Mapping[frozenset[str], str] = {},
) -> list[Prompt]:
    """What becomes of each caption: cleaned, checked for duplicates and for evaluation prompts, filtered.

    known: whether a key (`same_caption_key`) has been met before. never: the meanings of what is held out,
    and where each comes from.
    """
    rows: list[Prompt | None] = []
    asked: list[str] = []
    met: set[str] = set()
    for caption in captions:
        cleaned = clean(caption)
        key = same_caption_key(cleaned.caption)
        if cleaned.trouble:
            rows.append(Prompt(caption[:OVERLONG], source, "drop", f"clean: {cleaned.trouble}"))
        elif key in met or known(key):
            rows.append(Prompt(cleaned.caption, source, "drop", "duplicate"))
        elif (said := meaning(cleaned.caption)) in never:
            rows.append(Prompt(cleaned.caption, source, "drop", f"held out: {never[said]}"))
        else:
            rows.append(None)
            asked.append(cleaned.caption)
        if not cleaned.trouble:
            met.add(key)
    answers = iter(keep(asked))
    return [row or _decided(next(answers), source) for row in rows]


def _decided(decision: Decision, source: str) -> Prompt:
    if decision.kept:
        return Prompt(decision.caption, source, "keep", split="train")
    return Prompt(decision.caption, source, "drop", f"filter: {decision.reason}")


def _all(captions: Sequence[str]) -> list[Decision]:
    """In the place of the filter for captions of 3D objects, which show one object anyway."""
    return [Decision(caption, True, "") for caption in captions]


def _collect(
    ledger: Ledger, source: str, captions: Iterable[str], keep: PromptFilter, never: Mapping, wanted: int, bar: tqdm
) -> None:
    """Put captions into the ledger, batch by batch, until it has as many prompts as wanted; the rest is not read."""
    captions = iter(captions)
    while ledger.trainable < wanted and (batch := list(itertools.islice(captions, BATCH[source]))):
        before = ledger.trainable
        prompts = judge(batch, source, keep, ledger.known, never)
        kept = itertools.accumulate(prompt.split == "train" for prompt in prompts)
        last = next((place for place, count in enumerate(kept, 1) if before + count == wanted), len(prompts))
        prompts = prompts[:last]
        keys = [same_caption_key(prompt.caption) for prompt in prompts if not prompt.reason.startswith("clean")]
        ledger.write(source, prompts, keys)
        bar.set_postfix_str(f"{ledger.read(source):,} {source} captions read")
        bar.update(ledger.trainable - before)


def _write_table(ledger: Ledger, path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    schema = pa.schema([(name, pa.string()) for name in Prompt.__dataclass_fields__])

    def write(partial: Path) -> None:
        with parquet.ParquetWriter(partial, schema) as writer:
            for prompts in ledger.batches(ROWS):
                writer.write_table(pa.Table.from_pylist([vars(prompt) for prompt in prompts], schema))

    write_whole(path, write)

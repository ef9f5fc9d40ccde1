"""Hundreds of bad or odd inputs through the real commands: what became of each.

    python benchmarks/bad_inputs.py                    all of them, in about twenty minutes on one core
    python benchmarks/bad_inputs.py answers shards     some kinds
    python benchmarks/bad_inputs.py --csv bad.csv --seed 1

The libraries are imported once; every case is a fork of this process, in a fresh folder with copies of good inputs of
which one was spoiled, with limits of time and memory. A case should end well (`ok`) or in one line of ours on stderr
that names the file, the key or the option (`error`), and the inputs have to be there afterwards as they were. What else
can happen: `trace`, `hang`, `memory`, `silent` (a bad input is taken), `refused` (a good one is not), `unclear` (one
line that names nothing), `noise` (other lines on stderr), `lost` (an input changed). Exits 1 if any did.
"""

import argparse
import collections
import copy
import hashlib
import http.client
import io
import json
import os
import random
import resource
import shlex
import shutil
import signal
import sys
import tarfile
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import nbformat
import numpy as np
import pandas as pd
import torch
import trimesh
import yaml
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sklearn.pipeline import Pipeline

from vfusion3d import VFusion3D
from vfusion3d.book.run import read_notebook
from vfusion3d.cli.main import main as command
from vfusion3d.curation.curate import learned, load_model
from vfusion3d.curation.judgements import Judgements
from vfusion3d.curation.quality import train_filter
from vfusion3d.data.shards import MultiviewShards, ShardWriter, VideoShards, encode_video, write_index
from vfusion3d.data.synthetic import SyntheticShards
from vfusion3d.evaluation.methods import write_turn
from vfusion3d.evaluation.tables import write_scores
from vfusion3d.experiments.run import SCORE_COLUMNS, read_result
from vfusion3d.runs.claim import made_with
from vfusion3d.runs.lock import open_locked
from vfusion3d.runs.profiles import FOLDER, load_profile
from vfusion3d.study.answers import COLUMNS, OURS, load_items, read_answers, win_rates
from vfusion3d.study.page import Study, study_server
from vfusion3d.training.train import train_vfusion3d
from vfusion3d.video.corpus import check_corpus, read_captions
from vfusion3d.video.prompts import read_prompts

SECONDS, MEMORY = 60, 4 * 2**30
GALLERY = shlex.split("reconstruct photos -o done --weights w --resolution 16")
RECONSTRUCT = shlex.split("reconstruct photo.png -o o.glb --weights w --resolution 16")
RENDER = shlex.split(
    "render --profile mine.yaml --objects primitives --count 2 --views 4 --size 32 --workers 1 -o shards"
)
MESHES = shlex.split("render --profile mine.yaml --objects m --views 2 --size 32 --workers 1 -o new")
TRAIN = shlex.split("train --profile mine.yaml --data shards -o out")
PLAN = shlex.split("experiment table_4 --plan --profile mine.yaml")
MAY_BE = {  # that is: what a kill may leave, and what is made anew
    *(("answers", name) for name in ("empty", "cut", "cut_to_a_byte", "gone")),
    ("meshes", "a_folder"),
    *((kind, "gone") for kind in ("run_folders", "meshes", "gallery")),
    *(("records", name) for name in ("gone", "a_link_to_itself", "a_link_to_nothing")),
}
TASKS = ("image_to_3d", "text_to_3d")
LOCKED: list = []  # locks that this process holds, for a case


@dataclass
class Case:
    """kind/name: what it is called. needs: of the good inputs. spoil: what is done to them. act: a command line, or a
    function. wanted: "ok", "error" or "either". names: one of these has to stand in the error. outputs: may change.
    room: bytes that a file may have, as on a disk that is full."""

    kind: str
    name: str
    needs: tuple[str, ...]
    spoil: Callable[[], None]
    act: list[str] | Callable[[], None]
    wanted: str = "error"
    names: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    room: int = MEMORY


# ------------------------------------------------------------------------------------------------------- good inputs


def make_good() -> None:
    """One of each kind of input, in the current folder."""
    pixels = np.full((96, 96, 3), 255, np.uint8)
    pixels[24:72, 30:66] = (200, 40, 40)
    Image.fromarray(pixels).save("photo.png")
    profile = yaml.safe_load((FOLDER / "smoke.yaml").read_text())
    recipe = {"losses": {"lpips": 0.0, "opacity": 1.0, "mse": 1.0}, "stages": [{"resolution": 32, "epochs": 1}]}
    recipe |= {"batch_size": 1, "views": 2, "max_steps": 2, "restart_after_stage": None, "samples_per_ray": 8}
    profile |= {"name": "mine", "training": profile["training"] | recipe}
    Path("mine.yaml").write_text(yaml.safe_dump(profile))
    sizes = dict(encoder_width=48, encoder_layers=1, encoder_heads=2, camera_width=32, width=64, layers=1, heads=2)
    torch.manual_seed(0)
    sizes |= dict(triplane_size=4, triplane_channels=8, samples_per_ray=16)
    model = VFusion3D(image_size=64, patch_size=8, position_grid=8, **sizes)
    with torch.no_grad():
        planes = model(torch.ones(1, 3, 64, 64), torch.zeros(1, 16))
        raw = model.field(planes, torch.rand(1, 4096, 3) * 2 - 1)[1]
        model.field.net[-1].bias[0] += 1.5413 - raw.median()  # half of the space is inside: softplus(1.5413 - 1) = 1
    model.save_pretrained("w")
    if command(RENDER):
        raise RuntimeError("the good shards could not be rendered")
    train_vfusion3d(load_profile("mine.yaml"), "shards", "out", stop_after=0.0)
    train_vfusion3d(load_profile("mine.yaml"), "shards", "to_the_end")
    head, row = Path("to_the_end/log.csv").read_text().splitlines()
    Path("out/log.csv").write_text(f"{head}\n1,{row.partition(',')[2]}\n")  # of the first step, which logs nothing
    Path("m").mkdir()
    corners = "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\n"
    for name in "ab":
        Path(f"m/{name}.obj").write_text(f"{corners}f 1 3 2\nf 1 2 4\nf 2 3 4\nf 1 4 3\n")
    for task in TASKS:
        Path(f"run/items/{task}").mkdir(parents=True)
        pd.DataFrame({"key": ["a", "b"], "caption": ["a mug", "a cup"]}).to_csv(
            f"run/items/{task}/captions.csv", index=False
        )
        for key in "ab":
            shutil.copy("photo.png", f"run/items/{task}/{key}.png")
            for method in (OURS, "other"):
                write_turn(torch.rand(2, 3, 64, 64), f"run/views/{task}/{method}/{key}.mp4")
    Path("run/user_study").mkdir()
    Path("answers").mkdir()
    rows = [f"anna,{task},a,other,quality,{OURS},other" for task in TASKS]
    Path("answers/anna.csv").write_text("\n".join([",".join(COLUMNS), *rows, ""]))
    shutil.copy("answers/anna.csv", "run/user_study/anna.csv")
    make_good_data()


def make_good_data() -> None:
    """What the commands between the first and the last leave, small and by hand."""
    rng = np.random.default_rng(0)
    for folder in ("videos", "labels", "m", "models", "photos", "done", "run/experiments/x/seed-0"):
        Path(folder).mkdir(exist_ok=True, parents=True)
    with ShardWriter("videos/shard-000000.tar") as videos, ShardWriter("labels/shard-000000.tar") as labels:
        for key in "ab":
            videos.write(key, encode_video(rng.integers(0, 255, (2, 16, 16, 3), np.uint8), "a mug", {"frames": 2}))
            mask = cv2.imencode(".png", np.full((16, 16), 255, np.uint8))[1].tobytes()
            known = json.dumps({"score": 1.0, "elevation": 0.3}).encode()
            labels.write(key, {"mask00.png": mask, "mask01.png": mask, "json": known})
    write_index("videos")
    made = VideoShards("videos").fingerprint
    write_index("labels", settings={"videos": made}, labels=[{"score": 1.0, "elevation": 0.3}] * 2)
    Judgements("judgements.csv", VideoShards("videos")).judge("a", True, "anna")
    prompts = pd.DataFrame([{"caption": text, "split": "train"} for text in ("a mug", "a cup")])
    prompts.to_parquet("prompts.parquet")
    Path("corpus.txt").write_text("a mug\na cup\n")
    prompts.to_parquet("corpus.parquet")
    features = rng.normal(size=(20, 3))
    learned("models/quality.skops", {"of": 1}, lambda: train_filter(features, features[:, 0] > 0))
    result = {"settings": {}, "model": "experiments/x/seed-0/trained/model", "facts": {"good": 1}}
    Path("run/experiments/x/seed-0/result.json").write_text(json.dumps(result))
    scores = {column: ["a"] if kind is str else [0.5] for column, kind in SCORE_COLUMNS.items()}
    write_scores(pd.DataFrame(scores), "run/experiments/x/seed-0/scores.csv.gz")
    shutil.copy("photo.png", "photos/photo.png")
    Path("done/photo.glb").write_bytes(b"glTF")
    record = {"picture": "photos/photo.png", "outputs": ["photo.glb"], "elevation": 1.0, "notices": [], "settings": {}}
    Path("done/reconstructions.json").write_text(json.dumps({"reconstructions": [record]}))
    (told := nbformat.v4.new_code_cell("profile = ''")).metadata.tags = ["parameters"]
    nbformat.write(nbformat.v4.new_notebook(cells=[told, nbformat.v4.new_code_cell("1")]), "nb.ipynb")
    triangle = trimesh.creation.box()
    triangle.export("m/c.gltf")
    Path("m/a.txt").write_text("a caption")


def read_shards_anew() -> None:
    """Shards of another program, of which there is no index yet."""
    write_index("shards")
    read_shards()


def read_synthetic() -> None:
    """What a pre-training reads."""
    if len(list(SyntheticShards("videos", "labels", None))) != 2:
        raise AssertionError("samples are missing, and nothing was said")


def read_judgements() -> None:
    """What `curate --judgements` learns from."""
    if not len(Judgements("judgements.csv", VideoShards("videos"))):
        raise ValueError("judgements.csv holds no judgement yet")  # as `curate` says it


def read_corpora() -> None:
    """What `prompts` reads."""
    for name in ("corpus.txt", "corpus.parquet"):
        check_corpus(name)
        list(read_captions(name))


def read_shards() -> None:
    """Every sample, as a training would meet it."""
    data = MultiviewShards("shards")
    for sample in data:
        if not torch.isfinite(sample.cam2world).all() or sample.cam2world.shape[-2:] != (3, 4):
            raise AssertionError("cameras that no training can use")
    if len(list(data)) != 2:
        raise AssertionError("samples are missing, and nothing was said")


def read_study() -> None:
    """What `vfusion3d study` does before it serves."""
    Study(load_items("run"), "run/user_study")


def rate_answers() -> None:
    """What notebook 10 does."""
    win_rates(read_answers("answers"), np.random.default_rng(0))


# ------------------------------------------------------------------------------------------------------ bad inputs


def spoils(path: str) -> Iterator[tuple[str, Callable[[], None]]]:
    """What may be wrong with any file."""
    good = Path(path)

    def put(content: bytes) -> Callable[[], None]:
        return lambda: good.write_bytes(content)

    def instead(make: Callable[[], None]) -> Callable[[], None]:
        return lambda: (good.unlink(), make())

    data = good.read_bytes()
    yield "empty", put(b"")
    yield "cut", put(data[: len(data) // 2 - 3])
    yield "cut_to_a_byte", put(data[:1])
    yield "not_utf8", put(data[: len(data) // 2] + b"\xff\xfe" + data[len(data) // 2 :])
    yield "null_bytes", put(data[: len(data) // 2] + b"\0\0" + data[len(data) // 2 :])
    yield "garbage", put(random.Random(0).randbytes(2000))
    yield "a_list", put(b"[]")
    yield "null", put(b"null")
    yield "a_number", put(b"7")
    yield "text", put(b'"what?"')
    yield "nested", put(b"[" * 100_000)
    yield "a_folder", instead(good.mkdir)
    yield "a_fifo", instead(lambda: os.mkfifo(good))
    yield "a_link_to_itself", instead(lambda: good.symlink_to(good.name))
    yield "a_link_to_nothing", instead(lambda: good.symlink_to("nothing"))
    yield "gone", good.unlink


VALUES = {
    "null": None,
    "text": "x",
    "negative": -1,
    "zero": 0,
    "huge": 10**30,
    "nan": float("nan"),
    "list": [[]],
    "deleted": ...,
}


def leaves(value: object, at: tuple = ()) -> Iterator[tuple]:
    """Where the values of nested mappings and lists stand."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*at, key)
        yield from leaves(inner, (*at, key))


def changed(content: object, at: tuple, value: object) -> object:
    content = copy.deepcopy(content)
    inside = content
    for key in at[:-1]:
        inside = inside[key]
    if value is ...:
        del inside[at[-1]]
    else:
        inside[at[-1]] = value
    return content


def in_good() -> Iterator[Case]:
    """Nothing is wrong: else the other cases would say nothing."""
    for kind, needs, act, outputs in (
        ("profiles", ("mine.yaml",), PLAN, ()),
        ("shards", ("shards",), read_shards, ()),
        ("run_folders", ("shards", "mine.yaml"), RENDER, ()),
        ("checkpoints", ("out", "shards", "mine.yaml"), TRAIN, ("out",)),
        ("labels", ("videos", "labels"), read_synthetic, ()),
        ("labels", ("videos", "judgements.csv"), read_judgements, ()),
        ("prompts", ("corpus.txt", "corpus.parquet"), read_corpora, ()),
        ("results", ("run",), lambda: read_result("run", "x"), ()),
        ("notebooks", ("nb.ipynb",), lambda: read_notebook(Path("nb.ipynb")), ()),
        ("gallery", ("w", "photos", "done"), GALLERY, ("done",)),
        ("shards", ("shards",), read_shards_anew, ("shards",)),
        ("answers", ("answers",), rate_answers, ()),
        ("study_page", ("run",), read_study, ()),
        ("images", ("w", "photo.png"), RECONSTRUCT, ()),
        ("meshes", ("m", "mine.yaml"), MESHES, ()),
    ):
        yield Case(kind, "nothing_is_wrong", needs, lambda: None, act, "ok", (), outputs)


def in_files(rng: random.Random) -> Iterator[Case]:
    """Each file spoiled as a whole, then each of its values."""
    top = ("mine.yaml",)
    for kind, path, needs, act in (
        ("profiles", "mine.yaml", top, PLAN),
        ("shards", "shards/index.json", ("shards",), read_shards),
        ("run_folders", "shards/settings.json", ("shards", *top), RENDER),
        ("checkpoints", "w/config.json", ("w", "photo.png"), RECONSTRUCT),
        ("checkpoints", "w/diffusion_pytorch_model.safetensors", ("w", "photo.png"), RECONSTRUCT),
        ("checkpoints", "out/checkpoint.safetensors", ("out", "shards", *top), TRAIN),
        ("checkpoints", "out/log.csv", ("out", "shards", *top), TRAIN),
        ("checkpoints", "out/settings.json", ("out", "shards", *top), TRAIN),
        ("labels", "videos/index.json", ("videos", "labels"), read_synthetic),
        ("labels", "labels/index.json", ("videos", "labels"), read_synthetic),
        ("labels", "judgements.csv", ("videos", "judgements.csv"), read_judgements),
        ("labels", "models/quality.skops", ("models",), lambda: load_model("models/quality.skops", Pipeline)),
        ("records", "models/quality.json", ("models",), lambda: made_with("models/quality.json", {"of": 1})),
        ("prompts", "prompts.parquet", ("prompts.parquet",), lambda: read_prompts("prompts.parquet")),
        ("prompts", "corpus.txt", ("corpus.txt", "corpus.parquet"), read_corpora),
        ("prompts", "corpus.parquet", ("corpus.txt", "corpus.parquet"), read_corpora),
        ("results", "run/experiments/x/seed-0/result.json", ("run",), lambda: read_result("run", "x")),
        ("results", "run/experiments/x/seed-0/scores.csv.gz", ("run",), lambda: read_result("run", "x")),
        ("notebooks", "nb.ipynb", ("nb.ipynb",), lambda: read_notebook(Path("nb.ipynb"))),
        ("gallery", "done/reconstructions.json", ("w", "photos", "done"), GALLERY),
        ("answers", "answers/anna.csv", ("answers",), rate_answers),
        ("answers", "run/user_study/anna.csv", ("run",), read_study),
        ("study_page", "run/items/image_to_3d/captions.csv", ("run",), read_study),
        ("study_page", "run/items/image_to_3d/a.png", ("run",), read_study),
        ("study_page", f"run/views/image_to_3d/{OURS}/a.mp4", ("run",), read_study),
        ("images", "photo.png", ("w", "photo.png"), RECONSTRUCT),
        ("meshes", "m/a.obj", ("m", *top), MESHES),
        ("meshes", "m/a.txt", ("m", *top), MESHES),
        ("meshes", "m/c.gltf", ("m", *top), MESHES),
    ):
        outputs = ("out",) if act is TRAIN else ("done",) if act is GALLERY else ()
        for name, spoil in spoils(path):
            any_text = path.endswith(".txt")
            wanted = "either" if outputs or any_text or (kind, name) in MAY_BE else "error"
            label = f"{path.replace('/', '_')}_{name}"
            shown = () if wanted == "either" else (Path(path).name, Path(path).parent.name)
            yield Case(kind, label, needs, spoil, act, wanted, shown, outputs)
        if Path(path).suffix in (".json", ".yaml", ".ipynb", ".gltf"):
            read, write = (yaml.safe_load, yaml.safe_dump) if path.endswith("yaml") else (json.loads, json.dumps)
            content = read(Path(path).read_text())
            pairs = [(at, value) for at in leaves(content) for value in VALUES]
            for at, value in rng.sample(pairs, min(20 if act is MESHES else 60, len(pairs))):
                text = write(changed(content, at, VALUES[value]))
                label = f"{path.replace('/', '_')}_{'.'.join(map(str, at))}_{value}"
                spoil = lambda path=path, text=text: Path(path).write_text(text)  # noqa: E731
                shown = (Path(path).name, str(at[-1]), Path(path).parent.name)
                yield Case(kind, label, needs, spoil, act, "either", shown, outputs)


def in_shards() -> Iterator[Case]:
    """Each file of a shard's first sample spoiled: cameras, metadata, views."""
    shard = next(Path("shards").glob("*.tar"))
    with tarfile.open(shard) as archive:
        members = [(member.name, archive.extractfile(member).read()) for member in archive if member.isfile()]

    def written(files: list[tuple[str, bytes]]) -> Callable[[], None]:
        def write() -> None:
            with tarfile.open(shard, "w") as archive:
                for name, content in files:
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))

        return write

    def before(**odd: object) -> Callable[[], None]:
        info = tarfile.TarInfo("x.txt")
        for name, value in odd.items():
            setattr(info, name, value)
        header = info.tobuf(tarfile.GNU_FORMAT)
        return lambda: shard.write_bytes(header + shard.read_bytes())

    for name, odd in {
        "a_size_below_0": {"size": -512},
        "a_size_of_exabytes": {"size": 2**62},
        "a_link": {"type": tarfile.SYMTYPE, "linkname": "/etc/hostname"},
        "a_hard_link": {"type": tarfile.LNKTYPE, "linkname": "shards/index.json"},
        "a_pipe": {"type": tarfile.FIFOTYPE},
        "a_folder": {"type": tarfile.DIRTYPE, "name": "x/"},
        "a_long_name": {"name": "k" * 300 + ".txt"},
        "a_path": {"name": "../x.txt"},
        "no_key": {"name": ".txt"},
    }.items():
        yield Case("shards", f"in_tar_{name}", ("shards",), before(**odd), read_shards_anew, names=(shard.name,))
    for place, (name, content) in enumerate(members[: len(members) // 2]):
        bad = {"empty": b"", "cut": content[: len(content) // 2], "garbage": b"\xff\0x" * 50, "json": b"[[NaN]]"}
        for how, put in bad.items():
            files = [*members[:place], (name, put), *members[place + 1 :]]
            yield Case(
                "shards",
                f"in_tar_{name}_{how}",
                ("shards",),
                written(files),
                read_shards_anew,
                names=(shard.name, name),
            )
        yield Case(
            "shards",
            f"in_tar_{name}_gone",
            ("shards",),
            written(members[:place] + members[place + 1 :]),
            read_shards_anew,
            names=(shard.name,),
        )
        twice = [*members[: place + 1], members[place], *members[place + 1 :]]
        yield Case(
            "shards", f"in_tar_{name}_twice", ("shards",), written(twice), read_shards_anew, names=(shard.name, name)
        )


def in_answers() -> Iterator[Case]:
    good = ["anna", "image_to_3d", "a", "other", "quality", OURS, "other"]
    for place, column in enumerate(COLUMNS):
        for name, cell in {
            "empty": "",
            "other": "somebody",
            "ours": OURS,
            "null": "\0",
            "path": "../a",
            "long": "x" * 200_000,
        }.items():
            row = [*good[:place], cell, *good[place + 1 :]]
            wanted = "either" if column in ("key", "left", "winner") else "error"
            if (column, name) == ("baseline", "other") or row == good:
                continue
            line = ",".join(row) + "\n"
            content = Path("answers/anna.csv").read_text() + line
            spoil = lambda content=content: Path("answers/anna.csv").write_text(content)  # noqa: E731
            yield Case("answers", f"{column}_{name}", ("answers",), spoil, rate_answers, wanted, ("anna.csv",))
    head = "key,caption\n"
    for name, text in {
        "key_twice": "a,x\na,x\n",
        "ragged": "a,x,y\n",
        "no_key": ",x\n",
        "path": "../a,x\n",
        "none": "",
    }.items():
        spoil = lambda text=text: Path("run/items/image_to_3d/captions.csv").write_text(head + text)  # noqa: E731
        wanted = "either" if name == "none" else "error"
        yield Case("study_page", f"items_captions_{name}", ("run",), spoil, read_study, wanted, ("captions.csv",))


def in_tensors() -> Iterator[Case]:
    """One tensor of a checkpoint, and of weights, that no training wrote."""
    for path, needs, act, chosen in (
        ("out/checkpoint.safetensors", ("out", "shards", "mine.yaml"), TRAIN, ("model/", "optimizer/")),
        ("w/diffusion_pytorch_model.safetensors", ("w", "photo.png"), RECONSTRUCT, ("",)),
    ):
        tensors = load_file(path)
        with safe_open(path, framework="pt") as file:
            known = file.metadata()
        for start in chosen:
            name = next(name for name in tensors if name.startswith(start))
            value = tensors[name].float()
            for how, odd in {
                "gone": None,
                "nan": value * torch.nan,
                "a_number": torch.zeros(()),
                "empty": torch.zeros(0),
                "larger": torch.zeros(*value.shape, 2),
                "whole_numbers": value.long(),
                "truths": value.bool(),
            }.items():
                new = {key: kept for key, kept in tensors.items() if key != name} | ({} if odd is None else {name: odd})
                spoil = lambda path=path, new=new, known=known: save_file(new, path, known)  # noqa: E731
                label = f"{start.strip('/') or 'weights'}_{how}"
                yield Case("checkpoints", label, needs, spoil, act, "error", (Path(path).name,))


def in_tables() -> Iterator[Case]:
    """Tables of other types and columns."""
    odd = {
        "numbers": pd.DataFrame({"caption": [1, 2], "split": ["train", "eval"]}),
        "lists": pd.DataFrame({"caption": [["a"], ["b"]], "split": ["train", "eval"]}),
        "bytes": pd.DataFrame({"caption": [b"\xff", b"a"], "split": ["train", "eval"]}),
        "no_caption": pd.DataFrame({"text": ["a"], "split": ["train"]}),
        "empty": pd.DataFrame({"caption": pd.Series([], dtype=str), "split": pd.Series([], dtype=str)}),
    }
    for name, table in odd.items():
        for path, needs, act in (
            ("prompts.parquet", ("prompts.parquet",), lambda: read_prompts("prompts.parquet")),
            ("corpus.parquet", ("corpus.txt", "corpus.parquet"), read_corpora),
        ):
            wanted = "either" if (name, path) == ("empty", "prompts.parquet") else "error"
            spoil = lambda table=table, path=path: table.to_parquet(path)  # noqa: E731
            yield Case("prompts", f"{path}_{name}", needs, spoil, act, wanted, (path,))
    made = VideoShards("videos").fingerprint
    for name, row in {
        "unknown_key": f"z,yes,anna,{made}",
        "twice": f"a,yes,anna,{made}\na,no,anna,{made}",
        "maybe": f"a,maybe,anna,{made}",
        "other_videos": "a,yes,anna,0123456789abcdef",
        "ragged": f"a,yes,{made}",
        "quote": f'"a,yes,anna,{made}',
    }.items():
        spoil = lambda row=row: Path("judgements.csv").write_text(f"key,good,judge,videos\n{row}\n")  # noqa: E731
        yield Case(
            "labels",
            f"judgements_{name}",
            ("videos", "judgements.csv"),
            spoil,
            read_judgements,
            "error",
            ("judgements.csv",),
        )


def in_room() -> Iterator[Case]:
    """No file may be larger than this, as on a disk that fills up; what was there before is whole afterwards."""
    for room in (1024, 4096):
        for name, line, needs in (
            (
                "reconstruct",
                [*RECONSTRUCT, "--video", "o.mp4", "--cutout", "o.png", "--video-size", "16"],
                ("w", "photo.png"),
            ),
            ("render", [*RENDER[:-1], "new"], ("mine.yaml",)),
            ("train", [*TRAIN[:-1], "new"], ("mine.yaml", "shards")),
        ):
            spoil = lambda: Path("o.glb").write_text("before")  # noqa: E731
            small = ("o.mp4", "o.png")
            yield Case("room", f"{name}_{room}_bytes", needs, spoil, line, "error", ("new", "o."), small, room)


def in_locks() -> Iterator[Case]:
    """Somebody else writes there."""
    for name, line, needs in (
        ("shards", [*RENDER, "--overwrite", "--seed=1"], ("shards", "mine.yaml")),
        ("out", TRAIN, ("out", "shards", "mine.yaml")),
    ):
        hold = lambda name=name: LOCKED.append(open_locked(Path(name, ".lock"), "a+b"))  # noqa: E731
        yield Case("run_folders", f"locked_{name}", needs, hold, line, "error", (name,))


def in_values() -> Iterator[Case]:
    needs = ("mine.yaml", "shards", "w", "photo.png")
    lines = {
        "render": (
            [*RENDER[:-1], "new"],
            (
                *(
                    "--count",
                    "--views",
                    "--size",
                    "--workers",
                    "--seed",
                    "--shard",
                    "--shards",
                    "--backend",
                    "--objects",
                ),
                "--profile",
            ),
        ),
        "reconstruct": (
            RECONSTRUCT,
            (
                *("--resolution", "--video-size", "--elevation", "--device", "--background", "--format", "--faces"),
                *("--threshold", "--texture", "--weights"),
            ),
        ),
        "meshes": (MESHES, ("--time-limit", "--memory-limit", "--up")),
        "train": ([*TRAIN[:-1], "new"], ("--seed", "--data", "--weights")),
        "prompts": (
            shlex.split("prompts --profile mine.yaml --run-dir none"),
            ("--corpus", "--eval-prompts"),
        ),
        "finetune-video": (shlex.split("finetune-video --profile mine.yaml --run-dir none"), ("--objects",)),
        "generate": (shlex.split("generate --profile mine.yaml --run-dir none"), ("--shards",)),
        "curate": (shlex.split("curate --profile mine.yaml --run-dir none"), ("--shards", "--judgements")),
        "evaluate": (
            shlex.split("evaluate --profile mine.yaml --weights w --data shards -o e.csv"),
            ("--size", "--seed"),
        ),
        "study": (
            shlex.split("study --profile mine.yaml --run-dir none"),
            ("--port", "--host", "--rater", "--against"),
        ),
        "plan": (PLAN, ("--seeds", "--seed")),
    }
    for name, (line, options) in lines.items():
        for option in options:
            for value in ("0", "-1", "nan", "x", "", str(10**30), "1e9", "ü\n"):
                fine = (option, value) in {
                    ("--seed", "0"),
                    ("--shard", "0"),
                    ("--elevation", "0"),
                    ("--elevation", "-1"),
                    ("--faces", "0"),
                    ("--faces", str(10**30)),
                    ("--texture", "0"),
                }
                wanted = "ok" if fine else "error"
                spoken = (option, option.strip("-"), "items", "is no folder here", "does not exist", "no such file")
                yield Case(
                    "values",
                    f"{name}{option}_{value!a}",
                    needs,
                    lambda: None,
                    [*line, f"{option}={value}"],
                    wanted,
                    spoken,
                )


def in_outputs() -> Iterator[Case]:
    def link(make: Callable) -> Callable[[], None]:
        return lambda: make("photo.png", "other.png")

    needs = ("w", "photo.png")
    for option in ("--cutout", "--video", "-o"):
        base = RECONSTRUCT if option != "-o" else [*RECONSTRUCT[:2], *RECONSTRUCT[4:]]
        for name, target, spoil in (
            ("input", "photo.png", lambda: None),
            ("input_by_a_longer_path", "./w/../photo.png", lambda: None),
            ("hard_link", "other.png", link(os.link)),
            ("symbolic_link", "other.png", link(os.symlink)),
            ("weights", "w/config.json", lambda: None),
            ("a_file_as_a_folder", "photo.png/x.png", lambda: None),
            ("no_such_ending", "o.xyz", lambda: None),
            ("device", "/dev/full", lambda: None),
        ):
            yield Case(
                "outputs",
                f"{name}_{option.strip('-')}",
                needs,
                spoil,
                [*base, option, target],
                names=(Path(target).name, "photo.png", option),
            )


def in_names() -> Iterator[Case]:
    names = {
        "spaces": "a photo .png",
        "unicode": "früh 写真 🙂.png",
        "newline": "two\nlines.png",
        "quotes": 'it\'s "one".png',
        "markup": "<b>&amp;.png",
        "long": "n" * 240 + ".png",
        "dash": "-x.png",
        "percent": "%s%d{0}.png",
        "bytes": os.fsdecode(b"\xff\xfe.png"),
        "dots": "....png",
        "upper": "PHOTO.PNG",
        "wrong_ending": "photo.jpg",
    }
    for label, name in names.items():
        line = ["reconstruct", "-o", "o.glb", "--weights", "w", "--resolution", "16", "--", name]
        shown = tuple(part for part in name.split("\n") if part.isprintable()) or (".png",)
        yield Case(
            "images",
            f"name_{label}",
            ("w", "photo.png"),
            lambda name=name: os.rename("photo.png", name),
            line,
            "ok",
            shown,
        )
        broken = lambda name=name: (os.rename("photo.png", name), Path(name).write_bytes(b"no picture"))  # noqa: E731
        yield Case("images", f"name_{label}_broken", ("w", "photo.png"), broken, line, "error", shown)


def in_requests() -> Iterator[Case]:
    """The study's page: requests that make no sense, of each of which a status and no trace is wanted."""
    huge = "9" * 5000
    asked = {
        "post_length_huge": ("POST", "/answer", b"", {"Content-Length": huge}),
        "post_length_negative": ("POST", "/answer", b"", {"Content-Length": "-5"}),
        "post_nested": ("POST", "/answer", b"[" * 9999, {}),
        "post_nan": ("POST", "/answer", b'{"rater": NaN, "id": NaN, "choice": NaN}', {}),
        "post_bytes": ("POST", "/answer", b"\xff\0", {}),
        "post_long": ("POST", "/answer", b"x" * 300_000, {}),
        "from_another_site": ("POST", "/answer", b"{}", {"Origin": "http://evil.example"}),
        "rebound_name": ("GET", "/", None, {"Host": "evil.example"}),
        "unknown_method": ("BREW", "/", None, {}),
        "number_huge": ("GET", f"/question?rater=a&number={huge}", None, {}),
        "rater_path": ("GET", "/question?rater=..%2f..", None, {}),
        "rater_bytes": ("GET", "/question?rater=%ff", None, {}),
        "file_path": ("GET", "/../../../etc/passwd", None, {}),
        "id_path": ("GET", "/left?rater=a&id=..%2f..%2fphoto.png", None, {}),
    }

    def ask(method: str, path: str, body: bytes | None, headers: dict[str, str]) -> None:
        server = study_server(Study(load_items("run"), "run/user_study"))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        said = answer.read()
        if not 400 <= answer.status < 500 or b"Traceback" in said:
            raise AssertionError(f"status {answer.status}: {said[:200]}")
        if answer.headers.get("X-Content-Type-Options") != "nosniff" and said:
            raise AssertionError("no nosniff")

    for name, request in asked.items():
        yield Case("study_page", f"ask_{name}", ("run",), lambda: None, lambda request=request: ask(*request), "ok")


# --------------------------------------------------------------------------------------------------------- one case


def hashes() -> dict[str, str]:
    """What lies in the current folder: the content of each file, the target of each link."""
    found = {}
    for path in sorted(Path().rglob("*")):
        if path.is_symlink():
            found[str(path)] = os.readlink(path)
        elif path.is_file():
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def run(case: Case, good: Path) -> tuple[str, str]:
    """How a case ended, and what it said."""
    with tempfile.TemporaryDirectory() as folder:
        for name in case.needs:
            source = good / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, Path(folder) / name)
        os.chdir(folder)
        try:
            case.spoil()
            before = hashes()
            said = Path(tempfile.mkdtemp())
            child = os.fork()
            if child == 0:
                _child(case, said)
            code, memory = _wait(child)
            after = hashes()
        finally:
            os.chdir(good)
    stdout, stderr = ((said / name).read_text(errors="replace") for name in ("out", "err"))
    shutil.rmtree(said)
    kept = {name: hash for name, hash in before.items() if not name.startswith(case.outputs or ("\0",))}
    lost = [name for name, hash in kept.items() if after.get(name) != hash]
    return _judged(case, code, memory, stdout, stderr, lost)


def _child(case: Case, said: Path) -> None:
    code = 99
    try:
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(said / name, os.O_WRONLY | os.O_CREAT), number)
        os.setsid()
        resource.setrlimit(resource.RLIMIT_DATA, (2 * MEMORY, 2 * MEMORY))
        resource.setrlimit(resource.RLIMIT_FSIZE, (case.room, case.room))
        if isinstance(case.act, list):
            code = command(case.act)
        else:
            try:
                case.act()
                code = 0
            except (ValueError, OSError, RuntimeError) as error:
                print(f"vfusion3d api: {error}", file=sys.stderr)
                code = 1
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code or 0)


def _wait(child: int) -> tuple[int | None, int]:
    """The exit code of a child, None where it had to be ended; its peak memory in bytes."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        ended, status, usage = os.wait4(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    return None, os.wait4(child, 0)[2].ru_maxrss * 1024


def _judged(case: Case, code: int | None, memory: int, stdout: str, stderr: str, lost: list[str]) -> tuple[str, str]:
    lines = [line for line in stderr.replace("\r", "\n").splitlines() if line.strip() and "|" not in line]
    last = lines[-1] if lines else ""
    if lost:
        return "lost", f"{lost[0]} changed, and {len(lost) - 1} more"
    if code is None:
        return "hang", f"over {SECONDS} s"
    if memory > MEMORY:
        return "memory", f"{memory / 2**30:.1f} GB"
    if "Traceback" in stderr or code not in (0, 1, 2):
        return "trace", f"exit {code}: {last}"
    if code == 0:
        return ("silent", stdout.strip()[-100:]) if case.wanted == "error" else ("noise" if lines else "ok", last)
    if case.wanted == "ok":
        return "refused", last
    if len(lines) > 1 and code != 2:
        return "noise", f"{len(lines)} lines: {lines[0]}"
    if not last.startswith("vfusion3d") or (case.names and not any(name in stderr for name in case.names)):
        return "unclear", last
    return "ok", last


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "kinds", nargs="*", help="answers, checkpoints, images, meshes, outputs, profiles, ... (default: all)"
    )
    parser.add_argument("--csv", type=Path, help="write a line a case")
    parser.add_argument("--seed", type=int, default=0, help="which values of the files are spoiled")
    options = parser.parse_args()
    os.environ["TQDM_DISABLE"] = "1"
    torch.set_num_threads(1)
    target = options.csv.resolve() if options.csv else None
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        child = os.fork()  # this process stays as it is: no thread, no picture drawn
        if child == 0:
            try:
                make_good()
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
            return 1
        rng = random.Random(options.seed)
        makers = (
            in_good(),
            in_files(rng),
            in_shards(),
            in_tensors(),
            in_tables(),
            in_answers(),
            in_room(),
            in_locks(),
            in_values(),
            in_outputs(),
            in_names(),
            in_requests(),
        )
        cases = [case for maker in makers for case in maker if not options.kinds or case.kind in options.kinds]
        rows, start = [], time.monotonic()
        for number, case in enumerate(cases, 1):
            ended, said = run(case, Path(folder).resolve())
            rows.append({"kind": case.kind, "case": case.name, "wanted": case.wanted, "ended": ended, "said": said})
            if ended != "ok":
                print(
                    f"{case.kind}/{case.name[:80]} (expected {case.wanted}): {ended}: {ascii(said)[1:300]}", flush=True
                )
            if sys.stderr.isatty():
                print(f"\r{number} of {len(cases)}, {time.monotonic() - start:.0f} s", end="", file=sys.stderr)
        os.chdir("/")
    table = pd.DataFrame(rows)
    print(pd.crosstab(table["kind"], table["ended"], margins=True).to_string())
    counts = collections.Counter(table["ended"])
    print(f"{counts['ok']} of {len(table)} ended as they should, in {time.monotonic() - start:.0f} s")
    if target:
        table.to_csv(target, index=False)
    return int(counts["ok"] < len(table))


if __name__ == "__main__":
    sys.exit(main())

"""What is killed at any moment, or finds the disk full, goes on to the same files and leaves nothing behind."""

import dataclasses
import mmap
import os
import random
import resource
import signal
import sys
import traceback
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet  # noqa: F401  (once here, not in each fork)
import pytest
import skops.io  # noqa: F401
import torch
import torch.utils.tensorboard
from safetensors.torch import load_file, save_file
from test_loop import regression, settings
from torch import nn

from vfusion3d.curation.curate import learned
from vfusion3d.curation.labels import Labeller, label_videos
from vfusion3d.curation.quality import train_filter
from vfusion3d.data.render_dataset import render_dataset
from vfusion3d.learning import loop
from vfusion3d.model.asset import write_gif, write_mp4
from vfusion3d.runs.claim import FULL, write_whole
from vfusion3d.runs.profiles import load_profile
from vfusion3d.video import prompts
from vfusion3d.video.generate import generate_videos
from vfusion3d.world.sources import RandomPrimitives
from vfusion3d.world.web_captions import web_captions

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks a process that has loaded torch")
SMOKE = load_profile("smoke")
CHANGES = (
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.truncate",
)  # audit events, beside files that are opened


def render(folder):
    render_dataset(folder / "3d", RandomPrimitives(), 5, views=2, size=16, shard_size=2)


def collect(folder):
    corpus = folder / "corpus.txt"
    if not corpus.exists():
        corpus.write_text("\n".join(caption for _, caption in web_captions(200)))
    profile = dataclasses.replace(SMOKE, data=dataclasses.replace(SMOKE.data, prompts=60))
    prompts.collect_prompts(profile, folder / "prompts", held_out={"unseen objects": ["a red mug"]}, corpus=corpus)


def grey(texts, generator, size):
    return torch.rand(len(texts), 1, 1, 1, generator=generator).expand(-1, 3, size, size)


def still(images, generators, *, frames, **_):
    return images[:, None].expand(-1, frames, -1, -1, -1)


def generate(folder):
    recipe = dataclasses.replace(SMOKE.video, size=16, frames=8, generate_batch=2)
    network = nn.Linear(1, 1)
    nn.init.ones_(network.weight), nn.init.ones_(network.bias)
    model = SimpleNamespace(network=network, generate=still)
    texts = [f"a mug, number {number}" for number in range(5)]
    generate_videos(folder / "videos", texts, grey, model, recipe, drawn_by="grey", shard_size=2)


def curate(folder):
    def learn():
        features = np.random.default_rng(0).normal(size=(40, 3))
        return train_filter(features, features[:, 0] > 0)

    if not (folder / "videos" / "index.json").exists():
        generate(folder)
    model = learned(folder / "curation" / "quality.skops", {"seed": 0}, learn)
    flat = SimpleNamespace(predict=lambda features: np.full(len(features), 0.3))
    labeller = Labeller(lambda images: images.mean(dim=(2, 3)), model, flat, lambda images: images[:, :1])
    label_videos(folder / "videos", folder / "labels", labeller, settings={"by": "test"}, batch=2)


def train(folder):
    model, batch_of, losses_of = regression()

    def save(path):
        path.mkdir()
        (path / "config.json").write_text("{}")
        save_file(model.state_dict(), path / "model.safetensors")

    steps = settings(12, checkpoint_every=4, log_every=2)
    lesson = loop.Lesson(model, batch_of, losses_of, {"seed": 0}, steps, save=save)
    loop.learn(lesson, folder / "run", device="cpu")


def rewrite(folder):
    """A file that is there already, such as `reconstruct`'s."""
    write_whole(folder / "mesh.glb", lambda file: file.write_bytes(b"a" * 9000))
    write_whole(folder / "mesh.glb", lambda file: file.write_bytes(b"b" * 9000))


def film(folder):
    """Videos of which the later ones do not fit."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), np.uint8)
    for name, write in (("turn.mp4", write_mp4), ("turn.gif", write_gif)):
        write(noise, 32, 12, folder / name)
        write(noise[::-1], 32, 12, folder / name)


JOBS = [render, collect, generate, curate, train, rewrite]


@pytest.fixture
def quick(monkeypatch):
    """No renderer, small batches of captions."""

    def views(mesh, cam2world, intrinsics, size, backend):
        shades = (np.abs(cam2world.numpy()).sum(axis=(1, 2)) * 40).astype(np.uint8)
        return SimpleNamespace(rgba=np.broadcast_to(shades[:, None, None, None], (len(shades), size, size, 4)).copy())

    monkeypatch.setitem(sys.modules, "vfusion3d.data.render", SimpleNamespace(render_views=views))
    monkeypatch.setitem(prompts.BATCH, "web", 16)


def child(work, before=lambda: None) -> int:
    """What `os.waitpid` says of a fork that works: 0 is done, 1 << 8 is failed as a full disk should, 9 is killed."""
    said, says = os.pipe()  # a limit on files holds for a captured stderr, too
    process = os.fork()
    if process == 0:
        status = 2
        try:
            signal.alarm(60)
            os.dup2(says, 2)
            sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
            torch.set_num_threads(1)
            before()
            work()
            status = 0
        except OSError as error:
            status = 1 if error.errno in FULL and "make room" in str(error) and error.filename else 2
            traceback.print_exc()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    os.close(says)
    with open(said, errors="replace") as lines:
        print(lines.read())
    return os.waitpid(process, 0)[1]


def after_changes(folder, count, changes, act):
    """Call `act` before change number `count` of a file in `folder`; `changes` counts them, for the parent too."""

    def hook(event, arguments):
        opened = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (event in CHANGES or opened) and str(arguments[0]).startswith(str(folder)):
            changes[:8] = (int.from_bytes(changes[:8]) + 1).to_bytes(8)
            if int.from_bytes(changes[:8]) == count:
                act()

    return lambda: sys.addaudithook(hook)


def contents(folder):
    """Every file; tensors where a file's header has no fixed order; a marker for TensorBoard's, which hold times."""
    found = {}
    for path in sorted(file for file in folder.rglob("*") if file.is_file() and "tensorboard" not in file.parts):
        name = str(path.relative_to(folder))
        found[name] = path.read_bytes()
        if path.suffix == ".safetensors":
            found[name] = {key: value.tolist() for key, value in load_file(path).items()}
    return found


@pytest.mark.parametrize("job", JOBS)
def test_a_kill_at_any_moment_loses_nothing_and_leaves_nothing(job, quick, tmp_path):
    def fresh(name):
        folder = tmp_path / name
        folder.mkdir()
        return folder

    changes = mmap.mmap(-1, 8)
    whole = fresh("whole")
    assert child(lambda: job(whole), after_changes(whole, 0, changes, None)) == 0
    expected, total = contents(whole), int.from_bytes(changes[:8])
    assert total > 3
    moments = random.Random(0).sample(range(1, total + 1), min(4, total))
    for moment in moments:
        folder = fresh(f"killed-{moment}")
        changes[:8] = bytes(8)
        killed = after_changes(folder, moment, changes, lambda: os.kill(os.getpid(), signal.SIGKILL))
        assert child(lambda folder=folder: job(folder), killed) == signal.SIGKILL
        assert child(lambda folder=folder: job(folder)) == 0
        assert contents(folder) == expected, f"killed at change {moment} of {total}"


def test_what_a_kill_leaves_of_safetensors_itself_is_removed_by_the_next_start(tmp_path):
    def killed(tensors, path, metadata):
        path.with_name(".tmpA1b2C3").write_bytes(b"half")  # as the library calls what it has not written yet
        os.kill(os.getpid(), signal.SIGKILL)

    assert child(lambda: train(tmp_path), lambda: setattr(loop, "save_file", killed)) == signal.SIGKILL
    assert list(tmp_path.rglob(".tmp*"))
    assert child(lambda: train(tmp_path)) == 0
    assert not [path for path in tmp_path.rglob("*") if ".tmp" in path.name or ".partial" in path.name]


@pytest.mark.parametrize("job", [*JOBS, film])
def test_without_room_a_command_ends_in_one_error_and_goes_on_when_there_is_some(job, quick, tmp_path):
    whole = tmp_path / "whole"
    whole.mkdir()
    assert child(lambda: job(whole)) == 0
    expected = contents(whole)
    ended = []
    for size in (0, 1000, 8000):  # no file may be larger: a write fails in its middle
        folder = tmp_path / f"at-{size}"
        folder.mkdir()
        (folder / "corpus.txt").write_bytes((whole / "corpus.txt").read_bytes() if job is collect else b"")
        limits = (size, resource.RLIM_INFINITY)
        ended.append(child(lambda f=folder: job(f), lambda n=limits: resource.setrlimit(resource.RLIMIT_FSIZE, n)))
        left = [path for path in folder.rglob("*.partial") if not path.name.startswith(("shard", "work"))]
        assert not left
        assert child(lambda folder=folder: job(folder)) == 0
        if job is not collect:
            (folder / "corpus.txt").unlink()
        assert contents(folder) == expected
    assert set(ended) <= {0, 1 << 8}
    assert ended[0] == 1 << 8

"""The one training loop, for all that learns in this project. It runs on accelerate and can be killed at any time.

What happens in a step depends on the step's number alone: batches, random draws and the learning rate are all functions
of it. A checkpoint is therefore only the weights, the optimizer's moments and a number, in one safetensors file, and a
resumed run repeats the uninterrupted one bit for bit on one CPU.
"""

import csv
import dataclasses
import hashlib
import math
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from vfusion3d.learning.draws import sample_generators
from vfusion3d.learning.muon import MuonAdamW
from vfusion3d.learning.precision import resolve
from vfusion3d.learning.processes import several_processes
from vfusion3d.runs.claim import (
    SETTINGS,
    Kind,
    claim_folder,
    made_with,
    naming_a_full_disk,
    put_back,
    save_whole,
    write_whole,
)
from vfusion3d.runs.lock import LOCK, only_writer
from vfusion3d.runs.progress import tqdm
from vfusion3d.runs.ranges import check_ranges
from vfusion3d.runs.reading import ReadingError, check_tensors, read_table, read_tensors, regular_file, shown

Recipe = TypeVar("Recipe")  # a dataclass with a field `mixed_precision`
CHECKPOINT, PREVIOUS = "checkpoint.safetensors", "checkpoint.previous.safetensors"  # the last two
STEP = re.compile(r"[0-9]{1,15}")
NEW_LOG = "delete it: training goes on, with a new log"
BEFORE = "delete it, and training goes on from the one before, or from nothing"
LOG = "log.csv"
MODEL = "model"  # of a run that is over: the folder beside them
_WEIGHTS = tuple(
    f"{name}{ending}"
    for name in ("model", "diffusion_pytorch_model")
    for ending in (".safetensors", ".safetensors.index.json", "-?????-of-?????.safetensors")
)
_WHOLE = ("config.json", *_WEIGHTS, "model_index.json", "noise.json")  # a network, or a pipeline of several
_PARTS = (f"*/{name}" for name in ("config.json", "scheduler_config.json", "preprocessor_config.json", *_WEIGHTS))
TRAINING = Kind(
    "trainings",
    (
        *(f"{MODEL}/{name}" for name in (*_WHOLE, *_PARTS)),
        *(CHECKPOINT, PREVIOUS, LOG, "tensorboard/events.out.tfevents.*", f"strips/step-{6 * '[0-9]'}.png"),
    ),
)
FITTING = ("micro_batch", "checkpointing")  # fields of a recipe that say how it fits into memory
LATE = 1  # why training stops: the time that it was given is over; other reasons are signals' numbers
ENDING = (signal.SIGTERM, signal.SIGUSR1)

BatchOf = Callable[[int, Sequence[int]], Any]
LossesOf = Callable[[nn.Module, Any, list[torch.Generator]], dict[str, Tensor]]


class TrainingError(RuntimeError):
    """Training cannot go on; the message names the step and the batch."""


@dataclass(frozen=True)
class LoopSettings:
    """steps: optimizer steps in all. learning_rate: of each step, from 0. seed: of every random draw.

    batch_size: places in a batch, which all processes share evenly; 1: a batch is one whole, for a single process.
    micro_batch: places that a process computes at once, adding up the gradients of its share; None: all of them.
    mixed_precision: "no", "bf16" or "auto". compile: through torch.compile. Betas and weight decay are AdamW's (only
    matrices decay). muon: matrices and convolutions of repeated blocks (in an nn.ModuleList) learn by Muon.
    average: decay a step of an exponential moving average of the weights, which the model has in the end; 0: none.
    checkpoint_every, log_every: in steps. Raises ValueError for numbers out of range.
    """

    steps: int
    learning_rate: Callable[[int], float]
    batch_size: int = 1
    micro_batch: int | None = None
    seed: int = 0
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.95)
    muon: bool = False
    grad_clip: float = 1.0
    average: float = 0.0
    mixed_precision: str = "no"
    compile: bool = False
    checkpoint_every: int = 500
    log_every: int = 10

    def __post_init__(self):
        check_ranges(seed=self.seed, batch_size=self.batch_size)
        for name in ("steps", "checkpoint_every", "log_every", "micro_batch"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")


def share_of(batch_size: int, rank: int, processes: int) -> range:
    """The places in a batch that a process computes. Raises ValueError where they cannot be shared evenly."""
    if batch_size % processes:
        raise ValueError(
            f"{processes} processes cannot share batches of {batch_size}: start a number that divides it, "
            "or change batch_size in the profile"
        )
    share = batch_size // processes
    return range(rank * share, (rank + 1) * share)


def samples_of_step(step: int, places: Sequence[int], *, batch_size: int, count: int, seed: int) -> list[int]:
    """Which of `count` samples stand at places in a step's batch: in random order, none twice before all once."""
    numbers = [step * batch_size + place for place in places]
    return [int(_order(seed, number // count, count)[number % count]) for number in numbers]


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(count)


def fingerprint(model: nn.Module) -> str:
    """A short name of a model's weights: different weights have different ones."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()[:16]


def recorded(recipe: Recipe, device: str | None) -> Recipe:
    """What settings record of a recipe: with the `mixed_precision` that its own comes to on this machine.

    How it fits into memory (`micro_batch`, `checkpointing`) changes no result and is left out. device: as for `train`.
    """
    there = several_processes(device).device
    memory = {field.name: field.default for field in dataclasses.fields(recipe) if field.name in FITTING}
    return dataclasses.replace(recipe, mixed_precision=resolve(recipe.mixed_precision, there), **memory)


@dataclass(frozen=True)
class Lesson:
    """A model, what it learns from and how, and what that is known by.

    batch_of, losses_of, loop: as for `train`. settings: what a run of it is claimed with (`claim_folder`), beside the
    weights that the model starts with. given: whether these count, or are drawn from a seed among the settings.
    save(path): writes the model; None: a run leaves its checkpoint only.
    """

    model: nn.Module
    batch_of: BatchOf
    losses_of: LossesOf
    settings: Mapping[str, Any]
    loop: LoopSettings | None = None
    given: bool = True
    save: Callable[[Path], Any] | None = None


def learn(
    lesson: Lesson,
    folder: str | Path,
    *,
    elsewhere: Iterable[Path] = (),
    overwrite: bool = False,
    show: Callable[[int], None] | None = None,
    show_every: int = 0,
    stop_after: float = math.inf,
    device: str | None = None,
) -> Path | None:
    """A whole run: claim `folder` for the lesson, train or go on, save. Returns FOLDER/model, None if stopped early.

    elsewhere: other runs; the model of one that is over and has the same settings is returned, and nothing is trained.
    Other options: as for `train`. Raises ValueError where the folder holds a run of other settings (overwrite: it is
    deleted), InUse where another process trains in it. Of several processes of a run, the main one holds the folder.
    """
    folder = Path(folder)
    state = several_processes(device)
    settings = {**lesson.settings, "start": fingerprint(lesson.model) if lesson.given else None}

    def finished(*runs: Path) -> Path | None:
        for run in runs:
            with nullcontext() if run == folder else suppress(ReadingError):  # another's, whose command says so
                if made_with(run / SETTINGS, settings) and (run / MODEL).is_dir():
                    return run / MODEL
        return None

    found: list[Any] = [None, None]  # a model that is there already, and what is wrong with the folder
    with ExitStack() as held:
        if state.is_main_process:  # one process looks, for files may change between two looks
            try:
                killed = (folder / LOCK).exists()  # or still at work, which `only_writer` says
                found[0] = finished(*elsewhere) if killed else finished(folder, *elsewhere)
                if found[0] is None:
                    held.enter_context(only_writer(folder))
                    for name in (MODEL, CHECKPOINT):
                        put_back(folder / name)
                    claim_folder(folder, settings, TRAINING, overwrite=overwrite)
                    found[0] = finished(folder)
            except (ValueError, OSError) as error:
                found[1] = error
        there, wrong = broadcast_object_list(found)
        if wrong is not None:
            raise wrong
        if there is not None:
            return there
        done = train(
            lesson.model,
            lesson.batch_of,
            lesson.losses_of,
            lesson.loop,
            folder,
            show=show,
            show_every=show_every,
            stop_after=stop_after,
            device=device,
        )
        if done and lesson.save and state.is_main_process:
            save_whole(lesson.save, folder / MODEL)
        state.wait_for_everyone()
    return folder / MODEL if done else None


def train(
    model: nn.Module,
    batch_of: BatchOf,
    losses_of: LossesOf,
    settings: LoopSettings,
    folder: str | Path,
    *,
    show: Callable[[int], None] | None = None,
    show_every: int = 0,
    stop_after: float = math.inf,
    device: str | None = None,
) -> bool:
    """Train the parameters of `model` that require gradients; resume from `folder` where a checkpoint is there.

    batch_of(step, places): what stands at some places in the batch of a step, drawn ahead of time in a thread.
    losses_of(model, batch, generators): named scalar losses, each the mean over the places, among them `loss`, the one
    to minimise; a generator for each place. So any number of processes, and micro-batches, compute the same steps up to
    rounding. show(step): called every `show_every` steps and at the end, for pictures. stop_after: seconds after which
    to write a checkpoint and return, as soon as they are over on any process. device: where it must run ("cpu",
    "cuda"), None or "auto": the best there is. The folder gets the last two checkpoints, log.csv (the mean over all
    processes) and TensorBoard events.

    Returns whether all steps are done. Raises TrainingError where a loss or a gradient is not finite, and where the
    wanted device is not there; ValueError where the processes cannot share a batch; SystemExit, after a checkpoint,
    when a process is told to end (SIGTERM, or SIGUSR1 as schedulers send it before their time is over).
    """
    folder = Path(folder)
    accelerator = _accelerator(settings, device)
    model.to(accelerator.device).train()
    optimizer = MuonAdamW(
        _groups(model, settings), lr=0.0, betas=settings.betas, fused=accelerator.device.type == "cpu"
    )
    average = WeightAverage(model, settings.average) if settings.average else None
    done = load_checkpoint(folder, model, optimizer, average)
    if done > settings.steps:
        raise TrainingError(f"{folder}: its checkpoint is of step {done}, and there are {settings.steps}: delete it")
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    if settings.compile:
        wrapped = torch.compile(wrapped)
    begun = time.monotonic()
    rank = accelerator.process_index
    share = share_of(settings.batch_size, rank, accelerator.num_processes)
    size = settings.micro_batch or len(share)
    pieces = [share[start : start + size] for start in range(0, len(share), size)]
    bar = _bar(folder.name, done, settings.steps, shown=rank == 0)
    keeper = _Keeper(folder, done, model, optimizer, average, settings, bar, show, show_every)
    if rank != 0:
        keeper = nullcontext()
    batches = _drawn_ahead(batch_of, bar, pieces, settings.steps, accelerator.device)
    with bar, closing(batches), keeper, _told_to_end() as told:
        sums: dict[str, Tensor] = {}
        for step, places, batch in batches:
            last = places is pieces[-1]
            with nullcontext() if last else accelerator.no_sync(wrapped):
                losses = losses_of(wrapped, batch, sample_generators(settings.seed, step, places))
                _check_finite(losses["loss"], losses, step, batch, folder)
                accelerator.backward(losses["loss"] * (len(places) / len(share)))
            for name, value in losses.items():
                sums[name] = sums.get(name, 0) + value.detach() * (len(places) / len(share))
            if not last:
                continue
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate(step)
            norm = accelerator.clip_grad_norm_(wrapped.parameters(), settings.grad_clip)
            _check_finite(norm, {"gradient norm": norm}, step, batch, folder)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            done = step + 1
            if average:
                average.update(model, done)
            ending = _ending(accelerator, told, time.monotonic() - begun > stop_after)
            if done == settings.steps or done % settings.log_every == 0:
                sums = dict(zip(sums, accelerator.reduce(torch.stack(list(sums.values())), "mean"), strict=True))
            if rank == 0:
                keeper.keep(done, sums, norm, ending)
            sums = {}
            if ending > LATE:
                accelerator.wait_for_everyone()  # torchrun ends the one that saves soon after another has ended
                print(f"told to end after step {done:,}: the same command goes on from there", file=sys.stderr)
                raise SystemExit(128 + ending)
            if ending:
                break
    accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)  # autocast stays out of what the model computes later
    model.eval()
    if average and done >= settings.steps:
        model.load_state_dict(average.weights, strict=False)
    return done >= settings.steps


class WeightAverage:
    """An exponential moving average of a model's parameters, for smoother weights than the last step's.

    decay: how much of the average stays in a step; less in the first steps, when 1 - decay = 9 / (10 + step).
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.weights = {name: value.detach().clone() for name, value in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after `step` steps."""
        share = max(1 - self.decay, 9 / (10 + step))
        torch._foreach_lerp_(list(self.weights.values()), [p.detach() for p in model.parameters()], share)

    @contextmanager
    def in_place(self, model: nn.Module) -> Iterator[None]:
        """The model with the averaged weights, for as long as the block lasts."""
        learning = {name: value.detach().clone() for name, value in model.named_parameters()}
        model.load_state_dict(self.weights, strict=False)
        try:
            yield
        finally:
            model.load_state_dict(learning, strict=False)


def _accelerator(settings: LoopSettings, device: str | None) -> Accelerator:
    """What puts a model where it must run. Raises TrainingError where that device is not there."""
    AcceleratorState._reset_state()  # a run before this one in the same process may have had another precision
    precision = resolve(settings.mixed_precision, several_processes(device).device)
    accelerator = Accelerator(mixed_precision=precision, cpu=device == "cpu")
    if device not in (None, "auto") and accelerator.device.type != torch.device(device).type:
        raise TrainingError(
            f"training is to run on {device}, but there is only {accelerator.device}: set device to auto"
        )
    return accelerator


def _bar(name: str, start: int, steps: int, shown: bool) -> tqdm:
    return tqdm(
        range(start, steps),
        initial=start,
        total=steps,
        desc=name,
        unit="step",
        disable=not shown,
        mininterval=float(os.environ.get("TQDM_MININTERVAL", 1.0)),
        smoothing=0.05,
    )


@contextmanager
def _told_to_end() -> Iterator[list[int]]:
    """The signals so far that ask this process to end; they do nothing else as long as the block lasts."""
    told: list[int] = []
    handlers = {}
    if threading.current_thread() is threading.main_thread():  # elsewhere Python sets no handler
        handlers = {one: signal.signal(one, lambda number, _: told.append(number)) for one in ENDING}
    try:
        yield told
    finally:
        for one, before in handlers.items():
            signal.signal(one, before)


def _ending(accelerator: Accelerator, told: list[int], late: bool) -> int:
    """Why all processes stop here: a signal's number, or `LATE`, as soon as one of them has a reason; 0: go on."""
    reason = max([LATE if late else 0, *told])
    if accelerator.num_processes == 1:
        return reason
    return int(accelerator.gather(torch.tensor([reason], device=accelerator.device)).max())


def _drawn_ahead(
    batch_of: BatchOf, todo: Iterable[int], pieces: Sequence[range], steps: int, device: torch.device
) -> Iterator[tuple[int, range, Any]]:
    """Each step and each piece of its places with their batch, while a thread draws the next.

    On one core, where the step is computed on the CPU: on all cores it would compete with the step, 0.48 s a step
    instead of 0.35 on two cores.
    """
    threads = torch.get_num_threads()  # asking fixes this thread's number: else it would take over the 1 below
    alone = partial(torch.set_num_threads, 1) if device.type == "cpu" else None
    upcoming = None
    try:
        with ThreadPoolExecutor(1, initializer=alone) as ahead:
            for step in todo:
                for number, places in enumerate(pieces, 1):
                    batch = (upcoming or ahead.submit(batch_of, step, places)).result()
                    after = (step, pieces[number]) if number < len(pieces) else (step + 1, pieces[0])
                    upcoming = ahead.submit(batch_of, *after) if after[0] < steps else None
                    yield step, places, batch
    finally:
        torch.set_num_threads(threads)  # the drawing thread's 1 is also what threads that begin later would take


def _check_finite(value: Tensor, told: dict[str, Tensor], step: int, batch: Any, folder: Path) -> None:
    if not torch.isfinite(value):
        values = ", ".join(f"{name} {one.item():g}" for name, one in told.items())
        raise TrainingError(
            f"step {step}: {values}; the batch holds {getattr(batch, 'keys', None)}. The last checkpoint in {folder} "
            "is from before this step: lower the learning rate, or look at these samples"
        )


def save_checkpoint(
    folder: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage | None = None,
) -> None:
    """Weights, their average, moments and the step, to a temporary name that is renamed when whole."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
    for parameter, moments in optimizer.state.items():
        tensors |= {f"optimizer/{names[parameter]}/{key}": value for key, value in moments.items()}
    tensors |= {f"average/{name}": value for name, value in average.weights.items()} if average else {}
    tensors = {
        name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()
    }  # tied ones too
    room = folder / f"{CHECKPOINT}.partial"  # what a kill leaves of safetensors has a name that nobody knows

    def write(partial: Path) -> None:
        room.mkdir(exist_ok=True)
        save_file(tensors, room / CHECKPOINT, metadata={"step": str(step), "tensors": str(len(tensors))})
        os.replace(room / CHECKPOINT, partial)
        if _is_whole(folder / CHECKPOINT):  # a broken one must not take the place of a good one
            os.replace(folder / CHECKPOINT, folder / PREVIOUS)

    try:
        write_whole(folder / CHECKPOINT, write)
    finally:
        shutil.rmtree(room, ignore_errors=True)


def load_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, average: WeightAverage | None = None
) -> int:
    """Put the last checkpoint of `folder`, if there is one, into model, optimizer and average; returns the steps done.

    Where it is broken, a line on stderr says so and the one before it is taken. Raises ReadingError where both are, and
    TrainingError for a checkpoint of another model.
    """
    found = _last_checkpoint(folder, model, optimizer, average)
    if found is None:
        return 0
    _, step, parts = found
    model.load_state_dict(parts["model"])
    for name, parameter in model.named_parameters():
        if average:
            average.weights[name] = parts["average"][name].to(parameter.device)
        if moments := _beginning_with(f"{name}/", parts["optimizer"]):
            # AdamW keeps its step counter on the CPU, moments and momentum stand beside the parameter.
            optimizer.state[parameter] = {k: t if k == "step" else t.to(parameter.device) for k, t in moments.items()}
    return step


def _last_checkpoint(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    average: WeightAverage | None = None,
) -> tuple[Path, int, dict[str, dict[str, Tensor]]] | None:
    """The newer of the two checkpoints that can be gone on with, its step and its parts; None where there is none.

    Parts: the tensors of "model", "average" and "optimizer". Without an optimizer only weights are wanted of it.
    """
    there = [folder / name for name in (CHECKPOINT, PREVIOUS) if (folder / name).exists()]
    for path in there:
        try:
            tensors, known = read_tensors(path, BEFORE)
            if not STEP.fullmatch(known.get("step", "")):
                raise ReadingError(
                    f"{path}: step must be a number in its metadata, not {shown(known.get('step'))}: {BEFORE}"
                )
            parts = {kind: _beginning_with(f"{kind}/", tensors) for kind in ("model", "average", "optimizer")}
            _check_model(path, model, parts["model"])
            if damage := list(_damage(tensors, known, parts, model, optimizer, average)):
                more = f" and {len(damage) - 1} more" if damage[1:] else ""
                raise ReadingError(f"{path} is damaged ({damage[0]}{more}): {BEFORE}")
            return path, int(known["step"]), parts
        except ReadingError as error:
            if path == there[-1]:
                raise
            print(f"{error}; going on from {there[-1].name}", file=sys.stderr)
    return None


def _check_model(path: Path, model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Raise TrainingError where names and shapes of the weights, whatever they are, are not the model's."""
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    try:
        check_tensors({name: torch.zeros(()).expand(value.shape) for name, value in weights.items()}, shapes, path)
    except ReadingError as error:
        raise TrainingError(f"{path} is of another model: use a new folder for a new model ({error})") from error


def _damage(
    tensors: Mapping[str, Tensor],
    known: Mapping[str, str],
    parts: Mapping[str, Mapping[str, Tensor]],
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    average: WeightAverage | None,
) -> Iterator[str]:
    """What keeps a checkpoint of this model from being gone on with."""
    parameters = dict(model.named_parameters())
    names = {parameter: name for name, parameter in parameters.items()}
    like = {f"model/{name}": value for name, value in model.state_dict().items()}
    for group in optimizer.param_groups if optimizer else ():
        kept = ("momentum",) if group.get("muon") else ("exp_avg", "exp_avg_sq")
        for parameter in group["params"]:
            name = f"optimizer/{names[parameter]}"
            if there := {key for key in ("step", *kept) if f"{name}/{key}" in tensors}:
                yield from (f"{name}/{key} is missing" for key in ("step", *kept) if key not in there)
            like |= {f"{name}/{key}": parameter for key in kept} | {f"{name}/step": torch.zeros(())}
    if average or parts["average"]:
        yield from (f"average/{name} is missing" for name in parameters if name not in parts["average"])
        like |= {f"average/{name}": value for name, value in parameters.items()}
    for name, value in tensors.items():
        if name in like and value.dtype != like[name].dtype:
            yield f"{name} is {value.dtype}, not {like[name].dtype}"
        elif name in like and value.shape != like[name].shape:
            yield f"{name} has the shape {list(value.shape)}, not {list(like[name].shape)}"
        elif not value.isfinite().all() or (name.endswith(("/step", "_sq")) and value.min() < 0):
            yield f"{name} holds what is no number of training"
    if known.get("tensors", str(len(tensors))) != str(len(tensors)):  # older ones do not say how many
        yield f"{len(tensors)} tensors, not {known['tensors'][:20]}"


def _is_whole(path: Path) -> bool:
    try:
        with safe_open(path, framework="pt") as file:
            return STEP.fullmatch((file.metadata() or {}).get("step", "")) is not None
    except (SafetensorError, OSError):
        return False


def remove_checkpoints(folder: Path) -> None:
    """Of a run that is over, and whose model is all that is wanted of it."""
    for name in (CHECKPOINT, PREVIOUS):
        (folder / name).unlink(missing_ok=True)


def _beginning_with(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def load_weights(folder: str | Path, model: nn.Module) -> int:
    """Put the weights of a run that is not done yet into a model: their average, where it has one. Returns the step.

    Raises FileNotFoundError where the folder has no checkpoint, TrainingError for one of another model, ReadingError
    for one that is broken.
    """
    found = _last_checkpoint(Path(folder), model)
    if found is None:
        raise FileNotFoundError(f"{Path(folder) / CHECKPOINT} does not exist: train first")
    _, step, parts = found
    model.load_state_dict({**parts["model"], **parts["average"]})
    return step


def read_log(folder: str | Path):
    """The log of a run as a DataFrame, one row a logged step."""
    return read_table(Path(folder) / LOG, {"step": int}, NEW_LOG)


def _groups(model: nn.Module, settings: LoopSettings) -> list[dict]:
    blocks = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    repeated = {id(p) for block in blocks for p in block.parameters() if p.ndim >= 2 and settings.muon}
    learning = [p for p in model.parameters() if p.requires_grad]
    decay = settings.weight_decay
    groups = [
        {"params": [p for p in learning if id(p) in repeated], "weight_decay": decay, "muon": True},
        {"params": [p for p in learning if id(p) not in repeated and p.ndim >= 2], "weight_decay": decay},
        {"params": [p for p in learning if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


@dataclass
class _Keeper:
    """What stays of a run: log.csv and TensorBoard events, cut back to the step it begins at; checkpoints; pictures."""

    folder: Path
    start: int
    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: WeightAverage | None
    settings: LoopSettings
    bar: tqdm
    show: Callable[[int], None] | None
    show_every: int

    def __enter__(self) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder / LOG
        if log.exists():
            lines = regular_file(log).read_bytes().splitlines(keepends=True)
            if lines and not lines[-1].endswith(b"\n"):  # a full disk tore it
                lines.pop()
                log.write_bytes(b"".join(lines))
            steps = read_log(self.folder).step if lines[1:] else []
            if len(steps) != len(lines[1:]):
                raise ReadingError(f"{log}: {len(steps)} rows in {len(lines) - 1} lines: {NEW_LOG}")
            kept = [line for line, step in zip(lines[1:], steps) if step <= self.start]
            if kept:
                write_whole(log, partial(Path.write_bytes, data=b"".join([lines[0], *kept])))
            else:
                log.unlink()
        self.events = SummaryWriter(self.folder / "tensorboard", purge_step=self.start)

    def __exit__(self, *_) -> None:
        with naming_a_full_disk(self.folder):
            self.events.close()

    def keep(self, done: int, losses: dict[str, Tensor], norm: Tensor, ending: int) -> None:
        """Log, save and show what is due after `done` steps; ending: why training stops here, 0 where it goes on."""
        last = done == self.settings.steps
        if last or done % self.settings.log_every == 0:
            values = {name: value.item() for name, value in losses.items()}
            self.bar.set_postfix({"loss": f"{values['loss']:.4f}"}, refresh=False)
            values |= {"learning_rate": self.settings.learning_rate(done - 1), "gradient_norm": float(norm)}
            with naming_a_full_disk(self.folder):
                _write_row(self.folder / LOG, {"step": done, **values})
                for name, value in values.items():
                    self.events.add_scalar(name, value, done)
        if last or ending or done % self.settings.checkpoint_every == 0:
            save_checkpoint(self.folder, done, self.model, self.optimizer, self.average)
        if self.show and (last or (self.show_every and done % self.show_every == 0)):
            self.model.eval()
            with self.average.in_place(self.model) if self.average else nullcontext():
                self.show(done)
            self.model.train()


def _write_row(path: Path, row: Mapping[str, Any]) -> None:
    with path.open("a+", newline="") as file:
        file.seek(0)
        if (head := file.readline().strip()) not in ("", ",".join(row)):
            raise ReadingError(f"{path} has the columns {head[:200]}, not {', '.join(row)}: {NEW_LOG}")
        writer = csv.DictWriter(file, fieldnames=list(row))
        if not head:
            writer.writeheader()
        writer.writerow(row)

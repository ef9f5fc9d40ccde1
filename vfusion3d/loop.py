"""The one training loop, for all that learns in this project. It runs on accelerate and can be killed at any time.

What happens in a step depends on the step's number alone: batches, random draws and the learning rate are all functions
of it. A checkpoint is therefore only the weights, the optimizer's moments and a number, in one safetensors file, and a
resumed run repeats the uninterrupted one bit for bit on one CPU.
"""

import csv
import hashlib
import math
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from vfusion3d.muon import MuonAdamW
from vfusion3d.precision import resolve
from vfusion3d.progress import tqdm
from vfusion3d.settings import write_whole

CHECKPOINT = "checkpoint.safetensors"
LOG = "log.csv"


class TrainingError(RuntimeError):
    """Training cannot go on; the message names the step and the batch."""


@dataclass(frozen=True)
class LoopSettings:
    """steps: optimizer steps in all. learning_rate: of each step, from 0. seed: of every random draw.

    mixed_precision: "no", "bf16" or "auto". compile: through torch.compile. Betas and weight decay are AdamW's (only
    matrices decay). muon: matrices and convolutions of repeated blocks (in an nn.ModuleList) learn by Muon.
    average: decay a step of an exponential moving average of the weights, which the model has in the end; 0: none.
    checkpoint_every, log_every: in steps.
    """

    steps: int
    learning_rate: Callable[[int], float]
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


def step_generator(seed: int, step: int, rank: int = 0) -> torch.Generator:
    """The random numbers of one step on one process, on the CPU."""
    return torch.Generator().manual_seed((seed * 1_000_003 + step) * 4099 + rank)


def samples_of_step(step: int, rank: int, *, batch_size: int, processes: int, count: int, seed: int) -> list[int]:
    """Which of `count` samples a process takes in a step: whole epochs in random order, none twice before all once.

    Raises ValueError where the processes cannot share a batch evenly.
    """
    if batch_size % processes:
        raise ValueError(f"{processes} processes cannot share batches of {batch_size}: one must divide the other")
    share = batch_size // processes
    places = range(step * batch_size + rank * share, step * batch_size + (rank + 1) * share)
    orders = {e: np.random.default_rng((seed, e)).permutation(count) for e in {place // count for place in places}}
    return [int(orders[place // count][place % count]) for place in places]


def fingerprint(model: nn.Module) -> str:
    """A short name of a model's weights: different weights have different ones."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()[:16]


def train(
    model: nn.Module,
    batch_of: Callable[[int, int], Any],
    losses_of: Callable[[nn.Module, Any, torch.Generator], dict[str, Tensor]],
    settings: LoopSettings,
    folder: str | Path,
    *,
    show: Callable[[int], None] | None = None,
    show_every: int = 0,
    stop_after: float = math.inf,
    device: str | None = None,
) -> bool:
    """Train the parameters of `model` that require gradients; resume from `folder` where a checkpoint is there.

    batch_of(step, rank): the batch of a step on a process, drawn ahead of time in a thread. losses_of(model, batch,
    generator): named scalar losses, among them `loss`, the one to minimise. show(step): called every `show_every` steps
    and at the end, for pictures. stop_after: seconds after which to write a checkpoint and return. device: where it
    must run ("cpu", "cuda"), None or "auto": the best there is. The folder gets checkpoint.safetensors, log.csv and
    TensorBoard events.

    Returns whether all steps are done. Raises TrainingError where a loss or a gradient is not finite, and where the
    wanted device is not there.
    """
    folder, device = Path(folder), None if device == "auto" else device
    folder.mkdir(parents=True, exist_ok=True)
    AcceleratorState._reset_state()  # a run before this one in the same process may have had another precision
    precision = resolve(settings.mixed_precision, PartialState(cpu=device == "cpu").device)
    accelerator = Accelerator(mixed_precision=precision, cpu=device == "cpu")
    if device is not None and accelerator.device.type != torch.device(device).type:
        raise TrainingError(
            f"training is to run on {device}, but there is only {accelerator.device}: set device to auto"
        )
    model.to(accelerator.device).train()
    optimizer = MuonAdamW(
        _groups(model, settings), lr=0.0, betas=settings.betas, fused=accelerator.device.type == "cpu"
    )
    average = WeightAverage(model, settings.average) if settings.average else None
    start = load_checkpoint(folder, model, optimizer, average)
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    if settings.compile:
        wrapped = torch.compile(wrapped)
    log = _Log(folder, start) if accelerator.is_main_process else None
    begun = time.monotonic()
    rank = accelerator.process_index
    bar = tqdm(
        range(start, settings.steps),
        initial=start,
        total=settings.steps,
        desc=folder.name,
        unit="step",
        disable=not accelerator.is_main_process,
        mininterval=float(os.environ.get("TQDM_MININTERVAL", 1.0)),
        smoothing=0.05,
    )
    with _drawing_ahead(accelerator.device) as ahead, log or nullcontext():
        upcoming = ahead.submit(batch_of, start, rank) if start < settings.steps else None
        for step in bar:
            batch = upcoming.result()
            if step + 1 < settings.steps:
                upcoming = ahead.submit(batch_of, step + 1, rank)
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate(step)
            losses = losses_of(wrapped, batch, step_generator(settings.seed, step, rank))
            if not torch.isfinite(losses["loss"]):
                values = ", ".join(f"{name} {value.item():g}" for name, value in losses.items())
                raise TrainingError(_not_finite(step, values, batch, folder))
            accelerator.backward(losses["loss"])
            norm = accelerator.clip_grad_norm_(wrapped.parameters(), settings.grad_clip)
            if not torch.isfinite(norm):
                raise TrainingError(_not_finite(step, f"gradient norm {norm.item():g}", batch, folder))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            done = step + 1
            if average:
                average.update(model, done)
            if log and (done % settings.log_every == 0 or done == settings.steps):
                values = {name: value.item() for name, value in losses.items()}
                log.write(done, {**values, "learning_rate": settings.learning_rate(step), "gradient_norm": float(norm)})
                bar.set_postfix({"loss": f"{values['loss']:.4f}"}, refresh=False)
            late = time.monotonic() - begun > stop_after
            if accelerator.is_main_process and (
                done % settings.checkpoint_every == 0 or done == settings.steps or late
            ):
                save_checkpoint(folder, done, model, optimizer, average)
            if (
                show
                and accelerator.is_main_process
                and (done == settings.steps or (show_every and done % show_every == 0))
            ):
                model.eval()
                with average.in_place(model) if average else nullcontext():
                    show(done)
                model.train()
            if late:
                break
    accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)  # autocast stays out of what the model computes later
    model.eval()
    finished = start >= settings.steps or done == settings.steps
    if average and finished:
        model.load_state_dict(average.weights, strict=False)
    return finished


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


@contextmanager
def _drawing_ahead(device: torch.device) -> Iterator[ThreadPoolExecutor]:
    """A thread that draws the next batch; on one core, where the step itself is computed on the CPU.

    On all cores it would compete with the step: 0.48 s a step instead of 0.35, on two cores.
    """
    threads = torch.get_num_threads()  # asking fixes this thread's number: else it would take over the 1 below
    alone = partial(torch.set_num_threads, 1) if device.type == "cpu" else None
    try:
        with ThreadPoolExecutor(1, initializer=alone) as ahead:
            yield ahead
    finally:
        torch.set_num_threads(threads)  # the drawing thread's 1 is also what threads that begin later would take


def _not_finite(step: int, values: str, batch: Any, folder: Path) -> str:
    return (
        f"step {step}: {values}; the batch holds {getattr(batch, 'keys', None)}. The last checkpoint in {folder} is "
        "from before this step: lower the learning rate, or look at these samples"
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
    for leftover in folder.glob(f"{CHECKPOINT}.*.partial"):  # of a process that was killed
        leftover.unlink(missing_ok=True)
    write_whole(folder / CHECKPOINT, partial(save_file, tensors, metadata={"step": str(step)}))


def load_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, average: WeightAverage | None = None
) -> int:
    """Put the checkpoint of `folder`, if there is one, into model, optimizer and average; returns the steps done."""
    path = folder / CHECKPOINT
    if not path.exists():
        return 0
    with safe_open(path, framework="pt") as file:
        step = int(file.metadata()["step"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    weights = {n.removeprefix("model/"): t for n, t in tensors.items() if n.startswith("model/")}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise TrainingError(f"{path} is of another model: use a new folder for a new model ({error})") from error
    for name, parameter in model.named_parameters():
        if average:
            average.weights[name] = tensors.get(f"average/{name}", parameter.detach().clone()).to(parameter.device)
        prefix = f"optimizer/{name}/"
        moments = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        if moments:
            # AdamW keeps its step counter on the CPU, moments and momentum stand beside the parameter.
            optimizer.state[parameter] = {k: t if k == "step" else t.to(parameter.device) for k, t in moments.items()}
    return step


def load_weights(folder: str | Path, model: nn.Module) -> int:
    """Put the weights of a run that is not done yet into a model: their average, where it has one. Returns the step.

    Raises FileNotFoundError where the folder has no checkpoint.
    """
    with safe_open(Path(folder) / CHECKPOINT, framework="pt") as file:
        names = list(file.keys())
        for kind in ("model/", "average/"):
            tensors = {name.removeprefix(kind): file.get_tensor(name) for name in names if name.startswith(kind)}
            model.load_state_dict(tensors, strict=kind == "model/")
        return int(file.metadata()["step"])


def read_log(folder: str | Path):
    """The log of a run as a DataFrame, one row a logged step."""
    import pandas

    return pandas.read_csv(Path(folder) / LOG)


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


class _Log:
    """log.csv and TensorBoard events, cut back to the checkpoint's step on resuming."""

    def __init__(self, folder: Path, start: int):
        from torch.utils.tensorboard import SummaryWriter

        self.path, self.fields = folder / LOG, None
        if self.path.exists():
            with self.path.open(newline="") as file:
                rows = [row for row in csv.DictReader(file) if int(row["step"]) <= start]
            if rows:
                write_whole(self.path, partial(_write_rows, rows=rows, mode="w"))
            else:
                self.path.unlink()
        self.events = SummaryWriter(folder / "tensorboard", purge_step=start)

    def __enter__(self) -> "_Log":
        return self

    def __exit__(self, *_) -> None:
        self.events.close()

    def write(self, step: int, values: dict[str, float]) -> None:
        _write_rows(self.path, [{"step": step, **values}])
        for name, value in values.items():
            self.events.add_scalar(name, value, step)


def _write_rows(path: Path, rows: list[dict], mode: str = "a") -> None:
    headed = mode == "a" and path.exists()
    with path.open(mode, newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        if not headed:
            writer.writeheader()
        writer.writerows(rows)

import dataclasses
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from vfusion3d.learning import muon
from vfusion3d.learning.draws import drawn, sample_generators
from vfusion3d.learning.loop import (
    CHECKPOINT,
    LOG,
    PREVIOUS,
    Lesson,
    LoopSettings,
    TrainingError,
    WeightAverage,
    learn,
    load_checkpoint,
    load_weights,
    read_log,
    samples_of_step,
    save_checkpoint,
    share_of,
    train,
)
from vfusion3d.learning.muon import MuonAdamW
from vfusion3d.runs.reading import ReadingError

RUN = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_loop import settings, regression
from vfusion3d.learning.loop import train
model, batch_of, losses_of = regression(wait={wait})
train(model, batch_of, losses_of, settings(60), {folder!r}, device="cpu")
"""


def settings(steps: int, **changes) -> LoopSettings:
    return LoopSettings(
        **{"steps": steps, "learning_rate": lambda step: 0.02, "batch_size": 8, "checkpoint_every": 7, "log_every": 3}
        | changes
    )


def regression(wait: float = 0.0):
    """A small network that learns sums of sines, with noise from the step's generator."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))

    def batch_of(step, places):
        time.sleep(wait)
        return drawn(torch.randn, (len(places), 4), sample_generators(3, step, places))

    def losses_of(model, batch, generators):
        noise = 0.01 * drawn(torch.randn, (len(batch),), generators)
        error = model(batch)[:, 0] - batch.sin().sum(1) - noise
        return {"loss": error.square().mean(), "bias": error.mean().abs()}

    return model, batch_of, losses_of


def run(folder, steps=60, **changes):
    model, batch_of, losses_of = regression()
    done = train(model, batch_of, losses_of, settings(steps, **changes), folder, device="cpu")
    return model, done


def test_a_run_learns_and_logs(tmp_path):
    _, done = run(tmp_path, 200)
    log = read_log(tmp_path)
    assert done
    assert log["step"].iloc[-1] == 200
    assert log["loss"].tail(10).mean() < 0.3 * log["loss"].head(3).mean()
    assert (tmp_path / "tensorboard").is_dir()


def test_after_kill_9_a_run_goes_on_to_the_same_weights_and_the_same_curve_bit_for_bit(tmp_path, repository):
    whole, _ = run(tmp_path / "whole")
    folder = tmp_path / "killed"
    script = RUN.format(tests=str(repository / "tests"), folder=str(folder), wait=0.05)
    process = subprocess.Popen([sys.executable, "-c", script], cwd=repository, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (folder / "checkpoint.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)  # into the steps after a checkpoint
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run was over before it was killed"
    resumed, done = run(folder)
    assert done
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    pandas.testing.assert_frame_equal(read_log(tmp_path / "whole"), read_log(folder), check_exact=True)


def test_a_batch_is_drawn_on_one_core_and_the_step_and_later_threads_keep_theirs(tmp_path):
    model, batch_of, losses_of = regression()
    before, drawing, learning = torch.get_num_threads(), [], []

    def counted_batch(step, places):
        drawing.append(torch.get_num_threads())
        return batch_of(step, places)

    def counted_losses(*what):
        learning.append(torch.get_num_threads())
        return losses_of(*what)

    torch.set_num_threads(3)
    try:
        train(model, counted_batch, counted_losses, settings(3), tmp_path, device="cpu")
        with ThreadPoolExecutor(1) as other:
            later = other.submit(torch.get_num_threads).result()
    finally:
        torch.set_num_threads(before)
    assert (drawing, learning, later) == ([1, 1, 1], [3, 3, 3], 3)


def test_a_finished_run_does_nothing_more(tmp_path):
    first, _ = run(tmp_path)
    second, done = run(tmp_path)
    assert done
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_a_loss_that_is_not_a_number_stops_with_the_step_and_the_batch_and_keeps_the_checkpoint(tmp_path):
    model, batch_of, losses_of = regression()

    class Batch:
        keys = ("mug-17", "chair-3")

        def __init__(self, step):
            self.step, self.inputs = step, batch_of(step, range(8))

    def sometimes_nan(model, batch, generators):
        losses = losses_of(model, batch.inputs, generators)
        return losses | {"loss": losses["loss"] * (float("nan") if batch.step == 10 else 1)}

    with pytest.raises(TrainingError, match=r"step 10: loss nan.*'mug-17', 'chair-3'"):
        train(model, lambda step, places: Batch(step), sometimes_nan, settings(20), tmp_path, device="cpu")
    assert all(p.isfinite().all() for p in model.parameters())
    assert (tmp_path / "checkpoint.safetensors").exists()


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    run(tmp_path, 7)
    with pytest.raises(TrainingError, match="of another model"):
        train(nn.Linear(4, 1), lambda s, r: None, lambda m, b, g: {}, settings(9), tmp_path, device="cpu")


def test_frozen_parameters_stay_bit_for_bit(tmp_path):
    model, batch_of, losses_of = regression()
    model[0].requires_grad_(False)
    before = model[0].weight.clone(), model[2].weight.clone()
    train(model, batch_of, losses_of, settings(10), tmp_path, device="cpu")
    assert torch.equal(model[0].weight, before[0])
    assert not torch.equal(model[2].weight, before[1])


def test_a_run_that_is_told_to_stop_early_says_that_it_is_not_done(tmp_path):
    model, batch_of, losses_of = regression(wait=0.02)
    assert not train(model, batch_of, losses_of, settings(500), tmp_path, device="cpu", stop_after=0.1)
    assert (tmp_path / "checkpoint.safetensors").exists()


def test_a_gradient_that_is_not_finite_stops_before_it_reaches_the_weights(tmp_path):
    model = nn.Linear(2, 1)
    before = model.weight.detach().clone()

    def losses(model, batch, generator):
        return {"loss": model(batch).square().sum() * 0 + model.weight.sub(model.weight).abs().sqrt().sum()}

    with pytest.raises(TrainingError, match=r"step 0: gradient norm nan.*lower the learning rate"):
        train(model, lambda step, places: torch.ones(1, 2), losses, settings(3), tmp_path, device="cpu")
    assert torch.equal(model.weight, before)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["steps", "checkpoint_every", "log_every", "micro_batch"])
def test_a_number_of_nothing_is_no_setting(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, not 0"):
        settings(**{"steps": 10, name: 0})


def test_a_gpu_that_is_not_there_is_an_error_and_not_a_slow_training(tmp_path):
    with pytest.raises(TrainingError, match="run on cuda, but there is only cpu"):
        train(nn.Linear(2, 1), None, None, settings(3), tmp_path, device="cuda")


@pytest.mark.parametrize(("half", "tolerance"), [(False, 1e-4), (True, 0.05)])
def test_muon_moves_a_matrix_along_the_orthogonal_factor_of_its_gradient(half, tolerance, monkeypatch):
    monkeypatch.setattr(muon, "has_bfloat16", lambda: half)  # whatever this machine has
    generator = torch.Generator().manual_seed(0)
    for shape in ((8, 20), (20, 8)):
        matrix = nn.Parameter(torch.zeros(shape))
        matrix.grad = torch.randn(shape, generator=generator)
        u, _, vh = torch.linalg.svd(matrix.grad, full_matrices=False)
        MuonAdamW([{"params": [matrix], "muon": True}], lr=1.0, weight_decay=0.0).step()
        factor = -matrix.detach() / (0.2 * 20**0.5)
        stretch = (u.mT @ factor @ vh.mT).diagonal()
        away = (factor - (u * stretch) @ vh).abs().max()  # from the gradient's own singular vectors
        assert away <= tolerance
        assert half == (away > 1e-4)  # bfloat16 leaves its mark
        assert ((stretch > 0.6) & (stretch < 1.3)).all()


def test_muon_updates_matrices_of_one_shape_together_as_it_does_alone():
    generator = torch.Generator().manual_seed(0)
    shapes = [(64, 2, 3, 3), (64, 18), (18, 64), (64, 18)]
    starts = [torch.randn(shape, generator=generator) for shape in shapes]
    together, alone = ([nn.Parameter(start.clone()) for start in starts] for _ in range(2))
    optimizers = [MuonAdamW([{"params": ones, "muon": True}], lr=0.1) for ones in (together, *([p] for p in alone))]
    for _ in range(3):
        for one, other, shape in zip(together[:3], alone, shapes, strict=False):  # the last one gets no gradient
            one.grad = torch.randn(shape, generator=generator)
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(together, alone, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    moved = [not torch.equal(one, start) for one, start in zip(together, starts, strict=True)]
    assert moved == [True, True, True, False]


def test_muon_takes_the_matrices_of_repeated_blocks_and_resumes(tmp_path):
    class Blocks(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.first = nn.Linear(4, 4)
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

        def forward(self, x):
            for layer in (self.first, *self.layers):
                x = layer(x).tanh()
            return x

    def losses(model, batch, generator):
        return {"loss": (model(batch) - 0.3).square().mean()}

    def batches(step, places):
        return drawn(torch.randn, (8, 4), sample_generators(1, step, range(8)))

    settings = LoopSettings(steps=6, learning_rate=lambda step: 0.02, muon=True, checkpoint_every=3)
    whole, halves = Blocks(), Blocks()
    train(whole, batches, losses, settings, tmp_path / "whole", device="cpu")
    train(halves, batches, losses, dataclasses.replace(settings, steps=3), tmp_path / "halves", device="cpu")
    saved = load_file(tmp_path / "halves" / "checkpoint.safetensors")
    assert [name.split("/")[1] for name in saved if name.endswith("/momentum")] == [
        "layers.0.weight",
        "layers.1.weight",
    ]
    assert "optimizer/first.weight/exp_avg" in saved
    train(halves, batches, losses, settings, tmp_path / "halves", device="cpu")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), halves.parameters(), strict=True))


def test_the_average_of_weights_that_jump_once_follows_the_closed_form():
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    average = WeightAverage(model, 0.99)
    nn.init.ones_(model.weight)
    for step in range(2000, 2050):
        average.update(model, step)
    assert average.weights["weight"].item() == pytest.approx(1 - 0.99**50, rel=1e-5)
    with average.in_place(model):
        assert model.weight.item() == pytest.approx(1 - 0.99**50, rel=1e-5)
    assert model.weight.item() == 1


def test_a_run_ends_with_the_average_of_its_weights_and_a_stopped_one_with_the_same(tmp_path):
    last, _ = run(tmp_path / "last")
    whole, _ = run(tmp_path / "whole", average=0.9)
    again, _ = run(tmp_path / "whole", average=0.9)  # finished: only loaded
    saved = load_file(tmp_path / "whole" / "checkpoint.safetensors")
    model, batch_of, losses_of = regression(wait=0.01)
    done = False
    while not done:
        options = {"device": "cpu", "stop_after": 0.1}
        done = train(model, batch_of, losses_of, settings(60, average=0.9), tmp_path / "halves", **options)
    for name, value in whole.named_parameters():
        assert torch.equal(saved[f"model/{name}"], last.get_parameter(name))
        assert not torch.equal(value, last.get_parameter(name))
        assert torch.equal(value, saved[f"average/{name}"])
        assert torch.equal(value, again.get_parameter(name))
        assert torch.equal(value, model.get_parameter(name))


def test_a_run_that_is_not_done_gives_its_average_away(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_weights(tmp_path, regression()[0])
    run(tmp_path / "plain", 21)
    run(tmp_path / "averaged", 21, average=0.9)
    for name, kind in {"plain": "model", "averaged": "average"}.items():
        model, _, _ = regression()
        assert load_weights(tmp_path / name, model) == 21
        saved = load_file(tmp_path / name / "checkpoint.safetensors")
        assert all(torch.equal(value, saved[f"{kind}/{key}"]) for key, value in model.named_parameters())


def test_processes_share_an_epoch_and_every_sample_comes_once_before_any_twice():
    how = {"batch_size": 4, "count": 6, "seed": 3}
    shares = [share_of(4, rank, 2) for rank in range(2)]
    stream = [index for step in range(6) for share in shares for index in samples_of_step(step, share, **how)]
    epochs = [stream[start : start + 6] for start in range(0, 24, 6)]
    assert all(sorted(epoch) == list(range(6)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert stream[:4] == samples_of_step(0, range(4), **how)
    with pytest.raises(ValueError, match="3 processes cannot share batches of 4"):
        share_of(4, 0, 3)


def test_micro_batches_are_the_same_steps_and_the_log_holds_their_mean(tmp_path):
    whole, _ = run(tmp_path / "whole", 20)
    pieces, _ = run(tmp_path / "pieces", 20, micro_batch=3)  # 3, 3 and 2 of 8
    for a, b in zip(whole.parameters(), pieces.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    logs = [read_log(tmp_path / name)[["step", "loss", "gradient_norm"]] for name in ("whole", "pieces")]
    pandas.testing.assert_frame_equal(*logs, rtol=1e-4)


def test_a_sample_draws_the_same_numbers_in_any_company():
    whole = drawn(torch.rand, (4, 5), sample_generators(1, 2, range(4)))
    parts = [drawn(torch.rand, (2, 5), sample_generators(1, 2, places)) for places in (range(2), range(2, 4))]
    assert torch.equal(whole, torch.cat(parts))
    others = [drawn(torch.rand, (4, 5), sample_generators(*seeds, range(4))) for seeds in ((1, 3), (2, 2), (2, 1))]
    numbers = torch.cat([whole, *others]).flatten().tolist()
    assert len(set(numbers)) == len(numbers)
    with pytest.raises(ValueError, match="2 generators cannot draw for 3 samples"):
        drawn(torch.rand, (3, 5), sample_generators(1, 2, range(2)))


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGUSR1])
def test_a_run_that_is_told_to_end_leaves_a_checkpoint_of_that_step_and_goes_on(tmp_path, told):
    whole, _ = run(tmp_path / "whole", 20)
    model, batch_of, losses_of = regression()

    def told_in_step_5(step, places):
        if step == 5:
            os.kill(os.getpid(), told)
        return batch_of(step, places)

    with pytest.raises(SystemExit) as ended:
        train(model, told_in_step_5, losses_of, settings(20), tmp_path / "halves", device="cpu")
    assert ended.value.code == 128 + told
    assert signal.getsignal(told) == signal.SIG_DFL
    assert load_weights(tmp_path / "halves", regression()[0]) in (5, 6)  # step 5 is drawn ahead, during step 4
    resumed, done = run(tmp_path / "halves", 20)
    assert done
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


MOMENT = "optimizer/weight/exp_avg"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (MOMENT, None, "is missing"),
        (MOMENT, torch.ones(2, 2), r"has the shape \[2, 2\]"),
        (MOMENT, torch.ones(1, 4, dtype=torch.int64), "is torch.int64"),
        (MOMENT, torch.full((1, 4), torch.nan), "is no number of training"),
        (f"{MOMENT}_sq", -torch.ones(1, 4), "is no number of training"),
        ("optimizer/weight/step", torch.ones(3), "has the shape"),
        ("average/weight", None, "is missing"),
        ("average/weight", torch.full((1, 4), torch.inf), "is no number of training"),
        ("average/weight", torch.ones(2, 4), r"has the shape \[2, 4\]"),
        ("model/weight", torch.ones(1, 4, dtype=torch.float16), "is torch.float16"),
        ("model/weight", torch.full((1, 4), torch.nan), "is no number of training"),
        ("other", torch.ones(1), "tensors, not"),
    ],
)
def test_a_checkpoint_with_any_tensor_that_no_training_wrote_is_named_and_left_alone(tmp_path, name, value, said):
    model = nn.Linear(4, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    save_checkpoint(tmp_path, 3, model, optimizer, WeightAverage(model, 0.9))
    path = tmp_path / CHECKPOINT
    with safe_open(path, framework="pt") as file:
        known = file.metadata()
    tensors = load_file(path)
    assert load_checkpoint(tmp_path, model, optimizer, WeightAverage(model, 0.9)) == 3
    tensors.pop(name, None)
    save_file(tensors | ({} if value is None else {name: value}), path, known)
    before = [weight.clone() for weight in model.parameters()]
    with pytest.raises(ReadingError, match=f"{CHECKPOINT}.*{said}.*delete it"):
        load_checkpoint(tmp_path, model, optimizer, WeightAverage(model, 0.9))
    assert all(map(torch.equal, model.parameters(), before))


@pytest.mark.parametrize("log", ["step,other\n1,2\n", 'step,loss\n"1\n",2\n'])
def test_no_row_is_added_to_a_log_of_other_columns_or_in_which_a_row_takes_two_lines(tmp_path, capsys, log):
    run(tmp_path, 10)
    (tmp_path / LOG).write_text(log)
    capsys.readouterr()
    with pytest.raises(ReadingError, match=f"{LOG}.*delete it"):
        run(tmp_path, 20)
    assert (tmp_path / LOG).read_text() == log
    assert capsys.readouterr().err.endswith("\n"), "or the message would stand behind the bar"


def test_a_run_is_found_elsewhere_and_a_broken_one_there_stops_nothing_but_itself(tmp_path):
    def learned(folder):
        model, batch_of, losses_of = regression()
        lesson = Lesson(model, batch_of, losses_of, {"seed": 0}, settings(2), save=Path.mkdir)
        return learn(lesson, folder, elsewhere=[tmp_path / "first", tmp_path / "second"], device="cpu")

    assert learned(tmp_path / "second") == learned(tmp_path / "third") == tmp_path / "second" / "model"
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "settings.json").write_text("{")
    assert learned(tmp_path / "fourth") == tmp_path / "second" / "model"
    with pytest.raises(ReadingError, match=r"first/settings\.json"):
        learned(tmp_path / "first")


def test_a_broken_last_checkpoint_is_named_and_the_one_before_goes_on_to_the_same_weights(tmp_path, capsys):
    whole, _ = run(tmp_path / "whole", checkpoint_every=20)
    run(tmp_path / "cut", checkpoint_every=20)
    last, before = (tmp_path / "cut" / name for name in (CHECKPOINT, PREVIOUS))
    capsys.readouterr()
    tensors = load_file(before)
    spoiled = [last.read_bytes()[:-1], b"", b"\x00" * 99]
    for metadata in ({}, {"step": "x"}, {"step": "-3"}, {"step": "9" * 40}):
        save_file(tensors, tmp_path / "odd", metadata=metadata)
        spoiled.append((tmp_path / "odd").read_bytes())
    for number, content in enumerate(spoiled):
        last.write_bytes(content)
        resumed, done = run(tmp_path / "cut", checkpoint_every=20)
        assert done
        assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
        told = [line for line in capsys.readouterr().err.splitlines() if "going on from" in line]
        assert len(told) == 1, number
        assert f"{last}" in told[0]
        assert "delete it" in told[0]
    last.write_bytes(b"")
    before.write_bytes(b"")
    with pytest.raises(ReadingError, match=r"checkpoint\.previous\.safetensors is not whole safetensors.*delete it"):
        run(tmp_path / "cut", checkpoint_every=20)


def test_a_log_with_a_torn_last_line_goes_on_and_a_broken_one_is_named(tmp_path):
    run(tmp_path, 40)
    with (tmp_path / "log.csv").open("a") as file:
        file.write("40,0.")
    run(tmp_path, 40)
    assert read_log(tmp_path).step.iloc[-1] == 40
    with (tmp_path / "log.csv").open("a") as file:
        file.write("x" + "," * (len(read_log(tmp_path).columns) - 1) + "\n")
    with pytest.raises(ReadingError, match=r"log\.csv: line \d+, column 'step': 'x' is no whole number"):
        run(tmp_path, 40)

"""The paper as jobs of a cluster: how many, how large, in what order; each runs alone, and goes on after its time."""

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import save_file

from vfusion3d.book.job import TOLD, run
from vfusion3d.book.jobs import Cluster, main, stage_jobs, table_of, variant_jobs
from vfusion3d.book.plan import cost, steps
from vfusion3d.evaluation.tables import write_scores
from vfusion3d.experiments.plan import Planned, planned_runs
from vfusion3d.learning.loop import share_of
from vfusion3d.runs.cpus import cpus
from vfusion3d.runs.profiles import Profile, Recipe, Video, load_profile

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = yaml.safe_load((ROOT / "workflow" / "notebooks.yaml").read_text())
CLUSTER = Cluster(nodes=16)
PAPER = load_profile("paper")


# How many cores


@pytest.mark.parametrize(
    ("said", "found"), [("1", 1), ("", None), ("0", None), ("many", None), ("-1", None), ("10000", None)]
)
def test_no_more_cores_are_used_than_slurm_gave(monkeypatch, said, found):
    monkeypatch.delenv("SLURM_CPUS_ON_NODE", raising=False)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", said)
    monkeypatch.setattr("joblib.cpu_count", lambda: 6)
    assert cpus() == (found or 6)


def test_no_more_cores_are_used_than_the_process_may_run_on():
    asked = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    asked += "from vfusion3d.runs.cpus import cpus; print(cpus(), cpus(8))"
    assert subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True).stdout == "1 1\n"


def test_everything_counts_cores_by_one_function():
    files = [*ROOT.glob("vfusion3d/**/*.py"), *ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("benchmarks/*.py")]
    assert [path.name for path in files if "cpu_count" in path.read_text()] == ["cpus.py"]


# The jobs


def test_the_paper_trains_on_128_gpus_for_6_days_as_it_says():
    table = table_of(PAPER, NOTEBOOKS, CLUSTER)
    train = table.loc["train"]
    assert (train.nodes, train.GPUs) == (16, 128)
    assert train.hours == pytest.approx(6 * 24, rel=0.01)
    assert table.loc["generate"].jobs == CLUSTER.shards


def test_the_jobs_cost_what_the_notebooks_cost(capsys):
    assert main(["--profile", "paper", "--notebooks", str(ROOT / "workflow" / "notebooks.yaml")]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    gpu_hours = float(line.split(", ")[1].split()[0].replace(",", ""))
    by_notebook = [cost(steps(name, PAPER), PAPER).get("GPU", 0.0) for name in NOTEBOOKS]
    assert gpu_hours == pytest.approx(sum(by_notebook), rel=0.02)


def test_every_job_waits_for_jobs_and_notebooks_that_there_are_and_none_for_itself():
    for cluster, profile in ((CLUSTER, PAPER), (Cluster(gpus=0, shards=2), load_profile("smoke"))):
        stages = stage_jobs(profile, NOTEBOOKS, cluster)
        variants, shown = variant_jobs(profile, NOTEBOOKS, stages, cluster)
        there: set[str] = set()
        for job in stages:
            assert there.issuperset(job.after), job
            there.add(job.name)
        assert {other for job in variants for other in job.after} <= there | {job.name for job in variants} | {
            *NOTEBOOKS
        }
        assert {name for names in shown.values() for name in names} == {job.name for job in variants}


def test_one_machine_gets_no_more_jobs_than_one_a_table():
    names = [job.name for job in variant_jobs(PAPER, NOTEBOOKS, [], None)[0]]
    assert names
    assert {*names} <= {entry["experiments"] for entry in NOTEBOOKS.values() if "experiments" in entry}


def test_all_processes_share_the_batch_evenly_and_none_has_less_than_a_micro_batch():
    for batch, micro, nodes, gpus in [
        (1024, 8, 16, 8),
        (96, 8, 16, 8),
        (30, 1, 4, 8),
        (16, None, 16, 8),
        (7, 7, 16, 8),
    ]:
        profile = replace(PAPER, training=replace(PAPER.training, batch_size=batch, micro_batch=micro))
        job = next(job for job in stage_jobs(profile, NOTEBOOKS, replace(CLUSTER, nodes=nodes)) if job.name == "train")
        processes = job.nodes * job.processes
        assert batch % processes == 0
        assert batch // processes >= (micro or batch)
        assert job.processes == job.gpus == gpus or job.nodes == 1


def recipes_of(run: Planned, profile: Profile) -> list[Recipe | Video]:
    """What a variant's command trains by, as the plan tells it; what it starts from is there already."""
    trained = [training.recipe for training in run.trainings]
    begun = len(trained) - 1 if run.scaled.variant.start else 0
    return trained[begun:] + [profile.video] * bool(run.scaled.video_objects)


SMOKE = load_profile("smoke")
IN_PIECES = replace(
    SMOKE,
    device="auto",
    video=replace(SMOKE.video, batch_size=6, micro_batch=2),
    training=replace(SMOKE.training, batch_size=8, micro_batch=1),
    finetuning=replace(SMOKE.finetuning, batch_size=12, micro_batch=3),
    experiments=replace(SMOKE.experiments, second_video_model="mini"),
)


@pytest.mark.parametrize("profile", [IN_PIECES, replace(IN_PIECES, device="cpu"), PAPER])
@pytest.mark.parametrize("nodes", [1, 5, 16])
def test_the_processes_of_a_variant_s_job_share_the_batches_of_all_that_it_trains(profile, nodes):
    notebooks = {**NOTEBOOKS, "control": {"needs": [], "experiments": "table_6_control"}}
    if profile.experiments.second_video_model is None:
        del notebooks["control"]
    counts = {}
    for job in variant_jobs(profile, notebooks, [], replace(CLUSTER, nodes=nodes))[0]:
        ((name, seed),) = job.runs
        processes = counts[name] = job.nodes * job.processes
        for recipe in recipes_of(planned_runs(profile, [name], seed, 1)[-1], profile):
            share = share_of(recipe.batch_size, 0, processes)
            assert processes == 1 or len(share) >= recipe.micro_batch, name
    assert counts["before_training"] == counts["synthetic"] == counts["finetuned_100k"] == 1  # nothing is trained
    if profile is IN_PIECES:
        assert counts["multi_stage"] == 8
        assert counts["engine_10k"] == 2  # of 8 and of 6
        assert counts["finetuned_30k"] == 4
    if profile is PAPER:
        assert counts["multi_stage"] == counts["engine_10k"] == counts["finetuned_30k"] == 8 * nodes or nodes == 5


def test_a_batch_smaller_than_a_micro_batch_stays_on_one_gpu():
    profile = replace(PAPER, training=replace(PAPER.training, batch_size=4, micro_batch=8))
    job = next(job for job in stage_jobs(profile, NOTEBOOKS, CLUSTER) if job.name == "train")
    assert (job.nodes, job.processes) == (1, 1)


def test_a_second_try_gets_more_time_and_memory_but_no_more_than_there_is():
    jobs = {job.name: job for job in stage_jobs(PAPER, NOTEBOOKS, CLUSTER)}
    render, train = jobs["render"], jobs["train"]
    assert render.minutes(PAPER, CLUSTER, 2) == 2 * render.minutes(PAPER, CLUSTER)
    assert render.memory_mb(CLUSTER, 2) == 2 * render.memory_mb(CLUSTER)
    assert train.minutes(PAPER, CLUSTER, 3) == CLUSTER.longest
    assert train.memory_mb(CLUSTER, 3) == CLUSTER.memory_gb * 1000


@pytest.mark.parametrize(
    ("text", "said"),
    [("cluster: {nodes: 0}", "nodes must be at least 1"), ("cluster: {node: 2}", "node"), ("nodes: 2", "cluster")],
)
def test_a_cluster_that_cannot_be_is_refused_in_a_line(tmp_path, capsys, text, said):
    (tmp_path / "cluster.yaml").write_text(text)
    files = ["--cluster", str(tmp_path / "cluster.yaml"), "--notebooks", str(ROOT / "workflow" / "notebooks.yaml")]
    assert main(files) == 1
    error = capsys.readouterr().err
    assert said in error
    assert "cluster.yaml" in error
    assert error.count("\n") == 1


def test_the_graph_for_a_cluster_is_made_without_a_number_of_cores(tmp_path):
    asked = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "workflow" / "Snakefile", "--dry-run"]
    asked += [
        "--directory",
        tmp_path,
        "--profile",
        ROOT / "workflow" / "profiles" / "slurm",
        "--config",
        "profile=smoke",
    ]
    made = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    said = made.stdout + made.stderr
    jobs = int(table_of(load_profile("smoke"), NOTEBOOKS, CLUSTER).jobs.sum())
    assert f"total {jobs + 2}".split() in [line.split() for line in said.splitlines()]  # the summary, and all


# A job


def job(mark: Path, code: str, *more: str, **environment: str) -> subprocess.Popen:
    """A job whose command is a module that runs `code`."""
    (mark.parent / "work.py").write_text(f"import sys, time, os, signal\nfrom pathlib import Path\n{code}\n")
    words = [sys.executable, "-m", "vfusion3d.book.job", "--mark", mark, "--cpus", "3", *more, "--", "work"]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "OMP"))}
    known = {**inherited, "PYTHONPATH": f"{mark.parent}:{ROOT}", **environment}
    return subprocess.Popen(words, env=known, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def appear(path: Path) -> None:
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end, f"{path.name} did not appear"
        time.sleep(0.05)


def test_a_second_job_waits_for_the_first_says_so_and_does_nothing_twice(tmp_path):
    mark, begun, go = tmp_path / "train", tmp_path / "begun", tmp_path / "go"
    slowly = f"Path({str(begun)!r}).open('a').write('.')\nwhile not Path({str(go)!r}).exists():\n    time.sleep(0.05)"
    first = job(mark, slowly)
    appear(begun)
    second = job(mark, slowly)
    assert "waiting, for" in second.stderr.readline()
    go.touch()
    assert [first.wait(), second.wait()] == [0, 0]
    assert mark.exists()
    assert begun.read_text() == "."
    assert "another process did it meanwhile" in second.stderr.read()


def test_a_job_that_fails_leaves_no_mark_and_its_exit_code(tmp_path):
    failed = job(tmp_path / "train", "sys.exit(7)")
    assert failed.wait() == 7
    assert not (tmp_path / "train").exists()


def test_a_job_that_is_told_to_end_tells_its_command_once_and_waits_for_it(tmp_path):
    told = tmp_path / "told"
    code = f"signal.signal(signal.SIGTERM, lambda *_: (time.sleep(1), Path({str(told)!r}).open('a').write('x')))\n"
    code += f"Path({str(tmp_path / 'ready')!r}).touch(); signal.pause(); sys.exit(143)"
    running = job(tmp_path / "train", code)
    appear(tmp_path / "ready")
    running.send_signal(signal.SIGTERM)
    assert running.wait() == 143
    assert told.read_text() == "x"


def test_a_signal_that_comes_while_the_command_starts_is_told_to_it(monkeypatch):
    """The worst moment: the child is there, and its parent does not know of it yet."""
    before = {one: signal.getsignal(one) for one in TOLD}
    start = subprocess.Popen

    def start_and_be_told(*words, **more):
        child = start(*words, **more)
        os.kill(os.getpid(), signal.SIGTERM)
        return child

    monkeypatch.setattr(subprocess, "Popen", start_and_be_told)
    try:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # so that without a handler the child would sleep on
        assert run(["sleep", "60"], 1) == 128 + signal.SIGTERM
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


@pytest.mark.parametrize(
    ("left", "end", "again"),
    [
        (60, "sys.exit(143)", True),
        (-5, "sys.exit(143)", True),
        (60, "os.kill(os.getpid(), signal.SIGTERM)", True),
        (60, "os.kill(os.getppid(), signal.SIGTERM); time.sleep(60)", True),
        (7200, "sys.exit(143)", False),
        (60, "sys.exit(1)", False),  # else a job with a short limit would fail for ever
    ],
)
def test_a_slurm_job_goes_back_into_the_queue_only_when_its_time_is_over(tmp_path, left, end, again):
    programs = tmp_path / "bin"
    programs.mkdir()
    ends = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + left))
    (programs / "squeue").write_text(f"#!/bin/sh\necho {ends}\n")
    (programs / "scontrol").write_text(f"#!/bin/sh\necho $@ > {tmp_path}/asked\nexit 1\n")
    for program in programs.iterdir():
        program.chmod(0o755)
    found = f"{programs}:{os.environ['PATH']}"
    code = f"Path({str(tmp_path / 'threads')!r}).write_text(os.environ['OMP_NUM_THREADS']); {end}"
    code = job(tmp_path / "train", code, PATH=found, SLURM_JOB_ID="12").wait()
    assert code == (1 if end == "sys.exit(1)" else 143)
    assert (tmp_path / "threads").read_text() == "3"
    assert (tmp_path / "asked").exists() == again
    if again:
        assert (tmp_path / "asked").read_text() == "requeue 12\n"


def test_a_job_on_several_nodes_goes_back_into_the_queue_though_only_its_nodes_are_told(tmp_path):
    """SLURM tells what `srun` started; torchrun (here one that ends at once) makes an error of it."""
    programs, torchrun = tmp_path / "bin", tmp_path / "torch" / "distributed"
    programs.mkdir()
    torchrun.mkdir(parents=True)
    for package in (torchrun.parent, torchrun):
        (package / "__init__.py").touch()
    said = f"open({str(tmp_path / 'words')!r}, 'w').write(' '.join(sys.argv[1:]))"
    told = (
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(1)); os.kill(os.getppid(), signal.SIGTERM); signal.pause()"
    )
    (torchrun / "run.py").write_text(f"import os, signal, sys\n{said}\n{told}\n")
    (programs / "srun").write_text('#!/bin/sh\nwhile [ "$1" != --kill-on-bad-exit=1 ]; do shift; done; shift; "$@"\n')
    ends = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + 60))
    (programs / "squeue").write_text(f"#!/bin/sh\necho {ends}\n")
    (programs / "scontrol").write_text(f"#!/bin/sh\necho $@ > {tmp_path}/asked\nexit 1\n")
    for program in programs.iterdir():
        program.chmod(0o755)
    many = ("--nodes", "2", "--processes", "8")
    failed = job(tmp_path / "train", "", *many, PATH=f"{programs}:{os.environ['PATH']}", SLURM_JOB_ID="12")
    assert failed.wait() == 143, failed.stderr.read()
    assert (tmp_path / "asked").read_text() == "requeue 12\n"
    words = (tmp_path / "words").read_text()
    assert words.startswith("--nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-id 12 ")
    assert words.endswith(" -m work")


def test_several_nodes_without_slurm_are_refused_in_a_line(tmp_path):
    failed = job(tmp_path / "train", "", "--nodes", "2")
    assert failed.wait() == 1
    error = failed.stderr.read()
    assert "2 nodes needs SLURM" in error
    assert error.count("\n") == 1


# The test of the workflow on a real SLURM


@pytest.fixture
def cluster_test(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "workflow")
    return importlib.import_module("cluster_test")


def results(run: Path, owner: str, model: float = 1.0, score: float = 0.5, prompt: str = "a red chair") -> Path:
    """A small run with a model of two variants, which lies with one of them."""
    for folder in ("data/train_3d", "data/prompts", "video_model/model"):
        (run / folder).mkdir(parents=True)
    (run / "data" / "train_3d" / "shard-000000.tar").write_bytes(b"pictures")
    pd.DataFrame({"prompt": [prompt]}).to_parquet(run / "data" / "prompts" / "prompts.parquet")
    save_file({"weight": torch.tensor([model])}, run / "video_model" / "model" / "model.safetensors")
    for variant in ("one", "two"):
        folder = run / "experiments" / variant / "seed-0"
        folder.mkdir(parents=True)
        made = {"settings": {"model": str(model)}, "model": f"experiments/{owner}/seed-0/trained/model"}
        (folder / "result.json").write_text(json.dumps(made))
        table = {"test": ["3d"], "key": ["007"], "category": ["chair"], "common": [True], "psnr": [score]}
        write_scores(pd.DataFrame(table), folder / "scores.csv.gz")
    trained = run / "experiments" / owner / "seed-0" / "trained" / "model"
    trained.mkdir(parents=True)
    save_file({"weight": torch.tensor([model])}, trained / "model.safetensors")
    return run


def test_two_runs_are_the_same_whichever_variant_trained_the_model_of_both(tmp_path, capsys, cluster_test):
    assert cluster_test.compare(results(tmp_path / "alone", "one"), results(tmp_path / "slurm", "two")) == 0
    assert capsys.readouterr().out.count("the same bytes") == 7
    assert cluster_test.compare(tmp_path / "alone", results(tmp_path / "off", "one", 1.0001, 0.50001)) == 0
    assert capsys.readouterr().out.count("off by 2.0e-05") == 2  # scores of a model that is off by rounding


@pytest.mark.parametrize(
    ("other", "wrong"),
    [
        ({"model": 1.1}, 3),  # one file is of both variants
        ({"score": 0.6}, 2),
        ({"prompt": "a blue chair"}, 1),
    ],
)
def test_a_run_with_another_result_is_different(tmp_path, cluster_test, other, wrong):
    first, second = results(tmp_path / "alone", "one"), results(tmp_path / "slurm", "one", **other)
    assert cluster_test.compare(first, second) == wrong


@pytest.mark.parametrize("lost", ["**/shard-*.tar", "**/prompts.parquet", "video_model/**/*.safetensors"])
def test_what_a_run_lacks_is_different(tmp_path, cluster_test, lost):
    first, second = results(tmp_path / "alone", "one"), results(tmp_path / "slurm", "one")
    next(second.glob(lost)).unlink()
    assert cluster_test.compare(first, second) == 1


def test_a_variant_that_a_run_lacks_is_different_and_so_are_two_runs_of_nothing(tmp_path, cluster_test):
    first, second = results(tmp_path / "alone", "one"), results(tmp_path / "slurm", "one")
    shutil.rmtree(second / "experiments" / "two")
    assert cluster_test.compare(first, second) == 2  # its model, its scores
    assert cluster_test.compare(tmp_path / "nothing", tmp_path / "nothing") == 1


@pytest.mark.parametrize(("line", "waited"), [("waiting, for runs/x is being written", True), ("step 3", False)])
def test_a_log_must_say_that_the_second_job_waited(tmp_path, cluster_test, line, waited):
    (tmp_path / "rule" / "part").mkdir(parents=True)
    (tmp_path / "rule" / "part" / "4.log").write_text(f"begun\n{line}\n")
    assert cluster_test.second_waited(tmp_path / "rule") is waited

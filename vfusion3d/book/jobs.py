"""The paper as jobs for many machines: which stages, divided how, on how many GPUs, for how long.

    python -m vfusion3d.book.jobs --profile paper      # as a table: what `make plan` shows

On one machine a notebook does what it shows. On a cluster the heavy work goes before it, as commands: what divides
(rendering, generating, labelling) as many small jobs and one that puts the parts together, what trains on as many GPUs
as its batch can be shared by. The notebook then finds everything done, and reads. How long a job takes follows from
`book.plan`, whose hours are a lower bound.
"""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vfusion3d.experiments.plan import finetuning, main_videos, planned_runs, pretraining
from vfusion3d.experiments.variants import Experiments, load_experiments
from vfusion3d.runs.profiles import Profile, Recipe, Video, load_profile
from vfusion3d.runs.reading import ReadingError, read_yaml

if TYPE_CHECKING:
    from pandas import DataFrame

    from vfusion3d.book.plan import Step

NOTEBOOKS = Path("workflow") / "notebooks.yaml"
CLUSTER = NOTEBOOKS.parent / "profiles" / "slurm" / "cluster.yaml"
FINETUNE = "train --finetune"
LEAST = 30  # minutes that a job may take at least: libraries load, disks are slow
SLOWER = 2  # how much longer than planned a job may take at its first try
SHOWING = ("11", "12", "13", "14", "15")  # notebooks whose plan is the work of the variants' jobs
# What a notebook still computes where its stages went before it; everything else of its plan is theirs.
READING = ("evaluate view", "render field", "clip features", "reconstruct", "by a person")


@dataclass(frozen=True)
class Cluster:
    """What a cluster has, and how much of it this work may take. gpus, cpus, memory_gb: of one node."""

    nodes: int = 1  # of a training, at most
    gpus: int = 8
    cpus: int = 64
    memory_gb: int = 512
    longest: int = 1440  # minutes of a job
    shards: int = 64  # parts of work that divides, at most
    partition: str | None = None
    account: str | None = None

    def __post_init__(self):
        for name in ("nodes", "cpus", "memory_gb", "longest", "shards"):
            if getattr(self, name) < 1:
                raise ReadingError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.gpus < 0:
            raise ReadingError(f"gpus must be 0 or more, not {self.gpus}")


@dataclass(frozen=True)
class Job:
    """A job, or `parts` equal ones. name: of its mark. command: of `vfusion3d`; "" for a notebook, which is run itself.

    after: the names of other jobs. notebook: before which it goes. runs: the variants and seeds that it trains.
    nodes, processes: of each node, where torchrun starts it. gpus, cpus: of a node.
    """

    name: str
    notebook: str
    command: str
    after: tuple[str, ...]
    parts: int = 1
    nodes: int = 1
    processes: int = 1
    gpus: int = 0
    cpus: int = 1
    runs: tuple[tuple[str, int], ...] = ()

    def minutes(self, profile: Profile, cluster: Cluster, attempt: int = 1) -> int:
        """The limit of its time at this try; what takes longer than any job may goes on in another (`book.job`)."""
        hours = hours_of(self, profile)
        planned = cluster.longest if hours is None else LEAST + math.ceil(60 * SLOWER * hours)
        return min(planned * attempt, cluster.longest)

    def memory_mb(self, cluster: Cluster, attempt: int = 1) -> int:
        """The limit of its memory on a node at this try: as large a share of the node's as of its cores."""
        return int(min(1.0, attempt * self.cpus / cluster.cpus) * cluster.memory_gb * 1000)


@lru_cache
def hours_of(job: Job, profile: Profile) -> float | None:
    """Hours that one part of a job takes as planned, on all that it has; None where nobody knows."""
    from vfusion3d.book.plan import cost  # takes seconds

    hours = cost(work_of(job, profile), profile)
    if None in hours.values():
        return None
    each = hours.get("GPU", 0.0) / max(1, job.gpus) + hours.get("core", 0.0) / job.cpus
    return each / job.nodes / job.parts


def work_of(job: Job, profile: Profile) -> "list[Step]":
    """The steps of the plan that fall to a job."""
    from vfusion3d.book.plan import STEPS, label_steps, steps, variant_steps

    if job.runs:
        return variant_steps(profile, job.runs)
    shows = job.notebook.partition("_")[0] in SHOWING
    if job.notebook not in STEPS or job.name.endswith("-merge") or shows:
        return []
    work = [step for step in steps(job.notebook, profile) if (step.rate in READING) == (job.command == "")]
    if job.name == "curate-learn":
        return [step for step in work if step not in label_steps(profile)]
    if job.name == "curate" and job.parts > 1:
        return label_steps(profile)
    return work


def stage_jobs(profile: Profile, notebooks: Mapping[str, Mapping[str, Any]], cluster: Cluster) -> list[Job]:
    """The jobs that go before the notebooks, in an order that works. notebooks: `notebooks.yaml`."""
    found: list[Job] = []
    last: dict[str, str] = {}  # of each notebook, the job after which what it makes is there
    for notebook, entry in notebooks.items():
        after = tuple(last.get(other, other) for other in entry["needs"])
        for command in entry.get("stages", ()):
            if command == FINETUNE and profile.finetuning is None:
                continue
            job = _stage(Job(command.replace(" --", "-"), notebook, command, after), profile, cluster)
            once = replace(job, parts=1)
            if job.parts > 1 and command == "curate":  # what labels is learned once
                found.append(replace(once, name="curate-learn", command="curate --learn"))
                job = replace(job, after=("curate-learn",))
            found.append(job)
            if job.parts > 1:
                found.append(replace(once, name=f"{job.name}-merge", after=(job.name,)))
            after = (found[-1].name,)
            last[notebook] = found[-1].name
    return found


def _stage(job: Job, profile: Profile, cluster: Cluster) -> Job:
    recipes = {"finetune-video": profile.video, "train": profile.training, FINETUNE: profile.finetuning}
    if job.command in recipes:
        return _training(job, [recipes[job.command]], profile, cluster)
    count = profile.data.objects_3d if job.command == "render" else main_videos(profile)
    parts = 1 if job.command == "prompts" else min(cluster.shards, math.ceil(count / profile.data.shard_size))
    gpus = int(job.command != "render" and _has_gpus(profile, cluster))
    return replace(job, parts=parts, gpus=gpus, cpus=_cores(cluster, 1))


def notebook_job(notebook: str, profile: Profile, cluster: Cluster) -> Job:
    """A notebook, on one GPU; what goes before it is not its work."""
    return Job(notebook, notebook, "", (), gpus=int(_has_gpus(profile, cluster)), cpus=_cores(cluster, 1))


def _training(job: Job, recipes: Sequence[Recipe | Video], profile: Profile, cluster: Cluster) -> Job:
    """The job on as many processes as share the batch of each recipe evenly; a job that trains nothing gets one.

    One a GPU, of many nodes all; without GPUs one a node. None has less to do than a `micro_batch`, so a batch that is
    computed at once stays on one GPU.
    """
    shared = [(recipe.batch_size, recipe.batch_size // (recipe.micro_batch or recipe.batch_size)) for recipe in recipes]
    shared = shared or [(1, 1)]
    each = cluster.gpus if _has_gpus(profile, cluster) else 1
    whole = [(nodes, each) for nodes in range(2, cluster.nodes + 1)] + [(1, some) for some in range(1, each + 1)]
    fitting = [one for one in whole if all(b % math.prod(one) == 0 and math.prod(one) <= most for b, most in shared)]
    nodes, processes = max(fitting, key=math.prod, default=(1, 1))  # none: batches smaller than a `micro_batch`
    gpus = processes * _has_gpus(profile, cluster)
    return replace(job, nodes=nodes, processes=processes, gpus=gpus, cpus=_cores(cluster, processes))


def _has_gpus(profile: Profile, cluster: Cluster) -> bool:
    return profile.device != "cpu" and cluster.gpus > 0


def _cores(cluster: Cluster, gpus: int) -> int:
    """The cores that belong to so many of a node's GPUs."""
    return max(1, cluster.cpus * gpus // max(cluster.gpus, 1))


def variant_jobs(
    profile: Profile,
    notebooks: Mapping[str, Mapping[str, Any]],
    stages: list[Job],
    cluster: Cluster | None,
    seed: int = 0,
) -> tuple[list[Job], dict[str, list[str]]]:
    """The jobs that train the variants of the notebooks' tables, and which of them each notebook shows.

    stages: of `stage_jobs`. On one machine (no cluster) one job a table, in one process that loads the libraries once;
    on a cluster one a variant and seed. A job waits for the variant that it starts from, and nothing is trained twice.
    """
    experiments = load_experiments()
    last = {job.notebook: job.name for job in stages}
    told: dict[str, tuple[str, str, list]] = {}  # by job: the notebook that asked first, the command, its runs
    job_of: dict[tuple[str, int], str] = {}
    shows: dict[str, list[str]] = {}
    for notebook, entry in notebooks.items():
        if not (table := entry.get("experiments")):
            continue
        runs = experiments.runs(profile, [table], seed)
        for run in runs:
            if run not in job_of:
                name, command = table, f"experiment {table} --seed {seed}"
                if cluster:
                    name, command = f"{run[0]}-{run[1]}", f"experiment {run[0]} --seed {run[1]} --seeds 1"
                job_of[run] = name
                told.setdefault(name, (notebook, command, []))[2].append(run)
        shows[notebook] = sorted({job_of[run] for run in runs})
    found = []
    for name, (notebook, command, runs) in told.items():
        starts = {(other, one) for variant, one in runs for other in experiments.waits_for(variant)}
        after = [last.get(other, other) for other in notebooks[notebook]["needs"]]
        after += sorted({job_of[start] for start in starts if start in job_of and start not in runs})
        job = Job(name, notebook, command, tuple(after), runs=tuple(runs))
        if cluster:
            trained = _recipes(profile, runs, experiments) if _learns(profile, runs, experiments) else []
            job = _training(job, trained, profile, cluster)
        found.append(job)
    return found, shows


def _recipes(profile: Profile, runs: list[tuple[str, int]], experiments: Experiments) -> list[Recipe | Video]:
    """All recipes that the jobs of these variants train by; what a variant starts from is trained before."""
    found: list[Recipe | Video] = []
    for name, _ in runs:
        scaled = experiments.variant(name).at(profile)
        if scaled.video_objects:
            found.append(profile.video)
        if not scaled.variant.start:
            found.append(scaled.training.recipe)
        if scaled.finetuning:
            found.append(scaled.finetuning.recipe)
    return found


def _learns(profile: Profile, runs: list[tuple[str, int]], experiments: Experiments) -> bool:
    """Whether variants are trained, and not only evaluated because another run has come to the same model."""
    made = {pretraining(profile), finetuning(profile)}
    needed = [planned_runs(profile, [name], seed, 1, experiments=experiments)[-1].trainings for name, seed in runs]
    return any(training not in made for trainings in needed for training in trainings)


def table_of(profile: Profile, notebooks: Mapping[str, Mapping[str, Any]], cluster: Cluster) -> "DataFrame":
    """All jobs of a cluster, a row each: how many, what each gets, how long it takes as planned; hours of all GPUs."""
    import pandas as pd

    from vfusion3d.book.plan import disk

    stages = stage_jobs(profile, notebooks, cluster)
    reading = [notebook_job(name, profile, cluster) for name in notebooks]
    rows = []
    for job in [*stages, *variant_jobs(profile, notebooks, stages, cluster)[0], *reading]:
        hours = hours_of(job, profile)
        gpu_hours = None if hours is None else hours * job.parts * job.nodes * job.gpus
        each = {"nodes": job.nodes, "GPUs": job.nodes * job.gpus, "cores": job.nodes * job.cpus, "hours": hours}
        limits = {"minutes": job.minutes(profile, cluster), "memory_gb": job.memory_mb(cluster) // 1000}
        stored = disk(work_of(job, profile), profile)
        rows.append({"job": job.name, "jobs": job.parts, **each, **limits, "gpu_hours": gpu_hours, "disk_gb": stored})
    return pd.DataFrame(rows).set_index("job")


def main(arguments: list[str] | None = None) -> int:
    """The command line: the table, and its sums in a line. Returns 1 for a file that cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m vfusion3d.book.jobs", description=__doc__.split("\n")[0])
    parser.add_argument("--profile", default="laptop", help="a bundled profile, or a YAML file (default: laptop)")
    parser.add_argument("--cluster", type=Path, default=CLUSTER, metavar="FILE", help=f"(default: {CLUSTER})")
    parser.add_argument("--notebooks", type=Path, default=NOTEBOOKS, metavar="FILE", help=f"(default: {NOTEBOOKS})")
    options = parser.parse_args(arguments)
    try:
        cluster = read_yaml(options.cluster, _File).cluster
        jobs = table_of(load_profile(options.profile), read_yaml(options.notebooks), cluster)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"as jobs on the cluster of {options.cluster} (hours: planned, of one job; minutes, memory_gb: its limits)")
    print(jobs.to_string(float_format="{:.3g}".format))
    sums = jobs[["jobs", "gpu_hours", "disk_gb"]].sum()
    print(f"{sums.jobs:,.0f} jobs, {sums.gpu_hours:,.0f} GPU-hours, {sums.disk_gb:,.0f} GB of disk")
    return 0


@dataclass(frozen=True)
class _File:
    cluster: Cluster


if __name__ == "__main__":
    sys.exit(main())

"""One job of the workflow: a command that runs alone, is told when its time is over, and leaves a mark when it is done.

    python -m vfusion3d.book.job --mark runs/laptop/done/train -- vfusion3d.cli train --profile laptop

Notable: two drivers of the workflow may ask for the same job. The second waits for the first, and says so in a line;
what is done meanwhile is not done again. A SLURM job whose time ends goes back into the queue, for every command goes
on where it stopped.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from datetime import datetime
from math import inf
from pathlib import Path

from vfusion3d.runs.lock import only_writer

NEARLY = 300  # seconds before the end of a SLURM job in which what ends was ended by that
TOLD = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
ENDED = tuple(128 + one for one in TOLD)  # exit codes of what was told to end


def command_of(options: argparse.Namespace) -> list[str]:
    """What to run: a module of Python, by itself or by `torchrun` in several processes on one node or on many.

    On many, torchrun runs in a job of this kind itself: SLURM tells them and not us that time is over, and torchrun
    ends by that as by an error. Raises SystemExit for several nodes outside of a SLURM job.
    """
    python = [sys.executable, "-m"]
    if options.nodes * options.processes == 1:
        return [*python, *options.command]
    many = [*python, "torch.distributed.run", "--nnodes", options.nodes, "--nproc-per-node", options.processes]
    if options.nodes == 1:
        return [*map(str, many), "--standalone", "-m", *options.command]
    if not (number := os.environ.get("SLURM_JOB_ID", "")).isdecimal():
        raise SystemExit(f"a job on {options.nodes} nodes needs SLURM (SLURM_JOB_ID is not set): set nodes to 1")
    job = int(number)
    meeting = ["--rdzv-backend", "c10d", "--rdzv-id", job]
    meeting += ["--rdzv-endpoint", f"{socket.gethostname()}:{20_000 + job % 10_000}"]
    nodes = ["srun", "--nodes", options.nodes, "--ntasks", options.nodes, "--ntasks-per-node", 1]
    nodes += ["--cpus-per-task", options.cpus, "--kill-on-bad-exit=1"]
    nodes += [*python, "vfusion3d.book.job", "--cpus", options.cpus, "--", *many[2:]]
    return [*map(str, nodes + meeting), "-m", *options.command]


def run(command: list[str], cpus: int) -> int:
    """Run a command, hand on what this process is told, and return its exit code: of `ENDED` if it ends by that."""
    environment = dict(os.environ)
    if "SLURM_JOB_ID" in environment:
        environment.setdefault("OMP_NUM_THREADS", str(cpus))
    told: list[int] = []
    waiting: list[int] = []  # of them, what the child was not told yet
    child: subprocess.Popen | None = None

    def hand_on(number: int | None = None, _=None) -> None:
        if number is not None:
            told.append(number)
            waiting.append(number)
        while child is not None and waiting:
            with suppress(IndexError):  # another signal took it meanwhile
                child.send_signal(waiting.pop(0))

    for one in TOLD:  # first, for a child that is not told to end outlives us
        signal.signal(one, hand_on)
    child = subprocess.Popen(command, env=environment, start_new_session=True)  # what is told, it is told once
    hand_on()
    code = child.wait()
    code = code if code >= 0 else 128 - code
    return 128 + told[-1] if told and code else code


def requeue() -> None:
    """Where this is a SLURM job whose time is nearly over, put it back into the queue, which ends this process.

    Only for what was told to end: an error just then would come back for ever.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return
    asked = ["squeue", "--noheader", "--job", job, "--format", "%e"]
    ends = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    try:
        left = (datetime.fromisoformat(ends) - datetime.now()).total_seconds()
    except ValueError:  # no limit, or nobody knows
        return
    if left < NEARLY:
        print(
            "the time of this job is over: it goes back into the queue, and on from here", file=sys.stderr, flush=True
        )
        if subprocess.run(["scontrol", "requeue", job], check=False).returncode == 0:
            time.sleep(NEARLY)


def main(arguments: list[str] | None = None) -> int:
    """The command line. Returns the command's exit code, 0 where another process did the job meanwhile."""
    parser = argparse.ArgumentParser(prog="python -m vfusion3d.book.job", description=__doc__.split("\n")[0])
    parser.add_argument("--mark", type=Path, help="the file that says that the job is done (default: none)")
    parser.add_argument("--nodes", type=int, default=1, help="on which torchrun starts the command")
    parser.add_argument("--processes", type=int, default=1, help="of torchrun, on each node")
    parser.add_argument("--cpus", type=int, default=1, help="cores of a node that the job was given")
    parser.add_argument("command", nargs="+", help="a module of Python and its arguments, after --")
    options = parser.parse_args(arguments)
    begun = time.time()
    each = max(1, options.cpus // options.processes)
    if options.mark is None:
        return run(command_of(options), each)
    with only_writer(options.mark.parent / f".{options.mark.name}", wait=inf):
        if options.mark.exists() and options.mark.stat().st_mtime > begun:
            print(f"{options.mark.name}: another process did it meanwhile", file=sys.stderr)
            return 0
        code = run(command_of(options), each)
        if code == 0:
            options.mark.touch()
        elif code in ENDED:
            requeue()
    return code


if __name__ == "__main__":
    sys.exit(main())

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
from datetime import datetime
from math import inf
from pathlib import Path

from vfusion3d.runs.lock import only_writer

NEARLY = 300  # seconds before the end of a SLURM job in which what ends was ended by that
TOLD = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def command_of(options: argparse.Namespace) -> list[str]:
    """What to run: a module of Python, by itself or by `torchrun` in several processes on one node or on many."""
    python = [sys.executable, "-m"]
    if options.nodes * options.processes == 1:
        return [*python, *options.command]
    many = [*python, "torch.distributed.run", "--nnodes", options.nodes, "--nproc-per-node", options.processes]
    if options.nodes == 1:
        return [*map(str, many), "--standalone", "-m", *options.command]
    job = int(os.environ["SLURM_JOB_ID"])
    meeting = ["--rdzv-backend", "c10d", "--rdzv-id", job]
    meeting += ["--rdzv-endpoint", f"{socket.gethostname()}:{20_000 + job % 10_000}"]
    nodes = ["srun", "--nodes", options.nodes, "--ntasks", options.nodes, "--ntasks-per-node", 1]
    nodes += ["--cpus-per-task", options.cpus, "--kill-on-bad-exit=1"]
    return [*map(str, nodes + many + meeting), "-m", *options.command]


def run(command: list[str], cpus: int) -> int:
    """Run a command, hand on what this process is told, and return its exit code."""
    environment = dict(os.environ)
    if "SLURM_JOB_ID" in environment:
        environment.setdefault("OMP_NUM_THREADS", str(cpus))
    child = subprocess.Popen(command, env=environment, start_new_session=True)  # what is told, it is told once
    for one in TOLD:
        signal.signal(one, lambda number, _: child.send_signal(number))
    return child.wait()


def requeue() -> None:
    """Where this is a SLURM job whose time is nearly over, put it back into the queue, which ends this process."""
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
    parser.add_argument("--mark", type=Path, required=True, help="the file that says that the job is done")
    parser.add_argument("--nodes", type=int, default=1, help="on which torchrun starts the command")
    parser.add_argument("--processes", type=int, default=1, help="of torchrun, on each node")
    parser.add_argument("--cpus", type=int, default=1, help="cores of a node that the job was given")
    parser.add_argument("command", nargs="+", help="a module of Python and its arguments, after --")
    options = parser.parse_args(arguments)
    begun = time.time()
    with only_writer(options.mark.parent / f".{options.mark.name}", wait=inf):
        if options.mark.exists() and options.mark.stat().st_mtime > begun:
            print(f"{options.mark.name}: another process did it meanwhile", file=sys.stderr)
            return 0
        code = run(command_of(options), max(1, options.cpus // options.processes))
        if code == 0:
            options.mark.touch()
        else:
            requeue()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())

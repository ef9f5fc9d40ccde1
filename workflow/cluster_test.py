"""The workflow on a real SLURM of two nodes on this machine, with a node, the driver and a job's time lost on the way.

    make cluster-test                                                        # Debian or Ubuntu, as root
    python workflow/cluster_test.py --until 03_finetune_video_model          # so far only

Starts munged, MariaDB, slurmdbd, slurmctld and two slurmd in a folder of its own (and nothing where a SLURM is here
already), runs the graph at `smoke` once as jobs and once without SLURM, says of data, prompts, labels, models and
scores whether both are the same, and stops what it started.
"""

import argparse
import csv
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pandas as pd
import psutil
import yaml

from vfusion3d.runs.profiles import FOLDER
from vfusion3d.runs.reading import read_tensors

HERE = Path(__file__).resolve().parent
PACKAGES = ("slurm-wlm", "slurmdbd", "slurm-client", "munge", "mariadb-server")
PROGRAMS = ("munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd", "sbatch", "sacctmgr")
CONFIGURED = Path("/etc/slurm/slurm.conf")
NODES, CPUS, MEMORY = 2, 2, 5000  # each node's, MB
ROUNDING = 2e-3  # largest difference of a weight, relative to the tensor's largest, that several processes may make
EXPERIMENTS, SCORES = "experiments", "scores.csv.gz"  # of the variants
BEGUN = time.monotonic()


def say(text: str) -> None:
    """A line of the log, with the minutes since the beginning."""
    seconds = int(time.monotonic() - BEGUN)
    print(f"[{seconds // 60:02d}:{seconds % 60:02d}] {text}", flush=True)


def wait_until(what: str, true, limit: float, driver: subprocess.Popen | None = None) -> None:
    """Wait until `true()`; ends the test after `limit` seconds, and where the driver of the workflow has ended."""
    end = time.monotonic() + limit
    while not true():
        if driver is not None and driver.poll() is not None:
            raise SystemExit(f"cluster-test: the driver ended with exit code {driver.returncode} before {what}")
        if time.monotonic() > end:
            raise SystemExit(f"cluster-test: {what} did not happen within {limit:.0f} s")
        time.sleep(1)


def command(*words, quiet: bool = True) -> str:
    """Run a program and return what it prints; its error ends the test, unless quiet."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    if done.returncode and not quiet:
        raise SystemExit(f"cluster-test: {words[0]} failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout.strip()


# ------------------------------------------------------------------------------------------------------------ SLURM


def install() -> None:
    """Debian's packages, where they are not here. Ends the test with a word on what is missing."""
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    if os.geteuid() != 0:
        raise SystemExit("cluster-test: slurmd starts jobs as their users, so run this as root (in a container, say)")
    if CONFIGURED.exists() or CONFIGURED.is_symlink():
        raise SystemExit(f"cluster-test: there is a SLURM here already ({CONFIGURED}), which stays as it is")
    if all(map(shutil.which, PROGRAMS)):
        return
    if not shutil.which("apt-get"):
        raise SystemExit(
            f"cluster-test: there is no apt here; install {', '.join(PROGRAMS)} by hand, then run it again"
        )
    os.environ["DEBIAN_FRONTEND"] = "noninteractive"
    for words in (["update", "-qq"], ["install", "-y", "-q", "--no-install-recommends", *PACKAGES]):
        command("apt-get", *words, quiet=False)


class Slurm:
    """Two nodes, n1 and n2, and what they need, in `folder`; used in a `with` block, which ends all of it."""

    def __init__(self, folder: Path):
        self.folder, self.daemons = folder, []

    def __enter__(self) -> "Slurm":
        try:
            self._begin()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _begin(self) -> None:
        folder, host = self.folder, socket.gethostname()
        for name in ("state", "db", "spool/n1", "spool/n2", "log"):
            (folder / name).mkdir(parents=True)
        folder.chmod(0o755)  # MariaDB is another user
        folder.parent.chmod(0o755)
        (folder / "munge.key").write_bytes(os.urandom(1024))
        (folder / "munge.key").chmod(0o600)
        auth = f"AuthType=auth/munge\nAuthInfo=socket={folder}/munge.sock\n"
        ports = _free_ports(3 + NODES)
        (folder / "slurmdbd.conf").write_text(
            f"{auth}DbdHost={host}\nDbdPort={ports[0]}\nSlurmUser=root\nStorageType=accounting_storage/mysql\n"
            f"StorageHost=127.0.0.1\nStoragePort={ports[1]}\nStorageUser=slurm\nStoragePass=slurm\nStorageLoc=slurm\n"
            f"LogFile={folder}/log/slurmdbd.log\nPidFile={folder}/slurmdbd.pid\n"
        )
        (folder / "slurmdbd.conf").chmod(0o600)
        nodes = "".join(
            f"NodeName=n{i} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2 + i]} CPUs={CPUS} "
            f"RealMemory={MEMORY}\n"
            for i in range(1, NODES + 1)
        )
        (folder / "slurm.conf").write_text(
            f"{auth}ClusterName=here\nSlurmctldHost={host}(127.0.0.1)\nSlurmctldPort={ports[2]}\nSlurmUser=root\n"
            "SlurmdUser=root\nProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nSelectType=select/cons_tres\n"
            "SelectTypeParameters=CR_Core_Memory\nMpiDefault=none\nSwitchType=switch/none\nReturnToService=2\n"
            f"SlurmdTimeout=30\nKillWait=30\nJobRequeue=1\nStateSaveLocation={folder}/state\n"
            f"SlurmdSpoolDir={folder}/spool/%n\nSlurmctldPidFile={folder}/slurmctld.pid\n"
            f"SlurmdPidFile={folder}/slurmd-%n.pid\nSlurmctldLogFile={folder}/log/slurmctld.log\n"
            f"SlurmdLogFile={folder}/log/slurmd-%n.log\nAccountingStorageType=accounting_storage/slurmdbd\n"
            f"AccountingStorageHost={host}\nAccountingStoragePort={ports[0]}\n"
            f"AccountingStoragePass={folder}/munge.sock\nJobAcctGatherType=jobacct_gather/linux\n"
            f"SlurmdParameters=config_overrides\n{nodes}PartitionName=main Nodes=n[1-{NODES}] Default=YES State=UP\n"
        )
        CONFIGURED.parent.mkdir(exist_ok=True)
        CONFIGURED.symlink_to(folder / "slurm.conf")  # srun in a job asks there, whatever SLURM_CONF says
        os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
        self._start("munged", "--force", "--foreground", "--num-threads=2", f"--key-file={folder}/munge.key",
                    f"--socket={folder}/munge.sock", f"--pid-file={folder}/munged.pid",
                    f"--log-file={folder}/log/munged", f"--seed-file={folder}/munged.seed")  # fmt: skip
        shutil.chown(folder / "db", "mysql")
        database = f"--datadir={folder}/db"
        command("mariadb-install-db", "--user=mysql", database, "--skip-test-db", quiet=False)
        self._start("mariadbd", "--no-defaults", "--user=mysql", database, f"--socket={folder}/db/sock",
                    f"--port={ports[1]}", "--bind-address=127.0.0.1", "--innodb-buffer-pool-size=32M")  # fmt: skip
        asked = "create database if not exists slurm; grant all on slurm.* to slurm@localhost identified by 'slurm'; "
        asked += "grant all on slurm.* to slurm@127.0.0.1 identified by 'slurm'; select 1"
        database = ["mariadb", "--no-defaults", f"--socket={folder}/db/sock", "-e"]
        wait_until("MariaDB's start", lambda: command(*database, asked), 60)
        self._start("slurmdbd", "-D")
        known = ("sacctmgr", "-n", "show", "cluster", "here")
        cluster = ("sacctmgr", "-i", "add", "cluster", "here")
        wait_until("slurmdbd's start", lambda: [command(*cluster), command(*known)][1], 60)
        command("sacctmgr", "-i", "add", "account", "lab", "Cluster=here")
        command("sacctmgr", "-i", "add", "user", "root", "Account=lab")
        self._start("slurmctld", "-D")
        self.nodes = {f"n{i}": self._start("slurmd", "-D", "-N", f"n{i}") for i in range(1, NODES + 1)}
        wait_until("the nodes' start", lambda: command("sinfo", "-h", "-t", "idle", "-o", "%D") == str(NODES), 120)

    def _start(self, *words: str) -> subprocess.Popen:
        with open(self.folder / "log" / f"{words[0]}.out", "ab") as log:
            self.daemons.append(subprocess.Popen(words, stdout=log, stderr=log, stdin=subprocess.DEVNULL))
        time.sleep(1)
        return self.daemons[-1]

    def kill(self, node: str) -> None:
        """Pull a node's plug: its slurmd, and all that runs on it."""
        steps = [one for one in psutil.process_iter() if one.name() == "slurmstepd"]
        on_it = [one for one in steps if any(Path(file.path).name == f"slurmd-{node}.log" for file in one.open_files())]
        for process in [psutil.Process(self.nodes[node].pid), *on_it]:
            for one in [*process.children(recursive=True), process]:
                with suppress(psutil.NoSuchProcess):
                    one.kill()
        self.nodes[node].wait()

    def revive(self, node: str) -> None:
        """Switch a node on again."""
        self.nodes[node] = self._start("slurmd", "-D", "-N", node)

    def __exit__(self, *reason) -> None:
        if CONFIGURED.is_symlink() and self.folder in CONFIGURED.readlink().parents:
            CONFIGURED.unlink()
        command("scancel", "--me")
        time.sleep(2)
        for daemon in reversed(self.daemons):
            if daemon.poll() is None:
                daemon.terminate()
                try:
                    daemon.wait(15)
                except subprocess.TimeoutExpired:
                    daemon.kill()


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        found = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in found:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in found]


# ------------------------------------------------------------------------------------------------------------ the runs


def write_profiles(folder: Path) -> None:
    """The profile `smoke` with batches that two processes share, and the cluster; a profile of Snakemake for it."""
    profile = yaml.safe_load((FOLDER / "smoke.yaml").read_text())
    profile |= {"name": "two_nodes", "scale": 100_000}
    profile["video"]["steps"] = 12  # long enough for something to happen meanwhile
    profile["training"] |= {"micro_batch": 2, "max_steps": 24}
    profile["finetuning"] |= {"micro_batch": 2}
    (folder / "two_nodes.yaml").write_text(yaml.safe_dump(profile))
    shutil.copytree(HERE / "profiles" / "slurm", folder / "slurm")
    cluster = {"nodes": 2, "gpus": 0, "cpus": CPUS, "memory_gb": MEMORY // 1000, "longest": 60, "shards": 2}
    (folder / "slurm" / "cluster.yaml").write_text(yaml.safe_dump({"cluster": cluster}))
    config = yaml.safe_load((folder / "slurm" / "config.yaml").read_text())
    config |= {"slurm-init-seconds-before-status-checks": 5, "latency-wait": 10}
    (folder / "slurm" / "config.yaml").write_text(yaml.safe_dump(config))


def driver(folder: Path, where: str, until: list[str], *more: str) -> subprocess.Popen:
    """Snakemake at work in `folder`/`where`."""
    targets = [f"runs/two_nodes/done/{name}" for name in until] or ["all"]
    (folder / where).mkdir(exist_ok=True)
    words = [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        str(HERE / "Snakefile"),
        "--directory",
        str(folder / where),
    ]
    words += ["--config", f"profile={folder / 'two_nodes.yaml'}", "--scheduler", "greedy", *more, "--", *targets]
    with open(folder / f"{where}.log", "ab") as log:
        return subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)


def running(rule: str) -> list[tuple[str, str]]:
    """The job and the nodes of each running job of a rule."""
    found = [line.split("|") for line in command("squeue", "-h", "-t", "R", "-o", "%i|%N|%k").splitlines()]
    names = (f"rule_{rule}", f"rule_{rule}_wildcards")
    return [(job, node) for job, node, comment in found if comment == names[0] or comment.startswith(names[1])]


def lose_a_node(slurm: Slurm, now: subprocess.Popen, rule: str, started) -> None:
    """When a job of a rule computes on a node (`started`), pull the node's plug, and switch it on a minute later."""
    wait_until(f"the start of {rule}", lambda: running(rule) and started(), 1200, now)
    job, node = running(rule)[0]
    slurm.kill(node)
    say(f"killed node {node}, on which job {job} ({rule}) ran")
    wait_until("SLURM's notice", lambda: "down" in command("sinfo", "-h", "-n", node, "-o", "%T"), 180)
    wait_until("the requeueing", lambda: command("squeue", "-h", "-j", job, "-o", "%T") in ("PENDING", "RUNNING"), 60)
    say(f"SLURM took {node} for down, and put job {job} back into the queue")
    slurm.revive(node)


def end_by_time(now: subprocess.Popen, rule: str, started) -> None:
    """When a job of a rule trains, leave it a minute."""
    wait_until(f"the start of {rule}", lambda: running(rule) and started(), 1200, now)
    job = running(rule)[0][0]
    minutes = 1 + int(command("squeue", "-h", "-j", job, "-o", "%M").split(":")[-2])
    command("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes}", quiet=False)
    say(f"set the time limit of job {job} ({rule}) to {minutes} min")
    restarts = lambda: "Restarts=1" in command("scontrol", "show", "job", job)  # noqa: E731
    wait_until("the requeueing", restarts, 300)
    command("scontrol", "update", f"JobId={job}", "TimeLimit=60", quiet=False)  # the new limit would stay
    say(f"job {job} ended with a checkpoint, and put itself back into the queue")


def lose_the_driver(old: subprocess.Popen, rule: str, started, again) -> subprocess.Popen:
    """While a rule's job runs, kill the driver and start another; the second job must wait for the first."""
    wait_until(f"the start of {rule}", lambda: running(rule) and started(), 1200, old)
    job = running(rule)[0][0]
    os.killpg(old.pid, signal.SIGKILL)
    old.wait()
    say(f"killed the driver while job {job} ({rule}) ran; started it again")
    return again()


def main() -> int:
    """The command line. Returns 1 where something differs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--until", nargs="+", default=[], metavar="JOB", help="not the whole graph: as far as these jobs"
    )
    parser.add_argument(
        "--alone",
        nargs="+",
        default=[],
        metavar="NOTEBOOK",
        help="the same of the run without SLURM: no more than that",
    )
    parser.add_argument("--keep", action="store_true", help="leave the folder of the test")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("cluster-test: told to end"))
    install()
    folder = Path(tempfile.mkdtemp(prefix="cluster-test-"))
    write_profiles(folder)
    runs = folder / "slurm_run" / "runs" / "two_nodes"

    def start() -> subprocess.Popen:
        return driver(folder, "slurm_run", options.until, "--profile", str(folder / "slurm"))

    with Slurm(folder / "here") as slurm:
        say(f"SLURM {command('sinfo', '--version').split()[-1]} with {NODES} nodes of {CPUS} cores")
        now = start()
        try:
            lose_a_node(slurm, now, "render", lambda: list((runs / "data").glob("*/shard-*")))
            end_by_time(now, "finetune_video", lambda: (runs / "video_model" / "settings.json").exists())
            now = lose_the_driver(now, "finetune_video", lambda: True, start)
            code = now.wait()
        finally:
            if now.poll() is None:
                os.killpg(now.pid, signal.SIGKILL)
                now.wait()
        jobs = command("sacct", "-X", "-n", "-a", "-o", "jobid,state,elapsed,nodelist,comment%40").splitlines()
        say(f"the run on SLURM ended with exit code {code}, after {len(jobs)} jobs")
        print("\n".join(jobs))
    alone = driver(folder, "alone", options.alone or options.until, "--cores", "all", "--nolock").wait()
    say(f"the run without SLURM ended with exit code {alone}")
    worst = compare(folder / "alone" / "runs" / "two_nodes", runs)
    waited = second_waited(runs.parent / "slurm_logs" / "rule_finetune_video")
    failed = bool(code or alone or worst or not waited)
    if options.keep or failed:
        say(f"left in {folder}: here/log (SLURM's), slurm_run.log, alone.log (Snakemake's), slurm_run/runs/slurm_logs")
    else:
        shutil.rmtree(folder)
    say("FAILED" if failed else "passed")
    return int(failed)


# ---------------------------------------------------------------------------------------------------- what came of it


def compare(first: Path, second: Path) -> int:
    """Say of the results of two runs whether they are the same: all of the first, what the second lacks is different.

    Shards (data and labels), prompts, models, and of each variant the model and the scores. Where several processes
    trained, models may differ by rounding, and so their scores, of which is only said by how much. Returns how many
    are wrong; 1 where there was nothing to compare.
    """
    wrong = compared = 0
    for path, other in _pairs(first, second):
        compared += 1
        if not other.exists():
            said = "MISSING"
        elif _digest(path) == _digest(other):
            said = "the same bytes"
        elif path.suffix == ".safetensors":
            off = _difference(path, other)
            said = f"off by {off:.1e} at most {'(DIFFERENT)' if off > ROUNDING else '(several processes)'}"
        elif path.suffix == ".parquet":
            said = "the same table" if pd.read_parquet(path).equals(pd.read_parquet(other)) else "DIFFERENT"
        elif path.name == SCORES and not _same_model(path.parent, other.parent):
            said = _scores_differ(path, other)
        else:
            said = "DIFFERENT"
        wrong += "MISSING" in said or "DIFFERENT" in said
        say(f"{path.relative_to(first)}: {said}")
    if not compared:
        wrong += 1
        say(f"{first}: there is NOTHING to compare")
    for path in sorted(second.glob("**/log.csv")):
        steps = [row["step"] for row in csv.DictReader(path.open())]
        if len(steps) != len(set(steps)):
            wrong += 1
            say(f"{path.relative_to(second)}: a step stands there TWICE")
    return wrong


def second_waited(logs: Path) -> bool:
    """Whether, by its log, the job that the second driver asked for waited for the one that was at work."""
    texts = [path.read_text(errors="replace") for path in sorted(logs.rglob("*.log"))]
    found = any(word in text for text in texts for word in ("waiting, for", "did it meanwhile"))
    say("the second job waited for the first" if found else f"NO log in {logs} says that a job waited for another")
    return found


def _pairs(first: Path, second: Path) -> Iterator[tuple[Path, Path]]:
    """What is compared with what. A variant's model may lie with another one's of the same settings: `result.json`."""
    for pattern in ("**/shard-*.tar", "**/prompts.parquet", "**/*.safetensors", f"{EXPERIMENTS}/**/{SCORES}"):
        for path in sorted(first.glob(pattern)):
            inside = path.relative_to(first)
            shared = (
                path.suffix == ".safetensors" and inside.parts[0] == EXPERIMENTS and "video_model" not in inside.parts
            )
            if not shared and "checkpoint" not in path.name:
                yield path, second / inside
    for result in sorted(first.glob(f"{EXPERIMENTS}/*/seed-*/result.json")):
        model, other = (_model(run, result.parent.relative_to(first)) for run in (first, second))
        for path in sorted(model.glob("*.safetensors")):
            yield path, other / path.name


def _model(run: Path, variant: Path) -> Path:
    """The model of a variant in a run, by its result; where it has none, a folder that is not there."""
    result = run / variant / "result.json"
    return run / (json.loads(result.read_text())["model"] if result.exists() else variant / "no result")


def _same_model(one: Path, other: Path) -> bool:
    """Whether two variants' results are of models of the very same weights."""
    results = [folder / "result.json" for folder in (one, other)]
    prints = [json.loads(path.read_text())["settings"]["model"] if path.exists() else path for path in results]
    return prints[0] == prints[1]


def _scores_differ(first: Path, second: Path) -> str:
    """By how much scores of models differ that are the same up to rounding; the items must be the same."""
    one, other = (pd.read_csv(path, dtype={"test": str, "key": str}) for path in (first, second))
    numbers = one.columns.difference(["test", "key", "category", "common"])
    if not one.columns.equals(other.columns) or not one.drop(columns=numbers).equals(other.drop(columns=numbers)):
        return "DIFFERENT items"
    if not one[numbers].isna().equals(other[numbers].isna()):
        return "DIFFERENT metrics"
    off = (one[numbers] - other[numbers]).abs().max() / one[numbers].abs().max()
    return f"of a model that is off by rounding: off by {off.max():.1e} at most"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _difference(first: Path, second: Path) -> float:
    """The largest difference of two files' tensors, each relative to the tensor's largest number."""
    one, other = (read_tensors(path)[0] for path in (first, second))
    return max(float((one[name] - other[name]).abs().max() / one[name].abs().max().clamp_min(1e-12)) for name in one)


if __name__ == "__main__":
    sys.exit(main())

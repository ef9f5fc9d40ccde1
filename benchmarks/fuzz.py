"""Draws other inputs for every property test until time is over: `make fuzz MINUTES=10`.

The suite tries the same 50 inputs of each reader every time. Here each property test of tests/ gets MINUTES of new
ones, in rounds of 3,000 with seeds 0, 1, 2, ...; the first that fails ends its test, and hypothesis prints the
smallest such input. Make that a test, or an `@example` above this one, so that it
stays. Exits 1 if any failed.
"""

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout=0"]


def fuzz(test: str, seconds: float) -> bool:
    """Whether a property test held for every input that was drawn in that time; its rounds are printed."""
    start, rounds, inputs = time.monotonic(), 0, 0
    while time.monotonic() - start < seconds:
        told = ["--hypothesis-profile=many", f"--hypothesis-seed={rounds}", "--hypothesis-show-statistics"]
        run = subprocess.run([*PYTEST, *told, test], cwd=ROOT, capture_output=True, text=True, check=False)
        if run.returncode:
            print(f"{test}: failed in round {rounds} (seed {rounds})\n{run.stdout[-6000:]}{run.stderr[-2000:]}")
            return False
        rounds += 1
        inputs += sum(map(int, re.findall(r"(\d+) passing", run.stdout)))
        print(f"{test}: {inputs} inputs in {time.monotonic() - start:.0f} s, all as they should", flush=True)
    return True


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10, help="for each test (default: 10)")
    parser.add_argument("tests", nargs="*", help="of tests/, as pytest names them (default: every property test)")
    options = parser.parse_args()
    collect = [*PYTEST, "--collect-only", "-m", "hypothesis"]
    listed = subprocess.run(collect, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = options.tests or [line for line in listed.splitlines() if "::" in line]
    held = [fuzz(test, 60 * options.minutes) for test in found]
    sys.exit(not all(held))

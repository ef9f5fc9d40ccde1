"""What needs more than there is says so before it starts."""

import resource
import subprocess
import sys

import numpy as np
import pytest

from vfusion3d.data.render_dataset import render_dataset
from vfusion3d.runs.memory import check_memory, machine_memory
from vfusion3d.runs.ranges import RANGES, check_ranges
from vfusion3d.world.sources import RandomPrimitives


def test_memory_that_is_there_is_granted_and_more_is_refused_with_both_numbers():
    check_memory("little", machine_memory())
    with pytest.raises(
        ValueError, match=r"^a lot would need over a million GB of memory or more, and this machine has"
    ):
        check_memory("a lot", 1e18)


def test_a_limit_of_the_process_counts():
    script = (
        "import resource; from vfusion3d.runs.memory import machine_memory; "
        f"resource.setrlimit(resource.RLIMIT_AS, (3 * 10**9, {resource.RLIM_INFINITY})); print(machine_memory())"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(found.stdout) == 3 * 10**9


def test_an_argument_out_of_its_range_is_named_and_nothing_is_made(tmp_path):
    for name, value in (("views", 0), ("views", 10**6), ("size", 0), ("seed", -1), ("workers", 0), ("count", 0)):
        with pytest.raises(ValueError, match=f"^{name} must be a whole number from .* not {value}$"):
            render_dataset(tmp_path / "data", RandomPrimitives(), **({"count": 1} | {name: value}))
    with pytest.raises(ValueError, match=r"9000 views of 8000 pixels .* GB of memory"):
        render_dataset(tmp_path / "data", RandomPrimitives(), 1, views=9000, size=8000)
    assert not (tmp_path / "data").exists()


def test_ranges_hold_their_ends():
    for name, (least, most) in RANGES.items():
        check_ranges(**{name: least})
        check_ranges(**{name: most})
        for value in (least - 1, most + 1, 1.5, "1"):
            with pytest.raises(ValueError, match=name):
                check_ranges(**{name: value})
    with pytest.raises(ValueError, match=r"not np\.int64\(5\)"):  # settings are JSON, which knows none
        check_ranges(views=np.int64(5))

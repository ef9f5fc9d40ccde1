"""How fast are objects rendered? Seconds an object of 16 views at 128x128, from parameters to a finished shard.

    python benchmarks/rendering.py --workers 2

The first objects, in which the processes start, do not count.
"""

import argparse
import tempfile
import time

from vfusion3d.data.render_dataset import render_dataset
from vfusion3d.runs.cpus import cpus
from vfusion3d.world.sources import ProceduralObjects, RandomPrimitives

if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--workers", type=int, default=cpus(), help="processes (default: one a core)")
    arguments.add_argument("--count", type=int, default=100, help="objects (default: 100)")
    options = arguments.parse_args()
    print("| objects | workers | seconds an object |\n| --- | ---: | ---: |")
    for name, source in {"procedural": ProceduralObjects(), "primitives": RandomPrimitives()}.items():
        seconds = []
        for count in (10, 10 + options.count):  # the difference leaves the processes' start out
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                render_dataset(folder, source, count, views=16, size=128, workers=options.workers)
                seconds.append(time.perf_counter() - start)
        print(f"| {name} | {options.workers} | {(seconds[1] - seconds[0]) / options.count:.3f} |", flush=True)

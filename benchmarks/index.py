"""What it costs a process to open a folder of many shards: seconds and memory, of an index as `write_index` makes it.

    python benchmarks/index.py --samples 40000 --shard-size 1000

The shards are empty files of the right size: nothing of them is read. At 4 million videos, `paper`, multiply.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import psutil

from vfusion3d.data.shards import VideoShards, shard_path

FRAME, FRAMES = 19_400, 16  # bytes of a frame at 512 pixels (rates.yaml), frames of a video


def main() -> None:
    """Write such a folder, open it, and print what that took."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--samples", type=int, default=40_000)
    parser.add_argument("--shard-size", type=int, default=1000)
    options = parser.parse_args()
    names = [f"frame{number:02d}.jpg" for number in range(FRAMES)] + ["txt", "json"]
    with tempfile.TemporaryDirectory() as folder:
        shards = []
        for number in range(-(-options.samples // options.shard_size)):
            samples, end = [], 0
            for place in range(options.shard_size):
                members = {}
                for name in names:
                    size = FRAME if name.startswith("frame") else 60
                    members[name] = [end + 512, size]
                    end += 512 + -(-size // 512) * 512
                samples.append({"key": f"{number * options.shard_size + place:08d}", "members": members})
            path = shard_path(folder, number)
            path.touch()
            with path.open("r+b") as file:
                file.truncate(end)
            shards.append({"name": path.name, "bytes": end, "sha256": f"{number:064x}", "samples": samples})
        index = Path(folder) / "index.json"
        index.write_text(json.dumps({"samples": options.samples, "shards": shards}, separators=(",", ":")))
        del shards, samples
        before, begun = psutil.Process().memory_info().rss, time.perf_counter()
        found = VideoShards(folder)
        seconds, more = time.perf_counter() - begun, psutil.Process().memory_info().rss - before
        print(
            f"{len(found):,} samples in {options.samples // options.shard_size:,} shards: an index of "
            f"{index.stat().st_size / 1e6:.0f} MB, opened in {seconds:.2f} s with {more / 1e6:.0f} MB"
        )


if __name__ == "__main__":
    main()

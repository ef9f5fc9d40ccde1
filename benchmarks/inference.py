"""How fast is inference, and how much memory does it take? One table, ours beside the slow twin of `tests/`.

    make bench          or          python benchmarks/inference.py --threads 2

Full released size runs with random weights. Random weights leave no space empty and cross no surface, so the views
and the mesh at full size are of a field with the released sizes (80 channels, 64x64 planes, 64 wide) whose density is
a ball of radius 0.6 and whose colours are random. `mini` runs on a rendered object. Every figure is the median of the
runs in this process; memory is the peak above what the process held before (weights and planes included in that).
"""

import argparse
import ctypes
import gc
import math
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import torch
from skimage.measure import marching_cubes

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import slow_renderer
from fields import ball_field

from vfusion3d import ImageTo3DPipeline, VFusion3D
from vfusion3d.cameras import camera_vector, default_intrinsics, orbit_cameras
from vfusion3d.model.mesh import extract_mesh
from vfusion3d.model.rendering import render
from vfusion3d.runs.cpus import cpus


def measure(run, repeats: int) -> tuple[float, float, object]:
    """Median seconds, peak MB above the start, and the last result."""
    process = psutil.Process()
    seconds, peak, result = [], 0, None
    for _ in range(repeats):
        result = None
        give_back()
        before = process.memory_info().rss
        done = threading.Event()
        high = [0]

        def watch(before=before, done=done, high=high):
            while not done.wait(0.005):
                high[0] = max(high[0], process.memory_info().rss - before)

        watcher = threading.Thread(target=watch)
        watcher.start()
        begun = time.perf_counter()
        result = run()
        seconds.append(time.perf_counter() - begun)
        done.set()
        watcher.join()
        peak = max(peak, high[0])
    return statistics.median(seconds), peak / 1e6, result


def give_back() -> None:
    """Return freed memory to the system, or what one run has used would be there for the next at no cost."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return -10 * math.log10(max((a - b).square().mean().item(), 1e-12))


class Table:
    def __init__(self):
        print("| what | seconds | peak memory | against | note |\n| --- | ---: | ---: | ---: | --- |")

    def row(self, what: str, seconds: float, memory: float, reference: float | None = None, note: str = ""):
        against = f"{reference / seconds:.1f}x faster" if reference else ""
        print(f"| {what} | {seconds:.2f} | {memory:,.0f} MB | {against} | {note} |", flush=True)


@torch.inference_mode()
def full_size(table: Table, repeats: int, slow: bool) -> None:
    torch.manual_seed(0)
    model = VFusion3D().eval()
    image, camera = torch.rand(1, 3, 512, 512), camera_vector(orbit_cameras(1, 0.0, 1.0), default_intrinsics(1))
    view = (orbit_cameras(1, 0.0)[None], default_intrinsics(1, 1), 64)
    seconds, memory, planes = measure(lambda: model(image, camera), repeats)
    exact = model.render(planes, *view).rgb
    table.row("triplane, float32", seconds, memory)
    model.bfloat16()
    half, memory, planes = measure(lambda: model(image.bfloat16(), camera.bfloat16()), repeats)
    quality = psnr(exact, model.render(planes, *view).rgb)
    table.row("triplane, bfloat16", half, memory, seconds, f"a view is {quality:.1f} dB from float32's")
    del model, planes

    field, planes = ball_field(channels=80, resolution=64, radius=0.6)
    cameras, intrinsics = orbit_cameras(1, 0.35)[None], default_intrinsics(1, 1)
    for size in (256, 384):
        twin = None
        if slow and size == 256:
            twin, memory, (expected, _) = measure(
                lambda: slow_renderer.render(field.net, planes, cameras[0, 0], intrinsics[0, 0], 256), 1
            )
            table.row("view 256x256, slow twin", twin, memory)
        for skip in (False, True):
            seconds, memory, result = measure(
                lambda size=size, skip=skip: render(field, planes, cameras, intrinsics, size, skip_empty=skip), repeats
            )
            note = f"{psnr(result.rgb[0, 0], expected):.1f} dB from the twin's" if twin else ""
            table.row(f"view {size}x{size}{', empty space skipped' * skip}", seconds, memory, twin, note)

    def dense():
        return marching_cubes(slow_renderer.density_grid(field.net, planes, 256).numpy(), 1.0)

    twin = None
    if slow:
        twin, memory, _ = measure(dense, 1)
        table.row("mesh 256^3, dense grid", twin, memory)
    seconds, memory, mesh = measure(lambda: extract_mesh(field, planes, 256), repeats)
    table.row("mesh 256^3", seconds, memory, twin, f"{len(mesh.vertices):,} vertices")


@torch.inference_mode()
def mini(table: Table, repeats: int, slow: bool) -> None:
    from vfusion3d.data.render import render_views
    from vfusion3d.world.objects import build_mesh, make_object

    mesh = build_mesh(make_object("a striped red and white mug", 3))
    camera = orbit_cameras(1, 0.39, azimuth=0.5)
    photo = render_views(mesh, camera, default_intrinsics(1), 512).rgba[0]
    pipeline = ImageTo3DPipeline.from_pretrained("mini")
    pipeline(photo)

    with tempfile.TemporaryDirectory() as folder:
        seconds, memory, _ = measure(lambda: pipeline(photo).save(f"{folder}/mug.glb"), repeats)
    table.row("mini: picture in, GLB out", seconds, memory)
    asset = pipeline(photo)
    model = pipeline.model
    planes = asset.planes
    seconds, memory, _ = measure(lambda: pipeline(photo), repeats)
    table.row("mini: picture to triplane, float32", seconds, memory)
    cameras, intrinsics = orbit_cameras(1, 0.35)[None], default_intrinsics(1, 1)
    twin = None
    if slow:
        twin, memory, (expected, _) = measure(
            lambda: slow_renderer.render(model.field.net, planes, cameras[0, 0], intrinsics[0, 0], 256), 1
        )
        table.row("mini: view 256x256, slow twin", twin, memory)
    for size in (256, 384):
        seconds, memory, result = measure(
            lambda size=size: model.render(planes, cameras, intrinsics, size, samples=128), repeats
        )
        same = slow and size == 256
        note = f"{psnr(result.rgb[0, 0], expected):.1f} dB from the twin's" if same else ""
        table.row(f"mini: view {size}x{size}", seconds, memory, twin if same else None, note)
    if slow:
        twin, memory, _ = measure(
            lambda: marching_cubes(slow_renderer.density_grid(model.field.net, planes, 256).numpy(), 1.0), 1
        )
        table.row("mini: mesh 256^3, dense grid", twin, memory)
    seconds, memory, mesh = measure(lambda: model.extract_mesh(planes), repeats)
    table.row("mini: mesh 256^3", seconds, memory, twin, f"{len(mesh.vertices):,} vertices")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--threads", type=int, default=cpus(), help="CPU threads (default: all)")
    arguments.add_argument("--repeats", type=int, default=3, help="runs of each fast row (default: 3)")
    arguments.add_argument("--no-twin", action="store_true", help="leave out the slow twin (minutes, and 12 GB)")
    arguments.add_argument("--only", choices=["full", "mini"], help="one of the two sizes only")
    options = arguments.parse_args()
    torch.set_num_threads(options.threads)
    table = Table()
    if options.only != "mini":
        full_size(table, options.repeats, not options.no_twin)
    if options.only != "full":
        mini(table, options.repeats, not options.no_twin)


if __name__ == "__main__":
    main()

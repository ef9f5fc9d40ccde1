"""Would Gaussian splats show an object better than the textured mesh? Both come from the field; so the question is how
much of the field's own pictures the mesh loses.

    python benchmarks/mesh_or_splats.py runs/laptop/data/test --objects 8

Splats fitted to the field's renders show at best what these show: their row is a bound for any fit. `splats` are those
that a mesh gives without a fit: SPLATS round spots on its surface, in the field's colours, over one another by depth.
"""

import argparse

import numpy as np
import pandas as pd
import torch
import trimesh

from vfusion3d import ImageTo3DPipeline
from vfusion3d.cameras import azimuth_elevation_distance, project, turn_to_input
from vfusion3d.data.images import on_white, resize
from vfusion3d.data.render import render_views
from vfusion3d.data.shards import MultiviewShards
from vfusion3d.evaluation.metrics import lpips, psnr, ssim
from vfusion3d.foundations.perceptual import perceptual_distance
from vfusion3d.runs.profiles import load_profile

SPLATS = 30_000
OPACITY = 0.9  # of a splat's middle
WANTED = 4  # compared views of an object


def splatted(asset, mesh, cam2world, intrinsics, size):
    """A picture (3, size, size) of spots on the mesh's surface, front to back, on white."""
    places = trimesh.sample.sample_surface(mesh, SPLATS, seed=0)[0]
    colours = asset.model.colours_at(asset.planes, places) / 255.0
    at, depth = project(torch.tensor(places, dtype=torch.float32), cam2world, intrinsics)
    at, depth = at.numpy() * size, depth.numpy()
    spread = 0.7 * np.sqrt(mesh.area / SPLATS) * float(intrinsics[0]) * size / depth  # pixels
    spread = np.sqrt(spread**2 + 0.3**2)  # no smaller than what a pixel tells apart
    picture, light = np.zeros((size, size, 3)), np.ones((size, size))
    for one in np.argsort(depth):
        x, y = at[one]
        reach = 2.5 * spread[one]
        left, right = max(0, int(x - reach)), min(size, int(x + reach) + 1)
        top, bottom = max(0, int(y - reach)), min(size, int(y + reach) + 1)
        if left >= right or top >= bottom:
            continue
        across = (np.arange(left, right) + 0.5 - x) ** 2
        down = (np.arange(top, bottom) + 0.5 - y) ** 2
        alpha = OPACITY * np.exp(-(down[:, None] + across) / (2 * spread[one] ** 2))
        behind = light[top:bottom, left:right]
        picture[top:bottom, left:right] += (behind * alpha)[..., None] * colours[one]
        light[top:bottom, left:right] = behind * (1 - alpha)
    return torch.tensor(picture + light[..., None], dtype=torch.float32).movedim(-1, 0).clamp(0, 1)


@torch.no_grad()
def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("data", help="a folder of rendered objects")
    arguments.add_argument("--objects", type=int, default=8)
    arguments.add_argument("--size", type=int, default=64, help="pixels of the compared views")
    options = arguments.parse_args()
    pipeline = ImageTo3DPipeline.from_pretrained("mini", elevation_estimator=None)
    perceptual = perceptual_distance(load_profile("laptop"))
    shards = MultiviewShards(options.data)
    rows = []
    for index in range(0, len(shards), max(1, len(shards) // options.objects)):
        sample = shards[index]
        world = turn_to_input(sample.cam2world, sample.cam2world[0])
        wanted = [round((place + 0.5) * len(world) / WANTED) for place in range(WANTED)]
        seen = on_white(sample.rgba)
        _, elevation, _ = azimuth_elevation_distance(world[0])
        asset = pipeline(seen[0], elevation.item(), background="keep")
        cameras, intrinsics = world[wanted], sample.intrinsics[wanted]
        mesh = asset.mesh()
        drawn = render_views(asset._textured(mesh, 1024), cameras, intrinsics, options.size, shading=False)
        ways = {
            "field": asset.render(cameras, intrinsics, options.size),
            "mesh, textured": on_white(torch.from_numpy(drawn.rgba).movedim(-1, 1)),
            "splats": torch.stack(
                [splatted(asset, mesh, *camera, options.size) for camera in zip(cameras, intrinsics, strict=True)]
            ),
        }
        for against, truth in (("truth", resize(seen[wanted], options.size)), ("field", ways["field"])):
            for way, rgb in ways.items():
                marks = psnr(rgb, truth), ssim(rgb, truth), lpips(perceptual, rgb, truth)
                marks = dict(zip(("psnr", "ssim", "lpips"), (mark.mean().item() for mark in marks)))
                rows.append({"against": against, "way": way, **marks})
        table = pd.DataFrame(rows).groupby(["against", "way"], sort=False).mean()
        print(f"after {sample.key}\n{table.round(3)}", flush=True)


if __name__ == "__main__":
    main()

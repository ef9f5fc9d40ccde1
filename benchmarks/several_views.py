"""What do several photos of one object bring? Ways to use them, on objects that the model has never seen.

    python benchmarks/several_views.py runs/laptop/data/test --objects 12

The model sees one picture, in a world where that picture's camera stands at azimuth 0. A triplane cannot be turned (its
planes hold what belongs together along the axes), so several are put together as fields: each is asked at the point as
it lies in its own world. Cameras are the true ones; of photos they would be estimated. The given views stand a quarter
of a turn apart, and none of them is among those that are compared.

one view          what the model makes of the first
nearest           each wanted view from the triplane of the given view that is nearest to it
mean              densities and colours of all fields averaged at every point
by side           the same, weighted: a field counts most on the side that its picture shows (exp(SIDE * towards it))
fitted            the first triplane, moved to show all given views: STEPS of Adam on random rays of them
fitted, off       the same where the cameras of all but the first are guessed: OFF degrees and percent are the standard
                  deviations of what is wrong about azimuth and elevation, and about the size of the object
"""

import argparse
import math
import time

import pandas as pd
import torch
from torch.nn.functional import mse_loss

from vfusion3d import VFusion3D
from vfusion3d.cameras import (
    azimuth_elevation_distance,
    camera_vector,
    look_at_origin,
    pixel_centres,
    rays_through,
    sphere_position,
    turn_to_input,
    turn_world,
)
from vfusion3d.data.images import on_white, resize
from vfusion3d.data.shards import MultiviewShards
from vfusion3d.evaluation.metrics import lpips, psnr, ssim
from vfusion3d.foundations.perceptual import perceptual_distance
from vfusion3d.model.rendering import cube_interval, ray_weights, render_rays
from vfusion3d.runs.profiles import load_profile

SAMPLES = 64  # along a ray
SIDE = 8.0  # per world unit
STEPS, RAYS, RATE = 60, 384, 0.02  # of the fit; the rays are of each given view
OFF = 5.0
WANTED = 6  # compared views of an object


def fields_at(model, planes, azimuths, points):
    """Each triplane's colours (views, points, 3) and raw densities (views, points) at points of the common world."""
    found = []
    for own, azimuth in zip(planes, azimuths, strict=True):
        cos, sin = math.cos(-azimuth), math.sin(-azimuth)
        x, y, z = points.unbind(-1)
        turned = torch.stack([cos * x - sin * y, sin * x + cos * y, z], dim=-1)
        batch = torch.zeros(len(points), dtype=torch.int)
        found.append(model.field.in_chunks(model.field.table(own[None]), own.shape[-1], turned, batch))
    return torch.stack([rgb for rgb, _ in found]), torch.stack([raw for _, raw in found])


def together(model, planes, cam2world, wanted, intrinsics, size):
    """Views (ways, wanted, 3, size, size) of all triplanes together, by the mean and by the side that each has seen."""
    azimuths, _, _ = azimuth_elevation_distance(cam2world)
    origins, directions = rays_through(pixel_centres(size).expand(len(wanted), -1, -1), wanted, intrinsics)
    origins, directions = origins.flatten(0, 1), directions.flatten(0, 1)
    near, far = cube_interval(origins, directions)
    t = near[:, None] + (far - near).clamp(min=0)[:, None] * torch.linspace(0, 1, SAMPLES)
    points = (origins[:, None] + t[..., None] * directions[:, None]).flatten(0, 1)
    rgb, raw = fields_at(model, planes, azimuths.tolist(), points)
    towards = torch.stack([azimuths.cos(), azimuths.sin()], dim=-1) @ points[:, :2].T
    ways = []
    for weights in (torch.full_like(towards, 1 / len(planes)), (SIDE * towards).softmax(0)):
        colour, density = (weights[..., None] * rgb).sum(0), (weights * raw).sum(0)
        colour, density = colour.view(*t.shape, 3), density.view(t.shape)
        seen = ray_weights(t, density)[..., None]
        colour = (seen * (colour[:, 1:] + colour[:, :-1]) / 2).sum(1) + 1 - seen.sum(1)
        ways.append(colour.clamp(0, 1).view(len(wanted), size, size, 3).movedim(-1, 1))
    return torch.stack(ways)


def guessed(cam2world, intrinsics, generator):
    """The cameras with errors, but for the first."""
    azimuth, elevation, distance = azimuth_elevation_distance(cam2world)
    errors = torch.randn(3, len(cam2world), generator=generator) * OFF * (torch.arange(len(cam2world)) > 0)
    position = sphere_position(azimuth + errors[0].deg2rad(), elevation + errors[1].deg2rad(), distance)
    focal = intrinsics[:, :2] * (1 + errors[2, :, None] / 100)
    return look_at_origin(position), torch.cat([focal, intrinsics[:, 2:]], dim=1)


def fitted(model, start, cam2world, intrinsics, pictures, generator):
    """The first triplane after some steps towards all given pictures."""
    planes = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([planes], lr=RATE)
    size = pictures.shape[-1]
    pixels, colours = pixel_centres(size), pictures.flatten(2).mT
    with torch.enable_grad():
        for _ in range(STEPS):
            chosen = torch.randint(size**2, (len(pictures), RAYS), generator=generator)
            origins, directions = rays_through(pixels[chosen], cam2world, intrinsics)
            truth = torch.stack([each[rays] for each, rays in zip(colours, chosen, strict=True)])
            rgb, _, _ = render_rays(
                model.field,
                planes,
                origins.flatten(0, 1)[None],
                directions.flatten(0, 1)[None],
                samples=32,
                generator=generator,
            )
            loss = mse_loss(rgb[0], truth.flatten(0, 1)) + 1e-3 * (planes - start).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return planes.detach()


@torch.no_grad()
def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("data", help="a folder of rendered objects")
    arguments.add_argument("--weights", default="mini")
    arguments.add_argument("--objects", type=int, default=12)
    arguments.add_argument("--size", type=int, default=48, help="pixels of the compared views")
    options = arguments.parse_args()
    model = VFusion3D.from_pretrained(options.weights).requires_grad_(False)
    perceptual = perceptual_distance(load_profile("laptop"))
    shards = MultiviewShards(options.data)
    generator = torch.Generator().manual_seed(0)
    rows = []
    for index in range(0, len(shards), max(1, len(shards) // options.objects)):
        sample = shards[index]
        count = len(sample.rgba)
        given = [round(turn * count / 4) for turn in range(4)]
        left = [view for view in range(count) if min(abs(view - one) for one in (*given, count)) > 1]
        wanted = [left[round((place + 0.5) * len(left) / WANTED)] for place in range(WANTED)]
        world = turn_to_input(sample.cam2world, sample.cam2world[0])
        seen = on_white(sample.rgba)
        truth = resize(seen[wanted], options.size)
        azimuths, _, _ = azimuth_elevation_distance(world[given])
        cameras = torch.cat([turn_world(world[view][None], -azimuth) for view, azimuth in zip(given, azimuths)])
        pictures = resize(seen[given], model.config.image_size)
        planes = model(pictures, camera_vector(cameras, sample.intrinsics[given]))

        def show(own, azimuth, views, sample=sample, world=world):
            turned = turn_world(world[views], -azimuth)
            return (
                model.render(own[None], turned[None], sample.intrinsics[views][None], options.size).rgb[0].clamp(0, 1)
            )

        def score(way, views, rgb, seconds, sample=sample, truth=truth):
            marks = (psnr(rgb, truth), ssim(rgb, truth), lpips(perceptual, rgb, truth))
            marks = dict(zip(("psnr", "ssim", "lpips"), (mark.mean().item() for mark in marks)))
            rows.append({"way": way, "views": views, "key": sample.key, **marks, "seconds": seconds})

        score("one view", 1, show(planes[0], azimuths[0], wanted), 0.0)
        for views in (2, 4):
            own, own_azimuths = planes[:views], azimuths[:views]
            there, _, _ = azimuth_elevation_distance(world[wanted])
            nearest = (there[:, None] - own_azimuths).cos().argmax(1).tolist()
            rgb = torch.cat([show(own[one], own_azimuths[one], [view]) for one, view in zip(nearest, wanted)])
            score("nearest", views, rgb, 0.0)
            ways = together(model, own, world[given[:views]], world[wanted], sample.intrinsics[wanted], options.size)
            for way, rgb in zip(("mean", "by side"), ways):
                score(way, views, rgb, 0.0)
            true = world[given[:views]], sample.intrinsics[given[:views]]
            for way, known in (("fitted", true), ("fitted, off", guessed(*true, generator))):
                begun = time.process_time()
                moved = fitted(model, planes[:1], *known, pictures[:views], generator)
                seconds = time.process_time() - begun
                score(way, views, show(moved[0], azimuths[0], wanted), seconds)
        table = pd.DataFrame(rows)
        print(sample.key, *table.groupby(["views", "way"]).psnr.mean().round(2).tolist(), flush=True)
    one = table[table.views == 1].set_index("key")
    print(
        "| views | way | PSNR | SSIM | LPIPS | PSNR over one view | CPU seconds |\n"
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: |"
    )
    for (views, way), part in table.groupby(["views", "way"], sort=False):
        gain = part.set_index("key").psnr - one.psnr
        error = gain.std() / len(gain) ** 0.5
        means = part[["psnr", "ssim", "lpips", "seconds"]].mean()
        print(
            f"| {views} | {way} | {means.psnr:.2f} | {means.ssim:.3f} | {means.lpips:.3f} "
            f"| {gain.mean():+.2f} ± {error:.2f} | {means.seconds:.1f} |"
        )


if __name__ == "__main__":
    main()

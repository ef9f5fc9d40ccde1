"""What a training step keeps in memory for its gradients, an object (or a video), with and without `checkpointing`.

    python benchmarks/memory.py
    python benchmarks/memory.py --profile gpu

Counted on the CPU, where tensors that are kept are the same as on a GPU: every storage that autograd saves during the
forward pass, once, weights left out. What is computed again for the gradient comes on top, one layer or chunk at a
time. Views and rays are few here and are scaled up, because what the renderer keeps grows with their number.
"""

import argparse
from dataclasses import replace

import torch

from vfusion3d.cameras import camera_vector, default_intrinsics, orbit_cameras, rays_through
from vfusion3d.learning.precision import autocast
from vfusion3d.model.rendering import render_rays
from vfusion3d.model.sizes import SIZES
from vfusion3d.model.vfusion3d import VFusion3D
from vfusion3d.runs.profiles import load_profile

RAYS = 1024  # of one object
GIB = 1 << 30


class Kept:
    """Adds up what autograd saves while it is entered; `bytes`."""

    def __init__(self, model: torch.nn.Module):
        self.weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        self.storages: dict[int, int] = {}
        self.alive = []  # a storage that is freed could come back as another one at the same address
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self._save, lambda tensor: tensor)

    def _save(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.weights:
            self.storages[storage.data_ptr()] = storage.nbytes()
            self.alive.append(storage)
        return tensor

    @property
    def bytes(self) -> int:
        return sum(self.storages.values())


def main() -> None:
    page = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    page.add_argument("--profile", default="paper")
    profile = load_profile(page.parse_args().profile)
    size, recipe = SIZES[profile.model.size], profile.training
    torch.manual_seed(0)
    model = VFusion3D(image_size=profile.model.image_size, **size).train()
    camera = camera_vector(orbit_cameras(1, 0.0), default_intrinsics(1))
    image = torch.rand(1, 3, profile.model.image_size, profile.model.image_size)
    pixels = torch.rand(1, RAYS, 2)
    rays = rays_through(pixels, orbit_cameras(1, 0.0), default_intrinsics(1))
    wanted = recipe.views * (recipe.rays_per_view or recipe.patch_size**2)
    print(f"{profile.name}: {model.num_parameters():,} parameters, {recipe.views} views, {wanted:,} rays an object")
    for checkpointing in (False, True):
        recipe = replace(recipe, checkpointing=checkpointing)
        if checkpointing:
            model.enable_gradient_checkpointing()
        with autocast(recipe.mixed_precision, torch.device("cpu")):
            network = Kept(model)
            with network.hooks:
                planes = model(image, camera)
            leaf, renderer = planes.detach().requires_grad_(), Kept(model)
            options = {"samples": recipe.samples_per_ray, "generator": torch.Generator().manual_seed(0)}
            with renderer.hooks:
                render_rays(model.field, leaf, *rays, checkpointing=checkpointing, **options)
        scaled = renderer.bytes * wanted / RAYS
        parts = {"network": network.bytes, "renderer": scaled, "together": network.bytes + scaled}
        told = ", ".join(f"{name} {part / GIB:.2f} GiB" for name, part in parts.items())
        print(f"checkpointing {'on' if checkpointing else 'off'}: {told}")


if __name__ == "__main__":
    main()

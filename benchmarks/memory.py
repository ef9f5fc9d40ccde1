"""What a training step keeps in memory for its gradients, an object, with and without `checkpointing`.

    python benchmarks/memory.py --profile paper

Counted on the CPU, where autograd keeps the same tensors as on a GPU: every storage that it saves in a forward pass,
once, without the weights. What is computed again for the gradient comes on top, a layer or a chunk of samples at a
time. One and two layers and a few rays are measured; the rest of them keep as much each.
"""

import argparse

import torch

from vfusion3d.cameras import camera_vector, default_intrinsics, orbit_cameras, rays_through
from vfusion3d.learning.precision import autocast
from vfusion3d.model import vfusion3d
from vfusion3d.model.rendering import render_rays
from vfusion3d.model.sizes import SIZES
from vfusion3d.runs.profiles import Profile, load_profile

RAYS = 512  # of one object
GIB = 1 << 30


class Kept:
    """What autograd saves while `hooks` is entered: `bytes`, without the weights of a model."""

    def __init__(self, model: torch.nn.Module):
        self.weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
        self.storages: dict[int, torch.UntypedStorage] = {}  # kept alive: an address must not come twice
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self._save, lambda tensor: tensor)

    def _save(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.weights:
            self.storages[storage.data_ptr()] = storage
        return tensor

    @property
    def bytes(self) -> int:
        """How much is kept."""
        return sum(storage.nbytes() for storage in self.storages.values())


def network_bytes(profile: Profile, checkpointing: bool) -> int:
    """What encoder and transformer keep of one image."""

    def kept(**layers: int) -> int:
        model = new_model(profile, **{"layers": 1, "encoder_layers": 1} | layers)
        if checkpointing:
            model.enable_gradient_checkpointing()
        image = torch.rand(1, 3, profile.model.image_size, profile.model.image_size)
        found = Kept(model)
        with found.hooks, autocast(profile.training.mixed_precision, torch.device("cpu")):
            model(image, camera_vector(orbit_cameras(1, 0.0), default_intrinsics(1)))
        return found.bytes

    once = kept()
    deeper = new_model(profile).config
    return once + sum((deeper[name] - 1) * (kept(**{name: 2}) - once) for name in ("layers", "encoder_layers"))


def renderer_bytes(profile: Profile, checkpointing: bool) -> float:
    """What the renderer keeps of all rays of one object."""
    recipe, model = profile.training, new_model(profile, layers=1, encoder_layers=1)
    planes = torch.randn(
        1, 3, model.config.triplane_channels, *[2 * model.config.triplane_size] * 2, requires_grad=True
    )
    rays = rays_through(torch.rand(1, RAYS, 2), orbit_cameras(1, 0.0), default_intrinsics(1))
    found = Kept(model)
    options = {"samples": recipe.samples_per_ray, "generator": torch.Generator().manual_seed(0)}
    with found.hooks, autocast(recipe.mixed_precision, torch.device("cpu")):
        render_rays(model.field, planes, *rays, checkpointing=checkpointing, **options)
    return found.bytes * recipe.views * (recipe.rays_per_view or recipe.patch_size**2) / RAYS


def new_model(profile: Profile, **changes: int) -> vfusion3d.VFusion3D:
    """A model of the profile's size; without changes it takes no memory."""
    with torch.device("cpu" if changes else "meta"):
        return vfusion3d.VFusion3D(image_size=profile.model.image_size, **SIZES[profile.model.size] | changes).train()


def main() -> None:
    page = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    page.add_argument("--profile", default="paper")
    profile = load_profile(page.parse_args().profile)
    vfusion3d.has_bfloat16 = lambda: False  # fused attention, as on a GPU
    for checkpointing in (False, True):
        parts = {"network": network_bytes(profile, checkpointing), "renderer": renderer_bytes(profile, checkpointing)}
        parts["together"] = sum(parts.values())
        told = ", ".join(f"{name} {part / GIB:.2f} GiB" for name, part in parts.items())
        print(f"{profile.name}, an object, checkpointing {'on' if checkpointing else 'off'}: {told}")


if __name__ == "__main__":
    main()

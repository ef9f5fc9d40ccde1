"""The losses of section 3.3: LPIPS and opacity; MSE for its baseline, MSE and L1 for what learns from single rays."""

import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss, mse_loss

from vfusion3d.cameras import rays_through
from vfusion3d.learning.draws import Generators
from vfusion3d.learning.precision import autocast
from vfusion3d.model.rendering import render_rays
from vfusion3d.model.vfusion3d import VFusion3D
from vfusion3d.runs.profiles import Recipe
from vfusion3d.training.supervision import Batch


class Losses:
    """Renders a batch and compares: (model, batch, generators) give the losses by name, `loss` their weighted sum."""

    def __init__(self, recipe: Recipe, perceptual: nn.Module | None):
        if recipe.losses.lpips and (perceptual is None or recipe.rays_per_view):
            raise ValueError("LPIPS compares patches: it needs a perceptual distance and `rays_per_view: 0`")
        self.recipe, self.perceptual = recipe, perceptual

    def __call__(self, model: nn.Module, batch: Batch, generator: Generators) -> dict[str, Tensor]:
        bare: VFusion3D = getattr(model, "module", getattr(model, "_orig_mod", model))
        device = next(bare.parameters()).device
        checkpointing = self.recipe.checkpointing and torch.is_grad_enabled()
        planes = model(batch.image.to(device), batch.camera.to(device))
        rays = rays_through(batch.pixels, batch.cam2world, batch.intrinsics)
        origins, directions = (r.flatten(1, 2).to(device) for r in rays)
        with autocast(self.recipe.mixed_precision, device):
            options = {"samples": self.recipe.samples_per_ray, "radius": bare.config.radius}
            options |= {"checkpointing": checkpointing}
            rgb, opacity, _ = render_rays(bare.field, planes, origins, directions, generator=generator, **options)
        target, mask = batch.rgb.flatten(1, 2).to(device), batch.mask.flatten(1, 2).to(device)
        weights, losses = self.recipe.losses, {}
        if weights.lpips:
            shown, wanted = (_patches(values, batch.patch) for values in (rgb, target))
            losses["lpips"] = self.perceptual(shown, wanted).mean()
        if weights.mse:
            losses["mse"] = mse_loss(rgb, target)
        if weights.l1:
            losses["l1"] = l1_loss(rgb, target)
        if weights.opacity:
            losses["opacity"] = mse_loss(opacity, mask)
        total = sum(getattr(weights, name) * value for name, value in losses.items())
        return {"loss": total, **losses}


def _patches(values: Tensor, patch: int) -> Tensor:
    """(B, V * patch * patch, 3) to images (B * V, 3, patch, patch)."""
    return values.reshape(-1, patch, patch, 3).movedim(-1, 1)

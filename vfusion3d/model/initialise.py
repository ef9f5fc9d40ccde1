"""A local start for models that train from nothing: the architecture stays as it is, only where it begins changes.

Seen from the input camera at azimuth 0, image right is world y and image up is world z. So image tokens and plane tokens
can begin with sine-cosine embeddings of the same (y, z), and the cross-attentions near the identity: each plane token
then looks first at the image patch it projects to, and colour flows from the first step. The depth x is known to plane
tokens only. Small models learn several times faster from here than from the usual random start.
"""

import math

import torch
from torch import Tensor, nn

from vfusion3d.model.vfusion3d import VFusion3D

GROUP = 8  # channels: sine and cosine of y, of z, of x, and two left free
FLOW = 0.5  # how much of what it looks at a plane token takes over in each cross-attention
QUIET = 0.2  # how much of its usual size every other branch has at first
RAW_DENSITY = -2.0  # the field begins nearly empty: softplus(-3) = 0.05 per world unit


@torch.no_grad()
def start_local(model: VFusion3D, generator: torch.Generator) -> VFusion3D:
    """Set the weights of a fresh model to the local start described above; returns the same model."""
    config, transformer = model.config, model.transformer
    heads, width = config.heads, config.width

    embeddings = model.encoder.model.embeddings
    grid = config.position_grid
    z, y = _grid(grid, flip_rows=True)
    known = _sine_cosine(y, z, None, heads, width)  # (grid * grid, width)
    embeddings.position_embeddings.zero_()
    shared = min(width, config.encoder_width)
    embeddings.position_embeddings[0, 1:, :shared] = known[:, :shared]

    rows, columns = _grid(config.triplane_size)
    planes = [
        _sine_cosine(rows, None, columns, heads, width),  # plane (x, y): x along the width, y along the height
        _sine_cosine(None, rows, columns, heads, width),  # plane (x, z)
        _sine_cosine(rows, columns, None, heads, width),  # plane (z, y)
    ]
    free = 0.1 * torch.randn(transformer.pos_embed.shape, generator=generator)
    transformer.pos_embed.copy_(torch.cat(planes)[None] + free)

    for layer in transformer.layers:
        cross = layer.cross_attn
        for weight in (cross.q_proj_weight, cross.k_proj_weight):
            _near_identity(weight, 1.0, generator)
        _near_identity(cross.v_proj_weight, FLOW, generator)
        _near_identity(cross.out_proj.weight, 1.0, generator)
        layer.self_attn.out_proj.weight.mul_(QUIET)
        layer.mlp[3].weight.mul_(QUIET)
        for norm in (layer.norm1, layer.norm2, layer.norm3):
            nn.init.zeros_(norm.mlp[1].weight)
            nn.init.zeros_(norm.mlp[1].bias)

    last = model.field.net[6]
    last.weight[0].mul_(QUIET)
    last.bias.zero_()
    last.bias[0] = RAW_DENSITY
    return model


def _grid(size: int, flip_rows: bool = False) -> tuple[Tensor, Tensor]:
    """Row and column coordinates in [-1, 1] of the cells of a square grid, row by row; image rows run downwards."""
    ticks = (torch.arange(size) + 0.5) * 2 / size - 1
    rows, columns = torch.meshgrid(-ticks if flip_rows else ticks, ticks, indexing="ij")
    return rows.flatten(), columns.flatten()


def _sine_cosine(y: Tensor | None, z: Tensor | None, x: Tensor | None, heads: int, width: int) -> Tensor:
    """Embeddings in which every attention head finds the same frequencies of each coordinate; zeros where it is unknown."""
    a_head = width // heads
    given = next(c for c in (y, z, x) if c is not None)
    embedding = torch.zeros(len(given), heads, a_head)
    for group in range(a_head // GROUP):
        frequency = math.pi / 2 * (group + 1)
        for axis, coordinate in enumerate((y, z, x)):
            if coordinate is not None:
                at = group * GROUP + 2 * axis
                embedding[:, :, at] = (frequency * coordinate).sin()[:, None]
                embedding[:, :, at + 1] = (frequency * coordinate).cos()[:, None]
    return math.sqrt(2) * embedding.flatten(1)


def _near_identity(weight: Tensor, scale: float, generator: torch.Generator) -> None:
    noise = 0.02 * torch.randn(weight.shape, generator=generator)
    weight.copy_(scale * torch.eye(*weight.shape) + noise)

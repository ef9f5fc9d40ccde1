"""Fields whose shape is known: a ball with a random texture, in the model's own planes and layers."""

import torch

from vfusion3d.model.rendering import Field


@torch.no_grad()
def ball_field(channels=8, resolution=32, radius=0.5, seed=0, batch=1, raw_empty=-9.0, steepness=400.0):
    """A field and planes (batch, 3, channels, resolution, resolution) with raw density `raw_empty` outside of a ball.

    Channel 0 of the planes holds radius^2 - (x^2 + y^2) and -z^2: the first layer adds them, the ReLU keeps the inside,
    and the last layer turns it into density. The other channels colour it at random, as random weights would.
    """
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    field = Field(channels)
    planes = torch.randn(batch, 3, channels, resolution, resolution, generator=generator)
    ticks = (torch.arange(resolution) + 0.5) * 2 / resolution - 1
    across, down = ticks[None, :], ticks[:, None]
    planes[:, 0, 0] = radius**2 - across**2 - down**2  # x along the width, y along the height
    planes[:, 1, 0] = -(down**2) + 0 * across  # z along the height of plane (x, z)
    planes[:, 2, 0] = 0
    for layer in (field.net[0], field.net[2], field.net[4]):
        layer.weight[0] = 0
        layer.bias[0] = 0
        layer.weight[1:, 0] = 0
    field.net[0].weight[0, [0, channels, 2 * channels]] = 1
    field.net[0].weight[1:, [0, channels, 2 * channels]] = 0
    field.net[2].weight[0, 0] = 1
    field.net[4].weight[0, 0] = 1
    field.net[6].weight[0] = 0
    field.net[6].weight[0, 0] = steepness
    field.net[6].weight[1:, 1:] *= 8
    field.net[6].bias[0] = raw_empty
    return field, planes

"""The sizes of VFusion3D, and those that a profile can name."""

import math
from dataclasses import asdict, dataclass

from vfusion3d.runs.memory import check_memory

MOST_SAMPLES = 4096  # of a ray
FURTHEST = 1000  # world units, where an object lies within 1
LAYER = 2**16  # what the modules of a layer take by themselves, in numbers


@dataclass(frozen=True)
class Config:
    """What a VFusion3D is built from; the defaults are the released sizes.

    image_size: pixels of the square input. patch_size, position_grid, encoder_*: the DINOv2 encoder.
    camera_width: width of the camera embedding. width, layers, heads: the triplane transformer.
    triplane_size: tokens along a plane's side; the planes have twice that resolution, with triplane_channels channels.
    samples_per_ray: half of them coarse, half fine. source_distance, source_elevation (world units, radians): where the
    camera of a plain photograph is assumed to stand, at azimuth 0. radius: of the ball around the origin outside of
    which the field is empty, in world units; None, as released: it fills the cube. Raises ValueError for sizes that
    make no model, or one that this machine cannot hold.
    """

    image_size: int = 512
    patch_size: int = 14
    position_grid: int = 37
    encoder_width: int = 768
    encoder_layers: int = 12
    encoder_heads: int = 12
    camera_width: int = 1024
    width: int = 1024
    layers: int = 16
    heads: int = 16
    triplane_size: int = 32
    triplane_channels: int = 80
    samples_per_ray: int = 128
    source_distance: float = 1.0
    source_elevation: float = 0.0
    radius: float | None = None

    def __post_init__(self):
        sizes = asdict(self)
        for name, value in sizes.items():
            if name not in ("source_elevation", "radius") and not 0 < value < math.inf:
                raise ValueError(f"{name} must be above 0, not {value}")
        if self.image_size < self.patch_size:
            raise ValueError(f"image_size {self.image_size} is below patch_size {self.patch_size}")
        for width, heads in (("encoder_width", "encoder_heads"), ("width", "heads")):
            if sizes[width] % sizes[heads]:
                raise ValueError(f"{heads} {sizes[heads]} does not divide {width} {sizes[width]}")
        if self.samples_per_ray % 2 or self.samples_per_ray > MOST_SAMPLES:
            raise ValueError(f"samples_per_ray must be even and {MOST_SAMPLES} at most, not {self.samples_per_ray}")
        if not abs(self.source_elevation) < math.pi / 2:
            raise ValueError(f"source_elevation must be below 90 degrees, not {self.source_elevation} radians")
        if self.radius is not None and not 0 < self.radius <= FURTHEST:
            raise ValueError(f"radius must be above 0 and {FURTHEST} at most, not {self.radius}")
        if not self.source_distance <= FURTHEST:
            raise ValueError(f"source_distance must be {FURTHEST} at most, not {self.source_distance}")
        check_memory("a model of these sizes (width, layers, encoder_*, triplane_*)", 4 * parameters(self))
        check_memory(f"an image_size of {self.image_size}", 4 * 4 * 3 * self.image_size**2)


def parameters(config: Config) -> int:
    """About how many numbers the weights are, and for each layer what a module takes by itself."""
    encoder, width, camera = config.encoder_width, config.width, config.camera_width
    positions = config.position_grid**2 + 3 * config.patch_size**2
    tokens = 3 * config.triplane_size**2 + 4 * config.triplane_channels
    layer = 14 * width**2 + 2 * width * encoder + 6 * width * camera + LAYER
    return (
        config.encoder_layers * (12 * encoder**2 + LAYER)
        + positions * encoder
        + config.layers * layer
        + tokens * width
        + camera**2
        + 64 * config.triplane_channels
    )


SIZES = {
    # under 3 M parameters: most of them in the encoder, where a token is cheap
    "mini": {
        "patch_size": 8,
        "position_grid": 8,
        "encoder_width": 160,
        "encoder_layers": 6,
        "encoder_heads": 5,
        "camera_width": 64,
        "width": 128,
        "layers": 3,
        "heads": 4,
        "triplane_size": 12,
        "triplane_channels": 32,
        "samples_per_ray": 32,
        "source_distance": 1.5,
        "source_elevation": math.pi / 8,
    },
    # the defaults, but for where its training data has its cameras
    "released": {"source_distance": 1.5, "source_elevation": math.pi / 8},
}

"""The sizes of VFusion3D that a profile can name."""

import math

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
    # the defaults of VFusion3D, but for where its training data has its cameras
    "released": {"source_distance": 1.5, "source_elevation": math.pi / 8},
}

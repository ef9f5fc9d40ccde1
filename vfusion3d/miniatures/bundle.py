"""Puts trained weights into the package, in half precision.

python -m vfusion3d.miniatures.bundle runs/base/vfusion3d/model base
"""

import argparse
from pathlib import Path

from vfusion3d.foundations.loading import BUNDLED
from vfusion3d.model.sizes import SIZES
from vfusion3d.model.vfusion3d import VFusion3D
from vfusion3d.runs.claim import save_whole

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a folder made by `vfusion3d train`")
    parser.add_argument("name", choices=["base", "mini"], help="of the bundled weights")
    options = parser.parse_args()
    model = VFusion3D.from_pretrained(options.model, samples_per_ray=SIZES["mini"]["samples_per_ray"]).half()
    target = BUNDLED / options.name
    save_whole(model.save_pretrained, target)
    print(f"{target}: {model.num_parameters() / 1e6:.2f} million parameters")

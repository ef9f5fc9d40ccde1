"""Trains the elevation estimator that comes with the package, on rendered objects of random elevations.

vfusion3d render --profile laptop --objects procedural --count 2500 --views 2 --size 64 --seed 31 -o runs/elevation
python -m vfusion3d.miniatures.elevation_estimator runs/elevation
"""

import argparse
import json
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from vfusion3d.cameras import azimuth_elevation_distance
from vfusion3d.curation.elevation import as_network, mean_error, predict_elevation, train_elevation
from vfusion3d.data.images import on_white
from vfusion3d.data.shards import MultiviewShards
from vfusion3d.foundations.image_features import dino_features
from vfusion3d.foundations.loading import BUNDLED
from vfusion3d.model.input_elevation import BUNDLED_ESTIMATOR
from vfusion3d.model.preprocess import recentre
from vfusion3d.runs.claim import write_whole
from vfusion3d.runs.progress import tqdm


def framings(rgba: torch.Tensor) -> torch.Tensor:
    """Views as they were rendered and as the pipeline frames a photo, each also mirrored: (4, views, 3, size, size)."""
    centred = [recentre(Image.fromarray(view.permute(1, 2, 0).numpy()), rgba.shape[-1])[0] for view in rgba]
    both = torch.stack([on_white(rgba), torch.stack(centred)])
    return torch.cat([both, both.flip(-1)])


def main() -> None:
    """Train on the shards that the command line names, and put the estimator into the package."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="shards made by `vfusion3d render`")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    features = dino_features(str(BUNDLED / "image_features"))
    shards = MultiviewShards(options.data)
    seen = []  # (objects, framings, views, width)
    true = []  # (objects, framings, views)
    for sample in tqdm(shards, desc="features", unit="object"):
        pictures = framings(sample.rgba)
        seen.append(features(pictures.flatten(0, 1)).unflatten(0, pictures.shape[:2]).numpy())
        true.append(np.broadcast_to(azimuth_elevation_distance(sample.cam2world)[1], pictures.shape[:2]))
    seen, true = np.stack(seen), np.stack(true)
    held_out = len(shards) // 10
    model = train_elevation(seen[held_out:].reshape(-1, seen.shape[-1]), true[held_out:].ravel(), options.seed)
    errors = {}
    for place, name in enumerate(("rendered", "centred")):
        predicted = predict_elevation(model, np.concatenate(seen[:held_out, place]))
        errors[name] = round(mean_error(predicted, true[:held_out, place].ravel()), 2)
    facts = {"objects": len(shards) - held_out, "views": true[held_out:, 0].size, "held_out": held_out}
    facts["error in degrees"] = errors
    write_whole(BUNDLED_ESTIMATOR / "model.safetensors", partial(save_file, as_network(model).state_dict()))
    text = json.dumps(facts, indent=2) + "\n"
    write_whole(BUNDLED_ESTIMATOR / "training.json", partial(Path.write_text, data=text))
    print(facts)


if __name__ == "__main__":
    main()

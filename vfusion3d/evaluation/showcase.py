"""The pictures beside the numbers: one unseen object from around, by several methods, asked as the protocol asks."""

import textwrap
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from vfusion3d.data.images import resize
from vfusion3d.data.shards import MultiviewSample
from vfusion3d.evaluation.figures import contact_sheet
from vfusion3d.evaluation.protocol import Predictor, question

QUARTERS = (1 / 4, 1 / 2, 3 / 4)
MANY_METHODS = 4  # too many for two views of each in a turn_sheet


@torch.no_grad()
def novel_views_by(
    methods: Mapping[str, Predictor],
    sample: MultiviewSample,
    *,
    size: int,
    input_view: int = 0,
    turns: Sequence[float] = QUARTERS,
    device: torch.device | str = "cpu",
) -> dict[str, Float[Tensor, "turns 3 size size"]]:
    """What each method makes of one stored view, seen from elsewhere on the orbit, and what is true.

    turns: how far round the orbit from the input each wanted view stands, in whole turns; the nearest stored view is
    taken. Returns images in [0, 1] on the CPU: `input` (one), then one entry a method, then `truth`. Raises ValueError
    where the stored views are smaller than `size` pixels.
    """
    stored = len(sample.rgba)
    wanted = [(input_view + round(turn * stored)) % stored for turn in turns]
    image, camera, cam2world, intrinsics, truth = question(sample, input_view, wanted, size, device)
    views = {"input": resize(image, size).cpu()}
    for name, ask in methods.items():
        views[name] = ask(image, camera, cam2world, intrinsics, size)[0].float().clamp(0, 1).cpu()
    return views | {"truth": truth.cpu()}


def turn_sheet(
    images: Float[Tensor, "n 3 side side"],
    turns: Mapping[str, Mapping[str, Float[Tensor, "views 3 size size"]]],
    keys: Sequence[str],
    row_labels: Sequence[str],
    at: Sequence[float] | None = None,
) -> Figure:
    """Each item's input picture and what every method's turn shows from elsewhere: a row an item.

    turns: by method, then by key (`method_folders`); the first view of each turn is the input's. at: how far round, in
    whole turns; by default a quarter and a half, or three eighths alone where there are many methods.
    """
    at = at or ((1 / 4, 1 / 2) if len(turns) < MANY_METHODS else (3 / 8,))
    rows = []
    for image, key in zip(images, keys, strict=True):
        of_item = [turn[key] for turn in turns.values()]
        chosen = [turn[[round(part * len(turn)) % len(turn) for part in at]] for turn in of_item]
        rows.append(torch.cat([resize(image[None], of_item[0].shape[-1]), *chosen]))
    names = [textwrap.fill(name, 11) for name in turns]
    heads = ["input", *(f"{name}\n{360 * part:.0f}°" for name in names for part in at)]
    return contact_sheet(torch.stack(rows), row_labels, heads)


def folded_sheet(rows: Sequence[Float[Tensor, "columns 3 h w"]], column_labels: Sequence[str]) -> Figure:
    """A long contact sheet folded once: the first object stands left of the second, the third left of the fourth."""
    if not rows:
        raise ValueError("folded_sheet needs at least one row of images")
    rows = [*rows, *[torch.full_like(rows[0], torch.nan)] * (len(rows) % 2)]
    pairs = torch.stack([torch.cat(pair) for pair in zip(rows[::2], rows[1::2], strict=True)])
    return contact_sheet(pairs, column_labels=[*column_labels, *column_labels])

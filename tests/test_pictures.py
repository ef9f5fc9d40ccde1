"""Pictures for the repository: fewer levels, and still the same picture."""

import io

import numpy as np
import pytest
from PIL import Image

from vfusion3d.runs.pictures import fewer_levels, smaller_png


def encoded(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def test_no_value_moves_by_more_than_4_and_black_and_white_stay():
    values = np.arange(256, dtype=np.uint8)
    few = fewer_levels(values)
    assert np.abs(few.astype(int) - values).max() <= 4
    assert len(np.unique(few)) == 33
    assert (few[0], few[255]) == (0, 255)


def test_a_noisy_png_becomes_less_than_half_as_large_and_an_even_smaller_one_stays_as_it_is():
    x, y = np.meshgrid(np.linspace(0, 255, 128), np.linspace(0, 255, 128))
    noise = np.random.default_rng(0).integers(-2, 3, (128, 128, 3))
    noisy = encoded(Image.fromarray(np.uint8(np.clip(np.stack([x, y, 255 - x], axis=-1) + noise, 0, 255))))
    assert len(smaller_png(noisy)) < len(noisy) / 2
    one = encoded(Image.new("1", (64, 64)))
    assert smaller_png(one) == one


@pytest.mark.parametrize("alpha", [0, 255])
def test_what_is_transparent_becomes_white(alpha):
    noise = np.random.default_rng(0).integers(0, 100, (64, 64, 4)).astype(np.uint8)
    noise[..., 3] = alpha
    shown = np.asarray(Image.open(io.BytesIO(smaller_png(encoded(Image.fromarray(noise))))).convert("RGB"))
    assert (shown.mean() == 255) == (alpha == 0)

"""Pictures for the repository: few colours, and still the same picture."""

import io

import numpy as np
import pytest
from PIL import Image

from vfusion3d.pictures import few_colours, smaller_png


def encoded(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def gradient(size: int = 128) -> np.ndarray:
    x, y = np.meshgrid(np.linspace(0, 255, size), np.linspace(0, 255, size))
    return np.stack([x, y, 255 - x], axis=-1).astype(np.uint8)


def test_a_picture_of_many_colours_gets_256_that_look_the_same():
    few = few_colours(gradient())
    assert len(np.unique(few.reshape(-1, 3), axis=0)) <= 256
    assert np.abs(few.astype(int) - gradient()).mean() < 8


def test_a_noisy_png_becomes_less_than_half_as_large_and_an_even_smaller_one_stays_as_it_is():
    noise = np.random.default_rng(0).integers(-6, 7, (128, 128, 3))
    noisy = encoded(Image.fromarray(np.uint8(np.clip(gradient() + noise, 0, 255))))
    assert len(smaller_png(noisy)) < len(noisy) / 2
    one = encoded(Image.new("1", (64, 64)))
    assert smaller_png(one) == one


@pytest.mark.parametrize("alpha", [0, 255])
def test_what_is_transparent_becomes_white(alpha):
    noise = np.random.default_rng(0).integers(0, 100, (64, 64, 4)).astype(np.uint8)
    noise[..., 3] = alpha
    shown = np.asarray(Image.open(io.BytesIO(smaller_png(encoded(Image.fromarray(noise))))).convert("RGB"))
    assert (shown.mean() == 255) == (alpha == 0)

"""The drawings and the pictures of the model's inside show what they say."""

import re
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from vfusion3d import VFusion3D
from vfusion3d.book import drawings, inside

ROOT = Path(__file__).resolve().parents[1]
DRAWINGS = (
    drawings.orbit,
    drawings.learning_layers,
    drawings.quality_filter,
    drawings.elevation,
    drawings.patches,
    drawings.halves,
)


@pytest.mark.parametrize("draw", DRAWINGS, ids=lambda draw: draw.__name__)
def test_no_word_of_a_drawing_leaves_its_page_or_covers_another(draw):
    figure = draw()
    figure.draw_without_rendering()
    words = [text for text in figure.axes[0].texts if text.get_text()]
    boxes = [text.get_window_extent() for text in words]
    page = figure.bbox
    for text, box in zip(words, boxes, strict=True):
        assert page.x0 <= box.x0 < box.x1 <= page.x1, text
        assert page.y0 <= box.y0 < box.y1 <= page.y1, text
    covered = [
        (a.get_text(), b.get_text())
        for i, (a, one) in enumerate(zip(words, boxes, strict=True))
        for b, other in zip(words[i + 1 :], boxes[i + 1 :], strict=True)
        if one.overlaps(other)
    ]
    assert not covered


def test_the_map_links_every_notebook_once_and_marks_where_we_are():
    notebooks = list(yaml.safe_load((ROOT / "workflow" / "notebooks.yaml").read_text()))
    assert sorted(name for names in drawings.PIPELINE.values() for name in names) == sorted(notebooks)
    line = drawings.pipeline_map("VFusion3D", "06_train_vfusion3d")
    assert re.findall(r'href="(\w+)\.ipynb"', line).count("06_train_vfusion3d") == 0
    assert sorted([*re.findall(r'href="(\w+)\.ipynb"', line), "06_train_vfusion3d"]) == sorted(notebooks)
    (marked,) = re.findall(r"2px solid[^>]*>([^<]+)<", line)
    assert marked == "VFusion3D"
    with pytest.raises(ValueError, match=r"'training'.*3D data, video model"):
        drawings.pipeline_map("training")


@pytest.mark.parametrize("radius", [None, 0.8])
def test_the_forward_pass_by_hand_is_the_models(radius):
    encoder = {"image_size": 32, "position_grid": 4, "encoder_width": 32, "encoder_layers": 1, "encoder_heads": 2}
    decoder = {"camera_width": 16, "width": 32, "layers": 2, "heads": 2, "triplane_size": 8, "triplane_channels": 8}
    model = VFusion3D(patch_size=8, radius=radius, **encoder, **decoder).eval()
    image, camera = torch.rand(2, 3, model.config.image_size, model.config.image_size), torch.rand(2, 16)
    with torch.no_grad():
        tokens, embedded = model.encoder(image), model.camera_embedder(camera)
        x = model.transformer.start(2)
        for layer in model.transformer.layers:
            y = layer.norm1(x, embedded)
            shares = layer.cross_attn.shares(y, tokens)
            want, weights = nn.MultiheadAttention.forward(
                layer.cross_attn, y, tokens, tokens, average_attn_weights=False
            )
            assert torch.allclose(shares, weights, atol=1e-6)
            assert torch.allclose(layer.cross_attn(y, tokens), want, atol=1e-5)
            x = layer(x, tokens, embedded)
        assert torch.allclose(model.transformer.planes(x), model(image, camera), atol=1e-5)
    laid = model.transformer.on_planes(x)
    assert laid.shape[1:4] == (3, model.config.triplane_size, model.config.triplane_size)
    assert laid.abs().sum() == pytest.approx(x.abs().sum().item(), rel=1e-5)


def test_shadows_and_tokens_lie_where_the_thing_stands():
    where = torch.tensor([0.5, -0.25, 0.75])
    density = torch.zeros(64, 64, 64)
    x, y, z = ((where + 1) * 32).long().tolist()
    density[x, y, z] = 1e4
    dark = [divmod(int(picture.argmin()), 64) for picture in inside.shadows(density)]
    assert dark == [(63 - y, x), (63 - z, x), (63 - z, y)]  # rows run down, what is up stands above
    planes = torch.zeros(3, 1, 8, 8)
    for plane, row, column in inside.token_at(where, 8):
        planes[plane, 0, row, column] = 1
    lit = [divmod(int(picture.argmax()), 8) for picture in inside.upright(planes)]
    assert lit == [(row // 8, column // 8) for row, column in dark]


def test_features_that_differ_in_one_place_have_another_colour_there():
    features = torch.zeros(5, 6, 6)
    features[:, 2, 3] = torch.arange(5.0)
    features = features + 1e-3 * torch.randn(features.shape, generator=torch.Generator().manual_seed(0))
    colours = inside.as_colours(features)
    assert colours.shape == (3, 6, 6)
    assert 0 <= colours.min() <= colours.max() <= 1
    away = (colours[0] - colours[0].median()).abs()
    assert divmod(int(away.argmax()), 6) == (2, 3)


def test_attention_lights_the_patch_that_has_it():
    image, shares = torch.ones(3, 32, 32), torch.zeros(2, 16)
    shares[0, 5], shares[1, 15] = 1, 1
    lit = inside.attention_on(image, shares)
    assert lit.shape == (2, 3, 32, 32)
    assert lit[0, 0, 12, 12] > 3 * lit[0, 0, 28, 28]
    assert lit[1, 0, 28, 28] > 3 * lit[1, 0, 12, 12]

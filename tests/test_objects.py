"""Procedural objects: every category builds, every caption can be read back, and the colours are the caption's."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
import trimesh

from vfusion3d.world.captions import describe, make_object
from vfusion3d.world.catalogue import CATEGORIES, COLOURS, COMMON, UNCOMMON, ObjectSpec
from vfusion3d.world.objects import build_mesh, build_parts, sample_object
from vfusion3d.world.patterns import PATTERNS, Paint, assemble, cut, loosen, paint, triangle_areas
from vfusion3d.world.shapes import (
    arch,
    ball,
    box,
    capsule,
    circle,
    cylinder,
    dome,
    lathe,
    pipe,
    prism,
    ring,
    rounded_box,
    tube,
)

NAMES = [kind.name for kind in CATEGORIES]


def specs_of(name, count, seed=0):
    rng = np.random.default_rng([seed, NAMES.index(name)])
    return [sample_object(rng, [name]) for _ in range(count)]


@pytest.mark.parametrize("name", NAMES)
def test_every_object_is_sound_and_touches_the_ball_of_radius_three_quarters(name):
    for spec in specs_of(name, 8):
        mesh = build_mesh(spec)
        assert 0 < len(mesh.faces) < 20_000, describe(spec)
        assert np.isfinite(mesh.vertices).all()
        assert np.linalg.norm(mesh.vertices, axis=1).max() == pytest.approx(0.75, abs=1e-6)
        assert np.abs(mesh.bounds.sum(axis=0)).max() < 1e-6
        assert mesh.visual.vertex_colors.shape == (len(mesh.vertices), 4)
        np.testing.assert_allclose(np.linalg.norm(mesh.vertex_normals, axis=1), 1, atol=1e-6)
        shares_colour = (mesh.visual.vertex_colors[mesh.faces] == mesh.visual.vertex_colors[mesh.faces][:, :1]).all()
        assert shares_colour, "a face blends two colours"


@pytest.mark.parametrize("name", NAMES)
def test_normals_point_out_of_the_surface_they_are_on(name):
    for spec in specs_of(name, 3, seed=1):
        mesh = build_mesh(spec)
        cosine = np.einsum("fcd,fd->fc", mesh.vertex_normals[mesh.faces], mesh.face_normals)
        assert (cosine[mesh.area_faces > 1e-5] > 0.5).mean() > 0.995, describe(spec)


@pytest.mark.parametrize("name", NAMES)
def test_the_captions_colours_cover_the_main_part_and_much_of_the_object(name):
    shares = []
    for spec in specs_of(name, 6, seed=2):
        parts = build_parts(spec)
        main = sum(part.surface.area_of_colours() for part in parts if part.role == "main")
        share = main / main.sum()
        assert len(share) == len(spec.colours)
        if spec.pattern == "dotted":
            assert 0.55 < share[0] < 0.97, describe(spec)
        elif spec.pattern != "plain":
            assert 0.45 < share[0] < 0.9, describe(spec)
        mesh = build_mesh(spec)
        named = [COLOURS[colour] for colour in spec.colours]
        face_colours = mesh.visual.vertex_colors[mesh.faces[:, 0], :3]
        is_named = (face_colours[:, None] == np.array(named)).all(-1).any(1)
        shares.append(mesh.area_faces[is_named].sum() / mesh.area)
    assert np.mean(shares) > 0.3
    assert min(shares) > 0.12


def test_the_same_spec_gives_the_same_bytes_and_another_seed_another_object():
    spec = make_object("a dotted red and white mushroom", seed=3)
    first, second = build_mesh(spec), build_mesh(ObjectSpec(**json.loads(json.dumps(dataclasses.asdict(spec)))))
    assert first.vertices.tobytes() == second.vertices.tobytes()
    assert first.faces.tobytes() == second.faces.tobytes()
    assert first.visual.vertex_colors.tobytes() == second.visual.vertex_colors.tobytes()
    other = build_mesh(dataclasses.replace(spec, seed=4))
    assert first.vertices.tobytes() != other.vertices.tobytes()


def test_colour_and_pattern_do_not_change_the_shape():
    plain, striped = (
        build_mesh(make_object(f"a {words} lamp", seed=5)) for words in ("green", "striped red and white")
    )
    np.testing.assert_allclose(plain.bounds, striped.bounds, atol=1e-9)
    assert plain.area == pytest.approx(striped.area)


def test_every_caption_of_the_grammar_is_read_back_to_itself():
    pairs = [("red",), ("orange",), ("white", "black"), ("orange", "blue")]
    seen = set()
    for kind in CATEGORIES:
        for proportion, pattern, colours in itertools.product(("", *kind.proportions), PATTERNS, pairs):
            if (pattern == "plain") == (len(colours) == 1):
                caption = describe(ObjectSpec(kind.name, colours, pattern, proportion, 0))
                assert describe(make_object(caption, seed=9)) == caption
                seen.add(caption)
    assert len(seen) == len(CATEGORIES) * 3 * (2 + 4 * 2)


def test_every_sampled_object_fits_its_caption():
    rng = np.random.default_rng(0)
    for _ in range(500):
        spec = sample_object(rng)
        assert make_object(describe(spec), spec.seed) == spec


@pytest.mark.parametrize(
    ("caption", "meaning"),
    [
        ("a tall striped red and white chair", "a tall striped red and white chair"),
        ("The chair, tall, with red and white stripes.", "a tall striped red and white chair"),
        ("red/white striped tall chairs", "a tall striped red and white chair"),
        ("an orange mug", "an orange mug"),
        ("Two tone grey and pink hot-air balloon", "a two-tone grey and pink hot air balloon"),
        ("a gray and pink two-toned hot air balloon", "a two-tone grey and pink hot air balloon"),
        ("a polka-dot blue and yellow rubber ducks", "a dotted blue and yellow rubber duck"),
        ("a checkered black and white ice cream cone", "a checked black and white ice cream cone"),
        ("solid green cacti", "a green cactus"),
        ("a plain teal couch", "a turquoise sofa"),
        ("trophies of a red colour", "a red trophy"),
        ("a narrow blue bottle", "a slim blue bottle"),
    ],
)
def test_other_words_and_orders_are_understood(caption, meaning):
    assert describe(make_object(caption, seed=0)) == meaning


def test_what_a_caption_leaves_open_the_seed_decides():
    objects = [make_object("a striped house", seed) for seed in range(20)]
    assert {spec.pattern for spec in objects} == {"striped"}
    assert len({spec.colours for spec in objects}) > 10
    assert {make_object("a red and white hat", seed).pattern for seed in range(40)} == set(PATTERNS) - {"plain"}
    assert make_object("a striped house", 3) == objects[3]


@pytest.mark.parametrize(
    ("caption", "culprit"),
    [
        ("a red dragon", "dragon"),
        ("a red or blue mug", "'or'"),
        ("a redd mug", "did you mean 'red'"),
        ("a striped red and white", "no category"),
        ("", "no category"),
        ("a mug and a chair", "mug, chair"),
        ("a red, white and blue mug", "3 colours"),
        ("a plain red and white mug", "one colour"),
        ("a striped dotted mug", "striped, dotted"),
        ("a long red mug", "cannot be 'long'"),
        ("a tall wide chair", "more than one proportion"),
    ],
)
def test_an_unreadable_caption_names_the_culprit_and_lists_the_categories(caption, culprit):
    with pytest.raises(ValueError) as caught:
        make_object(caption, seed=0)
    assert culprit in str(caught.value)
    assert all(name in str(caught.value) for name in NAMES)


def test_an_impossible_spec_is_refused():
    with pytest.raises(ValueError, match="dragon"):
        ObjectSpec("dragon", ("red",))
    with pytest.raises(ValueError, match="two different colours"):
        ObjectSpec("mug", ("red", "red"), "striped")
    with pytest.raises(ValueError, match="'crimson'"):
        ObjectSpec("mug", ("crimson",))
    with pytest.raises(ValueError, match="'zigzag'"):
        ObjectSpec("mug", ("red",), "zigzag")
    with pytest.raises(ValueError, match="no categories"):
        sample_object(np.random.default_rng(0), [])


def test_half_of_the_categories_are_common_and_half_uncommon():
    assert len(COMMON) == len(UNCOMMON) >= 12
    assert not set(COMMON) & set(UNCOMMON)
    assert set(COMMON + UNCOMMON) <= set(NAMES)
    rng = np.random.default_rng(0)
    assert {sample_object(rng, COMMON).category for _ in range(300)} == set(COMMON)


def test_named_colours_are_well_apart():
    assert len(COLOURS) >= 10
    for one, other in itertools.combinations(COLOURS.values(), 2):
        assert np.linalg.norm(np.subtract(one, other)) > 75


@pytest.mark.parametrize("name", NAMES)
def test_proportion_words_do_what_they_say(name):
    """Against its other sides, a tall object is higher than a usual one, a wide one wider, a long one longer."""
    kind = next(kind for kind in CATEGORIES if kind.name == name)

    def ratio(word):
        axis, others = {
            "tall": (2, [0, 1]),
            "short": (2, [0, 1]),
            "wide": (1, [2]),
            "slim": (1, [2]),
            "long": (0, [1, 2]),
        }[word]
        usual, meant = [], []
        for seed in range(4):
            for proportion, into in (("", usual), (word, meant)):
                size = np.ptp(build_mesh(ObjectSpec(name, ("red",), proportion=proportion, seed=seed)).vertices, axis=0)
                into.append(size[axis] / size[others].mean())
        return np.mean(meant) / np.mean(usual)

    for word in kind.proportions:
        assert (ratio(word) < 0.93) if word in ("short", "slim") else (ratio(word) > 1.07), word


SOLIDS = {
    "box": (box(1, 2, 3), 6.0),
    "pyramid": (box(1, 1, 3, 0.0), 1.0),
    "cylinder": (cylinder(1, 2, segments=96), 2 * np.pi),
    "cone": (cylinder(1, 3, 0.0, 96), np.pi),
    "ball": (ball(1, 2, 3, segments=96), 8 * np.pi),
    "dome": (dome(1, 1, 96), 2 / 3 * np.pi),
    "capsule": (capsule(1, 4, 96), 2 * np.pi + 4 / 3 * np.pi),
    "ring": (ring(1, 0.25, 96), 2 * np.pi * 3 * 0.25**2),  # a section of 12 corners: 3 r^2
    "pipe": (pipe(1, 0.5, 2, 96), 1.5 * np.pi),
    "prism": (prism(circle(1, 6), 1), 1.5 * np.sqrt(3)),
    "arch": (arch(1, 0.2, 0.5, 1, 96), 0.5 * (np.pi * 0.2 + 2 * 0.2)),
    "tube": (tube([(0, 0, 0), (0, 0, 3)], 0.5, 96), 0.75 * np.pi),
    "cup": (lathe([(0, 0), (1, 0), (1, 1), (0.5, 1), (0.5, 0.5), (0, 0.5)], 96), np.pi - np.pi / 8),
}


@pytest.mark.parametrize("name", SOLIDS)
def test_a_building_block_is_closed_and_has_the_volume_of_the_formula(name):
    shape, volume = SOLIDS[name]
    mesh = trimesh.Trimesh(shape.vertices, shape.faces, process=False)
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(volume, rel=3e-3)


def test_a_rounded_box_lies_between_the_inner_box_and_the_whole_box():
    shape = rounded_box(1, 2, 3, 0.2)
    mesh = trimesh.Trimesh(shape.vertices, shape.faces, process=False)
    assert mesh.is_watertight
    np.testing.assert_allclose(mesh.extents, (1, 2, 3), atol=0.08)
    assert 5.0 < mesh.volume < 6.0


def test_cutting_keeps_the_surface_and_leaves_no_triangle_on_both_sides():
    soup = loosen(ball(1.0))
    values = soup[..., 2] - 0.3 * soup[..., 0] - 0.21
    pieces = cut(soup, values)
    assert triangle_areas(pieces).sum() == pytest.approx(triangle_areas(soup).sum())
    after = pieces[..., 2] - 0.3 * pieces[..., 0] - 0.21
    assert ((after.max(1) < 1e-9) | (after.min(1) > -1e-9)).all()


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("along", ["", "around"])
def test_a_pattern_changes_the_colour_and_not_the_surface(pattern, along):
    shape = cylinder(0.5, 1.0)
    surface = paint(shape, Paint(((255, 0, 0), (0, 0, 255)), pattern, along), np.random.default_rng(0))
    assert triangle_areas(surface.soup).sum() == pytest.approx(triangle_areas(loosen(shape)).sum())
    mesh = assemble([surface])
    assert len(np.unique(mesh.visual.vertex_colors, axis=0)) == (1 if pattern == "plain" else 2)


def test_stripes_are_where_the_height_says():
    """A red and blue cylinder of height 1 gets 7 equal bands, the first red: read the colour off at their middles."""
    mesh = assemble(
        [paint(cylinder(0.3, 1.0), Paint(((255, 0, 0), (0, 0, 255)), "striped", "z"), np.random.default_rng(0))]
    )
    height = mesh.triangles_center[:, 2]
    side = np.abs(mesh.face_normals[:, 2]) < 0.5
    band = np.floor(height * 7).astype(int)
    red = mesh.visual.vertex_colors[mesh.faces[:, 0], 0] == 255
    assert (red[side] == (band[side] % 2 == 0)).all()

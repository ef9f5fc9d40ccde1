"""Random primitives: always inside the ball, always sound, always the same for the same seed."""

import numpy as np
import pytest

from vfusion3d.world.primitives import random_primitives

SEEDS = range(150)


@pytest.fixture(scope="module")
def meshes():
    return [random_primitives(np.random.default_rng(seed)) for seed in SEEDS]


def test_every_cluster_is_centred_and_touches_the_ball_of_radius_three_quarters(meshes):
    for mesh in meshes:
        assert np.linalg.norm(mesh.vertices, axis=1).max() == pytest.approx(0.75, abs=1e-6)
        assert np.abs(mesh.bounds.sum(axis=0)).max() < 1e-6


def test_every_cluster_is_finite_and_small_with_colours_and_unit_normals(meshes):
    for mesh in meshes:
        assert 0 < len(mesh.faces) < 10_000
        assert np.isfinite(mesh.vertices).all()
        assert mesh.visual.vertex_colors.shape == (len(mesh.vertices), 4)
        assert (mesh.visual.vertex_colors[:, 3] == 255).all()
        np.testing.assert_allclose(np.linalg.norm(mesh.vertex_normals, axis=1), 1, atol=1e-6)


def test_a_face_has_one_colour(meshes):
    for mesh in meshes:
        colours = mesh.visual.vertex_colors[mesh.faces]
        assert (colours == colours[:, :1]).all()


def test_vertex_normals_stay_within_the_crease_angle_of_their_faces(meshes):
    for mesh in meshes:
        cosine = np.einsum("fcd,fd->fc", mesh.vertex_normals[mesh.faces], mesh.face_normals)
        large = mesh.area_faces > 1e-5
        assert (cosine[large] > 0.5).mean() > 0.999


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_object():
    first, second, other = (random_primitives(np.random.default_rng(seed)) for seed in (7, 7, 8))
    assert first.vertices.tobytes() == second.vertices.tobytes()
    assert first.faces.tobytes() == second.faces.tobytes()
    assert first.visual.vertex_colors.tobytes() == second.visual.vertex_colors.tobytes()
    assert first.vertices.tobytes() != other.vertices.tobytes()


def test_the_parts_of_a_cluster_hang_together(meshes):
    """Grown by a twentieth of the ball, nearly every cluster is one piece: nothing floats far from the rest."""
    whole = 0
    for mesh in meshes[:60]:
        points = mesh.sample(1000, seed=0)
        reached, frontier = np.zeros(len(points), bool), np.array([0])
        while len(frontier):
            reached[frontier] = True
            near = np.linalg.norm(points[:, None] - points[frontier], axis=-1).min(axis=1) < 0.12
            frontier = np.flatnonzero(near & ~reached)
        whole += reached.all()
    assert whole >= 0.85 * 60


def test_clusters_show_many_colours_and_patterns(meshes):
    counts = [len(np.unique(mesh.visual.vertex_colors, axis=0)) for mesh in meshes]
    assert min(counts) == 1
    assert max(counts) >= 5

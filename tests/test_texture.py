"""A texture is the field's colour at every place of the surface, also where charts meet."""

import numpy as np
import pytest
import trimesh

from vfusion3d.model.texture import textured


def colour_of_place(points: np.ndarray) -> np.ndarray:
    return np.clip((points + 0.75) * 170, 0, 255).round().astype(np.uint8)


@pytest.fixture(scope="module", params=["a ball", "a box of big faces", "a thin rod"])
def mesh(request) -> trimesh.Trimesh:
    if request.param == "a ball":
        return trimesh.creation.icosphere(3, 0.5)
    extents = [0.8, 0.6, 0.4] if request.param == "a box of big faces" else [0.01, 0.01, 1.2]
    return trimesh.creation.box(extents)


def test_what_a_viewer_reads_is_the_colour_of_the_place_up_to_the_corners_of_every_face(mesh):
    made = textured(mesh, colour_of_place, 256)
    picture = np.asarray(made.visual.material.baseColorTexture).astype(float)
    uv = made.visual.uv
    assert uv.min() >= 0
    assert uv.max() <= 1
    rng = np.random.default_rng(0)
    weights = np.concatenate([np.eye(3), np.roll(np.eye(3), 1, 0) / 2 + np.eye(3) / 2, rng.dirichlet([1, 1, 1], 20)])
    for corner in weights:
        place = np.einsum("c,fcd->fd", corner, made.triangles)
        u, v = np.einsum("c,fcd->fd", corner, uv[made.faces]).T
        column, row = u * 256 - 0.5, (1 - v) * 256 - 0.5  # linear filtering, by hand
        left, top = np.floor(column).astype(int), np.floor(row).astype(int)
        read = 0
        for x, share_x in ((left, 1 - (column - left)), (left + 1, column - left)):
            for y, share_y in ((top, 1 - (row - top)), (top + 1, row - top)):
                texel = picture[y.clip(0, 255), x.clip(0, 255)]
                read = read + texel * (share_x * share_y)[:, None]
        assert np.abs(read - colour_of_place(place)).max() < 8, corner


def test_the_shape_stays_and_doubled_vertices_keep_the_normal_of_the_whole(mesh):
    made = textured(mesh, colour_of_place, 64)
    assert np.allclose(np.sort(made.area_faces), np.sort(mesh.area_faces), atol=1e-6)
    assert made.volume == pytest.approx(mesh.volume, rel=1e-5)
    for corner, normal in zip(made.vertices, made.vertex_normals):
        (same,) = np.flatnonzero(np.linalg.norm(mesh.vertices - corner, axis=1) < 1e-6)
        assert normal == pytest.approx(mesh.vertex_normals[same], abs=1e-5)

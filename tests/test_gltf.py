"""glTF files built by hand, a feature each, against closed forms and against the same thing said in another way."""

import base64
import io
import json
import math
import struct

import numpy as np
import pytest
from PIL import Image

from vfusion3d import cameras
from vfusion3d.data.gltf import read_gltf
from vfusion3d.data.mesh_files import MeshFileError, load_mesh
from vfusion3d.data.render import render_views

COMPONENTS = {"i1": 5120, "u1": 5121, "i2": 5122, "u2": 5123, "u4": 5125, "f4": 5126}
WIDTHS = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}
QUAD = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], np.float32)  # y up, faces +z
UV = np.array([[0, 1], [1, 1], [1, 0], [0, 0]], np.float32)
TRIANGLES = np.array([[0, 1, 2], [0, 2, 3]], np.uint16)


class File:
    """A GLB that grows: arrays become accessors, pictures become textures."""

    def __init__(self, **tree):
        self.binary = b""
        self.tree = {"asset": {"version": "2.0"}, "bufferViews": [], "accessors": [], **tree}

    def add(self, values, normalized=False) -> int:
        values = np.asarray(values)
        rows = values.reshape(len(values), -1)
        accessor = {"bufferView": self.view(rows.tobytes()), "componentType": COMPONENTS[rows.dtype.str[1:]]}
        accessor |= {"count": len(rows), "type": WIDTHS[rows.shape[1]], "normalized": normalized}
        self.tree["accessors"].append(accessor)
        return len(self.tree["accessors"]) - 1

    def view(self, data: bytes) -> int:
        self.tree["bufferViews"].append({"buffer": 0, "byteOffset": len(self.binary), "byteLength": len(data)})
        self.binary += data + bytes(-len(data) % 4)
        return len(self.tree["bufferViews"]) - 1

    def texture(self, pixels, **sampler) -> dict:
        stream = io.BytesIO()
        Image.fromarray(np.uint8(pixels)).save(stream, format="PNG")
        image = {"bufferView": self.view(stream.getvalue()), "mimeType": "image/png"}
        number = len(self.tree.setdefault("images", []))
        self.tree["images"].append(image)
        self.tree.setdefault("samplers", []).append(sampler)
        self.tree.setdefault("textures", []).append({"source": number, "sampler": number})
        return {"index": number}

    def quad(self, material=None, points=QUAD, **attributes) -> dict:
        primitive = {"attributes": {"POSITION": self.add(points)}, "indices": self.add(TRIANGLES.ravel())}
        primitive["attributes"] |= attributes
        if material is not None:
            self.tree["materials"] = [material]
            primitive["material"] = 0
        self.tree |= {"meshes": [{"primitives": [primitive]}], "nodes": [{"mesh": 0}]}
        self.tree |= {"scenes": [{"nodes": [0]}], "scene": 0}
        return primitive

    def save(self, path):
        self.tree["buffers"] = [{"byteLength": len(self.binary)}]
        text = json.dumps(self.tree).encode()
        text += b" " * (-len(text) % 4)
        chunks = struct.pack("<I4s", len(text), b"JSON") + text
        chunks += struct.pack("<I4s", len(self.binary), b"BIN\0") + self.binary
        path.write_bytes(b"glTF" + struct.pack("<II", 2, 12 + len(chunks)) + chunks)
        return path


def picture(path, size=32) -> np.ndarray:
    """The bare colours of a quad that fills the picture: load_mesh turns +z to -y, where this camera stands."""
    mesh = load_mesh(path)
    side = np.ptp(mesh.bounds[:, 2]) / 2
    lens = np.array([50 / side / 2, 50 / side / 2, 0.5, 0.5])
    camera = cameras.orbit_cameras(1, 0.0, 50.0, azimuth=-math.pi / 2)
    return render_views(mesh, camera, lens, size, shading=False).rgba[0].astype(int)


def srgb(light):
    light = np.asarray(light, float)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def points_of(path) -> np.ndarray:
    return np.concatenate([part.vertices for part in read_gltf(path)[0]])


def test_normalised_integers_and_strides_say_the_same_as_floats(tmp_path):
    floats, small = File(), File(extensionsUsed=["KHR_mesh_quantization"], extensionsRequired=["KHR_mesh_quantization"])
    pixels = np.random.default_rng(0).integers(0, 255, (8, 8, 3))
    for file in (floats, small):
        material = {"pbrMetallicRoughness": {"baseColorTexture": file.texture(pixels)}}
        if file is floats:
            file.quad(material, TEXCOORD_0=file.add(UV * np.float32(0.5)))
        else:
            padded = np.zeros((4, 4), np.int16)  # positions of 6 bytes, 8 apart
            padded[:, :3] = QUAD * 32767
            file.quad(material, TEXCOORD_0=file.add(np.uint16(np.round(UV * 32767.5)), normalized=True), points=padded)
            file.tree["accessors"][1] |= {"type": "VEC3", "normalized": True}
            file.tree["bufferViews"][file.tree["accessors"][1]["bufferView"]]["byteStride"] = 8
    one, other = picture(floats.save(tmp_path / "a.glb")), picture(small.save(tmp_path / "b.glb"))
    assert np.ptp(one[..., :3]) > 100
    assert np.abs(one - other).max() <= 2


@pytest.mark.parametrize("name", ["EXT_meshopt_compression", "KHR_meshopt_compression", "VENDOR_new", "KHR_draco"])
def test_what_a_file_requires_and_nobody_here_knows_is_named(tmp_path, name):
    file = File(extensionsRequired=[name], extensionsUsed=[name])
    file.quad()
    with pytest.raises(MeshFileError, match=rf"a\.glb.*requires {name}"):
        load_mesh(file.save(tmp_path / "a.glb"))


def test_what_is_used_and_not_drawn_is_listed(tmp_path):
    file = File(extensionsUsed=["KHR_materials_transmission"])
    looks = {"extensions": {"KHR_materials_transmission": {"transmissionFactor": 1}}, "pbrMetallicRoughness": {}}
    primitive = file.quad(looks | {"normalTexture": {"index": 0}})
    lines = {"attributes": primitive["attributes"], "mode": 1}
    file.tree["meshes"][0]["primitives"].append(lines)
    left_out = load_mesh(file.save(tmp_path / "a.glb")).metadata["left_out"]
    assert {"transmission", "normal map", "metal", "lines"} == set(left_out)


def test_a_draco_file_is_drawn_and_one_that_is_broken_is_named(tmp_path):
    draco = pytest.importorskip("DracoPy")
    file = File(extensionsRequired=["KHR_draco_mesh_compression"])
    primitive = file.quad()
    packed = file.view(draco.encode(QUAD, TRIANGLES, quantization_bits=14))
    primitive["extensions"] = {"KHR_draco_mesh_compression": {"bufferView": packed, "attributes": {"POSITION": 0}}}
    for number in (primitive["attributes"]["POSITION"], primitive["indices"]):
        del file.tree["accessors"][number]["bufferView"]
    assert (picture(file.save(tmp_path / "a.glb"))[1:-1, 1:-1, 3] == 255).all()
    file.binary = file.binary[:-40] + bytes(40)
    with pytest.raises(MeshFileError, match="KHR_draco_mesh_compression cannot be decoded"):
        load_mesh(file.save(tmp_path / "b.glb"))


@pytest.mark.parametrize(("mode", "seen"), [("OPAQUE", [1, 1, 1]), ("MASK", [0, 1, 1]), ("BLEND", [0, 2 / 3, 1])])
def test_alpha_is_ignored_or_cut_or_blended_as_the_material_says(tmp_path, mode, seen):
    file = File()
    pixels = np.zeros((4, 24, 4))
    pixels[..., 1], pixels[:, 8:16, 3], pixels[:, 16:, 3] = 200, 170, 255
    look = {"baseColorTexture": file.texture(pixels, magFilter=9728)}
    file.quad({"alphaMode": mode, "alphaCutoff": 0.6, "pbrMetallicRoughness": look}, TEXCOORD_0=file.add(UV))
    row = picture(file.save(tmp_path / "a.glb"), size=48)[24, [8, 24, 40]]
    assert np.allclose(row[:, 3] / 255, seen, atol=0.01)
    assert (row[row[:, 3] > 0][:, 1] == 200).all()


def test_glass_shows_its_share_of_what_is_behind_it(tmp_path):
    file = File()
    primitive = file.quad({"alphaMode": "BLEND", "pbrMetallicRoughness": {"baseColorFactor": [0, 0, 1, 1 / 3]}})
    behind = {"attributes": {"POSITION": file.add(QUAD - np.float32([0, 0, 0.01]))}, "material": 1}
    file.tree["materials"].append({"pbrMetallicRoughness": {"baseColorFactor": [1, 0, 0, 1]}})
    file.tree["meshes"][0]["primitives"] = [primitive, behind | {"indices": primitive["indices"]}]
    assert np.abs(picture(file.save(tmp_path / "a.glb"))[16, 16] - [170, 0, 85, 255]).max() <= 1


def test_a_black_body_that_glows_has_the_colour_of_its_glow(tmp_path):
    for texture in (False, True):
        file = File()
        look = {"pbrMetallicRoughness": {"baseColorFactor": [0, 0, 0, 1]}, "emissiveFactor": [0.5, 0.1, 0]}
        look["extensions"] = {"KHR_materials_emissive_strength": {"emissiveStrength": 1.5}}
        if texture:
            look["emissiveTexture"] = file.texture(np.full((4, 4, 3), 255))
        file.quad(look, TEXCOORD_0=file.add(UV))
        middle = picture(file.save(tmp_path / "a.glb"))[16, 16]
        assert np.abs(middle[:3] - srgb([0.75, 0.15, 0])).max() <= 2


def test_vertex_colours_and_factor_multiply_the_texture(tmp_path):
    file = File()
    look = {"baseColorTexture": file.texture(np.full((4, 4, 3), 200)), "baseColorFactor": [1, 0.5, 1, 1]}
    colours = np.tile(np.uint16([65535, 32768, 13107]), (4, 1))
    colours = np.column_stack([colours, np.full(4, 65535, np.uint16)])
    file.quad({"pbrMetallicRoughness": look}, TEXCOORD_0=file.add(UV), COLOR_0=file.add(colours, normalized=True))
    expected = srgb([1, 0.25, 0.2]) * 200 / 255
    assert np.abs(picture(file.save(tmp_path / "a.glb"))[16, 16, :3] - expected).max() <= 2


def test_a_texture_transform_moves_turns_and_scales_as_the_specification_s_matrix_does(tmp_path):
    size, file = 64, File()
    offset, turn, scale = (0.1, 0.2), 0.5, (0.6, 0.4)
    ramp = np.zeros((256, 256, 3))
    ramp[..., 0], ramp[..., 1] = np.arange(256), np.arange(256)[:, None]  # red is u, green is v
    info = file.texture(ramp, wrapS=33071, wrapT=33071) | {"texCoord": 3}
    extension = {"offset": offset, "rotation": turn, "scale": scale, "texCoord": 1}
    info["extensions"] = {"KHR_texture_transform": extension}
    file.quad({"pbrMetallicRoughness": {"baseColorTexture": info}}, TEXCOORD_1=file.add(UV))
    seen = picture(file.save(tmp_path / "a.glb"), size)[..., :3]
    v, u = (np.indices((size, size)) + 0.5) / size
    cos, sin = math.cos(turn), math.sin(turn)  # the columns of the matrices of the specification, multiplied out
    moved_u = offset[0] + cos * scale[0] * u + sin * scale[1] * v
    moved_v = offset[1] - sin * scale[0] * u + cos * scale[1] * v
    expected = np.clip(np.stack([moved_u, moved_v], -1) * 256 - 0.5, 0, 255)
    assert np.abs(seen[2:-2, 2:-2, :2] - expected[2:-2, 2:-2]).max() <= 3


def test_instances_are_the_nodes_that_they_stand_for(tmp_path):
    rng = np.random.default_rng(0)
    moves, scales = rng.normal(size=(3, 3)).astype(np.float32), rng.uniform(0.5, 2, (3, 3)).astype(np.float32)
    turns = rng.normal(size=(3, 4)).astype(np.float32)
    turns /= np.linalg.norm(turns, axis=-1, keepdims=True)
    instances, nodes = File(extensionsRequired=["EXT_mesh_gpu_instancing"]), File()
    for file in (instances, nodes):
        file.quad()
        file.tree["nodes"][0]["translation"] = [0, 5, 0]
    attributes = {"TRANSLATION": moves, "ROTATION": turns, "SCALE": scales}
    attributes = {name: instances.add(values) for name, values in attributes.items()}
    instances.tree["nodes"][0]["extensions"] = {"EXT_mesh_gpu_instancing": {"attributes": attributes}}
    nodes.tree["nodes"] = [{"translation": [0, 5, 0], "children": [1, 2, 3]}]
    for move, turn, scale in zip(moves.tolist(), turns.tolist(), scales.tolist(), strict=True):
        nodes.tree["nodes"].append({"mesh": 0, "translation": move, "rotation": turn, "scale": scale})
    one, other = points_of(instances.save(tmp_path / "a.glb")), points_of(nodes.save(tmp_path / "b.glb"))
    assert len(one) == 12
    order = [np.lexsort(points.round(4).T) for points in (one, other)]
    assert np.allclose(one[order[0]], other[order[1]], atol=1e-5)


def test_skins_and_morph_targets_are_drawn_in_the_pose_that_is_stored(tmp_path):
    file = File()
    upper = QUAD[:, 1] > 0
    joints = np.zeros((4, 4), np.uint8)
    joints[upper, 0] = 1
    weights = np.tile(np.float32([1, 0, 0, 0]), (4, 1))
    primitive = file.quad(JOINTS_0=file.add(joints), WEIGHTS_0=file.add(weights))
    primitive["targets"] = [{"POSITION": file.add(np.tile(np.float32([0, 0, 2]), (4, 1)))}]
    inverse = np.tile(np.eye(4, dtype=np.float32), (2, 1, 1))
    inverse[1, 3, 0] = -1  # stored column by column: the second joint is bound at x = 1
    file.tree["skins"] = [{"joints": [1, 2], "inverseBindMatrices": file.add(inverse.reshape(2, 16))}]
    file.tree["nodes"] = [
        {"mesh": 0, "skin": 0, "weights": [0.5], "translation": [99, 99, 99]},  # a skinned mesh is where its joints are
        {"children": [2]},
        {"translation": [1, 3, 0], "rotation": [0, 0, math.sqrt(0.5), math.sqrt(0.5)]},
    ]
    file.tree["scenes"] = [{"nodes": [0, 1]}]
    points = points_of(file.save(tmp_path / "a.glb"))
    expected = QUAD + np.array([0, 0, 1.0])
    moved = expected[upper] - np.array([1, 0, 0])
    expected[upper] = np.column_stack([1 - moved[:, 1], 3 + moved[:, 0], moved[:, 2]])  # by 90 degrees about z
    assert np.allclose(points, expected, atol=1e-5)


def test_sparse_values_and_triangle_strips_and_fans_are_read(tmp_path):
    file = File()
    primitive = file.quad()
    place, new = file.add(np.uint16([2])), file.add(np.float32([[5, 5, 0]]))
    accessors = file.tree["accessors"]
    accessors[0]["sparse"] = {
        "count": 1,
        "indices": {"bufferView": accessors[place]["bufferView"], "componentType": 5123},
        "values": {"bufferView": accessors[new]["bufferView"]},
    }
    expected = QUAD.copy()
    expected[2] = [5, 5, 0]
    assert np.array_equal(points_of(file.save(tmp_path / "a.glb")), expected)
    for mode, order in ((5, [0, 1, 3, 2]), (6, [0, 1, 2, 3])):
        primitive |= {"mode": mode, "indices": file.add(np.uint8(order))}
        del accessors[0]["bufferView"], accessors[0]["sparse"]
        accessors[0]["bufferView"] = 0
        (part,), _ = read_gltf(file.save(tmp_path / "a.glb"))
        assert part.area == pytest.approx(4)
        assert (part.face_normals[:, 2] > 0.99).all()
        accessors[0]["sparse"] = {}


def test_textures_and_buffers_that_are_missing_are_named(tmp_path):
    file = File()
    look = {"baseColorFactor": [1, 0, 0, 1], "baseColorTexture": file.texture(np.zeros((2, 2, 3)))}
    file.quad({"pbrMetallicRoughness": look}, TEXCOORD_0=file.add(UV))
    file.tree["images"] = [{"uri": "my%20paint.png"}]
    tree = file.tree | {"buffers": [{"byteLength": len(file.binary)}]}
    tree["buffers"][0]["uri"] = "data:application/octet-stream;base64," + base64.b64encode(file.binary).decode()
    (tmp_path / "a.gltf").write_text(json.dumps(tree))
    left_out = load_mesh(tmp_path / "a.gltf").metadata["left_out"]
    assert set(left_out) == {"the texture my paint.png, which is missing", "metal"}
    assert (picture(tmp_path / "a.gltf")[16, 16, :3] == [255, 0, 0]).all()
    tree["buffers"][0]["uri"] = "far%20away.bin"
    (tmp_path / "a.gltf").write_text(json.dumps(tree))
    with pytest.raises(MeshFileError, match=r"its buffer far away\.bin is missing"):
        load_mesh(tmp_path / "a.gltf")


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30, -1e30, 64447.0])
def test_texture_coordinates_beyond_all_bounds_are_wrapped_and_said(tmp_path, value):
    file = File()
    uv = UV.copy()
    uv[2, 0] = value
    material = {"pbrMetallicRoughness": {"baseColorTexture": file.texture(np.full((64, 64, 3), 90))}}
    file.quad(material, TEXCOORD_0=file.add(uv))
    assert (picture(file.save(tmp_path / "a.glb"), 64)[32, 32] == [90, 90, 90, 255]).all()
    assert "texture coordinates" in " ".join(load_mesh(tmp_path / "a.glb").metadata["left_out"])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"nodes": [{"mesh": 0, "children": [0]}]}, "its own child"),
        ({"nodes": [{"mesh": 7}]}, "number 7 of its 1 meshes"),
        ({"scenes": [{"nodes": [4]}]}, "number 4 of its 1 nodes"),
        ({"asset": {"version": "1.0"}}, "only glTF 2"),
        ({"bufferViews": [{"buffer": 0, "byteLength": 9999}] * 2}, "cut off"),
        ({"accessors": [{"bufferView": 0, "componentType": 5126, "count": 9999, "type": "VEC3"}] * 2}, "beyond its"),
    ],
)
def test_a_file_that_breaks_the_specification_is_an_error_that_says_where(tmp_path, change, reason):
    file = File()
    file.quad()
    file.tree |= change
    with pytest.raises(MeshFileError, match=reason):
        load_mesh(file.save(tmp_path / "a.glb"))

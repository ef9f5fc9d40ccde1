"""glTF 2.0 as it means to be seen: the triangles of its scene in their pose, and the names of what cannot be drawn.

Notable: trimesh's reader takes normalised integers for lengths, and drops texture transforms, second sets of texture
coordinates, instances, skins, morph targets, samplers and vertex colours beside a texture without a word; VTK's
importer refuses quantised and compressed files and knows no instances; pygltflib decodes nothing; Blender's wants an
interpreter of its own. So the accessors are read here, the rest (pictures, materials, Draco) by Pillow, trimesh and
DracoPy. Names and formulas: the specification of glTF 2.0 and of its extensions (Khronos).
"""

import base64
import io
import struct
from collections import defaultdict
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import trimesh
from jaxtyping import Float
from PIL import Image
from trimesh.transformations import quaternion_matrix
from trimesh.visual.gloss import specular_to_pbr
from trimesh.visual.material import PBRMaterial

from vfusion3d.data.surfaces import to_srgb
from vfusion3d.runs.reading import parse_json

DRACO = "KHR_draco_mesh_compression"
GLOSS = "KHR_materials_pbrSpecularGlossiness"
INSTANCES = "EXT_mesh_gpu_instancing"
PICTURE_FORMATS = ("EXT_texture_webp", "EXT_texture_avif")
DRAWN = {  # what this file knows, and what changes no still picture under a light of our own
    *(DRACO, GLOSS, INSTANCES, *PICTURE_FORMATS, "KHR_mesh_quantization", "KHR_texture_transform"),
    *("KHR_materials_unlit", "KHR_materials_emissive_strength", "KHR_node_visibility"),
    *("KHR_lights_punctual", "KHR_xmp", "KHR_xmp_json_ld", "KHR_animation_pointer", "EXT_lights_image_based"),
}
COMPONENTS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
WRAPS = {33071: "clamp", 33648: "mirror"}  # all else repeats
NEAREST = {9728}


def read_gltf(path: Path) -> tuple[list[trimesh.Trimesh], list[str]]:
    """The parts of a GLB or glTF file's scene, y up, and what of the file they leave out, in words.

    A part is what has one material. Without texture, cut-out, glow and `unlit` it has plain vertex colours (sRGB); else
    a `PBRMaterial`, its texture coordinates (v upwards), and of these vertex attributes what it needs: "light", the
    linear colour and alpha (V, 4) that the texture is multiplied by; "glow", linear light (V, 3); "glow_uv". Its
    metadata may say "unlit", "wrap" ("clamp", "mirror") and "nearest". Raises ValueError with the reason for a file
    that breaks the specification, whose buffers are missing, or that requires an extension which is not known here.
    """
    return _File(path).read()


class _File:
    def __init__(self, path: Path):
        self.folder, self.left_out = path.parent, dict[str, None]()
        content = path.read_bytes()
        self.binary = None
        if content[:4] == b"glTF":
            content, self.binary = _chunks(content)
        self.tree: dict[str, Any] = parse_json(content, "its JSON", dict[str, Any], "export it again")
        if not isinstance(self.tree, dict) or not isinstance(self.tree.get("asset"), dict):
            raise ValueError("its JSON is not that of a glTF file")
        if str(self.tree["asset"].get("version", "2.0")).split(".")[0] != "2":
            raise ValueError(f"it is glTF {self.tree['asset']['version']}, and only glTF 2 is read")
        self._buffers: dict[int, bytes] = {}
        self._pictures: dict[int, Image.Image | None] = {}
        self._worlds: dict[int, np.ndarray] = {}

    def read(self) -> tuple[list[trimesh.Trimesh], list[str]]:
        if unknown := set(self.tree.get("extensionsRequired", [])) - DRAWN:
            raise ValueError(f"requires {', '.join(sorted(unknown))}, which is not understood: export without it")
        placed = defaultdict(list)  # (mesh, skin, weights) -> world matrices
        for number, world in self._nodes():
            node = self._item("nodes", number)
            if "mesh" not in node:
                continue
            skin = node.get("skin")
            weights = node.get("weights", self._item("meshes", node["mesh"]).get("weights", []))
            if skin is not None:
                world = np.eye(4)  # the joints say where a skinned mesh is, not its node
            placed[node["mesh"], skin, tuple(weights)] += list(world @ self._instances(node))
        parts = [
            part
            for (mesh, skin, weights), worlds in placed.items()
            for primitive in self._item("meshes", mesh)["primitives"]
            if (part := self._part(primitive, np.stack(worlds), skin, weights)) is not None
        ]
        if len(self.tree.get("scenes", [])) > 1:
            self._leave_out("other scenes")
        if self.tree.get("animations"):
            self._leave_out("animation (drawn as it is stored)")
        return parts, list(self.left_out)

    def _leave_out(self, what: str) -> None:
        self.left_out[what] = None

    def _item(self, kind: str, number: int) -> dict[str, Any]:
        items = self.tree.get(kind, [])
        if not isinstance(number, int) or not 0 <= number < len(items):
            raise ValueError(f"it names number {number} of its {len(items)} {kind}")
        return items[number]

    # Where things are

    def _nodes(self):
        """(number, world matrix) of every node of the scene that is to be seen."""
        nodes = self.tree.get("nodes", [])
        if self.tree.get("scenes"):
            roots = self._item("scenes", self.tree.get("scene", 0)).get("nodes", [])
        else:
            children = {child for node in nodes for child in node.get("children", [])}
            roots = [number for number in range(len(nodes)) if number not in children]
        stack, seen = [(root, np.eye(4), True) for root in reversed(roots)], []
        while stack:
            number, world, visible = stack.pop()
            if number in self._worlds:
                raise ValueError(f"its node {number} has two parents, or is its own child")
            node = self._item("nodes", number)
            self._worlds[number] = world = world @ _local_matrix(node)
            visible = visible and node.get("extensions", {}).get("KHR_node_visibility", {}).get("visible", True)
            if visible:
                seen.append((number, world))
            stack += [(child, world, visible) for child in reversed(node.get("children", []))]
        return seen

    def _instances(self, node) -> Float[np.ndarray, "instances 4 4"]:
        if INSTANCES not in node.get("extensions", {}):
            return np.eye(4)[None]
        attributes = node["extensions"][INSTANCES]["attributes"]
        values = {name: self._accessor(number) for name, number in attributes.items()}
        matrices = np.tile(np.eye(4), (len(next(iter(values.values()))), 1, 1))
        if "ROTATION" in values:
            matrices[:] = [quaternion_matrix(turn[[3, 0, 1, 2]]) for turn in values["ROTATION"]]
        if "SCALE" in values:
            matrices[:, :3, :3] *= values["SCALE"][:, None]
        if "TRANSLATION" in values:
            matrices[:, :3, 3] = values["TRANSLATION"]
        return matrices

    def _joints(self, number: int) -> Float[np.ndarray, "joints 4 4"]:
        skin = self._item("skins", number)
        away = [joint for joint in skin["joints"] if joint not in self._worlds]
        if away:
            raise ValueError(f"its skin {number} has joints outside the scene (node {away[0]})")
        worlds = np.stack([self._worlds[joint] for joint in skin["joints"]])
        if "inverseBindMatrices" in skin:
            inverse = self._accessor(skin["inverseBindMatrices"]).reshape(-1, 4, 4).swapaxes(1, 2)
            worlds = worlds @ inverse[: len(worlds)]
        return worlds

    # What is there

    def _part(self, primitive, worlds, skin: int | None, weights) -> trimesh.Trimesh | None:
        mode = primitive.get("mode", 4)
        if mode < 4:
            self._leave_out("points" if mode == 0 else "lines")
            return None
        values = self._attributes(primitive, weights)
        points, faces = values["POSITION"], _triangles(values.pop("indices"), mode)
        if not len(faces):
            return None
        if faces.max() >= len(points):
            raise ValueError("has faces of vertices that are not there")
        if skin is not None and "JOINTS_0" in values:
            points = _posed(points, values, self._joints(skin))
        material = self._item("materials", primitive["material"]) if "material" in primitive else None
        look = self._look(material, values)
        count = len(worlds)
        points = np.einsum("nij,vj->nvi", worlds[:, :3, :3], points) + worlds[:, None, :3, 3]
        turned = np.where((np.linalg.det(worlds[:, :3, :3]) < 0)[:, None, None], faces[:, ::-1], faces)
        faces = turned + (np.arange(count) * points.shape[1])[:, None, None]
        part = trimesh.Trimesh(points.reshape(-1, 3), faces.reshape(-1, 3), process=False)
        for name, value in look["attributes"].items():
            part.vertex_attributes[name] = np.tile(value, (count, 1))
        part.metadata.update(look["metadata"])
        light = look["light"]
        if look["material"] is not None:
            uv = None if look["uv"] is None else np.tile(look["uv"], (count, 1))
            part.visual = trimesh.visual.TextureVisuals(uv=uv, material=look["material"])
            part.vertex_attributes["light"] = np.tile(light, (count, 1)).astype(np.float32)
        elif light is not None:
            part.visual.vertex_colors = np.tile(to_srgb(light[:, :3]), (count, 1))
        return part

    def _attributes(self, primitive, weights) -> dict[str, np.ndarray]:
        """The decoded attributes of a primitive and its "indices" (n,), morph targets added."""
        unpacked = {}
        extensions = primitive.get("extensions", {})
        if DRACO in extensions:
            unpacked = self._draco(extensions[DRACO], primitive)
        elif unknown := set(extensions) - {"KHR_materials_variants"}:
            self._leave_out(", ".join(sorted(unknown)))
        values = {
            name: self._accessor(number, unpacked.get(name)).astype(np.float64)
            for name, number in primitive["attributes"].items()
            if name.startswith(("POSITION", "COLOR_0", "TEXCOORD_", "JOINTS_", "WEIGHTS_"))
        }
        for weight, target in zip(weights, primitive.get("targets", []), strict=False):
            for name in values.keys() & target.keys() if weight else ():
                values[name] = values[name] + weight * self._accessor(target[name])
        if "POSITION" not in values:
            raise ValueError("it has triangles without positions")
        count = len(values["POSITION"])
        if uneven := [name for name, value in values.items() if len(value) != count]:
            raise ValueError(f"its {uneven[0]} has another length than its POSITION")
        indices = np.arange(count)
        if "indices" in primitive:
            indices = self._accessor(primitive["indices"], unpacked.get("indices")).ravel().astype(np.int64)
        return {**values, "indices": indices}

    def _look(self, material: dict | None, values) -> dict[str, Any]:
        """How a material draws vertices: their linear colour "light", texture, glow, and what the renderer is told."""
        colour = values.get("COLOR_0")
        plain = {"material": None, "uv": None, "light": None, "attributes": {}, "metadata": {}}
        if material is None:
            return plain | {"light": None if colour is None else _with_alpha(colour)}
        extensions = material.get("extensions", {})
        base = self._base(material, extensions)
        light = np.broadcast_to(base["factor"], (len(values["POSITION"]), 4))
        if colour is not None:
            light = light * _with_alpha(colour)
        strength = extensions.get("KHR_materials_emissive_strength", {}).get("emissiveStrength", 1.0)
        glow = np.array(material.get("emissiveFactor", [0, 0, 0]), float) * strength
        known = {"alphaMode": material.get("alphaMode", "OPAQUE"), "alphaCutoff": material.get("alphaCutoff", 0.5)}
        attributes, metadata, uv = {}, {}, None
        if "KHR_materials_unlit" in extensions:
            metadata["unlit"], glow = True, np.zeros(3)
        if base["texture"] is not None:
            uv = self._uv(base["info"], values)
            known["baseColorTexture"] = None if uv is None else base["texture"]
            metadata |= self._sampler(base["info"], uv)
        if glow.any():
            attributes["glow"] = np.tile(glow.astype(np.float32), (len(light), 1))
            info = material.get("emissiveTexture")
            if info is not None and (picture := self._picture(info)) is not None:
                attributes["glow_uv"] = self._uv(info, values)
                if attributes["glow_uv"] is None:
                    del attributes["glow_uv"]
                else:
                    known["emissiveTexture"] = picture
        if known["alphaMode"] not in ("MASK", "BLEND"):
            del known["alphaMode"]
        if not (uv is not None or "alphaMode" in known or attributes or metadata):
            return plain | {"light": light}
        made = PBRMaterial(name=material.get("name"), **known)
        return {"material": made, "uv": uv, "light": light, "attributes": attributes, "metadata": metadata}

    def _base(self, material, extensions) -> dict[str, Any]:
        """Base colour of a material, and a line for what it has beyond colour, alpha and glow."""
        rough = material.get("pbrMetallicRoughness", {})
        if GLOSS in extensions:
            gloss = extensions[GLOSS]
            made = {}
            if "diffuseTexture" not in gloss:  # of a metal the colour is its specular one
                made = specular_to_pbr(**{name: value for name, value in gloss.items() if not isinstance(value, dict)})
            rough = {"baseColorFactor": made.get("baseColorFactor", gloss.get("diffuseFactor", [1, 1, 1, 1]))}
            rough |= {"metallicFactor": 0, "baseColorTexture": gloss.get("diffuseTexture")}
        if rough.get("metallicFactor", 1) > (0 if "metallicRoughnessTexture" in rough else 0.5):
            self._leave_out("metal")
        for name in ("normalTexture", "occlusionTexture"):
            if name in material:
                self._leave_out("normal map" if name == "normalTexture" else "occlusion map")
        for name in extensions.keys() - DRAWN:
            self._leave_out(name.removeprefix("KHR_materials_"))
        info = rough.get("baseColorTexture")
        factor = _with_alpha(np.array(rough.get("baseColorFactor", [1, 1, 1, 1]), float))
        return {"factor": factor, "texture": None if info is None else self._picture(info), "info": info}

    def _uv(self, info, values) -> Float[np.ndarray, "points 2"] | None:
        """Texture coordinates of a texture, transformed, v upwards; None where the mesh has no such set."""
        transform = info.get("extensions", {}).get("KHR_texture_transform", {})
        name = f"TEXCOORD_{transform.get('texCoord', info.get('texCoord', 0))}"
        if name not in values:
            self._leave_out(f"a texture, for {name} is missing")
            return None
        (x, y), turn = transform.get("offset", (0, 0)), transform.get("rotation", 0.0)
        u, v = (values[name][:, :2] * transform.get("scale", (1, 1))).T
        if turn:
            u, v = np.cos(turn) * u + np.sin(turn) * v, np.cos(turn) * v - np.sin(turn) * u
        return np.stack([x + u, 1 - (y + v)], axis=-1)

    def _sampler(self, info, uv) -> dict[str, Any]:
        texture = self._item("textures", info["index"])
        sampler = self._item("samplers", texture["sampler"]) if "sampler" in texture else {}
        wraps = [WRAPS.get(sampler.get(side)) for side in ("wrapS", "wrapT")]
        if uv is not None:  # along a side that is never left it makes no difference
            inside = (uv.min(0) >= 0) & (uv.max(0) <= 1)
            wraps = [wrap for wrap, never in zip(wraps, inside, strict=True) if not never] or wraps[:1]
        if len(set(wraps)) > 1:
            self._leave_out("a texture that repeats in one direction only")
        found = {"wrap": wraps[0]} if wraps[0] else {}
        return found | ({"nearest": True} if sampler.get("magFilter") in NEAREST else {})

    def _picture(self, info) -> Image.Image | None:
        """The picture of a texture, None (and a line) where it is missing or not readable."""
        texture = self._item("textures", info["index"])
        source = texture.get("source")
        for name, extension in texture.get("extensions", {}).items():
            if name in PICTURE_FORMATS:
                source = extension["source"]
            elif source is None:
                self._leave_out(f"a texture in {name}")
                return None
        if source is None:
            return None
        if source not in self._pictures:
            self._pictures[source] = self._decoded(self._item("images", source), source)
        return self._pictures[source]

    def _decoded(self, image, number: int) -> Image.Image | None:
        name = image.get("uri", "data:")
        name = image.get("name", f"number {number}") if name.startswith("data:") else unquote(name)
        try:
            content = self._view(image["bufferView"])[0] if "bufferView" in image else self._linked(image["uri"])
        except FileNotFoundError:
            self._leave_out(f"the texture {name}, which is missing")
            return None
        try:
            picture = Image.open(io.BytesIO(content))
            picture.load()
            return picture
        except Exception as error:  # Pillow raises whatever a broken picture makes it stumble over
            self._leave_out(f"the texture {name}, which cannot be read ({type(error).__name__})")
            return None

    # Bytes

    def _linked(self, uri: str) -> bytes:
        if uri.startswith("data:"):
            head, _, data = uri.partition(",")
            return base64.b64decode(data) if head.endswith("base64") else unquote(data).encode("latin-1")
        return (self.folder / unquote(uri)).read_bytes()

    def _buffer(self, number: int) -> bytes:
        if number not in self._buffers:
            buffer = self._item("buffers", number)
            if "uri" in buffer:
                try:
                    self._buffers[number] = self._linked(buffer["uri"])
                except FileNotFoundError as error:
                    raise ValueError(f"its buffer {unquote(buffer['uri'])} is missing") from error
            elif self.binary is None:
                raise ValueError(f"its buffer {number} is missing")
            else:
                self._buffers[number] = self.binary
        return self._buffers[number]

    def _view(self, number: int) -> tuple[bytes, int | None]:
        view = self._item("bufferViews", number)
        for name in view.get("extensions", {}):
            if name.endswith("meshopt_compression") and self._item("buffers", view["buffer"]).get("uri") is None:
                raise ValueError(f"requires {name}, which is not understood: export without it")
        start = view.get("byteOffset", 0)
        content = self._buffer(view["buffer"])[start : start + view["byteLength"]]
        if len(content) < view["byteLength"]:
            raise ValueError(f"its buffer {view['buffer']} is cut off")
        return content, view.get("byteStride")

    def _accessor(self, number: int, unpacked: np.ndarray | None = None) -> np.ndarray:
        """The (count, width) values of an accessor: normalised integers as floats, sparse values in their places.

        unpacked: its values where a compressed primitive brought them.
        """
        accessor = self._item("accessors", number)
        count, width, kind = (
            accessor["count"],
            WIDTHS[accessor["type"]],
            np.dtype(COMPONENTS[accessor["componentType"]]),
        )
        if unpacked is not None:
            values = np.asarray(unpacked)
        elif "bufferView" in accessor:
            content, stride = self._view(accessor["bufferView"])
            values = _strided(content, accessor.get("byteOffset", 0), count, width, kind, stride)
        else:
            values = np.zeros((count, width), kind)
        if "sparse" in accessor:
            sparse, values = accessor["sparse"], values.copy()
            places, news = sparse["indices"], sparse["values"]
            kind_of_place = np.dtype(COMPONENTS[places["componentType"]])
            content, _ = self._view(places["bufferView"])
            where = _strided(content, places.get("byteOffset", 0), sparse["count"], 1, kind_of_place, None)
            content, _ = self._view(news["bufferView"])
            new = _strided(content, news.get("byteOffset", 0), sparse["count"], width, kind, None)
            values[where[:, 0]] = new
        if accessor.get("normalized") and values.dtype.kind in "iu":
            return np.maximum(values / np.iinfo(kind).max, -1.0)
        return values

    def _draco(self, extension, primitive) -> dict[str, np.ndarray]:
        try:
            import DracoPy
        except ImportError as error:
            raise ValueError(f"requires {DRACO}: pip install DracoPy, or export without it") from error
        try:
            decoded = DracoPy.decode(bytes(self._view(extension["bufferView"])[0]))
        except Exception as error:
            raise ValueError(f"its {DRACO} cannot be decoded ({error})") from error
        names = {identity: name for name, identity in extension["attributes"].items()}
        found = {names.get(attribute["unique_id"]): attribute["data"] for attribute in decoded.attributes}
        if "indices" in primitive and getattr(decoded, "faces", None) is not None:
            found["indices"] = decoded.faces
        return found


def _chunks(content: bytes) -> tuple[bytes, bytes | None]:
    """The JSON and the binary chunk of a GLB file."""
    if len(content) < 20 or struct.unpack_from("<I", content, 4)[0] != 2:
        raise ValueError("it is not a GLB file of version 2, or cut off")
    found, start = {}, 12
    while start + 8 <= len(content):
        length, kind = struct.unpack_from("<I4s", content, start)
        if start + 8 + length > len(content):
            raise ValueError("it is cut off")
        found.setdefault(kind, content[start + 8 : start + 8 + length])
        start += 8 + length
    if b"JSON" not in found:
        raise ValueError("it has no JSON")
    return found[b"JSON"], found.get(b"BIN\0")


def _strided(content: bytes, start: int, count: int, width: int, kind: np.dtype, stride: int | None) -> np.ndarray:
    step = stride or width * kind.itemsize
    if count and start + (count - 1) * step + width * kind.itemsize > len(content):
        raise ValueError("an accessor reaches beyond its buffer")
    if not count:
        return np.zeros((0, width), kind)
    return np.ndarray((count, width), kind, content, start, (step, kind.itemsize))


def _triangles(indices: np.ndarray, mode: int) -> np.ndarray:
    if mode == 4:
        return indices[: len(indices) // 3 * 3].reshape(-1, 3)
    first = np.arange(max(len(indices) - 2, 0))
    if mode == 6:
        return indices[np.stack([first + 1, first + 2, np.zeros_like(first)], axis=-1)]
    odd = first % 2  # every second triangle of a strip runs the other way
    return indices[np.stack([first, first + 1 + odd, first + 2 - odd], axis=-1)]


def _posed(points, values, joints) -> np.ndarray:
    """Linear blend skinning: each point moved by the weighted sum of its joints' matrices."""
    sets = [name.removeprefix("JOINTS_") for name in values if name.startswith("JOINTS_")]
    joint = np.concatenate([values[f"JOINTS_{one}"] for one in sets], axis=-1).astype(np.int64)
    weight = np.concatenate([values[f"WEIGHTS_{one}"] for one in sets], axis=-1)
    if joint.max(initial=0) >= len(joints):
        raise ValueError(f"its skin has {len(joints)} joints, and a vertex names number {joint.max()}")
    total = weight.sum(-1, keepdims=True)
    weight = np.where(total > 0, weight / np.where(total > 0, total, 1), np.eye(weight.shape[1])[0])
    moved = np.zeros_like(points)
    for place in range(joint.shape[1]):
        matrix = joints[joint[:, place]]
        moved += weight[:, place, None] * (np.einsum("vij,vj->vi", matrix[:, :3, :3], points) + matrix[:, :3, 3])
    return moved


def _local_matrix(node) -> np.ndarray:
    if "matrix" in node:
        return np.array(node["matrix"], float).reshape(4, 4).T
    matrix = np.eye(4)
    if "rotation" in node:
        matrix = quaternion_matrix(np.array(node["rotation"], float)[[3, 0, 1, 2]])
    matrix[:3, :3] *= np.array(node.get("scale", [1, 1, 1]), float)
    matrix[:3, 3] = node.get("translation", [0, 0, 0])
    return matrix


def _with_alpha(colour: np.ndarray) -> np.ndarray:
    """Colours (..., 3) or (..., 4) as (..., 4)."""
    return colour if colour.shape[-1] == 4 else np.concatenate([colour, np.ones_like(colour[..., :1])], axis=-1)

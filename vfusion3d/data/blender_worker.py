"""Runs inside Blender's own Python (`blender.py` starts it): reads job.npz and job.json, writes result.npz.

Notable: colours are turned to linear light on the way in and to sRGB on the way out (view transform "Standard"): an
unlit pixel has exactly its texture's colour. Depth and normals are two more renders, of one sample at the centre of
each pixel, in which every surface glows with its own distance or normal.
"""

import json
import math
import os
import sys
from pathlib import Path

import bpy
import mathutils
import numpy as np

ARRAYS = ("points", "faces", "normals", "colours", "uv", "texture", "alpha", "glow", "glow_uv", "glow_texture")


def main(folder: Path) -> None:
    job = json.loads((folder / "job.json").read_text())
    with np.load(folder / "job.npz", allow_pickle=False) as arrays:
        arrays = dict(arrays)
    scene = new_scene(job)
    objects = []
    for number in range(job["surfaces"]):
        surface = {name: arrays.get(f"{name}{number}") for name in ARRAYS}
        objects.append(add_surface(scene, surface | job["looks"][number], folder / f"texture{number}.png"))
    camera = scene.camera
    cameras = list(zip(arrays["cam2world"], arrays["intrinsics"], strict=True))

    def render_all(name: str) -> np.ndarray:
        pictures = []
        for cam2world, intrinsics in cameras:
            place_camera(scene, camera, cam2world, intrinsics)
            pictures.append(render(scene, folder / name, job["size"]))
        return np.stack(pictures)

    for surface in objects:
        surface.data.materials[0] = coloured_material(surface, shading=job["shading"])
    scene.render.image_settings.file_format = "PNG"
    scene.render.image_settings.color_mode = "RGBA"
    scene.render.image_settings.color_depth = "8"
    rgba = np.uint8(np.round(render_all("colours.png") * 255))
    rgba[rgba[..., 3] == 0] = 0
    result = {"rgba": rgba}

    scene.render.image_settings.file_format = "OPEN_EXR"
    scene.render.image_settings.color_depth = "32"
    scene.cycles.samples = 1
    scene.cycles.filter_width = 0.01
    for name in ("depth", "normals"):
        if job[name]:
            for surface in objects:
                surface.data.materials[0] = glowing_material(surface, name)
            picture = render_all(f"{name}.exr")
            empty = picture[..., 3] < 0.5
            value = picture[..., 0] if name == "depth" else picture[..., :3] * 2 - 1
            if name == "normals":
                value = value / np.maximum(np.linalg.norm(value, axis=-1, keepdims=True), 1e-6)
            value[empty] = np.inf if name == "depth" else 0
            result[name] = value.astype(np.float32)
    np.savez(folder / "result.partial.npz", **result)
    os.replace(folder / "result.partial.npz", folder / "result.npz")


def new_scene(job: dict):
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.cycles.device = "CPU"
    scene.cycles.samples = job["samples"] if job["shading"] else 16
    scene.cycles.use_adaptive_sampling = False
    scene.cycles.use_denoising = False
    scene.cycles.max_bounces = 3
    scene.cycles.pixel_filter_type = "BOX"
    scene.cycles.filter_width = 1.0
    scene.cycles.seed = 0
    scene.render.resolution_x = scene.render.resolution_y = job["size"]
    scene.render.resolution_percentage = 100
    scene.render.film_transparent = True
    scene.render.use_persistent_data = True
    scene.render.dither_intensity = 0
    scene.view_settings.view_transform = "Standard"
    scene.view_settings.look = "None"

    scene.world = bpy.data.worlds.new("sky")
    scene.world.use_nodes = True
    sky = scene.world.node_tree.nodes["Background"]
    sky.inputs["Color"].default_value = (1, 1, 1, 1)
    sky.inputs["Strength"].default_value = 0.45
    sun = bpy.data.objects.new("sun", bpy.data.lights.new("sun", "SUN"))
    sun.data.energy = 0.5 * math.pi
    sun.data.angle = math.radians(30)  # soft shadows
    towards = np.array(job["light"])
    sun.rotation_mode = "QUATERNION"
    sun.rotation_quaternion = mathutils.Vector(towards).to_track_quat("Z", "Y")
    scene.collection.objects.link(sun)
    scene.camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
    scene.collection.objects.link(scene.camera)
    return scene


def add_surface(scene, surface: dict, texture_path: Path):
    mesh = bpy.data.meshes.new("surface")
    faces = surface["faces"]
    mesh.vertices.add(len(surface["points"]))
    mesh.vertices.foreach_set("co", surface["points"].astype(np.float32).ravel())
    mesh.loops.add(faces.size)
    mesh.loops.foreach_set("vertex_index", faces.astype(np.int32).ravel())
    mesh.polygons.add(len(faces))
    mesh.polygons.foreach_set("loop_start", np.arange(0, faces.size, 3, dtype=np.int32))
    mesh.polygons.foreach_set("use_smooth", np.ones(len(faces), bool))
    mesh.update(calc_edges=True)
    mesh.normals_split_custom_set_from_vertices(surface["normals"].tolist())
    alpha = np.ones(len(surface["points"])) if surface["alpha"] is None else surface["alpha"]
    colours = mesh.color_attributes.new("colours", "FLOAT_COLOR", "POINT")
    colours.data.foreach_set(
        "color", np.column_stack([to_linear(surface["colours"]), alpha]).astype(np.float32).ravel()
    )
    item = bpy.data.objects.new("surface", mesh)
    item["lit"], item["wrap"], item["nearest"] = surface["lit"], surface["wrap"], surface["nearest"]
    item["transparent"] = surface["alpha"] is not None
    item["cutoff"] = -1.0 if surface["cutoff"] is None else surface["cutoff"] - 1e-6  # what reaches it is no hole
    if surface["glow"] is not None:
        glow = mesh.color_attributes.new("glow", "FLOAT_COLOR", "POINT")
        glow.data.foreach_set("color", np.insert(surface["glow"], 3, 1, axis=1).astype(np.float32).ravel())
    for name in ("", "glow_"):
        if surface[f"{name}texture"] is not None:
            layer = mesh.uv_layers.new(name=f"{name}uv")
            layer.data.foreach_set("uv", surface[f"{name}uv"][faces.ravel()].astype(np.float32).ravel())
            item[f"{name}texture"] = save_texture(
                surface[f"{name}texture"], texture_path.with_stem(name + texture_path.stem)
            )
    mesh.materials.append(None)
    scene.collection.objects.link(item)
    return item


def save_texture(texture: np.ndarray, path: Path) -> str:
    height, width, depth = texture.shape
    image = bpy.data.images.new(path.stem, width, height, alpha=True)
    image.alpha_mode = "STRAIGHT"
    texture = texture if depth == 4 else np.insert(texture, 3, 255, axis=2)
    image.pixels.foreach_set((texture[::-1] / 255).astype(np.float32).ravel())
    image.filepath_raw = str(path)
    image.file_format = "PNG"
    image.save()
    return str(path)


def coloured_material(item, shading: bool):
    """Vertex colours, times the texture if there is one, on a matt surface or (shading=False) glowing."""
    material, nodes, links, output = new_material()
    colour, alpha = mixed(item, material)
    surface = nodes.new("ShaderNodeBsdfDiffuse" if shading and item["lit"] else "ShaderNodeEmission")
    links.new(colour, surface.inputs["Color"])
    surface = surface.outputs[0]
    if "glow" in item.data.color_attributes:
        lamp, both = nodes.new("ShaderNodeEmission"), nodes.new("ShaderNodeAddShader")
        links.new(mixed(item, material, "glow", "glow_")[0], lamp.inputs["Color"])
        links.new(surface, both.inputs[0])
        links.new(lamp.outputs[0], both.inputs[1])
        surface = both.outputs[0]
    links.new(seen_through(item, material, surface, alpha), output.inputs["Surface"])
    return material


def mixed(item, material, colours: str = "colours", prefix: str = ""):
    """The sockets of vertex colours times texture, and of their alphas' product."""
    nodes, links = material.node_tree.nodes, material.node_tree.links
    vertex = nodes.new("ShaderNodeVertexColor")
    vertex.layer_name = colours
    colour, alpha = vertex.outputs["Color"], vertex.outputs["Alpha"]
    if item.get(f"{prefix}texture"):
        where = nodes.new("ShaderNodeUVMap")
        where.uv_map = f"{prefix}uv"
        picture = nodes.new("ShaderNodeTexImage")
        picture.image = bpy.data.images.load(item[f"{prefix}texture"])
        picture.image.alpha_mode = "CHANNEL_PACKED"  # colours are not multiplied by it
        picture.extension = {"repeat": "REPEAT", "clamp": "EXTEND", "mirror": "MIRROR"}[item["wrap"]]
        picture.interpolation = "Closest" if item["nearest"] else "Linear"
        links.new(where.outputs["UV"], picture.inputs["Vector"])
        product = nodes.new("ShaderNodeVectorMath")
        product.operation = "MULTIPLY"
        links.new(colour, product.inputs[0])
        links.new(picture.outputs["Color"], product.inputs[1])
        shares = nodes.new("ShaderNodeMath")
        shares.operation = "MULTIPLY"
        links.new(alpha, shares.inputs[0])
        links.new(picture.outputs["Alpha"], shares.inputs[1])
        colour, alpha = product.outputs["Vector"], shares.outputs["Value"]
    return colour, alpha


def seen_through(item, material, surface, alpha):
    """A surface with holes or transparency, as the object has it."""
    if not item["transparent"]:
        return surface
    nodes, links = material.node_tree.nodes, material.node_tree.links
    if item["cutoff"] > -1:
        above = nodes.new("ShaderNodeMath")
        above.operation = "GREATER_THAN"
        links.new(alpha, above.inputs[0])
        above.inputs[1].default_value = item["cutoff"]
        alpha = above.outputs["Value"]
    nothing, mix = nodes.new("ShaderNodeBsdfTransparent"), nodes.new("ShaderNodeMixShader")
    links.new(alpha, mix.inputs[0])
    links.new(nothing.outputs[0], mix.inputs[1])
    links.new(surface, mix.inputs[2])
    return mix.outputs[0]


def glowing_material(item, what: str):
    material, nodes, links, output = new_material()
    glow = nodes.new("ShaderNodeEmission")
    if what == "depth":
        value = nodes.new("ShaderNodeCameraData").outputs["View Z Depth"]
    else:  # light cannot be negative: (normal + 1) / 2
        half = nodes.new("ShaderNodeVectorMath")
        half.operation = "MULTIPLY_ADD"
        half.inputs[1].default_value = half.inputs[2].default_value = (0.5, 0.5, 0.5)
        links.new(nodes.new("ShaderNodeNewGeometry").outputs["Normal"], half.inputs[0])
        value = half.outputs["Vector"]
    links.new(value, glow.inputs["Color"])
    links.new(seen_through(item, material, glow.outputs[0], mixed(item, material)[1]), output.inputs["Surface"])
    return material


def new_material():
    material = bpy.data.materials.new("material")
    material.use_nodes = True
    nodes = material.node_tree.nodes
    nodes.clear()
    return material, nodes, material.node_tree.links, nodes.new("ShaderNodeOutputMaterial")


def place_camera(scene, camera, cam2world: np.ndarray, intrinsics: np.ndarray) -> None:
    """Our camera as Blender's: focal length over a sensor of width 36, pixels that are not square, a shifted lens."""
    fx, fy, cx, cy = intrinsics
    camera.matrix_world = mathutils.Matrix([*cam2world.tolist(), [0, 0, 0, 1]])
    camera.data.sensor_fit = "HORIZONTAL"
    camera.data.sensor_width = 36.0
    camera.data.lens = 36.0 * fx
    aspect = fx / fy  # of a pixel: height over width
    scene.render.pixel_aspect_x = max(1.0, 1 / aspect)
    scene.render.pixel_aspect_y = max(1.0, aspect)
    camera.data.shift_x = 0.5 - cx
    camera.data.shift_y = (cy - 0.5) * aspect
    camera.data.clip_start = 1e-3
    camera.data.clip_end = 1e4


def render(scene, path: Path, size: int) -> np.ndarray:
    """One picture (size, size, 4) in [0, 1], as the file has it, first row on top."""
    scene.render.filepath = str(path)
    bpy.ops.render.render(write_still=True)
    picture = bpy.data.images.load(str(path))
    picture.colorspace_settings.name = "Non-Color"
    picture.alpha_mode = "CHANNEL_PACKED"  # straight alpha stays as it is
    pixels = np.empty(size * size * 4, np.float32)
    picture.pixels.foreach_get(pixels)
    bpy.data.images.remove(picture)
    return pixels.reshape(size, size, 4)[::-1].copy()


def to_linear(colours: np.ndarray) -> np.ndarray:
    colours = colours / 255
    return np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

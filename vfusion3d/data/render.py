"""Pictures of a mesh from given cameras: straight-alpha RGBA, depth and normals, off screen with PyVista's VTK.

Notable: the light is baked into the vertex colours (`surfaces.shade`), so a pixel is texture x colour x shade and
nothing else, but for what glows; a camera is one 4x4 matrix computed from our own convention, so every pixel lies where
`cameras.project` says; all views of an object are tiles of one window, drawn and read back at once. A pixel is the mean
of a grid of samples, its colour the mean of the *covered* ones: silhouettes carry no trace of a background. A sample
shows one surface or none: where a surface is transparent, it takes its share of a pixel's samples and leaves the others
to what is behind (screen-door transparency), in whatever order surfaces are drawn.
"""

import contextlib
import functools
import logging
import math

import numpy as np
import pyvista
import trimesh
import vtkmodules.vtkRenderingOpenGL2  # noqa: F401  registers the OpenGL classes
from jaxtyping import Float, UInt8
from PIL import Image
from vtkmodules.util.numpy_support import vtk_to_numpy
from vtkmodules.vtkCommonCore import vtkFloatArray, vtkLogger, vtkUnsignedCharArray
from vtkmodules.vtkCommonMath import vtkMatrix4x4
from vtkmodules.vtkRenderingCore import vtkActor, vtkPolyDataMapper, vtkRenderer, vtkRenderWindow

from vfusion3d.data.surfaces import DEFAULT_LIGHT, Light, Surface, shade, surfaces_of, to_linear, to_srgb
from vfusion3d.data.views import RenderedViews, check_cameras

WINDOW_SIDE = 4096  # samples; more views than fit are drawn in several goes


def render_views(
    mesh: trimesh.Trimesh | trimesh.Scene,
    cam2world: Float[np.ndarray, "views 3 4"],
    intrinsics: Float[np.ndarray, "views 4"],
    size: int,
    *,
    depth: bool = False,
    normals: bool = False,
    shading: bool | Light = True,
    supersampling: int = 3,
    backend: str = "pyvista",
) -> RenderedViews:
    """Render a mesh, or all parts of a scene, from V cameras (section 3.2's "3D data").

    cam2world (V, 3, 4) and intrinsics (V, 4) or (4,) follow `vfusion3d.cameras`; arrays or tensors. size: pixels of a
    side. shading: a light of your own, or False for the bare colours. supersampling: samples along a pixel's side; odd,
    so that one of them is the pixel's centre, where depth and normals are taken. backend: "pyvista", or "blender"
    (Cycles, which has samples and light of its own, see `vfusion3d.data.blender`). Raises ValueError for a mesh without
    faces and for arguments of the wrong shape or value.
    """
    cam2world, intrinsics = check_cameras(cam2world, intrinsics)
    if size < 1:
        raise ValueError(f"size must be at least 1 pixel, not {size}")
    if supersampling < 1 or supersampling % 2 == 0:
        raise ValueError(f"supersampling must be odd (1, 3, 5, ...), not {supersampling}")
    if size * supersampling > WINDOW_SIDE:
        raise ValueError(f"size x supersampling must be at most {WINDOW_SIDE}, not {size} x {supersampling}")
    if backend == "blender":
        if isinstance(shading, Light):
            raise ValueError("Cycles has a light of its own: with Blender, shading must be True or False")
        from vfusion3d.data.blender import render_with_blender

        return render_with_blender(mesh, cam2world, intrinsics, size, depth=depth, normals=normals, shading=shading)
    if backend != "pyvista":
        raise ValueError(f'backend must be "pyvista" or "blender", not {backend!r}')

    surfaces = surfaces_of(mesh)
    near, far = _clip_range(surfaces, cam2world)
    matrices = world_to_clip(cam2world, intrinsics, near, far)
    per_window = (WINDOW_SIDE // (size * supersampling)) ** 2
    goes = [
        _Window().draw(surfaces, matrices[start : start + per_window], size, supersampling, shading, normals)
        for start in range(0, len(matrices), per_window)
    ]
    rgba, z, normal = (np.concatenate(parts) if parts[0] is not None else None for parts in zip(*goes, strict=True))

    empty = z >= 1.0
    if depth:
        n, f = near[:, None, None], far[:, None, None]
        z = (2 * n * f / (f + n - (2 * z.astype(np.float64) - 1) * (f - n))).astype(np.float32)
        z[empty] = np.inf
    if normals:
        normal = normal.astype(np.float32) / 127.5 - 1
        normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-6)
        normal[empty] = 0
    return RenderedViews(rgba, z if depth else None, normal if normals else None)


def world_to_clip(
    cam2world: Float[np.ndarray, "views 3 4"],
    intrinsics: Float[np.ndarray, "views 4"],
    near: Float[np.ndarray, "views"],
    far: Float[np.ndarray, "views"],
) -> Float[np.ndarray, "views 4 4"]:
    """OpenGL's matrices from world to clip space: x_clip / w = 2u - 1 and y_clip / w = 1 - 2v of `cameras.project`."""
    fx, fy, cx, cy = intrinsics.T
    projection = np.zeros((len(cam2world), 4, 4))
    projection[:, 0, 0], projection[:, 0, 2] = 2 * fx, 1 - 2 * cx
    projection[:, 1, 1], projection[:, 1, 2] = 2 * fy, 2 * cy - 1
    projection[:, 2, 2], projection[:, 2, 3] = -(far + near) / (far - near), -2 * far * near / (far - near)
    projection[:, 3, 2] = -1
    view = np.tile(np.eye(4), (len(cam2world), 1, 1))
    view[:, :3, :3] = cam2world[:, :, :3].transpose(0, 2, 1)
    view[:, :3, 3] = -np.einsum("vji,vj->vi", cam2world[:, :, :3], cam2world[:, :, 3])
    return projection @ view


def _clip_range(surfaces: list[Surface], cam2world) -> tuple[np.ndarray, np.ndarray]:
    """The nearest and farthest distance along each viewing axis, from the corners of the bounding box."""
    low = np.min([surface.points.min(0) for surface in surfaces], axis=0)
    high = np.max([surface.points.max(0) for surface in surfaces], axis=0)
    corners = np.stack(np.meshgrid(*zip(low, high, strict=True), indexing="ij"), -1).reshape(-1, 3)
    distance = -np.einsum("vpi,vi->vp", corners[None] - cam2world[:, None, :, 3], cam2world[:, :, 2])
    margin = 1e-3 * max(np.linalg.norm(high - low), 1e-6)
    far = np.maximum(distance.max(1) + margin, 2e-3)
    return np.maximum(distance.min(1) - margin, np.minimum(far / 1000, far - 1e-3)), far


@functools.cache  # the one window of this process: opening one costs more than drawing an object
class _Window:
    def __init__(self):
        # Triton (part of torch on Linux) brings an LLVM of its own. Loaded after Mesa's software renderer, which has
        # another one, it crashes the process; the other way round both work.
        with contextlib.suppress(ImportError):
            import triton  # noqa: F401

        verbosity = vtkLogger.GetCurrentVerbosityCutoff()
        vtkLogger.SetStderrVerbosity(vtkLogger.VERBOSITY_ERROR)  # it would warn that there is no screen: we know
        self.window = vtkRenderWindow()
        self.window.SetOffScreenRendering(True)
        self.window.SetMultiSamples(0)
        self.window.SetAlphaBitPlanes(True)
        self.window.SetSize(64, 64)
        self.window.Render()
        vtkLogger.SetStderrVerbosity(verbosity)
        self.tiles = []
        logging.getLogger(__name__).debug("rendering with %s", self.window.GetClassName())

    def draw(self, surfaces, matrices, size, supersampling, shading, normals):
        """RGBA (V, size, size, 4), OpenGL depth in [0, 1] and byte-coded normals (or None) at the pixels' centres."""
        columns = math.ceil(math.sqrt(len(matrices)))
        rows = math.ceil(len(matrices) / columns)
        width, height = columns * size * supersampling, rows * size * supersampling
        self._arrange(len(matrices), rows, columns, width, height)
        for tile, matrix in zip(self.tiles, matrices, strict=False):
            explicit = vtkMatrix4x4()
            explicit.DeepCopy(matrix.ravel())
            tile.GetActiveCamera().SetExplicitProjectionTransformMatrix(explicit)

        def grid(pixels):  # (rows, size, supersampling, columns, size, supersampling, ...), top row first
            return pixels[::-1].reshape(rows, size, supersampling, columns, size, supersampling, *pixels.shape[2:])

        def views(pixels):  # (rows, size, columns, size, ...) -> (V, size, size, ...)
            return pixels.swapaxes(1, 2).reshape(rows * columns, size, size, *pixels.shape[4:])[: len(matrices)]

        def drawn(actors):
            try:
                self._show(actors)
                return self._pixels(width, height), self._depths(width, height)
            finally:
                self._hide(actors)

        middle, some = supersampling // 2, list(enumerate(surfaces))
        samples, z = drawn(
            [_actor(one, _baked(one, shading), one.uv, one.texture, place, supersampling) for place, one in some]
        )
        if any(_glows(one) for one in surfaces):
            glow, _ = drawn([_glow_actor(one, place, supersampling) for place, one in some])
            samples = np.concatenate([_sum_of_light(samples[..., :3], glow[..., :3]), samples[..., 3:]], axis=-1)
        rgba = views(_mean_of_covered(grid(samples)))
        z = views(grid(z)[:, :, middle, :, :, middle])
        if not normals:
            return rgba, z, None
        coded = [np.uint8(np.round((one.normals + 1) * 127.5)) for one in surfaces]
        normal, _ = drawn([_actor(one, coded[place], *_holes(one), place, supersampling) for place, one in some])
        return rgba, z, views(grid(normal)[:, :, middle, :, :, middle, :3])

    def _arrange(self, count, rows, columns, width, height):
        while len(self.tiles) < count:
            tile = vtkRenderer()
            tile.SetBackground(0, 0, 0)
            tile.SetBackgroundAlpha(0)
            tile.AutomaticLightCreationOff()
            tile.GetCullers().RemoveAllItems()
            camera = tile.GetActiveCamera()
            camera.SetPosition(0, 0, 0)
            camera.SetFocalPoint(0, 0, -1)
            camera.UseExplicitProjectionTransformMatrixOn()
            self.window.AddRenderer(tile)
            self.tiles.append(tile)
        self.window.SetSize(width, height)
        for index, tile in enumerate(self.tiles):
            row, column = divmod(index, columns)
            tile.SetDraw(index < count)
            if index < count:
                tile.SetViewport(column / columns, 1 - (row + 1) / rows, (column + 1) / columns, 1 - row / rows)

    def _show(self, actors):
        for tile in self.tiles:
            for actor in actors:
                tile.AddActor(actor)
        self.window.Render()

    def _hide(self, actors):
        for tile in self.tiles:
            tile.RemoveAllViewProps()
        for actor in actors:
            actor.ReleaseGraphicsResources(self.window)

    def _pixels(self, width, height):
        pixels = vtkUnsignedCharArray()
        self.window.GetRGBACharPixelData(0, 0, width - 1, height - 1, 0, pixels)
        return vtk_to_numpy(pixels).reshape(height, width, 4)

    def _depths(self, width, height):
        depths = vtkFloatArray()
        self.window.GetZbufferData(0, 0, width - 1, height - 1, depths)
        return vtk_to_numpy(depths).reshape(height, width)


def _baked(surface: Surface, shading: bool | Light) -> UInt8[np.ndarray, "points 3"]:
    colours = surface.colours
    if shading is not False and surface.lit:
        light = DEFAULT_LIGHT if shading is True else shading
        colours = np.uint8(np.round(colours * shade(surface.normals, light)[:, None]))
    if surface.glow is not None and not _glows(surface):
        colours = to_srgb(to_linear(colours / 255) + surface.glow.light)
    return colours


def _glows(surface: Surface) -> bool:
    """Whether a surface's glow must be drawn by itself: where textures mix, vertices cannot hold the sum."""
    return surface.glow is not None and (surface.texture is not None or surface.glow.texture is not None)


def _glow_actor(surface: Surface, place: int, supersampling: int):
    if not _glows(surface):
        return _actor(surface, np.zeros_like(surface.colours), *_holes(surface), place, supersampling)
    glow, (uv, holes) = surface.glow, _holes(surface)
    texture = glow.texture
    if holes is not None and texture is None:
        texture = np.full_like(holes[..., :3], 255)
    if holes is not None:  # its cut-outs are the base colour's, whose coordinates are nearly always the same
        texture = Image.fromarray(texture).resize(holes.shape[1::-1])
        texture = np.dstack([np.asarray(texture), holes[..., 3]])
    return _actor(surface, to_srgb(glow.light), uv if glow.uv is None else glow.uv, texture, place, supersampling)


def _holes(surface: Surface):
    """Texture coordinates and a white texture with the holes of a surface, or None and None."""
    if surface.alpha is None or surface.texture is None or surface.texture.shape[-1] < 4:
        return None, None
    white = surface.texture.copy()
    white[..., :3] = 255
    return surface.uv, white


def _sum_of_light(one: UInt8[np.ndarray, "*pixels 3"], other: UInt8[np.ndarray, "*pixels 3"]):
    """The sRGB colour of two lights together."""
    levels = np.arange(256) / 255
    linear = np.uint16(np.round(to_linear(levels) * 65535))
    return to_srgb(np.arange(131071) / 65535)[linear[one].astype(np.uint32) + linear[other]]


def _actor(surface: Surface, colours: UInt8[np.ndarray, "points 3"], uv, texture, place: int, supersampling: int):
    data = pyvista.PolyData.from_regular_faces(surface.points.astype(np.float32), surface.faces)
    actor = vtkActor()
    if surface.alpha is not None:
        colours = np.column_stack([colours, np.uint8(np.round(surface.alpha * 255))])
        actor.ForceOpaqueOn()
        actor.GetShaderProperty().AddFragmentShaderReplacement(
            "//VTK::TCoord::Impl", True, "//VTK::TCoord::Impl\n" + _discard(surface, place, supersampling), False
        )
    data.point_data.set_scalars(np.ascontiguousarray(colours), "colours")
    mapper = vtkPolyDataMapper()
    if texture is not None:
        data.active_texture_coordinates = uv.astype(np.float32)
        if surface.alpha is None:
            texture = texture[..., :3]
        texture = pyvista.Texture(np.ascontiguousarray(texture))
        texture.SetInterpolate(not surface.nearest)
        texture.SetMipmap(not surface.nearest)
        texture.SetMaximumAnisotropicFiltering(16)
        texture.SetWrap(
            {"repeat": texture.Repeat, "clamp": texture.ClampToEdge, "mirror": texture.MirroredRepeat}[surface.wrap]
        )
        texture.SetUseSRGBColorSpace(False)
        actor.SetTexture(texture)
    mapper.SetInputData(data)
    mapper.SetColorModeToDirectScalars()
    actor.SetMapper(mapper)
    actor.GetProperty().LightingOff()
    return actor


def _discard(surface: Surface, place: int, supersampling: int) -> str:
    """GLSL that drops a fragment which is a hole, or whose alpha does not reach the threshold of its sample.

    The thresholds (k + 1/2) / s^2 of the s x s samples of a pixel are each there once, 1/2 in the middle. They rise
    along the rows, and for the back of a surface, or another surface, along the columns: of two layers, each lets
    through its share of what the other does.
    """
    if surface.cutoff is not None:
        threshold = f"{surface.cutoff:.6f}"
    else:
        x, y = (f"int(gl_FragCoord.{side}) % {supersampling}" for side in "xy")
        y = f"{supersampling - 1} - {y}" if place // 2 % 2 else y
        rows, columns = f"({y}) * {supersampling} + {x}", f"({x}) * {supersampling} + {y}"
        along = (rows, columns) if place % 2 == 0 else (columns, rows)
        threshold = f"(float(gl_FrontFacing ? {along[0]} : {along[1]}) + 0.5) / {supersampling**2}.0"
    return f"  if (gl_FragData[0].a < {threshold}) discard;\n  gl_FragData[0].a = 1.0;\n"


def _mean_of_covered(samples: np.ndarray) -> UInt8[np.ndarray, "rows size columns size 4"]:
    """Straight-alpha pixels from (rows, size, s, columns, size, s, 4) samples that are either empty or opaque."""
    side = samples.shape[2]
    wide = np.uint16 if side <= 15 else np.uint32
    lines = samples[:, :, 0].astype(wide)  # first along columns, whose samples lie side by side in memory
    for line in range(1, side):
        lines += samples[:, :, line]
    total = lines[..., 0, :].copy()
    for column in range(1, side):
        total += lines[..., column, :]
    covered = np.maximum(total[..., 3:] // 255, 1)
    total[..., :3] = (total[..., :3] + covered // 2) // covered
    total[..., 3] = (total[..., 3] + side * side // 2) // (side * side)
    return total.astype(np.uint8)

"""The same pictures by Blender Cycles: a path tracer with soft shadows, slower, for who wants light that bounces.

Notable: Blender's Python module wants versions of its own (Python 3.11, NumPy below 2), so it lives in another
environment (`make blender` makes `.venv-blender`) and runs as another process. It gets the triangles as an npz file and
the cameras as JSON, and returns an npz file. Same geometry, normals, colours and cameras as in PyVista; only the light
is its own: a sun and an even sky, both fixed in the world.
"""

import json
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import trimesh
from jaxtyping import Float

from vfusion3d.data.surfaces import DEFAULT_LIGHT, surfaces_of
from vfusion3d.data.views import RenderedViews

PYTHON_VARIABLE = "VFUSION3D_BLENDER_PYTHON"
SAMPLES = 64  # light paths a pixel
WORKER = Path(__file__).with_name("blender_worker.py")
VENV_PYTHONS = (Path(".venv-blender/bin/python"), Path(".venv-blender/Scripts/python.exe"))


class BlenderMissingError(FileNotFoundError):
    """There is no Python with Blender's module; the message says how to get one."""


def blender_python() -> Path:
    """The Python that has `bpy`: `$VFUSION3D_BLENDER_PYTHON`, else `.venv-blender` in this repository.

    Never one of the current folder, which may be anybody's. Raises BlenderMissingError where there is none, or it
    belongs to another user. Whether it works is seen when it runs.
    """
    named = os.environ.get(PYTHON_VARIABLE)
    if named:
        if not Path(named).is_file():
            raise BlenderMissingError(f"{PYTHON_VARIABLE} is {named}, but there is no such file")
        return Path(named)
    for python in (Path(__file__).parents[2] / python for python in VENV_PYTHONS):
        if python.is_file():
            if not all(_is_ours(path) for path in (python.parents[1], python.parent)):
                raise BlenderMissingError(f"{python} belongs to another user: name it in {PYTHON_VARIABLE} to run it")
            return python
    raise BlenderMissingError(
        "Blender is not installed: run `make blender` (it needs Python 3.11), "
        f"or name a Python that can import bpy in {PYTHON_VARIABLE}"
    )


def _is_ours(path: Path) -> bool:
    """Whether a file or folder belongs to this user or to root, and nobody else may write there."""
    known = path.stat()
    return not hasattr(os, "getuid") or (known.st_uid in (os.getuid(), 0) and not known.st_mode & 0o002)


def render_with_blender(
    mesh: trimesh.Trimesh | trimesh.Scene,
    cam2world: Float[np.ndarray, "views 3 4"],
    intrinsics: Float[np.ndarray, "views 4"],
    size: int,
    *,
    depth: bool = False,
    normals: bool = False,
    shading: bool = True,
) -> RenderedViews:
    """What `render.render_views(backend="blender")` calls; the cameras must have passed `render.check_cameras`.

    shading=False gives the bare colours. Raises BlenderMissingError where Blender is not
    installed, RuntimeError with Blender's last words where it fails.
    """
    python = blender_python()
    surfaces = surfaces_of(mesh)
    arrays = {"cam2world": cam2world, "intrinsics": intrinsics}
    for number, surface in enumerate(surfaces):
        for name in ("points", "faces", "normals", "colours", "uv", "texture", "alpha"):
            if getattr(surface, name) is not None:
                arrays[f"{name}{number}"] = getattr(surface, name)
        if surface.glow is not None:
            glow = {"glow": surface.glow.light, "glow_uv": surface.glow.uv, "glow_texture": surface.glow.texture}
            arrays |= {f"{name}{number}": value for name, value in glow.items() if value is not None}
    looks = [{name: getattr(one, name) for name in ("cutoff", "lit", "wrap", "nearest")} for one in surfaces]
    job = {
        "looks": looks,
        "surfaces": len(surfaces),
        "size": size,
        "shading": shading,
        "depth": depth,
        "normals": normals,
    }
    job |= {"samples": SAMPLES, "light": DEFAULT_LIGHT.direct}
    with tempfile.TemporaryDirectory(prefix="vfusion3d-blender-") as folder:
        np.savez(Path(folder, "job.npz"), **arrays)
        Path(folder, "job.json").write_text(json.dumps(job))
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        done = subprocess.run(
            [python, WORKER, folder], capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL
        )
        result = Path(folder, "result.npz")
        if done.returncode or not result.exists():
            last = "\n".join((done.stderr or done.stdout).strip().splitlines()[-5:])
            raise RuntimeError(f"Blender failed in {python} (exit code {done.returncode}):\n{last}")
        with np.load(result, allow_pickle=False) as made:
            return RenderedViews(made["rgba"], made["depth"] if depth else None, made["normals"] if normals else None)

"""VFusion3D in the open: one image to a 3D asset, and everything that teaches a model to do it.

The names below load on first use, so that `import vfusion3d` and `vfusion3d --help` cost nothing.
"""

from importlib import import_module

_HOMES = {"ImageTo3DPipeline": "vfusion3d.model.pipeline", "VFusion3D": "vfusion3d.model.vfusion3d"}
__all__ = ["ImageTo3DPipeline", "VFusion3D"]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'vfusion3d' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])

"""VFusion3D in the open: one image to a 3D asset, and everything that teaches a model to do it.

The names below load on first use, so that `import vfusion3d` and `vfusion3d --help` cost nothing.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""The miniature world: procedural, promptable objects, in place of Objaverse and of the web."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

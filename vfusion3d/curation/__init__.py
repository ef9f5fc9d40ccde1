"""What is done with synthetic videos before anything learns from them (section 3.2): filter, elevations, masks."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

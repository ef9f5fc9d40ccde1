"""How the bundled miniatures of the foundation models were trained, and what they can do."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

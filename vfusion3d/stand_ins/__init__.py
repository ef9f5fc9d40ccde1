"""Who plays the people of the paper offline: the judge of videos, who knows the truth, and the raters."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""The second face of the package: notebooks run headlessly, what they would cost, and the page of their results.

`book.begin` is what a notebook begins with (`notebook.py`).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""The progress bar of the package: a widget in JupyterLab, text in a terminal and in a notebook run by papermill.

Nobody sees the widgets of a notebook that runs without a browser, and a training of ten minutes would look like a
process that hangs. `vfusion3d.book.run` therefore asks for text. TQDM_DISABLE=1 in the environment hides all bars, as
wherever tqdm is used.
"""

import os

TEXT = "VFUSION3D_TEXT_PROGRESS"  # environment variable: set and not empty for text wherever the code runs

if os.environ.get(TEXT):
    from tqdm import tqdm
else:
    from tqdm.auto import tqdm

__all__ = ["tqdm"]

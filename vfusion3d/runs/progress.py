"""The progress bar of the package: a widget in JupyterLab, text in a terminal and in a notebook run by papermill.

Nobody sees the widgets of a notebook that runs without a browser, and a training of ten minutes would look like a
process that hangs. `vfusion3d.book.run` therefore asks for text. TQDM_DISABLE=1 in the environment hides all bars.
"""

import os

TEXT = "VFUSION3D_TEXT_PROGRESS"  # environment variable: set and not empty for text wherever the code runs

if os.environ.get(TEXT):
    from tqdm import tqdm as _tqdm
else:
    from tqdm.auto import tqdm as _tqdm


class tqdm(_tqdm):
    """tqdm, where disable=False leaves it to the environment whether there is a bar."""

    def __init__(self, *args, disable: bool = False, **options):
        super().__init__(*args, **(options | {"disable": True} if disable else options))

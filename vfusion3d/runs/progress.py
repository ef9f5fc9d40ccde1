"""The progress bar of the package: a widget in JupyterLab, text in a terminal and in a notebook run by papermill.

Nobody sees the widgets of a notebook that runs without a browser, and a training of ten minutes would look like a
process that hangs. `vfusion3d.book.run` therefore asks for text. tqdm's own TQDM_DISABLE=1 in the environment hides the
bars of a whole process, `without_bars` those of some lines.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

TEXT = "VFUSION3D_TEXT_PROGRESS"  # environment variable: set and not empty for text wherever the code runs

if os.environ.get(TEXT):
    from tqdm import tqdm as _bar
else:
    from tqdm.auto import tqdm as _bar

__all__ = ["tqdm", "without_bars"]
_hidden = ContextVar("_hidden", default=False)


class tqdm(_bar):
    """tqdm, which `without_bars` hides."""

    def __init__(self, *args, disable: bool = False, **options):
        if disable or _hidden.get():  # else the environment decides
            options["disable"] = True
        super().__init__(*args, **options)


@contextmanager
def without_bars() -> Iterator[None]:
    """Within it no bar is shown: for what is one of many steps that have a bar together, or too short for one."""
    before = _hidden.set(True)
    try:
        yield
    finally:
        _hidden.reset(before)

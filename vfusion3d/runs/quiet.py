"""What libraries say of themselves while they load: bars, notes, warnings. Nothing in it is for who uses this package.

Their errors still come as exceptions, whose message is ours to show.
"""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

LIBRARIES = {"diffusers": "DIFFUSERS", "transformers": "TRANSFORMERS", "huggingface_hub": "HF_HUB"}
_asked: set[bool] = set()  # whether it was asked for


def quiet_libraries() -> None:
    """Silence libraries in this process, for a command or a notebook; python's -W has a say.

    Who uses the package from a program of their own decides for themselves.
    """
    _asked.add(True)
    for library, name in LIBRARIES.items():
        os.environ.setdefault(f"{name}_VERBOSITY", "critical")  # read on import
        if library in sys.modules:
            logging.getLogger(library).setLevel(logging.CRITICAL)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for library in ("diffusers", "transformers"):
        if library in sys.modules:
            import_module(f"{library}.utils.logging").disable_progress_bar()
    if not sys.warnoptions:
        warnings.filterwarnings("ignore", module=r"(?!vfusion3d|__main__)")  # ours are meant for people


@contextmanager
def without_bars() -> Iterator[None]:
    """No bar of transformers in here, whoever asks: for a bundled network, which is read in a moment."""
    from transformers.utils import logging

    before = logging.set_tqdm_hook(lambda bar, given, how: bar(*given, **how | {"disable": True}))
    try:
        yield
    finally:
        logging.set_tqdm_hook(before)


def keep_quiet() -> None:
    """The same again for libraries that were imported since, where it was asked for."""
    if _asked:
        quiet_libraries()

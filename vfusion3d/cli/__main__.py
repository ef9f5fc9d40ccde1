"""The `vfusion3d` command, and `python -m vfusion3d.cli` for launchers that take a module: torchrun, Snakemake."""

import os
import signal
import sys


def run() -> None:
    """`main`, with Ctrl-C as one line from the first moment on, also while modules are being imported."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else whoever began this has other plans
        signal.signal(signal.SIGINT, _interrupt)
    try:
        from vfusion3d.cli.main import main

        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(_say())


def _interrupt(number: int, frame) -> None:
    """End at once where a module is being imported, for many catch or print what falls into that; else as usual."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os._exit(_say())
        frame = frame.f_back
    raise KeyboardInterrupt


def _say() -> int:
    os.write(2, b"vfusion3d: interrupted\n")
    return 130


if __name__ == "__main__":
    run()

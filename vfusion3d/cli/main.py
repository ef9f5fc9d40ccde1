"""The `vfusion3d` command: thin faces of the package's heavy functions (the files beside this one).

What a person can get wrong ends in one line on stderr and exit code 1 (2 for a command line that makes no sense), never
in a stack trace.
"""

import argparse
import io
import itertools
import os
import sys
from contextlib import nullcontext, redirect_stdout
from importlib.metadata import version

from vfusion3d.cli import app, data, model, reconstruct, video
from vfusion3d.cli.page import one_line
from vfusion3d.runs.quiet import quiet_libraries


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0, 1 where something failed, 130 interrupted (2: wrong command line)."""
    parser = build_parser()
    _check_given(parser, list(map(str, sys.argv[1:] if arguments is None else arguments)))
    options = parser.parse_args(arguments)
    quiet_libraries()
    one_of_many = "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("RANK", "0") != "0"
    try:
        with redirect_stdout(io.StringIO()) if one_of_many else nullcontext():  # torchrun: the first process talks
            return options.run(options)
    except KeyboardInterrupt:
        print("vfusion3d: interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        print(f"vfusion3d {options.command}: {one_line(error)}", file=sys.stderr)
        return 1


def _check_given(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
    """End the program where a value is empty, as that of a shell's variable which is not set: it has no meaning."""
    for before, argument in itertools.pairwise(["", *arguments]):
        option, equals, value = argument.partition("=")
        if argument == "" or (option.startswith("--") and equals and not value):
            named = option or (before if before.startswith("-") else "an argument")
            parser.error(f"{named} is given without a value: leave it out, or say what it is")


def build_parser() -> argparse.ArgumentParser:
    """All commands with their help."""
    parser = argparse.ArgumentParser(
        prog="vfusion3d",
        description="One image to a 3D asset, and the paper's pipeline that teaches it. "
        "`vfusion3d COMMAND --help` tells more, with an example.",
    )
    parser.add_argument("--version", action="version", version=f"vfusion3d {version('vfusion3d')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (
        *(reconstruct.add_reconstruct, reconstruct.add_background_weights, app.add_app),
        *(data.add_render, data.add_prompts),
        *(video.add_finetune_video, video.add_generate, video.add_curate),
        *(model.add_train, model.add_evaluate, model.add_study, model.add_experiment),
    ):
        add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())

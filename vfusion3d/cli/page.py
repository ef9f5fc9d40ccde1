"""What the commands share: a page of help each, the options of a run, and errors in one line."""

import argparse
import inspect
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from vfusion3d.runs.ranges import in_range

if TYPE_CHECKING:
    from vfusion3d.runs.profiles import Profile


PROFILES = ("smoke", "laptop", "overnight", "gpu", "paper")  # by what they cost


def new_page(commands, name: str, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
    """A command, whose page of help is the docstring of `run`: what the list of commands says, more of it, examples.

    commands: what `add_subparsers` returned. run: takes the parsed options, returns the exit code.
    """
    text, examples = inspect.getdoc(run).split("\n\nexamples:\n")
    summary, description = text.split("\n\n", 1)
    page = commands.add_parser(
        name,
        help=summary[0].lower() + summary[1:].rstrip("."),
        description=description,
        epilog=f"examples:\n{examples}",
        formatter_class=_HelpFormat,
    )
    page.set_defaults(run=run, parser=page)
    return page


class _HelpFormat(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults that say something, and leaves the lines of descriptions and examples as they are."""

    def _get_help_string(self, action: argparse.Action) -> str:
        if action.default is None or action.default is False:
            return action.help
        if isinstance(action.default, list):
            return f"{action.help} (default: {' '.join(action.default)})"
        return super()._get_help_string(action)


def one_line(error: Exception | str) -> str:
    """A text, or an exception's message, without line breaks; its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def add_run(page: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The page with the options that every command of the pipeline has: profile, folder, seed."""
    page.add_argument("--profile", default="laptop", help=f"{', '.join(PROFILES)}, or a .yaml file of your own")
    page.add_argument("--run-dir", type=Path, metavar="FOLDER", help="where a run's data lives (default: runs/PROFILE)")
    page.add_argument(
        "--seed", type=in_range("seed"), default=0, help="the same seed gives the same bytes on the same machine"
    )
    return page


def run_of(options: argparse.Namespace) -> "tuple[Profile, Path]":
    """The profile and the run's folder. Raises ProfileError for a profile that cannot be used."""
    from vfusion3d.runs.profiles import load_profile

    profile = load_profile(options.profile)
    return profile, options.run_dir or Path("runs") / profile.name


WORDS = ("mini", "base", "procedural", "primitives", "common", "uncommon", *PROFILES)
Named = tuple[str, str | Path]  # how a command line names a path, and the path


def check_outputs(
    options: argparse.Namespace, reads: Iterable[Named], *, files: Iterable[Named] = (), folders: Iterable[Named] = ()
) -> None:
    """End the program with exit code 2, before any work, where what is to be written would destroy what is read.

    reads: what the command reads beside its profile; words of ours and what is no path that exists, such as a name on
    the hub, count for nothing. files, folders: what it writes. No file may be what is read or lie in it, no folder may
    also be around it, nothing is written twice, and there must be room for it: whatever its names are, for links are
    followed.
    """
    reads = [*reads, ("--profile", getattr(options, "profile", ""))]
    paths = [(name, path) for name, path in reads if str(path) and path not in WORDS]
    read = {_place(path): f"{name} {path}" for name, path in paths if _place(path).exists()}
    inodes = {_inode(place): named for place, named in read.items()}
    read_folders = [place for place in read if place.is_dir()]
    written: dict[Path | tuple[int, int], str] = {}
    for name, path, is_folder in [*((*file, False) for file in files), *((*folder, True) for folder in folders)]:
        place, named = _place(path), f"{name} {path}"
        if place.exists() and place.is_dir() != is_folder:
            options.parser.error(f"{named}: is a {'file; give a folder' if is_folder else 'folder; give a file'}")
        if same := inodes.get(_inode(place), read.get(place)):
            options.parser.error(f"{named}: is the same as {same}, which is read; give another name")
        for other in read_folders:
            if other in place.parents:
                options.parser.error(f"{named}: lies in {read[other]}, which is read; give a place outside of it")
        for other in read if is_folder else ():
            if place in other.parents:
                options.parser.error(f"{named}: holds {read[other]}, which is read; give another folder")
        for key in {place, _inode(place) or place}:
            if key in written:
                options.parser.error(f"{written[key]} and {named} would be the same file; give another name")
            written[key] = named
        above = place if is_folder else place.parent
        while not above.exists() and above != above.parent:
            above = above.parent
        if not above.is_dir():
            options.parser.error(f"{named}: {above.name} is a file, not a folder")
        if not os.access(above, os.W_OK):
            options.parser.error(f"{named}: nothing can be written in {above}")


def _place(path: str | Path) -> Path:
    return Path(os.path.realpath(os.path.expanduser(path)))


def _inode(place: Path) -> tuple[int, int] | None:
    """What tells a file that has several names (hard links); None where there is no file."""
    return ((status := place.stat()).st_dev, status.st_ino) if place.exists() else None


def add_part(page: argparse.ArgumentParser) -> None:
    """The options of a command whose work can be divided among machines."""
    page.add_argument("--shard", type=int, default=0, metavar="K", help="which part of the work this is, from 0")
    page.add_argument(
        "--shards", type=in_range("shards"), default=1, metavar="N", help="in how many parts the work is divided"
    )


def part_of(options: argparse.Namespace) -> tuple[int, int]:
    """Which part, of how many. Ends the program with exit code 2 where there is no such part."""
    if not 0 <= options.shard < options.shards:
        options.parser.error(f"--shard {options.shard} --shards {options.shards}: K must be from 0 to N - 1")
    return options.shard, options.shards

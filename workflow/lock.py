"""Renews the two lock files from pyproject.toml: `make lock`.

`uv` resolves once for Linux and macOS and for every Python from 3.11 on; a version already in a lock file stays as long
as it fits. Blender has a lock of its own, because it needs NumPy below 2.
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEADER = "# The exact version of everything{}. Made by `make lock`; not edited by hand.\n"
EVERYWHERE = r"sys_platform == 'darwin' or sys_platform == 'linux'"


def lock(output: Path, what: str, *arguments: str, requirements: str = "") -> None:
    """Writes the versions that uv finds for `arguments` (or for `requirements`, one a line) to `output`."""
    flags = ["--universal", "--python-version=3.11", "--no-header", "--no-annotate", "--quiet"]
    command = [sys.executable, "-m", "uv", "pip", "compile", *flags, *arguments, "--output-file", str(output)]
    subprocess.run(command, input=requirements, text=True, check=True, cwd=ROOT)
    pins = re.sub(rf" ; {EVERYWHERE}$| and \({EVERYWHERE}\)", "", output.read_text(), flags=re.MULTILINE)
    output.write_text(HEADER.format(what) + pins)


if __name__ == "__main__":
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    lock(ROOT / "requirements.lock", ", for Linux and macOS", "--extra", "dev", "pyproject.toml")
    lock(ROOT / "requirements-blender.lock", " in .venv-blender", "-", requirements="\n".join(extras["blender"]))

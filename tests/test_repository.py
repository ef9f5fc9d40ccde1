"""What holds the repository together: one place for versions, the make targets, and nothing that does not belong."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WEIGHTS = ROOT / "vfusion3d" / "weights"
LOCKS = ["requirements.lock", "requirements-blender.lock"]


def pins(lock: str) -> list[Requirement]:
    lines = (ROOT / lock).read_text().splitlines()
    return [Requirement(line) for line in lines if not line.startswith("#")]


def tracked() -> list[Path]:
    """The files of the repository, those not yet added included."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in found.stdout.split("\0") if name and (ROOT / name).is_file()]


# One place for the versions


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_holds_exact_versions_and_no_address(lock):
    for pin in pins(lock):
        assert re.fullmatch(r"==[0-9][0-9a-z.]*", str(pin.specifier)), pin
        assert pin.url is None
    assert "://" not in (ROOT / lock).read_text()


@pytest.mark.parametrize(
    ("requirements", "lock"),
    [
        (PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"], "requirements.lock"),
        (PROJECT["optional-dependencies"]["blender"], "requirements-blender.lock"),
    ],
    ids=LOCKS,
)
def test_the_lock_satisfies_every_direct_dependency(requirements, lock):
    locked = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins(lock)}
    for requirement in map(Requirement, requirements):
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]), requirement


@pytest.mark.parametrize("platform", ["linux", "darwin"])
@pytest.mark.parametrize("python", ["3.11.0", "3.11.9", "3.12.4", "3.13.1"])
def test_the_lock_has_one_version_of_a_package_for_each_machine(platform, python):
    machine = {"sys_platform": platform, "python_version": python[:4], "python_full_version": python}
    names = [
        canonicalize_name(pin.name)
        for pin in pins("requirements.lock")
        if not pin.marker or pin.marker.evaluate(machine)
    ]
    assert sorted(names) == sorted(set(names))
    assert any(name.startswith("nvidia-") for name in names) == (platform == "linux")


def test_the_conda_environment_takes_its_versions_from_the_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    conda = [item for item in environment["dependencies"] if isinstance(item, str)]
    (pip,) = [item["pip"] for item in environment["dependencies"] if isinstance(item, dict)]
    assert pip == ["-c requirements.lock", "-e .[dev]"]
    install = next(line for line in (ROOT / "Makefile").read_text().splitlines() if "pip install" in line)
    assert "-c requirements.lock -e '.[dev]'" in install
    # conda itself brings Python and tools, and no Python package in a version of its own
    assert [re.split("[=<>]", item)[0] for item in conda] == ["python", "make", "pip"]
    assert SpecifierSet(PROJECT["requires-python"]).contains(conda[0].split("=")[1])


# make


def make(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(["make", *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def installed(tmp_path) -> Path:
    """A copy of what make looks at, with an environment whose Python only says what it is asked to do."""
    for name in ("Makefile", "pyproject.toml", *LOCKS):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "asked: $*"\n')
    python.chmod(0o755)
    assert make("setup", f"PYTHON={sys.executable}", cwd=tmp_path).returncode == 0
    return tmp_path


def test_a_second_setup_does_nothing(installed):
    assert make("-q", "setup", cwd=installed).returncode == 0


@pytest.mark.parametrize("name", ["requirements.lock", "pyproject.toml"])
def test_a_changed_lock_is_installed_and_the_old_stamp_goes(installed, name):
    (old,) = (installed / ".venv").glob(".installed-*")
    with (installed / name).open("a") as file:
        file.write("# changed\n")
    done = make("setup", f"PYTHON={sys.executable}", cwd=installed)
    assert "asked: -m pip install" in done.stdout
    (new,) = (installed / ".venv").glob(".installed-*")
    assert new.name != old.name


def test_an_old_python_is_refused_with_the_way_out(installed):
    shutil.rmtree(installed / ".venv")
    old = installed / "python3.8"
    old.write_text("#!/bin/sh\nexit 1\n")  # what any Python below 3.11 answers to the question
    old.chmod(0o755)
    done = make("test", f"PYTHON={old}", cwd=installed)
    assert done.returncode != 0
    assert "Python 3.11 or newer is needed" in done.stderr
    assert "make test PYTHON=" in done.stderr
    assert not (installed / ".venv").exists()


def test_help_names_every_target():
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE).group(1).split()
    shown = make("help").stdout
    assert [target for target in targets if f"make {target} " not in shown] == []


def test_ci_runs_make_test():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().splitlines()[-1] == "make test"


# What is in the repository, and what is not


def test_the_sources_are_in_the_projects_style():
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "."], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout


def test_no_file_names_a_place_on_this_machine():
    home = str(Path.home())
    places = [str(ROOT) + "/"] + [f"{home}/{child}" for child in (".", "Desktop", "Documents")]
    binary = {".png", ".pdf", ".jpg", ".safetensors", ".mp4", ".gif", ".glb", ".npz"}
    named = {
        (str(path.relative_to(ROOT)), place)
        for path in tracked()
        if path.suffix not in binary
        for place in places
        if place in path.read_text(encoding="utf-8", errors="ignore")
    }
    assert not named


def test_no_bundled_weights_name_the_folder_they_came_from():
    for path in tracked():
        if path.is_relative_to(WEIGHTS) and path.suffix == ".json":
            assert not re.search(r'": "(/|[A-Z]:)', path.read_text()), path


def test_no_file_is_large_a_pickle_or_a_package():
    for path in tracked():
        assert path.suffix != ".whl", path
        assert path.stat().st_size <= 4 * 2**20 or path.is_relative_to(WEIGHTS), path
        assert path.suffix not in {".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib"}, path


def test_the_bundled_weights_stay_within_12_mb_and_the_miniatures_within_18():
    ours, foundations = 0, 0
    for path in tracked():
        if path.is_relative_to(WEIGHTS) and path.suffix in {".safetensors", ".skops"}:
            size = path.stat().st_size
            if path.relative_to(WEIGHTS).parts[0] in {"base", "mini"}:
                ours += size
            else:
                foundations += size
    assert 0 < ours <= 12 * 10**6
    assert 0 < foundations <= 18 * 10**6


def test_executed_notebooks_figures_and_sources_stay_under_20_mb():
    parts = {"notebooks", "papermill_runs", "figures"}
    files = [path for path in tracked() if path.relative_to(ROOT).parts[0] in parts]
    assert sum(path.stat().st_size for path in files) < 20 * 10**6


def test_the_bundled_weights_tell_nothing_of_where_they_were_made():
    for config in WEIGHTS.glob("*/config.json"):
        assert "/" not in config.read_text(), config


def test_the_citation_is_the_papers():
    paper = yaml.safe_load((ROOT / "CITATION.cff").read_text())["preferred-citation"]
    assert paper["title"] == "VFusion3D: Learning Scalable 3D Generative Models from Video Diffusion Models"
    assert [author["family-names"] for author in paper["authors"]] == ["Han", "Kokkinos", "Torr"]
    assert paper["year"] == 2024


def test_the_licence_is_apache_2():
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License\n                           Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert PROJECT["license"] == "Apache-2.0"


def test_no_name_is_undefined(repository):
    """Ruff's F821, which the project's settings leave out: jaxtyping's shapes, in quotes, are no names."""
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select=F821", "--output-format=json"]
    found = subprocess.run([*command, "vfusion3d", "tests"], cwd=repository, capture_output=True, text=True)
    undefined = []
    for one in json.loads(found.stdout):
        row, column = one["location"]["row"], one["location"]["column"]
        line = Path(one["filename"]).read_text(encoding="utf-8").splitlines()[row - 1]
        if line[: column - 1].count('"') % 2 == 0:
            undefined.append(f"{one['filename']}:{row}: {one['message']}")
    assert not undefined

"""The how-tos of CONTRIBUTING.md, done to the letter: what they say must be all that it takes."""

import importlib
import json
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import vfusion3d.foundations
from vfusion3d.experiments.variants import VARIANTS, load_experiments
from vfusion3d.foundations.loading import ModelUnavailable
from vfusion3d.runs.profiles import Foundations, ProfileError, load_profile, profile_path

WORLD = """
import dataclasses, json
import numpy as np
from vfusion3d.world.catalogue import CATEGORY_NAMES, COMMON
from vfusion3d.world.objects import make_object, sample_object
from vfusion3d.world.sources import ProceduralObjects
from vfusion3d.world.unseen import UnseenObjects, eval_prompts
from vfusion3d.world.web_captions import web_captions
from vfusion3d.world.web_world import sample_scene

rng = np.random.default_rng(3)
made = {
    "prompts": eval_prompts(100),
    "objects": [dataclasses.asdict(sample_object(rng)) for _ in range(200)],
    "scenes": [sample_scene(np.random.default_rng([1, i])).caption for i in range(10)],
    "corpus": web_captions(500),
}
for source in (ProceduralObjects(), ProceduralObjects(COMMON), UnseenObjects()):
    made[repr(source)] = [source(i, np.random.default_rng([7, i])).metadata for i in range(30)]
named = (*COMMON, "pencil") if "pencil" in CATEGORY_NAMES else COMMON
of_seed = lambda names, seed: dataclasses.asdict(sample_object(np.random.default_rng(seed), names))
print(json.dumps({"made": made, "with": [of_seed(named, seed) for seed in range(300)]}))
"""


def how_to(repository: Path, title: str) -> list[str]:
    """The code of one section, block by block."""
    section = (repository / "CONTRIBUTING.md").read_text().split(f"## {title}\n")[1].split("\n## ")[0]
    return re.findall(r"```\w+\n(.*?)```", section, re.DOTALL)


def python(package: Path, *arguments: str) -> str:
    """What Python prints that finds the package in this folder."""
    environment = {**os.environ, "PYTHONPATH": str(package)}
    done = subprocess.run([sys.executable, *arguments], cwd=package, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def world_with_a_pencil(repository, tmp_path_factory):
    """A copy of the package with another category: before all others, where it moves every one of them."""
    function, line = how_to(repository, "A category of objects")
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(repository / "vfusion3d", folder / "vfusion3d", ignore=shutil.ignore_patterns("weights"))
    (folder / "vfusion3d" / "weights").symlink_to(repository / "vfusion3d" / "weights")
    module = folder / "vfusion3d" / "world" / "uncommon_objects.py"
    module.write_text(f"{module.read_text()}\n\n{function}")
    catalogue = folder / "vfusion3d" / "world" / "catalogue.py"
    lines = catalogue.read_text().splitlines(keepends=True)
    place = next(number for number, text in enumerate(lines) if text.startswith("    Category("))
    catalogue.write_text("".join([*lines[:place], line, *lines[place:]]))
    return folder


def test_a_new_category_changes_no_prompt_and_no_object(world_with_a_pencil, repository):
    before = json.loads(python(repository, "-c", WORLD))
    after = json.loads(python(world_with_a_pencil, "-c", WORLD))
    assert after["made"] == before["made"]
    pencils = [spec["category"] == "pencil" for spec in after["with"]]
    others = [(a, b) for a, b, pencil in zip(before["with"], after["with"], pencils, strict=True) if not pencil]
    assert all(one == other for one, other in others)
    assert np.mean(pencils) == pytest.approx(1 / 15, abs=0.04)


def test_a_new_category_is_understood_sound_and_what_its_caption_says(world_with_a_pencil, repository):
    ask = (
        "from vfusion3d.foundations.caption_rules import broken_rule; from vfusion3d.world.objects import *; "
        "print([broken_rule(c) for c in ('a tall striped red and white pencil', 'two pencils')], "
        "build_mesh(make_object('a striped red and white pencil', seed=0)).extents.round(1))"
    )
    assert python(world_with_a_pencil, "-c", ask).startswith("['', 'several objects (two)'] [")
    shutil.copytree(repository / "tests", world_with_a_pencil / "tests", dirs_exist_ok=True)
    checks = ("tests/test_objects.py", "-k", "pencil or categories", "-q")
    assert "failed" not in python(world_with_a_pencil, "-m", "pytest", "-p", "no:cacheprovider", *checks)


@pytest.fixture
def profile_of_ones_own(repository, tmp_path, monkeypatch):
    """The profile that the how-to of a foundation model makes, and its file, in the working directory."""
    monkeypatch.chdir(tmp_path)
    source, line = how_to(repository, "A foundation model")
    Path("edges.py").write_text(source)
    settings = yaml.safe_load(profile_path("smoke").read_text())
    settings["name"] = "mine"
    settings["foundations"] |= yaml.safe_load(line)
    Path("mine.yaml").write_text(yaml.safe_dump(settings))
    return load_profile("mine.yaml")


def test_a_foundation_model_takes_one_file_and_one_word(profile_of_ones_own):
    from vfusion3d.foundations.image_features import image_features, patch_features

    halves = torch.zeros(1, 3, 64, 64)
    halves[..., 32:] = 1  # the one edge there is lies between the fourth column of cells and the fifth
    for ask in (image_features, patch_features):
        seen = ask(profile_of_ones_own)(halves).view(2, 3, 8, 8)
        assert seen[0, :, :, 3:5].sum() > 0
        assert seen.sum() == pytest.approx(float(seen[0, :, :, 3:5].sum()))


def test_a_command_uses_the_file(profile_of_ones_own, capsys):
    from vfusion3d.cli.main import main

    def run(*arguments: str) -> int:
        return main([*arguments, "--profile", "mine.yaml"])

    few = ("--count", "1", "--views", "2", "--size", "32", "--workers", "1")
    assert run("render", "--objects", "mug,chair", "-o", "runs/mine/data/train_3d", *few) == 0
    source = Path("edges.py")
    source.write_text(source.read_text() + '\nprint("these are my edges")\n')
    arguments = ("evaluate", "--weights", "mini", "--data", "runs/mine/data/train_3d", "--size", "32")
    assert run(*arguments) == 0
    assert "these are my edges" in capsys.readouterr().out


def functions_of_roles() -> dict[str, object]:
    """Every role's function in `vfusion3d.foundations`, by the key of the profile."""
    package = vfusion3d.foundations
    modules = [
        importlib.import_module(f"{package.__name__}.{info.name}") for info in pkgutil.iter_modules(package.__path__)
    ]
    roles = [field.name for field in fields(Foundations)]
    return {role: next(filter(callable, (getattr(module, role, None) for module in modules))) for role in roles}


def test_a_new_strategy_is_a_row_of_its_table_under_the_keys_that_are_there(repository, tmp_path):
    (block,) = how_to(repository, "A training strategy (a row of Table 4)")
    added = yaml.safe_load(block)
    ours = yaml.safe_load(VARIANTS.read_text())
    ours["variants"] |= added["variants"]
    ours["tables"]["table_4"] |= added["tables"]["table_4"]
    file = tmp_path / "variants.yaml"
    file.write_text(yaml.safe_dump(ours, sort_keys=False))
    experiments, profile = load_experiments(file), load_profile("laptop")
    whole = experiments.variant("opacity").at(profile).training.recipe
    weak = experiments.variant("weak_opacity").at(profile).training.recipe
    assert list(experiments.tables["table_4"])[-1] == "+ weak opacity"
    assert (whole.losses.opacity, weak.losses.opacity) == (1.0, 0.1)
    assert replace(weak, losses=whole.losses, camera_noise=0.0) == whole
    file.write_text(VARIANTS.read_text() + block)
    with pytest.raises(ProfileError, match=r"variants\.yaml: the key variants stands twice"):
        load_experiments(file)


@pytest.mark.parametrize("role", [field.name for field in fields(Foundations)])
def test_any_role_can_be_played_by_a_file(role, tmp_path):
    smoke, file = load_profile("smoke"), tmp_path / "mine.py"
    file.write_text(f"def {role}(profile):\n    return profile.name, 1\n")
    profile = replace(smoke, foundations=replace(smoke.foundations, **{role: str(file)}))
    ask = functions_of_roles()[role]
    assert ask(profile) == ("smoke", 1)
    file.write_text(f"def {role}(profile):\n    return profile.name, 2\n")
    os.utime(file, ns=(1, 1))
    assert ask(profile) == ("smoke", 2), "a file that was changed is read again"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "there is no such file"),
        ("", r"no function saliency\(profile\)"),
        ("import nothing_of_that_name", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("def saliency(", "SyntaxError"),
    ],
)
def test_a_file_that_cannot_play_the_role_says_why(content, reason, tmp_path):
    from vfusion3d.foundations.saliency import saliency

    smoke, file = load_profile("smoke"), tmp_path / "mine.py"
    if content is not None:
        file.write_text(content)
    profile = replace(smoke, foundations=replace(smoke.foundations, saliency=str(file)))
    with pytest.raises(ModelUnavailable, match=rf"mine\.py' \(role saliency\).*{reason}"):
        saliency(profile)

"""The table of a run's artifacts: where each is, and what a person reads who lacks one."""

import re
from pathlib import Path

import pytest
import yaml

from vfusion3d.cli.main import main
from vfusion3d.runs import layout
from vfusion3d.runs.layout import Artifact, MissingArtifact

ROOT = Path(__file__).resolve().parents[1]
ARTIFACTS = {name: made for name, made in vars(layout).items() if isinstance(made, Artifact)}


@pytest.mark.parametrize("name", ARTIFACTS)
def test_every_artifact_names_notebooks_and_a_command_that_exist(name, capsys):
    made = ARTIFACTS[name]
    notebooks = made.notebook.values() if isinstance(made.notebook, dict) else {made.notebook} - {""}
    assert set(notebooks) <= yaml.safe_load((ROOT / "workflow" / "notebooks.yaml").read_text()).keys()
    if made.command:
        with pytest.raises(SystemExit) as ended:
            main([made.command.split()[0], "--help"])
        assert ended.value.code == 0
        page = capsys.readouterr().out
        assert all(option in page for option in re.findall(r"--[a-z]+", made.command))


def test_no_two_artifacts_share_a_folder():
    paths = [made.path for made in ARTIFACTS.values()]
    assert len(set(paths)) == len(paths)


def test_a_missing_artifact_names_the_file_the_command_and_the_notebook(tmp_path):
    run_dir = tmp_path / "runs" / "smoke"
    message = (
        "runs/smoke/data/train_3d/index.json does not exist yet; `vfusion3d render --profile smoke` or the notebook "
        "01_render_3d_data makes it (`make reproduce PROFILE=smoke` makes everything)"
    )
    with pytest.raises(MissingArtifact, match=re.escape(message)):
        layout.objects_3d.need(run_dir)
    (run_dir / "data" / "train_3d").mkdir(parents=True)
    (run_dir / "data" / "train_3d" / "index.json").touch()
    assert layout.objects_3d.need(run_dir) == layout.objects_3d(run_dir) == run_dir / "data" / "train_3d"
    assert layout.objects_3d.missing(run_dir) == ""


@pytest.mark.parametrize(
    ("folder", "profile", "command"),
    [
        ("runs/laptop", None, "`make reproduce` makes everything"),
        ("runs/mine", "gpu", "`vfusion3d curate --profile gpu --run-dir {here}/runs/mine` or"),
        ("elsewhere", None, "`vfusion3d curate --profile laptop --run-dir {here}/elsewhere` or"),
    ],
)
def test_the_command_is_the_one_for_this_run(tmp_path, folder, profile, command):
    folder_of_models = layout.curation_models(tmp_path / folder)
    folder_of_models.mkdir(parents=True)
    (folder_of_models / "quality.skops").touch()
    message = layout.curation_models.missing(tmp_path / folder, profile=profile)
    assert message.startswith(f"{folder_of_models}/elevation.skops does not exist yet; ")
    assert command.format(here=tmp_path) in message


def test_names_are_part_of_the_folder_and_of_who_makes_it():
    assert layout.experiment(Path("r"), "only_3d", 2) == Path("r/experiments/only_3d/seed-2")
    assert "`vfusion3d experiment only_3d --seed 2 --seeds 1" in layout.experiment.missing("r", "only_3d", 2)
    assert "the notebook 09_text_to_3d makes it" in layout.rendered_views.missing("r", "text_to_3d")

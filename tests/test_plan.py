"""Plans: what each notebook would do, in counts and hours that follow from the paper's, without doing any of it."""

import re

import pytest
import yaml
from test_notebooks import SOURCES, code_cells, each_notebook

from vfusion3d import book
from vfusion3d.book.plan import CAPTIONS, RATES, STEPS, plan
from vfusion3d.book.run import main
from vfusion3d.runs.profiles import load_profile

PAPER = load_profile("paper")
KNOWN = yaml.safe_load(RATES.read_text())


def test_pre_training_at_full_size_takes_what_the_paper_says():
    table = plan("06_train_vfusion3d", PAPER)
    assert table.loc["pre-training", "count"] == 2_700_000 * 30
    assert table.loc["total on GPUs", "device_hours"] == pytest.approx(128 * 6 * 24, rel=0.005)
    assert table.loc["total on GPUs", "hours"] == pytest.approx(6 * 24, rel=0.005)


@pytest.mark.parametrize(
    ("notebook", "step", "count"),
    [
        ("01_render_3d_data", "views of 3D training objects", 100_000 * 32),
        ("01_render_3d_data", "views of unseen objects", 500 * 33),
        ("04_generate_synthetic_data", "first frames", 4_000_000),
        ("04_generate_synthetic_data", "4,000,000 videos", 4_000_000 * 25),
        ("05_filter_and_label", "videos judged good or bad", 2_000),
        ("05_filter_and_label", "frames that the filter sees", 4_000_000 * 8),
        ("10_user_study", "answers of people", 65 * 2 * 2 * 5),
        ("12_ablation_training_strategies", "+ opacity supervision: training", 500_000 * 30),
        ("15_scaling_trends", "1M: training", 1_000_000 * 30),
    ],
)
def test_the_counts_are_the_papers(notebook, step, count):
    assert plan(notebook, PAPER).loc[step, "count"] == pytest.approx(count, rel=0.005)  # three digits are shown


def test_the_video_models_of_table_3_train_on_what_passes_the_filter():
    counts = plan("11_ablation_video_data", PAPER)["count"]
    good = [counts[f"{name}: training"] / 500_000 / 30 for name in ("10K", "50K", "100K")]
    assert good == pytest.approx([0.445, 0.521, 0.613], rel=0.005)
    assert "100K: 500,000 videos" not in counts  # notebook 04 made them


def test_what_the_filters_of_a_run_keep_takes_the_place_of_the_papers_share():
    few = plan("11_ablation_video_data", PAPER, {"engine_10k": 0.1})["count"]
    assert few["10K: training"] == pytest.approx(50_000 * 30, rel=0.005)
    assert few["50K: training"] == plan("11_ablation_video_data", PAPER)["count"]["50K: training"]
    assert plan("02_prompts", PAPER, {CAPTIONS: 0.5})["count"]["captions of the web, read"] == 2 * 3_900_000


def test_nothing_is_planned_that_an_earlier_notebook_makes():
    trained = {
        step
        for notebook in list(STEPS)[11:16]
        for step in plan(notebook, PAPER).index
        if "training" in step.split(": ")[-1]
    }
    assert not trained & {"100K: fine-tuning", "Synthetic data: training", "No fine-tune: training"}  # 07 and 06
    assert "2.7M: training" not in trained  # at full size that is the model of 06
    assert "500K: training" not in trained  # the last row of Table 4
    bounded = plan("15_scaling_trends", load_profile("laptop"))["count"]  # three seeds of 100 steps of 4 samples
    assert bounded["2.7M: training"] == 3 * 100 * 4
    assert bounded["500K: training"] == 2 * 100 * 4  # the first seed's is the last row of Table 4


@pytest.mark.parametrize("notebook", STEPS)
@pytest.mark.parametrize("profile", ["smoke", "laptop", "overnight", "gpu", "paper"])
def test_hours_add_up_and_are_shared_by_the_devices(notebook, profile):
    table = plan(notebook, load_profile(profile))
    for kind, devices in (
        ("GPU", {"paper": 128, "gpu": 1}),
        ("core", {"paper": 128, "gpu": 8, "laptop": 2, "overnight": 2, "smoke": 2}),
    ):
        some = table[table.device == kind]
        if len(some):
            parts, total = some.iloc[:-1], some.iloc[-1]
            assert sum(hours or 0 for hours in parts.device_hours) == pytest.approx(total.device_hours, rel=0.02)
            assert total.hours * devices[profile] == pytest.approx(total.device_hours, rel=0.02)
            assert sum(disk or 0 for disk in parts.disk_gb) == pytest.approx(total.disk_gb, rel=0.02)
    assert table["known"].str.len().min() > 0


def test_a_profile_without_a_gpu_needs_none():
    for notebook in STEPS:
        assert "GPU" not in set(plan(notebook, load_profile("laptop")).device)


def test_what_nobody_measured_has_no_hours():
    (row,) = plan("06_train_vfusion3d", load_profile("gpu")).loc[["pre-training"]].itertuples()
    assert (row.device_hours, row.hours, row.known) == (None, None, "not measured on a GPU")
    assert plan("10_user_study", PAPER).loc["answers of people", "hours"] is None


def test_every_number_has_a_source():
    for name, rate in KNOWN["rates"].items():
        for size in ("mini", "paper"):
            entry = rate[size]
            numbers = [key for key in entry if key in ("core_seconds", "gpu_seconds", "tflop")]
            assert entry["source"], name
            assert len(numbers) == (1 if entry["known"] else 0), name
            assert entry["known"] in ("paper", "measured", "published", "extrapolated", ""), name
            assert "tflop" not in numbers or entry["known"] == "extrapolated", name
    assert all(entry["source"] for entry in KNOWN["bytes"].values())
    assert KNOWN["a100"]["source"]


def test_a_notebook_without_a_plan_is_named_with_those_that_have_one():
    with pytest.raises(ValueError, match=r"no plan of '99_more': only of 00_quickstart, 01_render"):
        plan("99_more", PAPER)


# In the notebooks


@each_notebook
def test_the_notebook_shows_its_own_plan_before_it_needs_anything(source):
    begun, shown = (cell.source for cell in code_cells(source)[1:3])
    assert f'book.begin("{source.stem}", profile, run_dir, seed)' in begun
    assert shown == "run.plan()"
    assert book.begin(source.stem, "paper", "runs/paper").plan().equals(plan(source.stem, PAPER))


def test_plans_of_several_notebooks_are_printed_one_after_the_other(tmp_path, capsys):
    assert main([*map(str, SOURCES[:2]), "--profile", "paper", "--dry-run", "--root", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert printed.index(f"{SOURCES[0]} at profile paper") < printed.index(f"{SOURCES[1]} at profile paper")
    assert "3200000" in printed
    some = [SOURCES[1], SOURCES[3], SOURCES[6]]
    assert main([*map(str, some), "--profile", "paper", "--dry-run"]) == 0
    hours = [plan(source.stem, PAPER)["device_hours"] for source in some]
    cores, gpus = (sum(made.get(f"total on {kind}", 0) for made in hours) for kind in ("cores", "GPUs"))
    line = r"all 3 notebooks: ([\d,.]+) hours of one GPU and ([\d,.]+) hours of one core, .* GB of disk"
    said = re.fullmatch(line, capsys.readouterr().out.splitlines()[-1])
    assert [float(text.replace(",", "")) for text in said.groups()] == pytest.approx([gpus, cores], rel=0.005)


def test_a_dry_run_opens_no_notebook_and_names_one_without_a_plan(tmp_path, capsys):
    assert main([str(tmp_path / "06_train_vfusion3d.ipynb"), "--profile", "paper", "--dry-run"]) == 0
    assert "81000000" in capsys.readouterr().out
    assert main([str(tmp_path / "99_more.ipynb"), "--dry-run"]) == 1
    assert "99_more.ipynb: there is no plan of '99_more': only of 00_quickstart, 01_render" in capsys.readouterr().err


def test_every_row_of_table_5_takes_the_steps_of_all_objects():
    rows = plan("13_ablation_3d_finetuning", load_profile("paper"))
    recipe = load_profile("paper").finetuning
    samples = -(-recipe.epochs * 100_000 // recipe.batch_size) * recipe.batch_size
    trained = rows[rows["unit"] == "sample"]["count"]
    assert len(trained) == 5
    assert trained.tolist() == pytest.approx([samples] * 5, rel=0.01)

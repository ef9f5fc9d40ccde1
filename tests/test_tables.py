"""The paper's numbers against independently typed ones, and comparisons against arithmetic done by hand."""

import math

import pandas as pd
import pytest

from vfusion3d.evaluation.tables import (
    METRICS,
    ahead_of,
    compare,
    differences,
    mean_over_objects,
    paper_table,
    to_latex,
    to_markdown,
    verdict,
    write_table,
)

SHAPES = {  # rows, and the metrics of each
    "table_1": (3, {"clip_text", "clip_image"}),
    "table_2": (7, {"clip_text", "clip_image"}),
    "table_3": (3, {"good_rate", "ssim", "lpips", "clip_text", "clip_image"}),
    "table_4": (5, {"ssim", "lpips", "clip_text", "clip_image"}),
    "table_5": (7, {"ssim", "lpips", "clip_text", "clip_image"}),
    "table_6": (3, {"ssim", "lpips", "clip_text", "clip_image"}),
    "figure_5": (2, {"quality", "faithfulness"}),
}
TYPED_FROM_THE_PAPER = [  # table, row, metric, value
    ("table_1", "VFusion3D", "clip_image", 0.851),
    ("table_2", "ProlificDreamer", "clip_text", 0.293),
    ("table_3", "50K", "good_rate", 52.1),
    ("table_4", "+ no pixel-level loss", "clip_text", 0.257),
    ("table_5", "50K (random)", "lpips", 0.146),
    ("table_6", "3D data", "clip_image", 0.631),
    ("figure_5", "OpenLRM", "quality", 93.8),
    ("figure_5", "OpenLRM", "faithfulness", 92.3),
    ("figure_5", "LGM", "quality", 90.8),
    ("figure_5", "LGM", "faithfulness", 93.8),
]


@pytest.mark.parametrize("name", SHAPES)
def test_a_paper_table_has_its_rows_and_every_row_its_metrics(name):
    rows, metrics = SHAPES[name]
    table = paper_table(name)
    assert len(table.rows) == len({row["name"] for row in table.rows}) == rows
    assert all(set(row) == {"name", *metrics} for row in table.rows)
    assert metrics <= set(METRICS)
    assert table.caption
    assert table.section.startswith("4.")


@pytest.mark.parametrize(("name", "row", "metric", "value"), TYPED_FROM_THE_PAPER)
def test_the_paper_s_numbers_are_the_paper_s(name, row, metric, value):
    assert next(item for item in paper_table(name).rows if item["name"] == row)[metric] == value


def test_win_rates_are_whole_numbers_of_the_65_videos():
    for row in paper_table("figure_5").rows:
        for rate in (row["quality"], row["faithfulness"]):
            assert rate == pytest.approx(100 * round(rate * 0.65) / 65, abs=0.05)


def test_tables_that_report_the_same_model_agree():
    last = {key: value for key, value in paper_table("table_5").rows[-1].items() if key != "name"}
    both = {key: value for key, value in paper_table("table_6").rows[-1].items() if key != "name"}
    assert last == both


def test_an_unknown_table_names_the_ones_there_are():
    with pytest.raises(ValueError, match=r"'table_9'.*table_1, table_2"):
        paper_table("table_9")


def results(seeds: int) -> pd.DataFrame:
    rows = []
    for seed in range(seeds):
        for number in range(2):
            rows.append({"method": "ours", "key": str(number), "ssim": 0.5 + 0.1 * number + 0.02 * seed, "seed": seed})
            rows.append({"method": "a white image", "key": str(number), "ssim": 0.4, "seed": seed})
    return pd.DataFrame(rows)


def test_scores_are_means_over_objects_then_over_seeds_with_the_deviation_of_the_seeds():
    scores = mean_over_objects(results(seeds=3))
    assert scores.index.tolist() == ["ours", "a white image"]
    assert scores.loc["ours", "ssim"] == pytest.approx(0.57)
    assert scores.loc["ours", "ssim_std"] == pytest.approx(0.02)  # of 0.55, 0.57, 0.59
    assert scores.loc["a white image", "ssim_std"] == pytest.approx(0)


def test_one_seed_has_no_deviation():
    assert mean_over_objects(results(seeds=1)).columns.tolist() == ["ssim"]
    assert mean_over_objects(results(seeds=1).drop(columns="seed")).loc["ours", "ssim"] == pytest.approx(0.55)


@pytest.fixture
def comparison():
    ours = pd.DataFrame(
        {"ssim": [0.7, 0.4], "ssim_std": [0.01, 0.0], "lpips": [0.2, 0.6], "psnr": [18.0, 11.0]},
        index=["Baseline", "white image"],
    )
    return compare(ours, paper_table("table_4").rows, profile="laptop", label="Components")


def test_a_comparison_sets_our_numbers_beside_the_paper_s_under_the_profile_s_name(comparison):
    assert comparison.index.tolist()[0] == "Baseline"
    assert comparison.index.tolist()[-1] == "white image"
    assert len(comparison) == 6
    assert comparison.loc["Baseline", ("ssim", "paper")] == 0.826
    assert comparison.loc["Baseline", ("ssim", "laptop")] == 0.7
    assert comparison.loc["Baseline", ("ssim", "laptop std")] == 0.01
    assert math.isnan(comparison.loc["white image", ("ssim", "paper")])
    assert math.isnan(comparison.loc["+ camera noise", ("lpips", "laptop")])
    assert ("psnr", "paper") not in comparison


def test_bold_is_the_highest_where_more_is_better_and_the_lowest_where_less_is(comparison):
    lines = to_markdown(comparison).splitlines()
    assert lines[0].startswith("| Components | PSNR ↑<br>laptop | SSIM ↑<br>paper | SSIM ↑<br>laptop |")
    assert lines[2].startswith("| Baseline | **18.00** | 0.826 | **0.700 ± 0.010** | 0.206 | **0.200** |")
    assert lines[4].startswith("| + no pixel-level loss | – | **0.831** | – | **0.167** | – | **0.257** |")
    assert lines[7].startswith("| white image | 11.00 | – | 0.400 ± 0.000 | – | 0.600 |")


def test_latex_has_the_cells_of_the_table_and_none_of_its_own_signs(comparison):
    written = to_latex(comparison.rename({"white image": "100% white_image"}), "Strategies & more, 100% ours")
    assert written.splitlines()[1] == r"\caption{Strategies \& more, 100\% ours}"
    body = [line.removesuffix(r" \\").split(" & ") for line in written.splitlines() if line.endswith(r"\\")]
    assert body[0][:3] == ["", r"PSNR $\uparrow$", r"\multicolumn{2}{c}{SSIM $\uparrow$}"]
    assert body[1][:4] == ["", "laptop", "paper", "laptop"]
    assert body[3][:5] == ["Baseline", r"\textbf{18.00}", "0.826", r"\textbf{0.700 $\pm$ 0.010}", "0.206"]
    assert body[-1][:3] == [r"100\% white\_image", "11.00", "–"]
    assert {len(row) for row in body[1:]} == {1 + len(body[1][1:])}
    assert "caption" not in to_latex(comparison)


def test_a_written_table_can_be_read_back(comparison, tmp_path):
    written = write_table(comparison, tmp_path / "new" / "table_4", caption="Training strategies, 4.3 (100% ours)")
    assert [path.name for path in written] == ["table_4.csv", "table_4.md", "table_4.tex"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(path.name for path in written)
    again = pd.read_csv(written[0], index_col=0)
    assert again.index.name == "Components"
    assert again["ssim/laptop"].dropna().tolist() == [0.7, 0.4]
    assert again["lpips/paper"].dropna().tolist() == [0.206, 0.168, 0.167, 0.167, 0.169]
    assert written[2].read_text() == to_latex(comparison, "Training strategies, 4.3 (100% ours)")


def test_comparing_nothing_is_an_error():
    with pytest.raises(ValueError, match="nothing to compare"):
        compare(pd.DataFrame({"speed": [1.0]}, index=["ours"]), [], profile="smoke")


@pytest.fixture
def three_methods():
    """Ours ahead of `low` in both metrics by 0.1, of `other` by 0.3, -0.1, 0.1 in SSIM, and behind it in LPIPS."""
    scores = {"low": ([0.4] * 3, [0.5] * 3), "ours": ([0.5] * 3, [0.4] * 3), "other": ([0.2, 0.6, 0.4], [0.2] * 3)}
    return pd.DataFrame(
        {"method": name, "key": str(item), "ssim": ssim[item], "lpips": lpips[item]}
        for name, (ssim, lpips) in scores.items()
        for item in (range(3) if name != "other" else (2, 0, 1))  # rows in any order
    )


def test_differences_are_taken_item_by_item_with_their_standard_error(three_methods):
    found = differences(three_methods, "ours").set_index(["than", "metric"])
    assert found.loc[("low", "ssim"), "difference"] == pytest.approx(0.1)
    assert found.loc[("low", "ssim"), "error"] == pytest.approx(0, abs=1e-9)
    assert found.loc[("other", "ssim"), "difference"] == pytest.approx(0.1)
    assert found.loc[("other", "ssim"), "error"] == pytest.approx(0.2 / math.sqrt(3))  # of 0.3, -0.1, 0.1
    assert found.loc[("other", "ssim"), "text"] == "+0.100 ± 0.115, draw"
    verdicts = found["verdict"].to_dict()
    assert verdicts == {
        ("low", "ssim"): "ahead",
        ("other", "ssim"): "draw",
        ("low", "lpips"): "ahead",  # less is better
        ("other", "lpips"): "behind",
    }


@pytest.mark.parametrize(
    ("difference", "error", "more", "word"),
    [
        (0.3, 0.1, True, "ahead"),
        (0.3, 0.1, False, "behind"),
        (-0.3, 0.1, False, "ahead"),
        (0.15, 0.1, True, "draw"),
        (0.0, 0.0, True, "draw"),
        (0.3, math.nan, True, "draw"),
    ],
)
def test_a_difference_is_a_draw_below_two_standard_errors(difference, error, more, word):
    assert verdict(difference, error, more) == word


def test_items_are_of_their_test_and_seeds_are_averaged_before_items_are_counted(three_methods):
    few = three_methods[["method", "key", "lpips"]]
    seeds = [few.assign(seed=0, test="3d"), few.assign(seed=1, test="3d", lpips=few["lpips"] + 0.2)]
    other = few.assign(seed=0, test="text", lpips=math.nan)
    (found,) = differences(pd.concat([*seeds, other]), "ours", ["low"], ["lpips"]).itertuples()
    assert (found.difference, found.error, found.items) == (pytest.approx(-0.1), pytest.approx(0, abs=1e-9), 3)


def test_one_item_alone_decides_nothing(three_methods):
    found = differences(three_methods[three_methods.key == "0"], "ours")
    assert set(found.verdict) == {"draw"}


def test_a_conclusion_holds_only_if_every_comparison_does(three_methods):
    found = differences(three_methods, "ours")
    assert ahead_of(found, ["low"], ["ssim", "lpips"]) == "yes: ahead of low"
    assert ahead_of(found, ["low", "other"], ["ssim"]) == "no: a draw with other in SSIM"
    assert ahead_of(found, ["other"], ["ssim", "lpips"]) == "no: a draw with other in SSIM; behind other in LPIPS"
    assert ahead_of(found, ["low", "absent"], ["ssim"]) == "yes: ahead of low"
    assert ahead_of(found, ["absent"], ["ssim"]) == "not tested: absent did not take part"
    assert ahead_of(found, [], ["ssim"]) == "not tested: nobody took part"


def test_differences_to_a_method_without_results_name_those_that_have_some(three_methods):
    with pytest.raises(ValueError, match=r"'mine' has no results, only low, ours, other"):
        differences(three_methods, "mine")
    with pytest.raises(ValueError, match="no scores ssim of mine"):
        differences(three_methods, "ours", ["low", "mine"], ["ssim"])
    with pytest.raises(ValueError, match="no scores clip_text of ours, low"):
        differences(three_methods.assign(clip_text=math.nan), "ours", ["low"], ["clip_text"])

"""Figures, looked at as pixels: what is drawn is where it belongs, and the same figure gives the same bytes."""

import itertools
import math

import nbclient
import nbformat
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from vfusion3d.cameras import orbit_cameras
from vfusion3d.evaluation import figures

CELL = 0.5  # inches


@pytest.fixture
def drawn(tmp_path):
    """A function that saves a figure and returns its PNG as (H, W, 3) in [0, 1]."""
    return lambda figure: imread(figures.save(figure, tmp_path / "figure")[1])[..., :3]


def flat_images(*shape: int) -> torch.Tensor:
    """Images (*shape, 3, 20, 20) of one random colour each, of the levels that a figure has."""
    levels = torch.randint(1, 32, (*shape, 3, 1, 1), generator=torch.Generator().manual_seed(0))
    return (levels * 8 / 255).expand(*shape, 3, 20, 20)


def find(picture: np.ndarray, colour: torch.Tensor) -> np.ndarray:
    """The bounding box (top, bottom, left, right) of a colour, in pixels."""
    rows, columns = np.nonzero((np.abs(picture - colour.numpy()) < 0.004).all(axis=-1))
    return np.array([rows.min(), rows.max() + 1, columns.min(), columns.max() + 1])


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 2), (2, 5)])
def test_a_contact_sheet_shows_every_image_in_its_row_and_column_at_its_size(drawn, rows, columns):
    images = flat_images(rows, columns)
    plain = drawn(figures.contact_sheet(images, cell=CELL))
    labelled = drawn(
        figures.contact_sheet(images, ["a row\nof images"] * rows, ["views"] * columns, "A title", cell=CELL)
    )
    pitch, side = CELL * (1 + figures.GAP) * figures.DPI, CELL * figures.DPI
    margins = 2 * figures.MARGIN * figures.DPI
    assert plain.shape[:2] == pytest.approx((rows * pitch - 4 + margins, columns * pitch - 4 + margins), abs=1.5)
    for picture in (plain, labelled):
        corner = find(picture, images[0, 0, :, 0, 0])[[0, 2]]
        for row in range(rows):
            for column in range(columns):
                top, bottom, left, right = find(picture, images[row, column, :, 0, 0])
                assert (bottom - top, right - left) == pytest.approx((side, side), abs=4)  # less its thin frame
                assert (top - corner[0], left - corner[1]) == pytest.approx((row * pitch, column * pitch), abs=1.5)


def test_labels_of_several_lines_stay_inside_the_page():
    sheet = figures.contact_sheet(flat_images(1, 3), ["pink and blue mug"], ["one\ntwo\nthree"] * 3, cell=1.0)
    with figures.paper_style():
        sheet.draw_without_rendering()
        boxes = [text.get_window_extent() for text in sheet.axes[0].texts]
    width, height = sheet.get_size_inches() * sheet.dpi
    assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height for box in boxes)


def test_row_labels_of_many_lines_stay_clear_of_each_other():
    sheet = figures.contact_sheet(flat_images(3, 2), ["one\ntwo\nthree\nfour\nfive"] * 3, cell=0.6)
    with figures.paper_style():
        sheet.draw_without_rendering()
        boxes = [text.get_window_extent() for text in sheet.axes[0].texts]
    assert all(upper.y0 > lower.y1 for upper, lower in itertools.pairwise(boxes))
    height = sheet.get_size_inches()[1] * sheet.dpi
    assert boxes[-1].y0 >= 0
    assert boxes[0].y1 <= height


def test_an_image_of_nan_leaves_its_place_empty(drawn):
    images = flat_images(1, 2)
    images[0, 1] = torch.nan
    picture = drawn(figures.contact_sheet(images, cell=CELL))
    assert (picture[:, picture.shape[1] // 2 + 4 :] == 1).all()
    assert (picture[:, : picture.shape[1] // 2 - 4] < 1).any()


def test_a_sheet_is_no_wider_than_the_text_however_many_columns():
    for columns in (2, 8, 33):
        sheet = figures.contact_sheet(flat_images(1, columns), ["a rather long label"])
        assert sheet.get_size_inches()[0] <= figures.TEXT_WIDTH + 1e-6


def test_labels_that_do_not_match_the_images_are_refused():
    with pytest.raises(ValueError, match="1 row labels for 2 rows"):
        figures.contact_sheet(flat_images(2, 2), ["one"])
    with pytest.raises(ValueError, match=r"contact_sheet needs.*\(2, 3, 20, 20\)"):
        figures.contact_sheet(flat_images(2))
    with pytest.raises(ValueError, match="3 labels for 4 frames"):
        figures.film_strip(flat_images(4), ["a", "b", "c"])


def test_a_film_strip_reads_from_left_to_right_and_then_down(drawn):
    frames = flat_images(6)
    picture = drawn(figures.film_strip(frames, columns=4, title="A turn"))
    boxes = np.array([find(picture, frame[:, 0, 0]) for frame in frames])
    assert (np.diff(boxes[:4, 2]) > 0).all()
    assert np.ptp(boxes[:4, 0]) == 0
    assert boxes[4, 0] > boxes[0, 1]
    assert (boxes[4:, 2] == boxes[:2, 2]).all()


def test_labels_of_several_lines_stay_clear_of_the_row_below(drawn):
    frames = flat_images(4)
    picture = drawn(figures.film_strip(frames, ["one\ntwo\nthree"] * 2 + ["a", "b"], columns=2))
    boxes = np.array([find(picture, frame[:, 0, 0]) for frame in frames])
    between = picture[boxes[0, 1] + 3 : boxes[2, 0] - 3, boxes[0, 2] : boxes[0, 3]]
    dark = (between < 0.6).any(axis=(1, 2))
    lines = np.flatnonzero(np.diff(dark.astype(int)) == 1)
    assert len(lines) == 3
    assert not dark[-3:].any()


def test_the_same_figure_gives_the_same_bytes_without_a_date_and_leaves_no_partial_file(tmp_path):
    def once(folder):
        paths = figures.save(figures.film_strip(flat_images(3), title="twice"), tmp_path / folder / "strip")
        return [path.read_bytes() for path in paths]

    first, second = once("a"), once("b")
    assert first == second
    assert first[0].startswith(b"%PDF")
    assert b"Date" not in first[0]
    assert first[1].startswith(b"\x89PNG")
    assert b"Software" not in first[1]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["strip.pdf", "strip.png"]


def test_smoothing_keeps_a_constant_from_the_first_value_and_follows_its_recurrence():
    assert figures.smooth([2.0] * 5, 0.9) == pytest.approx([2.0] * 5)
    assert figures.smooth([1.0, 3.0], 0.5) == pytest.approx([1.0, (0.25 * 1 + 0.5 * 3) / 0.75])
    assert figures.smooth([1.0, 3.0], 0) == pytest.approx([1.0, 3.0])
    with pytest.raises(ValueError, match=r"\[0, 1\), it is 1"):
        figures.smooth([1.0], 1)


def test_curves_differ_in_line_style_not_in_colour_alone():
    steps = np.arange(5)
    figure = figures.curve(dict.fromkeys(("a", "b", "c"), (steps, steps + 1.0)), ylabel="loss", smoothing=0)
    lines = figure.axes[0].lines
    assert len({line.get_linestyle() for line in lines}) == len({line.get_color() for line in lines}) == 3
    assert figure.axes[0].get_xlabel() == "training step"


def test_six_curves_still_differ_and_their_names_stand_beside_the_axes(drawn):
    steps = np.arange(5)
    figure = figures.curve(dict.fromkeys("abcdef", (steps, steps + 1.0)), ylabel="loss", smoothing=0)
    assert len({line.get_color() for line in figure.axes[0].lines}) == 6
    drawn(figure)
    names, axes = figure.legends[0].get_window_extent(), figure.axes[0].get_window_extent()
    assert names.x0 >= axes.x1


def test_the_schedule_names_the_resolution_of_every_stage():
    resolution = np.repeat([128, 192, 256], [5, 5, 10])
    figure = figures.schedule(np.arange(20), resolution, np.linspace(4e-4, 0, 20))
    above, below = figure.axes
    assert [text.get_text() for text in above.texts] == ["128", "192", "256"]
    assert [text.get_position()[0] for text in above.texts] == [2.5, 7.5, 14.5]
    assert below.lines[0].get_ydata()[0] == 4e-4
    with pytest.raises(ValueError, match="2 steps, 2 resolutions and 1 learning rates"):
        figures.schedule([0, 1], [64, 64], [1e-3])


def test_camera_pyramids_start_at_the_cameras_and_open_towards_the_object():
    cameras = orbit_cameras(5, math.pi / 6)
    axes = figures.plot_cameras(cameras, highlight=[2]).axes[0]
    edges = [np.array(line.get_data_3d()) for line in axes.lines if len(line.get_data_3d()[0]) == 2]
    assert len(edges) == 5 * 4
    apexes = np.array([edge[:, 0] for edge in edges])[::4]
    assert apexes == pytest.approx(cameras[..., 3].numpy())
    assert all(np.linalg.norm(edge[:, 1]) < np.linalg.norm(edge[:, 0]) for edge in edges)
    assert [text.get_text() for text in axes.texts] == ["2"]
    with pytest.raises(ValueError, match=r"views, 3, 4.*\(5, 4\)"):
        figures.plot_cameras(cameras[:, 0])


def test_a_figure_at_the_end_of_a_notebook_cell_shows_as_a_picture():
    code = "from vfusion3d.evaluation import figures\nfigures.curve({'a': ([0, 1], [1, 2])}, ylabel='loss')"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    assert "image/png" in notebook.cells[0].outputs[-1]["data"]


def test_film_strips_show_uniform_frames_in_rows_with_only_the_first_column_framed(drawn):
    videos = flat_images(2, 16)
    picture = drawn(figures.film_strips(videos, ["one", "two"]))
    boxes = np.array([[find(picture, videos[row, frame, :, 0, 0]) for frame in range(0, 16, 2)] for row in range(2)])
    assert (np.diff(boxes[:, :, 2], axis=1) > 0).all()  # left edges, from frame to frame
    assert (boxes[0, :, 1] < boxes[1, :, 0]).all()  # the second strip below the first
    orange = (np.abs(picture - to_rgb(figures.ORANGE)) < 0.02).all(axis=2).any(axis=0)
    assert orange.any()
    assert np.flatnonzero(orange).max() < boxes[:, 1, 2].min()
    labels = [text.get_text() for text in figures.film_strips(videos).axes[0].texts]
    assert labels == [f"{degrees}°" for degrees in range(0, 360, 45)]

"""ECG paper that can be measured with a ruler."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from edge.errors import RecordError
from edge.signal.leads import STANDARD_LEADS
from trainer.explain.attribution import Attribution
from trainer.explain.paper import MM_PER_INCH, Box, draw_grid, draw_pulse, draw_trace, new_sheet, print_layout
from trainer.explain.picture import DPI, Caption, draw_explanation, save_explanation

CAPTION = Caption("title", "score", "method", "band", "source", 0.0)


def on_paper_mm(axes, points):
    """Where data stands on the sheet when it is printed at its own size."""
    return axes.transData.transform(points) / axes.figure.dpi * MM_PER_INCH


def test_a_millivolt_is_ten_millimetres_high_and_a_second_25_wide():
    _, axes = new_sheet(297, 210, 150)
    step = np.repeat([0.0, 1.0], 250)

    drawn = on_paper_mm(axes, draw_trace(axes, step, 250, left=20, zero=100))

    assert drawn[-1, 1] - drawn[0, 1] == pytest.approx(10, abs=1e-6)
    assert drawn[250, 0] - drawn[0, 0] == pytest.approx(25, abs=1e-6)


def test_the_mark_before_a_row_is_a_millivolt():
    _, axes = new_sheet(297, 210, 150)

    draw_pulse(axes, right=10, zero=50)

    drawn = on_paper_mm(axes, axes.lines[-1].get_xydata())
    assert np.ptp(drawn[:, 1]) == pytest.approx(10, abs=1e-6)
    assert np.ptp(drawn[:, 0]) == pytest.approx(5, abs=1e-6)


def test_lines_stand_every_millimetre_and_stronger_ones_every_five():
    _, axes = new_sheet(297, 210, 150)

    draw_grid(axes, Box(10, 20, 100, 50))

    for collection, step in zip(axes.collections, (1, 5), strict=True):
        segments = [on_paper_mm(axes, segment) for segment in collection.get_segments()]
        upright = sorted(s[0, 0] for s in segments if s[0, 0] == pytest.approx(s[1, 0]))
        flat = sorted(s[0, 1] for s in segments if s[0, 1] == pytest.approx(s[1, 1]))
        np.testing.assert_allclose(upright, np.arange(10, 110.1, step), atol=1e-6)
        np.testing.assert_allclose(flat, np.arange(20, 70.1, step), atol=1e-6)


def test_a_print_has_three_rows_of_four_leads_and_lead_two_below_them():
    cells = print_layout(STANDARD_LEADS, 10.0, left=14, top=200, row_mm=44)

    rows = {}
    for cell in cells:
        rows.setdefault(cell.box.bottom, []).append(cell.lead)
    assert list(rows.values()) == [
        ["I", "aVR", "V1", "V4"], ["II", "aVL", "V2", "V5"], ["III", "aVF", "V3", "V6"], ["II"],
    ]  # fmt: skip
    assert {cell.last_s - cell.first_s for cell in cells} == {2.5, 10.0}
    assert all(cell.box.left == 14 + 25 * cell.first_s for cell in cells)


def test_a_lead_that_is_not_there_leaves_its_place_empty():
    cells = print_layout(["I", "II", "V5"], 8.0, left=0, top=100, row_mm=20)

    assert [(cell.lead, cell.first_s) for cell in cells] == [("I", 0.0), ("II", 0.0), ("V5", 6.0), ("II", 0.0)]


def attribution(lead, first, last, value, samples=1000, leads=12):
    found = np.zeros((samples, leads))
    found[first:last, lead] = value
    return Attribution("test", "logit", True, found, found.sum(0))


def picture_of(tmp_path, found, name="picture.png", seconds=10.0):
    figure = draw_explanation(np.zeros((round(100 * seconds), 12)), list(STANDARD_LEADS), 100, found, CAPTION)
    return save_explanation(figure, tmp_path / name)


def tinted(pixels, box_mm, favours):
    """The share of a part of the sheet that is violet, or green: the paper itself is red."""
    height_mm = pixels.shape[0] / DPI * MM_PER_INCH
    left, bottom, right, top = (round(mm / MM_PER_INCH * DPI) for mm in box_mm)
    part = pixels[round(height_mm / MM_PER_INCH * DPI) - top : -bottom or None, left:right].astype(int)
    red, green, blue = part[..., 0], part[..., 1], part[..., 2]
    coloured = blue - green > 60 if favours else green - red > 60
    return coloured.mean()


@pytest.mark.parametrize("favours", [True, False])
def test_the_paper_is_coloured_where_the_score_comes_from_and_nowhere_else(tmp_path, favours):
    found = attribution(STANDARD_LEADS.index("V2"), 600, 640, 0.1 if favours else -0.1)

    pixels = np.asarray(Image.open(picture_of(tmp_path, found)).convert("RGB"))

    x, y = 14 + 25 * 6.0, 9 + 4 * 44 - 1.5 * 44  # mm: six seconds, the middle of the second row
    assert tinted(pixels, (x + 2, y - 2, x + 8, y + 2), favours) > 0.5
    assert tinted(pixels, (x + 2, y - 2, x + 8, y + 2), not favours) == 0
    assert tinted(pixels, (14, 54, x - 8, 180), favours) == 0
    assert tinted(pixels, (14, 9, 264, 53), favours) == 0  # the rhythm strip is another lead


def test_ten_seconds_fill_a_sheet_of_a4(tmp_path):
    with Image.open(picture_of(tmp_path, attribution(0, 0, 10, 1.0))) as picture:
        size_mm = [pixels / dpi * MM_PER_INCH for pixels, dpi in zip(picture.size, picture.info["dpi"], strict=True)]

    assert size_mm == pytest.approx([297, 210], abs=0.2)


@pytest.mark.parametrize(("name", "begins"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.pdf", b"%PDF")])
def test_a_picture_is_what_its_name_ends_in(tmp_path, name, begins):
    path = picture_of(tmp_path, attribution(0, 0, 10, 1.0), name)

    assert path.read_bytes().startswith(begins)


def test_a_model_that_answers_nothing_gets_a_picture_without_colour(tmp_path):
    pixels = np.asarray(Image.open(picture_of(tmp_path, attribution(0, 0, 10, 0.0, 300), seconds=3.0)).convert("RGB"))

    assert tinted(pixels, (14, 9, 264, 185), True) == 0


def test_a_folder_that_cannot_be_written_is_said_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(RecordError, match="cannot be written"):
        picture_of(tmp_path / "file", attribution(0, 0, 10, 1.0))

"""The report's sentences, and the contact sheet."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from scedit_cli.data.dataset import row_of, write_rows
from scedit_cli.data.overview import overview
from scedit_cli.data.report import Report
from scedit_cli.utils.errors import SceditError


def test_more_than_one_percent_without_a_caption_is_an_error():
    report = Report(images=200, captionless=["a.png", "b.png"])
    report.check(strict=False, captionless=0.01)
    report.captionless.append("c.png")
    with pytest.raises(SceditError, match=r"3 of 200 images have no caption: a\.png, b\.png, c\.png") as error:
        report.check(strict=False, captionless=0.01)
    assert "`allow_captionless`" in error.value.hint
    report.check(strict=False, captionless=1.0)
    assert report.coverage == 0.985


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        ({"rejected": [("a.png", "unreadable", "torn")]}, r"1 cannot be used: a\.png \(torn\)"),
        ({"captionless": ["a.png"]}, "1 have no caption: a.png"),
        ({"duplicates": [("b.png", "a.png")]}, r"1 repeat others: b\.png \(as a\.png\)"),
        ({"unread": [("a.csv", "rename it")]}, r"1 are not read: a\.csv \(rename it\)"),
        ({"orphans": list("abcdefg")}, "7 belong to no image: a, b, c, d, e and 2 more"),
    ],
)
def test_strict_makes_an_error_of_what_is_listed(found, sentence):
    report = Report(images=1000, **found)
    report.check(strict=False, captionless=0.01)
    with pytest.raises(SceditError, match=sentence):
        report.check(strict=True, captionless=0.01)


def test_a_clean_report_passes_and_long_lists_are_cut_in_the_table():
    report = Report(images=30, hidden=2, misnamed=[(f"{n}.png", "JPEG") for n in range(12)])
    report.check(strict=True, captionless=0.0)
    rows = report.summary()
    assert [value for name, value in rows if name == "misnamed"][-1] == "2 more, all in report.json"
    assert ("hidden", "2 hidden files passed over") in rows


def test_the_contact_sheet_shows_pictures_conditions_and_captions(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (30, 3)).tolist()
    for place in ("images", "conditions/canny"):
        (tmp_path / place).mkdir(parents=True)
        for number, colour in enumerate(colours):
            shown, size = colour if place == "images" else colour[::-1], (64, 128) if number % 2 else (128, 64)
            Image.new("RGB", size, tuple(shown)).save(tmp_path / place / f"{number}.png")
    write_rows(tmp_path, [row_of(f"{n}.png", f"{'long ' * 40} {n}", ("canny",)) for n in range(30)])
    sheet = overview(tmp_path, ["canny"], 30, "a heading")
    there = {colour for _, colour in sheet.getcolors(2**20)}
    chosen = {number * 30 // 12 for number in range(12)}
    for number, colour in enumerate(colours):
        assert (tuple(colour) in there) == (tuple(colour[::-1]) in there) == (number in chosen)
    few = overview(tmp_path, [], 3, "three of them")
    assert few.height < sheet.height


def test_strict_names_all_that_is_listed_at_once():
    report = Report(images=1, captionless=["a.png"], rejected=[("b.heic", "unreadable", "why")])
    with pytest.raises(SceditError, match=r"1 cannot be used: b\.heic \(why\); 1 have no caption: a\.png"):
        report.check(strict=True, captionless=0.01)

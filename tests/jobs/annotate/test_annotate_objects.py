"""`scedit.annotate` from Python: an image gives its condition image, a file or a folder a report."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

import scedit_cli as scedit
from scedit_cli import AnnotatorConfig, SceditError
from scedit_cli.data.annotation import read_record


@pytest.fixture
def photo(folder):
    return Image.open(folder / "images/1.png")


def test_an_image_gives_its_condition_image(photo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    levels = np.asarray(photo.convert("RGB"))
    before = sorted(tmp_path.rglob("*"))
    edges = scedit.annotate(photo, "canny", low=50)
    assert np.array_equal(np.asarray(edges), cv2.Canny(levels, 50, 200))
    both = scedit.annotate(photo, ["canny", "color"], canny={"low": 20, "high": 60}, color={"cells": 4})
    assert np.array_equal(np.asarray(both["canny"]), cv2.Canny(levels, 20, 60)) and list(both) == ["canny", "color"]
    depth = scedit.annotate(photo, "depth", config=AnnotatorConfig("scene"))
    assert depth.size == photo.size and sorted(tmp_path.rglob("*")) == before
    assert np.array_equal(np.asarray(photo.convert("RGB")), levels)


def test_a_files_condition_image_is_that_of_the_image(photo, folder, tmp_path):
    place = folder / "images/1.png"
    report = scedit.annotate(place, "canny", out=tmp_path / "edges.png", low=50)
    assert report.written == 1 and report.out == tmp_path / "edges.png"
    edges = np.asarray(scedit.annotate(photo, "canny", low=50))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "edges.png")), edges)
    unwritten = scedit.annotate(place, "canny", low=50)
    assert (unwritten.out, unwritten.written) == (None, 0) and np.array_equal(np.asarray(unwritten.images["canny"]), edges)


def test_a_pair_of_numbers_is_drawn_for_each_image_of_a_folder(folder):
    report = scedit.annotate(folder, "canny", low=(20, 120), config=AnnotatorConfig(seed=3, processes=1))
    lows = [read_record(folder / f"conditions/canny/{n}.png")["parameters"]["low"] for n in range(3)]
    assert report.written == 3 and len(set(lows)) == 3 and all(20 <= low <= 120 for low in lows)
    assert scedit.annotate(folder, "canny", low="20..120", config=AnnotatorConfig(seed=3, processes=1)).skipped == 3


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("kinds", {"kinds": []}), ("source", {"source": 3}), ("source", {"source": "gone.png"}),
        ("out", {"out": "a.png"}), ("sheet", {"sheet": "a.png"}), ("preview", {"preview": 3}),
        ("params", {"lo": 5}), ("params", {"low": "much"}), ("params", {"color": {"cells": 4}}),
        ("params", {"kinds": ["canny", "color"], "low": 5}), ("params", {"low": (9, 5)}),
        ("config.batch_size", {"config": AnnotatorConfig(batch_size=0)}),
        ("config.seed", {"config": AnnotatorConfig(seed=-1)}),
    ],
)  # fmt: skip
def test_a_bad_argument_is_named(photo, tmp_path, monkeypatch, field, options):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SceditError) as error:
        scedit.annotate(**{"source": photo, "kinds": "canny"} | options)
    assert error.value.field == field and error.value.hint and sorted(tmp_path.rglob("*")) == before

"""`annotate`: one picture, dataset folders, what is skipped, and what is refused."""

from __future__ import annotations

import json
import re

import cv2
import numpy as np
import pytest
from PIL import Image

from scedit_cli import conditions
from scedit_cli.conditions.listing import listing
from scedit_cli.conditions.registry import Annotator, Kind, all_kinds
from scedit_cli.data import annotation
from scedit_cli.data.annotation import read_record
from scedit_cli.data.dataset import open_dataset, write_rows
from scedit_cli.utils.errors import SceditError, WorkFailed
from tests.jobs.drawn import annotate
from tests.recorder import Note, Recorder


def canny(path, *thresholds):
    return cv2.Canny(np.asarray(Image.open(path)), *(thresholds or (100, 200)))


def test_one_picture(folder, tmp_path):
    out = tmp_path / "made/edges.png"
    result = annotate(folder / "images/1.png", "canny", out=out)
    assert result.document() | {"seconds": 0} == {
        "out": str(out), "sheet": None, "kind": "canny", "annotators": {"canny": "opencv"}, "written": 1, "skipped": 0,
        "failed": [], "seconds": 0,
    }  # fmt: skip
    assert np.array_equal(np.asarray(Image.open(out)), canny(folder / "images/1.png"))
    with pytest.raises(SceditError, match=r"edges\.png exists already"):
        annotate(folder / "images/1.png", "color", out=out)
    annotate(folder / "images/1.png", "canny", out=out, overwrite=True, params=["low=20", "canny.high=60"])
    assert np.array_equal(np.asarray(Image.open(out)), canny(folder / "images/1.png", 20, 60))


def test_a_folder_gets_columns_and_pictures(folder, rows):
    events = []
    result = annotate(folder, ["canny", "color"], reporter=Recorder(events.append))
    assert (result.kind, result.written, result.skipped, result.failed) == ("canny,color", 6, 0, [])
    assert [(event.stage, event.step, event.total) for event in events] == [("canny, color", 3, 3)]
    assert events[0].values["images/s"] > 0
    assert [row["mood"] for row in rows()] == [0, 1, 2]
    dataset = open_dataset(folder)
    assert dataset.kinds == ("canny", "color")
    for item in dataset.items:
        assert np.array_equal(np.asarray(Image.open(item.conditions["canny"])), canny(item.image))
        assert item.conditions["color"].name == item.image.name
    licences = json.loads((folder / "licences.json").read_text())
    assert licences["canny"] == {
        "annotator": "opencv", "library": "OpenCV", "weights": [], "licence": "Apache-2.0", "commercial": True,
    }  # fmt: skip


@pytest.mark.parametrize("place", ["somebody/weights:level.txt", "somebody/weights"])
def test_conditions_of_other_weights_are_made_again(folder, tmp_path, monkeypatch, place):
    def gray(parameters, weights, device):
        level = int((weights or tmp_path / "hub").joinpath("level.txt").read_text())
        return lambda pictures: [Image.new("L", each.size, level) for each in pictures]

    monkeypatch.setitem(all_kinds(), "gray", Kind("gray", (Annotator("gray", "gray", "none", gray, weights=(place,)),)))
    for name, level in {"hub": 1, "a": 2, "b": 3}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "level.txt").write_text(f"{level}")
        (tmp_path / name / "config.json").write_text(f"[{level}]")

    def made(weights=None):
        written = annotate(folder, "gray", weights=weights and tmp_path / weights).written
        return written, Image.open(folder / "conditions/gray/0.png").getpixel((0, 0))

    assert made() == (3, 1) and "weights" not in read_record(folder / "conditions/gray/0.png")
    assert [made(), made("a"), made("a"), made("b")] == [(0, 1), (3, 2), (0, 2), (3, 3)]
    (tmp_path / "b").rename(tmp_path / "moved")
    assert made("moved") == (0, 3)
    (tmp_path / "moved" / "level.txt").write_text("40")
    (tmp_path / "moved" / "config.json").write_text("[40]")
    assert [made("moved"), made()] == [(3, 40), (3, 1)]


def test_what_is_done_and_unchanged_is_kept(folder):
    annotate(folder, "canny")
    (folder / "conditions/canny/2.png").unlink()
    made = (folder / "conditions/canny/1.png").stat().st_mtime_ns
    result = annotate(folder, "canny")
    assert (result.written, result.skipped) == (1, 2)
    assert (folder / "conditions/canny/1.png").stat().st_mtime_ns == made
    result = annotate(folder, "canny", overwrite=True)
    assert (result.written, result.skipped) == (3, 0)


def test_a_changed_picture_or_setting_is_made_anew(folder):
    annotate(folder, "canny")
    Image.open(folder / "images/0.png").rotate(90).save(folder / "images/0.png")
    result = annotate(folder, "canny")
    assert (result.written, result.skipped) == (1, 2)
    assert np.array_equal(np.asarray(Image.open(folder / "conditions/canny/0.png")), canny(folder / "images/0.png"))
    assert annotate(folder, "canny", params=["low=50"]).written == 3
    assert annotate(folder, "canny", params=["canny.low=50"]).skipped == 3


def test_what_others_have_put_there_is_kept(folder):
    annotate(folder, "canny")
    mine = folder / "conditions/canny/1.png"
    Image.new("L", (128, 128), 9).save(mine)
    licences = folder / "licences.json"
    licences.unlink()  # nothing of ours is left where all is somebody else's
    for number in (0, 2):
        Image.new("L", (128, 128), 9).save(folder / f"conditions/canny/{number}.png")
    events = []
    kept = annotate(folder, "canny", params=["low=50"], reporter=Recorder(events.append))
    assert kept.skipped == 3 and not licences.exists()
    told = "canny images that `annotate` did not make are kept as they are: 3; `overwrite` replaces them"
    assert [each.text for each in events if isinstance(each, Note)] == [told]
    (folder / "conditions/canny/0.png").unlink()
    assert annotate(folder, "canny", params=["low=50"]).skipped == 2 and licences.exists()
    assert Image.open(mine).getpixel((0, 0)) == 9
    annotate(folder, "canny", overwrite=True)
    assert np.array_equal(np.asarray(Image.open(mine)), canny(folder / "images/1.png"))


def test_a_stopped_run_goes_on(folder, monkeypatch):
    monkeypatch.setattr(annotation, "_CHUNK", 1)

    def stop(event):
        if event.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        annotate(folder, "color", reporter=Recorder(stop))
    result = annotate(folder, "color")
    assert (result.written, result.skipped) == (1, 2)
    assert open_dataset(folder).kinds == ("color",)


def test_ranges_are_drawn_for_each_picture_by_the_seed(folder):
    annotate(folder, "canny", params=["low=20..120", "high=200"], seed=3)

    def drawn():
        return [read_record(folder / f"conditions/canny/{n}.png")["parameters"] for n in range(3)]

    first = drawn()
    assert len({each["low"] for each in first}) == 3 and all(20 <= each["low"] <= 120 for each in first)
    for number, each in enumerate(first):
        expected = canny(folder / f"images/{number}.png", each["low"], 200)
        assert np.array_equal(np.asarray(Image.open(folder / f"conditions/canny/{number}.png")), expected)
    assert annotate(folder, "canny", params=["low=20..120", "high=200"], seed=3).skipped == 3
    annotate(folder, "canny", params=["low=20..120", "high=200"], seed=4)
    assert drawn() != first


def test_a_sheet_shows_several_kinds_side_by_side(folder, tmp_path):
    picture, sheet = folder / "images/1.png", tmp_path / "sheet.png"
    result = annotate(picture, ["canny", "color"], sheet=sheet)
    assert (result.sheet, result.out, result.written) == (sheet, None, 0)
    shown = Image.open(sheet)
    assert shown.width > 3 * 256 and shown.height > 256
    with pytest.raises(SceditError, match="sheet.png exists already"):
        annotate(picture, ["canny", "color"], sheet=sheet)
    annotate(picture, ["canny", "color", "gray", "blur", "tile", "shuffle"], sheet=tmp_path / "many.png")
    many = Image.open(tmp_path / "many.png")  # five in a row
    assert (many.width, many.height) > (shown.width, 1.9 * shown.height) and many.width < 2 * shown.width


def test_a_preview_writes_a_sheet_and_nothing_else(folder):
    before = sorted(folder.rglob("*"))
    (folder / "images/0.png").write_bytes(b"no image")
    events = []
    result = annotate(folder, "canny", params=["low=20..60"], preview=2, reporter=Recorder(events.append))
    assert result.sheet == folder.parent / "data-preview.png"
    assert 256 < Image.open(result.sheet).height < 2 * 256  # one row: the other picture is none
    assert [file for file, _ in result.failed] == ["images/0.png"]
    assert (events[-1].step, events[-1].total) == (2, 2)
    assert sorted(folder.rglob("*")) == before


def test_a_picture_that_an_annotator_cannot_do_is_named(folder, tmp_path, monkeypatch):
    def fails(pictures):
        if pictures[0].getpixel((0, 0)) == (255, 255, 255):
            raise cv2.error("OpenCV(4.11.0): too bright\nin function")
        return pictures

    monkeypatch.setitem(all_kinds(), "gray", Kind("gray", (Annotator("gray", "odd", "none", lambda *_: fails),)))
    Image.new("RGB", (128, 128), "white").save(folder / "images/1.png")
    told = r"gray cannot be made of (images/)?1\.png: OpenCV\(4\.11\.0\): too bright$"
    [(file, reason)] = annotate(folder, "gray", preview=3).failed
    assert file == "images/1.png" and re.match(told, reason)
    with pytest.raises(SceditError, match=told):
        annotate(folder / "images/1.png", "gray", out=tmp_path / "gray.png")
    assert not (tmp_path / "gray.png").exists()


def test_a_preview_replaces_no_file_that_is_named(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    mine = tmp_path / "mine.png"
    mine.write_text("mine")
    with pytest.raises(SceditError, match=r"mine\.png exists already"):
        annotate(folder, "canny", preview=1, sheet="~/mine.png")
    assert mine.read_text() == "mine"
    assert annotate(folder, "canny", preview=9, sheet="~/mine.png", overwrite=True).sheet == mine
    assert Image.open(mine).format == "PNG"
    one = annotate(folder, "canny", preview=1).sheet
    assert annotate(folder, "canny", preview=1).sheet == one


def test_depth_of_16_bits_is_written_whole(folder, monkeypatch):
    deep = Image.fromarray(np.arange(128 * 128, dtype=np.uint16).reshape(128, 128) * 4)
    annotator = Annotator("depth", "deep", "none", lambda *_: lambda pictures: [deep] * len(pictures))
    monkeypatch.setitem(all_kinds(), "depth", Kind("depth", (annotator,)))
    annotate(folder, "depth", processes=1)
    assert np.array_equal(np.asarray(Image.open(folder / "conditions/depth/1.png")), np.asarray(deep))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        cv2.error("OpenCV(4.11.0) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 9 bytes"),
    ],
)
def test_memory_that_runs_out_is_no_damaged_picture(folder, monkeypatch, error):
    def starved(pictures):
        raise error

    annotator = Annotator("depth", "deep", "none", lambda *_: starved)
    monkeypatch.setitem(all_kinds(), "depth", Kind("depth", (annotator,)))
    with pytest.raises(WorkFailed, match="memory ran out .*fewer processes"):
        annotate(folder, "depth", processes=1)


def test_licences_that_forbid_commercial_use_are_asked_for_once(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    annotator = Annotator("gray", "strict", "none", lambda *_: list, ("a/b",), "CC-BY-NC-4.0", False)
    monkeypatch.setitem(all_kinds(), "gray", Kind("gray", (annotator,)))
    with pytest.raises(SceditError, match="CC-BY-NC-4.0.*--accept-license"):
        annotate(folder, "gray", processes=1)
    assert annotate(folder, "gray", accept_license=True, device="cpu").written == 3
    assert annotate(folder, "gray", overwrite=True, device="cpu").written == 3
    assert json.loads((folder / "licences.json").read_text())["gray"]["commercial"] is False


def test_the_list_names_every_annotator():
    document = listing().document()
    assert {each["kind"] for each in document["annotators"]} == set(conditions.KINDS)
    canny = next(each for each in document["annotators"] if each["kind"] == "canny")
    assert canny["parameters"] == {"low": 100.0, "high": 200.0}
    assert len(listing().rows()) == len(document["annotators"])
    assert all(len(row) == len(listing().header) for row in listing().rows())
    assert not [cell for row in listing().rows() for cell in row if "\n" in cell]
    assert any(", " in row[3] for row in listing().rows())


def test_a_bad_picture_is_named_and_the_others_go_on(folder, rows):
    (folder / "images/1.png").write_bytes(b"no image")
    result = annotate(folder, ["canny", "color"])
    assert (result.written, result.skipped) == (4, 0)
    assert [failed["file"] for failed in result.document()["failed"]] == ["images/1.png"]
    assert ["canny_file_name" in row for row in rows()] == [True, False, True]
    for name in ("0", "2"):
        (folder / f"images/{name}.png").write_bytes(b"no image")
    with pytest.raises(SceditError, match="none of the images"):
        annotate(folder, "gray")


def test_two_pictures_of_one_stem_are_refused(folder, rows):
    Image.open(folder / "images/0.png").save(folder / "images/0.jpg")
    write_rows(folder, [*rows(), {"file_name": "images/0.jpg", "text": ""}])
    with pytest.raises(SceditError, match=r"0\.png and images/0\.jpg"):
        annotate(folder, "canny")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"kinds": "cany"}, "did you mean canny"),
        ({"kinds": []}, "no kind of condition is named"),
        ({"params": ["lo=5"]}, "no parameter 'lo'"),
        ({"params": ["low"]}, "--param low: expected KIND.NAME=VALUE"),
        ({"params": ["low="]}, "--param low=: expected"),
        ({"params": ["color.cells=4"]}, "no color is made here"),
        ({"params": ["low=50"], "kinds": ["canny", "color"]}, "say which of canny, color is meant"),
        ({"params": ["low=150..50"]}, "low is '150..50'.*smaller number first"),
        ({"params": ["low=a..b"]}, "low is 'a..b'"),
        ({"params": ["low=-5..b"]}, "low is '-5..b'"),
        ({"params": ["low=-5..5"]}, "low is -5.0.*greater than or equal to 0"),
        ({"preview": 0}, "--preview is 0"),
        ({"sheet": "sheet.png"}, "--sheet is for a single image"),
        ({"sheet": "sheet.jpg", "preview": 1}, "no .png"),
        ({"src": "images/0.png", "preview": 3}, "--preview is for a dataset folder"),
        ({"src": "images/0.png", "sheet": "sheet.jpg"}, "no .png"),
        ({"annotator": "mine"}, "no annotator 'mine'"),
        ({"out": "edges.png"}, "--out is for a single image"),
        ({"src": "images/0.png", "out": "edges.jpg"}, "no .png"),
        ({"src": "images/0.png", "out": "x.png", "sheet": "images/../x.png"}, "--out and --sheet are both"),
        ({"src": "images/0.png", "out": "edges.png", "kinds": ["canny", "seg"]}, "several kinds"),
        ({"src": "images/9.png", "out": "edges.png"}, "9.png does not exist"),
        ({"src": "images"}, "no dataset folder"),
        ({"src": "nowhere"}, "nowhere does not exist"),
    ],
)
def test_bad_input_writes_nothing(folder, monkeypatch, arguments, sentence, rows):
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*")), rows()
    with pytest.raises(SceditError, match=sentence):
        annotate(**({"src": ".", "kinds": "canny"} | arguments))
    assert (sorted(folder.rglob("*")), rows()) == before


@pytest.mark.parametrize("content", ["[]", "[" * 100_000, "3", "no JSON"])
def test_licences_that_are_none_are_told_before_the_work(folder, content):
    (folder / "licences.json").write_text(content)
    before = (folder / "metadata.jsonl").read_bytes()
    with pytest.raises(SceditError, match=r"licences\.json"):
        annotate(folder, "canny", processes=1)
    assert (folder / "metadata.jsonl").read_bytes() == before and not (folder / "conditions").exists()

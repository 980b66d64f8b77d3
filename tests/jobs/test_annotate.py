"""`annotate`: one picture, dataset folders, what is skipped, and what is refused."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from PIL import Image

from scedit_cli.data.dataset import open_dataset, row_of, write_rows
from scedit_cli.data.rendered import example
from scedit_cli.errors import SceditError
from scedit_cli.jobs.annotate import annotate


@pytest.fixture
def folder(tmp_path):
    """Three scenes without conditions, their rows with a column of another tool."""
    (tmp_path / "data/images").mkdir(parents=True)
    for seed in range(3):
        example(seed, ()).image.save(tmp_path / f"data/images/{seed}.png")
    write_rows(tmp_path / "data", [row_of(f"{seed}.png", "a scene", ()) | {"mood": seed} for seed in range(3)])
    return tmp_path / "data"


def rows(folder):
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


def canny(path, *thresholds):
    return cv2.Canny(np.asarray(Image.open(path)), *(thresholds or (100, 200)))


def test_one_picture(folder, tmp_path):
    out = tmp_path / "made/edges.png"
    result = annotate(folder / "images/1.png", "canny", out=out)
    assert result.document() | {"seconds": 0} == {
        "out": str(out), "kind": "canny", "written": 1, "skipped": 0, "failed": [], "seconds": 0,
    }  # fmt: skip
    assert np.array_equal(np.asarray(Image.open(out)), canny(folder / "images/1.png"))
    with pytest.raises(SceditError, match=r"edges\.png exists already"):
        annotate(folder / "images/1.png", "color", out=out)
    annotate(folder / "images/1.png", "canny", out=out, overwrite=True, params={"low": "20", "high": "60"})
    assert np.array_equal(np.asarray(Image.open(out)), canny(folder / "images/1.png", 20, 60))


def test_a_folder_gets_columns_and_pictures(folder):
    events = []
    result = annotate(folder, ["canny", "gray"], on_event=events.append)
    assert (result.kind, result.written, result.skipped, result.failed) == ("canny,gray", 6, 0, [])
    assert [(event.stage, event.step, event.total) for event in events] == [("canny", 3, 3), ("gray", 3, 3)]
    assert [row["mood"] for row in rows(folder)] == [0, 1, 2]
    dataset = open_dataset(folder)
    assert dataset.kinds == ("canny", "gray")
    for item in dataset.items:
        assert np.array_equal(np.asarray(Image.open(item.conditions["canny"])), canny(item.image))
        assert item.conditions["gray"].name == item.image.name


def test_what_is_there_is_kept(folder):
    annotate(folder, "canny")
    mine = folder / "conditions/canny/1.png"
    Image.new("L", (128, 128), 9).save(mine)
    (folder / "conditions/canny/2.png").unlink()
    result = annotate(folder, "canny")
    assert (result.written, result.skipped) == (1, 2)
    assert Image.open(mine).getpixel((0, 0)) == 9
    result = annotate(folder, "canny", overwrite=True)
    assert (result.written, result.skipped) == (3, 0)
    assert np.array_equal(np.asarray(Image.open(mine)), canny(folder / "images/1.png"))


def test_a_stopped_run_goes_on(folder, monkeypatch):
    from scedit_cli.jobs import annotate as job

    monkeypatch.setattr(job, "_BATCH", 1)

    def stop(event):
        if event.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        annotate(folder, "color", on_event=stop)
    result = annotate(folder, "color")
    assert (result.written, result.skipped) == (1, 2)
    assert open_dataset(folder).kinds == ("color",)


def test_a_bad_picture_is_named_and_the_others_go_on(folder):
    (folder / "images/1.png").write_bytes(b"no picture")
    result = annotate(folder, ["canny", "color"])
    assert result.written == 4
    assert [failed["file"] for failed in result.document()["failed"]] == ["images/1.png"]
    assert ["canny_file_name" in row for row in rows(folder)] == [True, False, True]
    for name in ("0", "2"):
        (folder / f"images/{name}.png").write_bytes(b"no picture")
    with pytest.raises(SceditError, match="none of the pictures"):
        annotate(folder, "gray")


def test_two_pictures_of_one_stem_are_refused(folder):
    Image.open(folder / "images/0.png").save(folder / "images/0.jpg")
    write_rows(folder, [*rows(folder), {"file_name": "images/0.jpg", "text": ""}])
    with pytest.raises(SceditError, match=r"0\.png and images/0\.jpg"):
        annotate(folder, "canny")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"kinds": "cany"}, "did you mean canny"),
        ({"kinds": []}, "no kind of condition is named"),
        ({"params": {"lo": "5"}}, "no parameter 'lo'"),
        ({"annotator": "mine"}, "no annotator 'mine'"),
        ({"out": "edges.png"}, "--out is for a single picture"),
        ({"src": "images/0.png"}, "no place is named"),
        ({"src": "images/0.png", "out": "edges.jpg"}, "no .png"),
        ({"src": "images/0.png", "out": "edges.png", "kinds": ["canny", "seg"]}, "several kinds"),
        ({"src": "images/9.png", "out": "edges.png"}, "9.png does not exist"),
        ({"src": "images"}, "no dataset folder"),
    ],
)
def test_bad_input_writes_nothing(folder, monkeypatch, arguments, sentence):
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*")), rows(folder)
    with pytest.raises(SceditError, match=sentence):
        annotate(**({"src": ".", "kinds": "canny"} | arguments))
    assert (sorted(folder.rglob("*")), rows(folder)) == before

"""What was measured is kept: shown again, in every format, and not lost where a file cannot be written."""

from __future__ import annotations

import csv
import io
import json
from contextlib import nullcontext

import pytest
from PIL import Image

from scedit_cli import SceditError
from scedit_cli.benchmark import compare
from scedit_cli.jobs import bench as job
from scedit_cli.utils.errors import WorkFailed
from tests.jobs.bench.conftest import bench, figures
from tests.recorder import Recorder


@pytest.fixture
def whole(faked, tmp_path, monkeypatch):
    """A result of all that is measured and estimated, and its document."""
    monkeypatch.setattr(compare, "estimate", lambda method, *_, **__: figures(method))
    shapes = {"mine": compare.architecture("scenes"), "sd15": compare.architecture("sd15")}
    monkeypatch.setattr(compare, "architecture", shapes.get)
    monkeypatch.setattr(compare, "_peaks", lambda *_: nullcontext(lambda batch: batch * 2**20))
    options = {"methods": ["sc", "lora"], "rounds": 2, "batches": [1, 4], "fits": "12GiB"}
    return bench(**options, out=tmp_path / "bench.json"), tmp_path / "bench.json"


def test_a_document_is_shown_as_it_was(whole, faked, tmp_path):
    result, file = whole
    faked["calls"].clear()
    shown = bench(show=file, plot=tmp_path / "again.png", out=tmp_path / "again.json")
    assert not faked["calls"]
    assert (shown.tables(), shown.markdown(), shown.csv()) == (result.tables(), result.markdown(), result.csv())
    again = json.loads((tmp_path / "again.json").read_text())
    assert again == json.loads(file.read_text()) | {"plot": str(tmp_path / "again.png")}
    with Image.open(tmp_path / "again.png") as picture:
        assert picture.width > 1000


def test_documents_are_compared_without_measuring(whole, tmp_path):
    _, file = whole
    document = json.loads(file.read_text())
    document["results"][0]["flops_per_step"] *= 2
    (tmp_path / "later.json").write_text(json.dumps(document))
    assert bench(show=tmp_path / "later.json", baseline=file).worse == [
        "sc: flops_per_step was 1e+09, is 2e+09 (+100.0%)"
    ]


def test_what_cannot_be_shown(tmp_path, faked):
    with pytest.raises(SceditError, match="--show .*none.json: no such file"):
        bench(show=tmp_path / "none.json")
    (tmp_path / "other.json").write_text('{"base": 3}')
    with pytest.raises(SceditError, match="--show .*other.json is no benchmark: base is 3: input should be"):
        bench(show=tmp_path / "other.json")
    skips = {"base": "x", "batch": None, "resolution": 64, "dtype": "fp32", "device": "cpu", "results": []}
    (tmp_path / "skips.json").write_text(json.dumps(skips))
    with pytest.raises(SceditError, match="--plot a.png: .*skips.json holds no figures of methods"):
        bench(show=tmp_path / "skips.json", plot="a.png")
    with pytest.raises(SceditError, match="--methods does nothing with --show"):
        bench(show=tmp_path / "skips.json", methods=["sc"])


def test_the_sweep_is_shown_in_every_format(whole):
    result, _ = whole
    assert "| method | batch 1 | batch 4 |\n| --- | ---: | ---: |\n| sc | 480 | 404 |\n" in result.markdown()
    lines = list(csv.DictReader(io.StringIO(result.csv())))
    measured, swept = lines[0], lines[2]
    slow, _ = result.costs.results[0].spread.images_per_second_quartiles
    assert (measured["images_per_second_quartiles.0"], measured["rounds.1"]) == (str(slow), "8.0")
    assert (swept["base"], swept["method"], swept["batch"], swept["estimated_peak_memory"]) == (
        "mine", "sc", "4", str(404 * 2**20)
    )  # fmt: skip
    assert swept["peak_memory"] == ""


@pytest.mark.parametrize("option", ["plot", "out", "keep"])
def test_places_are_checked_before_anything_is_measured(option, faked, tmp_path):
    (tmp_path / "file").write_text("in the way")
    quality = {"quality": True, "methods": ["base"]} if option == "keep" else {"methods": ["sc"]}
    with pytest.raises(SceditError, match="file.* could not be written"):
        place = {option: tmp_path / "file" / "deeper" / "a.png"}
        bench(**quality, **place, reporter=Recorder(lambda event: pytest.fail()))
    with pytest.raises(SceditError, match="is a folder"):
        bench(methods=["sc"], out=tmp_path)
    assert not faked["calls"] and (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize("lost", ["draw", "write_whole"])
def test_figures_outlive_a_disk_that_fills_up(lost, faked, tmp_path, monkeypatch):
    def fail(*_):
        raise WorkFailed("the disk is full")

    monkeypatch.setattr(compare, "architecture", lambda name: None)
    monkeypatch.setattr(job, lost, fail)
    options = {"base": "mine", "methods": ["sc"], "batches": [1]}  # no other, so that nothing is estimated
    result = bench(**options, plot=tmp_path / "a.png", out=tmp_path / "a.json")
    assert str(result.unwritten) == "the disk is full" and result.costs.results[0].method == "sc"
    assert (result.plot is None) == (lost == "draw") == (tmp_path / "a.json").exists()
    if lost == "draw":
        assert json.loads((tmp_path / "a.json").read_text())["plot"] is None

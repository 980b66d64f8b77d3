from __future__ import annotations

import csv
import io
import json
import math
import re
from pathlib import Path

import pytest
from PIL import Image

import scedit_cli
from scedit_cli import CSCTuner, SceditError, SCTuner, save_tuner
from scedit_cli.benchmark import compare, estimate, evaluation, isolation
from scedit_cli.benchmark.config import BenchConfig, Figures
from scedit_cli.benchmark.modes import DEFAULT_METHODS
from scedit_cli.models.base import load_base
from scedit_cli.utils.errors import WorkFailed
from scedit_cli.utils.reporter import SILENT
from tests import tiny
from tests.jobs.bench.conftest import SETTING, bench, figures
from tests.recorder import Note, Progress, Recorder

FIELDS = {
    "device", "base", "batch", "resolution", "dtype", "lora_rank", "lora_feed_forward", "down_ratio", "steps",
    "compiled", "quantize", "offload", "beside", "reuse", "results",
    "sweep", "matrix_rate", "estimate", "quality", "evaluation", "skips", "sampling", "plot", "environment", "worse",
}  # fmt: skip
RESULT_FIELDS = {
    "method", "trainable_parameters", "flops_per_step", "peak_memory", "estimated_peak_memory", "images_per_second",
    "file_size", "share_of_base", "share_of_controlnet", "peak_reserved", "memory", "images_per_second_quartiles",
    "steps_per_second", "processor_seconds_per_step", "rounds", "share_of_matrix_rate", "largest_batch", "ratios",
}  # fmt: skip


ROOT = Path(__file__).parents[3]

NAN, INF = float("nan"), float("inf")


def test_the_page_tells_the_fields_of_the_document():
    page = (ROOT / ".github" / "docs" / "ci.md").read_text("utf-8")
    told = page.partition("The names in the document are stable: ")[2]
    fields, of_results = (re.findall(r"`(\w+)`", part) for part in told.split("And of each method in `results`"))
    assert len(fields) == len(FIELDS) and set(fields) == FIELDS
    assert len(of_results) == len(RESULT_FIELDS) and set(of_results) == RESULT_FIELDS


def test_the_pages_table_is_what_the_shipped_document_prints():
    shown = bench(show=Path(scedit_cli.__file__).parent / "results" / "quality-scenes-cpu.json").markdown().splitlines()
    page = (ROOT / "scedit_cli" / "benchmark" / "README.md").read_text("utf-8")
    rows = re.findall("^.*, same seconds .*$", page, re.MULTILINE)
    assert len(rows) == 7 and set(rows) <= set(shown)


def test_bench_measures_methods_in_their_own_processes(tmp_path):
    events = []
    base = str(tiny.pipeline_folder("sd15"))
    result = bench(
        base=base, methods=["sc", "full"], batch=1, steps=2, rounds=1, plot=tmp_path / "bench.png", batches=[1],
        out=tmp_path / "bench.json", reporter=Recorder(events.append),
    )  # fmt: skip
    document = result.document()
    assert set(document) == FIELDS
    assert all(set(each) == RESULT_FIELDS for each in document["results"])
    settings = {"base": base, "batch": 1, "resolution": 64, "dtype": "fp32"}
    assert {name: document[name] for name in settings} == settings
    assert document["estimate"] is None and document["worse"] == []
    assert json.loads((tmp_path / "bench.json").read_text()) == json.loads(json.dumps(document))
    sc, full = document["results"]
    assert (sc["method"], full["method"]) == ("sc", "full")
    assert sc["flops_per_step"] < full["flops_per_step"] and sc["file_size"] < full["file_size"]
    for each in (sc, full):
        slow, fast = each["images_per_second_quartiles"]
        assert 0 < slow <= each["images_per_second"] <= fast
        assert 4 * each["trainable_parameters"] < each["file_size"] < 4 * each["trainable_parameters"] + 200_000
        held = each["memory"]
        assert held["gradients"] == 4 * each["trainable_parameters"] and held["optimizer"] > 2 * held["gradients"]
        assert each["peak_memory"] >= held["libraries"] and each["estimated_peak_memory"] > 0
        assert each["share_of_matrix_rate"] > 0 and each["peak_reserved"] is None
    assert full["memory"]["weights"] == 4 * tiny.unet("sd15").num_parameters() and full["share_of_base"] == 1
    assert full["ratios"]["flops_per_step"] == full["flops_per_step"] / sc["flops_per_step"]
    steps = [event for event in events if isinstance(event, Progress) and event.stage == "measuring full"]
    assert [(event.step, event.total) for event in steps] == [(n, 4) for n in (1, 2, 3, 4)]
    with Image.open(tmp_path / "bench.png") as picture:
        assert picture.width > 1000


def test_a_process_that_dies_is_told(monkeypatch):
    monkeypatch.setattr(isolation, "_work", _die)
    with pytest.raises(WorkFailed, match="measured sc ended with code 7"):
        isolation.measure_apart("sc", BenchConfig("scenes", steps=1), SILENT)


def _die(*_: object) -> None:
    raise SystemExit(7)


def test_bare_bench_measures_the_embedded_base_and_estimates_sd15(faked, monkeypatch):
    monkeypatch.setattr(compare, "estimate", lambda method, base, batch, *_, **__: figures(method))
    result = bench()
    assert [each.method for each in result.costs.results] == list(DEFAULT_METHODS)
    assert {(wanted.base, wanted.steps) for _, wanted in faked["calls"]} == {("scenes", 10)}
    beside = result.document()["estimate"]
    assert (beside["base"], beside["batch"], beside["resolution"], beside["dtype"]) == ("sd15", 4, 512, "bf16")
    assert beside["device"] == "cuda (estimated)" and len(beside["results"]) == len(DEFAULT_METHODS)
    assert (beside["steps"], beside["compiled"]) == (None, False)
    assert len(result.tables()) == 2 and "sd15" in result.markdown()


def test_options_reach_the_measurement(faked):
    wanted = {"batch": 3, "resolution": 128, "dtype": "bf16", "lora_rank": 8, "lora_feed_forward": True}
    bench(base="mine", methods=["lora", "sc"], steps=7, compiled=True, down_ratio=0.5, **wanted)
    setting = BenchConfig("mine", 3, 128, "bf16", None, 8, True, 0.5, 7, True)
    assert faked["calls"] == [("lora", setting), ("sc", setting)]


def test_rounds_are_interleaved_and_put_together(faked):
    result = bench(base="mine", methods=["sc", "lora"], rounds=2, steps=3)
    assert [method for method, _ in faked["calls"]] == ["sc", "lora", "sc", "lora"]
    sc = result.costs.results[0]
    assert sc.images_per_second == 8.0 and sc.spread.rounds == [8.0, 8.0] and sc.spread.steps_per_second == 8.0
    assert sc.spread.images_per_second_quartiles == pytest.approx((1 / 0.15, 10.0), rel=0.1)
    assert sc.share_of_matrix_rate == pytest.approx(10**9 / 0.125 / 1e10)


def test_a_method_that_fails_has_no_figures(faked, baseline):
    faked["csc"] = WorkFailed("memory ran out", "take a smaller batch")
    events = []
    result = bench(base="mine", methods=["sc", "csc"], rounds=2, baseline=baseline, reporter=Recorder(events.append))
    failed = result.costs.results[1]
    assert failed == Figures("csc")
    assert events.count(Note("memory ran out: take a smaller batch")) == 1
    assert result.setting == SETTING
    assert "csc: flops_per_step was 1e+09, and could not be measured now" in result.worse
    with pytest.raises(WorkFailed, match="memory ran out"):
        bench(base="mine", methods=["csc"])


def test_bad_input_of_a_method_ends_it_all(faked):
    faked["sc"] = SceditError("base nowhere: no such folder")
    with pytest.raises(SceditError, match="nowhere") as error:
        bench()
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ["sc", "lara"]}, "--methods lara: not known .*did you mean lora"),
        ({"methods": ["base"]}, "--methods base: not known"),
        ({"dtype": "int8"}, "--dtype int8: not known"),
        ({"plot": "bench.txt"}, "--plot bench.txt: not the name of an image"),
        ({"scenes": 8}, "--scenes does nothing where costs are measured .*scedit bench --skips"),
        ({"estimate": True, "compiled": True}, "--compile does nothing with --estimate"),
        ({"keep": "kept"}, "--keep does nothing where costs are measured"),
        ({"skip_scale": 0.0}, "--skip-scale does nothing where costs are measured"),
        ({"estimate": True, "down_ratio": 0}, "--down-ratio is 0"),
        *(({"down_ratio": value}, f"--down-ratio is {value}") for value in (NAN, INF, -1.0)),
        *(({"skips": True, "skip_scale": value}, f"--skip-scale is {value}") for value in (NAN, INF)),
        *(({"skips": True, "skip_noise": value}, f"--skip-noise is {value}") for value in (NAN, INF, -1.0)),
        *(({"quality": True, "seconds": value}, f"--seconds is {value}") for value in (NAN, INF)),
        ({"quality": True, "tuners": ["none"], "guidance": NAN}, "--guidance is nan"),
        ({"quality": True, "tuners": ["none"], "guidance": -5.0}, "--guidance is -5.0"),
        ({"seconds": 3.0}, "--seconds does nothing where costs are measured"),
        ({"estimate": True, "device": "tpu"}, "--device tpu: not known"),
        ({"estimate": True, "steps": 3}, "--steps does nothing with --estimate"),
        ({"estimate": True, "skips": True}, "--estimate and --skips are two questions"),
        ({"estimate": True, "fits": "a lot"}, "--fits a lot: no size of a memory"),
        ({"estimate": True, "resolution": 100}, "--resolution is 100x100 pixels"),
        ({"skips": True, "base": "sdxl"}, "--base sdxl has random weights"),
        ({"skips": True, "baseline": "b.json"}, "--baseline does nothing with --skips .*scedit bench --estimate"),
        ({"skips": True, "plot": "a.svg"}, "--plot a.svg: the grid of --skips is made of pixels"),
        ({"quality": True, "methods": ["sc"], "learning_rates": {"lora": 0.1}}, "lora: not among the methods"),
        ({"quality": True, "methods": ["sc"], "scenes": 1}, "--scenes 1: methods are judged over two scenes"),
        ({"tolerance": "much"}, "--tolerance much: no share"),
        ({"overwrite": True}, "--overwrite does nothing without --plot or --out"),
        ({"tolerance": 0.1}, "--tolerance does nothing without --baseline"),
        ({"methods": ["sc", "full"], "lora_rank": 8}, "--lora-rank does nothing without --methods lora"),
        ({"methods": ["lora"], "down_ratio": 0.5}, "--down-ratio does nothing without --methods sc or csc"),
        ({"quality": True, "methods": ["base"], "seeds": 2}, "--seeds does nothing without a method that is trained"),
        ({"estimate": True, "fits": "0GiB"}, "--fits 0GiB: no size of a memory"),
        ({"tuners": ["a.safetensors"]}, "only --quality measures tuners"),
        ({"quality": True, "learning_rates": {"sd": 0.1}}, "--learning-rate sd: no method"),
        ({"quality": True, "base": "sd15"}, "--base does nothing with --quality"),
        ({"quality": True, "tuners": ["a.safetensors"], "methods": ["sc"]}, "--methods does nothing with --quality --"),
        ({"quality": True, "tuners": ["a.safetensors"], "plot": "a.png"}, "--plot does nothing with --quality --tuner"),
        ({"quality": True, "tuners": ["missing/a.safetensors"]}, "a.safetensors: no such tuner file"),
    ],
)
def test_options_that_cannot_be(options, message, faked):
    with pytest.raises(SceditError, match=message):
        bench(**options)


@pytest.mark.parametrize("name", ["plot", "out"])
def test_an_existing_file_is_replaced_only_with_overwrite(name, faked, baseline, tmp_path):
    file = tmp_path / ("a.png" if name == "plot" else "a.json")
    file.write_text("mine")
    with pytest.raises(SceditError, match=f"--{name} {file} exists already .*--overwrite"):
        bench(base="mine", methods=["sc"], **{name: file})
    assert not faked["calls"] and file.read_text() == "mine"
    bench(show=baseline, overwrite=True, **{name: file})
    assert file.read_bytes() != b"mine"


@pytest.mark.parametrize(("text", "bytes_"), [("12GiB", 12 * 2**30), ("24GB", 24 * 10**9), ("1.5 MiB", 3 * 2**19)])
def test_what_fits_is_asked_in_bytes(text, bytes_, monkeypatch):
    asked = []
    monkeypatch.setattr(compare, "estimate", lambda method, *_, **__: figures(method))
    monkeypatch.setattr(compare, "largest_batch", lambda peak_of, room, *_: asked.append(room) or 7)
    result = bench(estimate=True, methods=["sc"], fits=text, batches=None)
    assert asked == [bytes_ - compare.CONTEXT] and result.document()["results"][0]["largest_batch"] == 7


def test_an_estimate_needs_no_weights(monkeypatch):
    monkeypatch.setattr(estimate.Architecture, "unet", None)
    result = bench(estimate=True, base=str(tiny.pipeline_folder("sdxl")), methods=["sc"], batch=2)
    document = result.document()
    assert document["device"] == "cuda (estimated)" and document["dtype"] == "bf16" and document["batch"] == 2
    for each in document["results"]:
        assert each["peak_memory"] == each["estimated_peak_memory"] == sum(each["memory"].values()) > 0
        assert each["images_per_second"] is None
    lines = list(csv.DictReader(io.StringIO(result.csv())))
    assert [line["method"] for line in lines] == ["sc"] and lines[0]["device"] == "cuda (estimated)"


def test_quality_gives_the_scores_of_a_tuner(tmp_path):
    base = load_base()
    fresh = CSCTuner.for_unet(base.unet, "canny")
    file = save_tuner(fresh, tmp_path / "canny.safetensors", {"base_fingerprint": base.fingerprint})
    result = bench(quality=True, tuners=[str(file)], scenes=2, out=tmp_path / "quality.json")
    document = result.document()
    assert set(document) == FIELDS and document["results"] == [] and document["batch"] is None
    scores = document["quality"]["canny"]
    names = ("score", "with", "without", "reconstruction")
    assert set(scores) == {*(f"{name}{end}" for name in names for end in ("", "_low", "_high")), "scenes"}
    assert scores["with"] == scores["without"] < scores["reconstruction"]  # a fresh tuner is the identity
    assert scores["score"] == 0 and scores["scenes"] == 2
    assert result.tables()[0][1][1][0][0] == "canny"

    before = json.loads((tmp_path / "quality.json").read_text())
    before["quality"]["canny"]["score"] = 0.8
    (tmp_path / "quality.json").write_text(json.dumps(before))
    again = bench(quality=True, tuners=[str(file)], scenes=2, baseline=tmp_path / "quality.json")
    assert again.worse == ["canny: score was 0.8, is 0 (-100.0%)"]
    before["quality"]["canny"]["scenes"] = 64
    (tmp_path / "quality.json").write_text(json.dumps(before))
    again = bench(quality=True, tuners=[str(file)], scenes=2, baseline=tmp_path / "quality.json")
    assert again.worse == ["canny: cannot be compared, scenes were 64 and are 2"]


def test_quality_wants_a_tuner_of_the_base(tmp_path):
    file = save_tuner(SCTuner([8] * 6), tmp_path / "other.safetensors")
    with pytest.raises(SceditError, match="other.safetensors is a tuner for another base"):
        bench(quality=True, tuners=[str(file)])


def test_the_bases_own_quality():
    document = bench(quality=True, methods=["base"], scenes=2).document()
    own = document["quality"]["base"]
    assert set(own) == {"psnr", "objects", "scenes"} and own["scenes"] == 2
    assert 20 < own["psnr"] < 60 and 0 <= own["objects"] <= 1


def test_what_is_not_a_number_is_null_in_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation.Evaluation, "limits", evaluation.Limits(math.nan, math.inf, [], []))
    bench(quality=True, methods=["base"], scenes=1, out=tmp_path / "quality.json")
    found = json.loads((tmp_path / "quality.json").read_text())["quality"]["base"]
    assert found == {"psnr": None, "objects": None, "scenes": 1}

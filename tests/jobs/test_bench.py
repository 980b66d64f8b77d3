from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from scedit_cli import CSCTuner, SceditError, SCTuner, save_tuner
from scedit_cli.base import load_base
from scedit_cli.benchmark import apart
from scedit_cli.benchmark.measure import Conditions, Measurement, measure
from scedit_cli.benchmark.methods import METHODS
from scedit_cli.errors import WorkFailed
from scedit_cli.jobs import bench as job
from scedit_cli.jobs.bench import bench
from scedit_cli.jobs.progress import Note, Progress
from tests import tiny

FIELDS = {"device", "base", "batch", "resolution", "dtype", "results", "estimate", "quality", "environment", "worse"}
RESULT_FIELDS = {
    "method",
    "trainable_parameters",
    "flops_per_step",
    "peak_memory",
    "estimated_peak_memory",
    "images_per_second",
    "file_size",
}


def nothing(*_: object) -> None:
    pass


@pytest.fixture(scope="module")
def measured() -> dict[str, Measurement]:
    """Every method on a tiny SD1.5, in this process."""
    wanted = Conditions(str(tiny.pipeline_folder("sd15")), batch=2)
    return {method: measure(method, wanted, 1, nothing)[1] for method in METHODS}


def test_every_method_trains_what_it_says(measured):
    unet = tiny.unet("sd15")
    parameters = {method: each.trainable_parameters for method, each in measured.items()}
    kernels = {"csc": 1, "csc-k3": 3}
    assert parameters["full"] == unet.num_parameters()
    assert parameters["sc"] == sum(p.numel() for p in SCTuner.for_unet(unet).parameters())
    for method, kernel in kernels.items():
        tuner = CSCTuner.for_unet(unet, "canny", hint_kernel=kernel)
        assert parameters[method] == sum(p.numel() for p in tuner.parameters())
    # Rank 64 on four maps of two attentions, of which one reads the text.
    blocks = [block for name, block in unet.named_modules() if name.endswith("transformer_blocks.0")]
    widths = [block.norm1.normalized_shape[0] for block in blocks]
    assert parameters["lora"] == sum(64 * (2 * w * 6 + 2 * (tiny.TEXT_WIDTH + w)) for w in widths)
    assert measured["full"].share_of_base == 1
    assert measured["controlnet"].share_of_controlnet == 1
    assert measured["sc"].share_of_base == parameters["sc"] / parameters["full"]


def test_every_method_is_measured(measured):
    for method, each in measured.items():
        document = each.document()
        assert document.pop("estimated_peak_memory") is None
        assert document["method"] == method and None not in document.values()
        slow, fast = each.images_per_second_quartiles
        assert 0 < slow <= each.images_per_second <= fast
        assert each.peak_memory >= each.memory_before > 0
        assert 4 * each.trainable_parameters < each.file_size < 4 * each.trainable_parameters + 100_000
    flops = {method: each.flops_per_step for method, each in measured.items()}
    assert flops["sc"] < flops["full"]
    assert flops["sc"] < flops["csc"] < flops["csc-k3"]


@pytest.mark.parametrize(
    ("family", "method", "dtype"),
    [("sdxl", "csc", "bf16"), ("sdxl", "controlnet", "fp32"), ("sd21", "lora", "bf16"), ("sd21", "full", "bf16")],
)
def test_other_families_and_precisions(family, method, dtype):
    wanted = Conditions(str(tiny.pipeline_folder(family)), batch=1, resolution=64, dtype=dtype)
    used, figures = measure(method, wanted, 1, nothing)
    assert used == replace(wanted, device=used.device)
    assert figures.images_per_second > 0
    assert figures.file_size > 4 * figures.trainable_parameters  # float32 whatever the base is


def test_twice_the_batch_is_twice_the_work(measured):
    wanted = Conditions(str(tiny.pipeline_folder("sd15")), batch=4)
    doubled = measure("sc", wanted, 1, nothing)[1]
    assert doubled.flops_per_step == 2 * measured["sc"].flops_per_step


def test_bench_measures_methods_in_their_own_processes(tmp_path):
    events = []
    base = str(tiny.pipeline_folder("sd15"))
    result = bench(
        base=base, methods=["sc", "full"], batch=1, steps=2,
        plot=tmp_path / "bench.png", out=tmp_path / "bench.json", on_event=events.append,
    )  # fmt: skip
    document = result.document()
    assert set(document) == FIELDS
    assert all(set(each) >= RESULT_FIELDS for each in document["results"])
    settings = {"base": base, "batch": 1, "resolution": 64, "dtype": "fp32"}
    assert {name: document[name] for name in settings} == settings
    assert document["estimate"] is None and document["worse"] == []
    assert json.loads((tmp_path / "bench.json").read_text()) == json.loads(json.dumps(document))
    sc, full = document["results"]
    assert (sc["method"], full["method"]) == ("sc", "full")
    assert sc["flops_per_step"] < full["flops_per_step"] and sc["file_size"] < full["file_size"]
    header, rows = result.table()
    assert [row[0] for row in rows] == ["sc", "full"] and all(len(row) == len(header) for row in rows)
    assert f"({full['flops_per_step'] / sc['flops_per_step']:.2f}×)" in rows[1][4]
    steps = [event for event in events if isinstance(event, Progress) and event.stage == "measuring full"]
    assert [(event.step, event.total) for event in steps] == [(n, 4) for n in (1, 2, 3, 4)]
    with Image.open(tmp_path / "bench.png") as picture:
        assert picture.width > 1000


def test_a_process_that_dies_is_told(monkeypatch):
    monkeypatch.setattr(apart, "_work", _die)
    with pytest.raises(WorkFailed, match="measured sc ended with code 7"):
        apart.measure_apart("sc", Conditions("scenes"), 1, nothing)


def _die(*_: object) -> None:
    raise SystemExit(7)


CONDITIONS = Conditions("mine", 1, 64, "fp32", "cpu")


def figures(method: str) -> Measurement:
    return Measurement(method, 1000, 0.1, 0.3, 10**9, 500 * 2**20, 400 * 2**20, None, 8.0, (7.0, 9.0), 4096)


@pytest.fixture
def faked(monkeypatch):
    """Methods cost what `faked[method]` says, or fail with that error."""
    costs: dict[str, Measurement | Exception] = {method: figures(method) for method in METHODS}

    def measure_apart(method, wanted, steps, on_step):
        if isinstance(costs[method], Exception):
            raise costs[method]
        return CONDITIONS, costs[method]

    monkeypatch.setattr(job, "measure_apart", measure_apart)
    return costs


@pytest.fixture
def baseline(faked, tmp_path) -> Path:
    bench(methods=["sc", "csc"], out=tmp_path / "bench.json")
    return tmp_path / "bench.json"


def test_the_default_methods(faked):
    assert [each.method for each in bench().results] == ["sc", "csc", "lora", "full", "controlnet"]


@pytest.mark.parametrize(
    ("change", "worse"),
    [
        ({}, None),
        ({"peak_memory": 520 * 2**20}, None),
        ({"peak_memory": 530 * 2**20}, "sc: peak_memory was 5.24288e+08, is 5.55745e+08 (+6.0%)"),
        ({"trainable_parameters": 1100}, "sc: trainable_parameters was 1000, is 1100 (+10.0%)"),
        ({"trainable_parameters": 900}, None),
        ({"flops_per_step": 2 * 10**9}, "sc: flops_per_step was 1e+09, is 2e+09 (+100.0%)"),
        ({"file_size": 8192}, "sc: file_size was 4096, is 8192 (+100.0%)"),
        (
            {"images_per_second": 4.0, "images_per_second_quartiles": (3.0, 4.0)},
            "sc: images_per_second was 8, is 4 (-50.0%)",
        ),
        ({"images_per_second": 4.0, "images_per_second_quartiles": (1.0, 8.0)}, None),
        ({"images_per_second": 80.0, "images_per_second_quartiles": (80.0, 80.0)}, None),
    ],
)
def test_what_got_worse_is_named(change, worse, faked, baseline):
    faked["sc"] = replace(faked["sc"], **change)
    result = bench(methods=["sc"], baseline=baseline)
    assert result.worse == result.document()["worse"] == ([worse] if worse else [])


def test_the_tolerance_is_a_share_of_the_baseline(faked, baseline):
    faked["sc"] = replace(faked["sc"], flops_per_step=13 * 10**8)
    assert bench(methods=["sc"], baseline=baseline, tolerance=0.3).worse == []
    assert len(bench(methods=["sc"], baseline=baseline, tolerance=0.29).worse) == 1


def test_another_machine_is_compared_in_what_is_the_same_on_all(faked, baseline):
    document = json.loads(baseline.read_text())
    baseline.write_text(json.dumps(document | {"device": "NVIDIA H100"}))
    faked["sc"] = replace(faked["sc"], peak_memory=2**40, file_size=2**20)
    events = []
    result = bench(methods=["sc"], baseline=baseline, on_event=events.append)
    assert [sentence.split()[1] for sentence in result.worse] == ["file_size"]
    assert any(isinstance(event, Note) and "NVIDIA H100" in event.text for event in events)


def test_a_method_that_fails_has_no_figures(faked, baseline):
    faked["csc"] = WorkFailed("memory ran out", "take a smaller batch")
    events = []
    result = bench(methods=["sc", "csc"], baseline=baseline, on_event=events.append)
    failed = result.document()["results"][1]
    assert failed.pop("method") == "csc" and set(failed.values()) == {None}
    assert Note("memory ran out: take a smaller batch") in events
    assert "–" in result.table()[1][1] and result.conditions == CONDITIONS
    assert "csc: flops_per_step was 1e+09, and could not be measured now" in result.worse
    with pytest.raises(WorkFailed, match="memory ran out"):
        bench(methods=["csc"])


def test_bad_input_of_a_method_ends_it_all(faked):
    faked["sc"] = SceditError("base nowhere: no such folder")
    with pytest.raises(SceditError, match="nowhere") as error:
        bench()
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("{", "is no benchmark"),
        ("[]", "is no benchmark"),
        ('{"results": [{"method": "sc"}]}', "is no benchmark: 'base'"),
        ({"batch": 16}, "measured with batch 16, this is 1"),
        ({"dtype": "bf16"}, "measured with dtype bf16, this is fp32"),
        ({"results": []}, "has none of sc"),
    ],
)
def test_a_baseline_must_be_comparable(content, message, faked, baseline):
    if isinstance(content, dict):
        content = json.dumps(json.loads(baseline.read_text()) | content)
    baseline.unlink() if content is None else baseline.write_text(content)
    with pytest.raises(SceditError, match=f"--baseline .*bench.json.* {message}"):
        bench(methods=["sc"], baseline=baseline)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ["sc", "lara"]}, "--methods lara: not known .*did you mean lora"),
        ({"dtype": "int8"}, "--dtype int8: not known"),
        ({"plot": "bench.txt"}, "--plot bench.txt: not the name of a picture"),
        ({"quality": True}, "--quality measures tuners, and none is given"),
        ({"tuners": ["a.safetensors"]}, "only --quality measures tuners"),
        ({"quality": True, "tuners": ["a.safetensors"], "methods": ["sc"]}, "--methods is about what training costs"),
        ({"quality": True, "tuners": ["a.safetensors"], "plot": "a.png"}, "--plot is about what training costs"),
        ({"quality": True, "tuners": ["missing/a.safetensors"]}, "a.safetensors: no such tuner file"),
    ],
)
def test_options_that_cannot_be(options, message, faked):
    with pytest.raises(SceditError, match=message):
        bench(**options)


def test_a_resolution_must_fit_the_base():
    with pytest.raises(SceditError, match="--resolution is 100x100 pixels"):
        measure("sc", Conditions(str(tiny.pipeline_folder("sd15")), resolution=100), 1, nothing)


def test_quality_gives_the_scores_of_a_tuner(tmp_path):
    base = load_base()
    fresh = CSCTuner.for_unet(base.unet, "canny")
    file = save_tuner(fresh, tmp_path / "canny.safetensors", {"base_fingerprint": base.fingerprint})
    result = bench(quality=True, tuners=[str(file)], scenes=2, out=tmp_path / "quality.json")
    document = result.document()
    assert set(document) == FIELDS and document["results"] == [] and document["batch"] is None
    scores = document["quality"]["canny"]
    assert set(scores) == {"score", "with", "without", "reconstruction", "scenes"}
    assert scores["with"] == scores["without"] < scores["reconstruction"]  # a fresh tuner is the identity
    assert scores["score"] == 0 and scores["scenes"] == 2
    assert result.table()[1][0][0] == "canny"

    before = json.loads((tmp_path / "quality.json").read_text())
    before["quality"]["canny"]["score"] = 0.8
    (tmp_path / "quality.json").write_text(json.dumps(before))
    again = bench(quality=True, tuners=[str(file)], scenes=2, baseline=tmp_path / "quality.json")
    assert again.worse == ["canny: score was 0.8, is 0 (-100.0%)"]


def test_quality_wants_a_tuner_of_the_base(tmp_path):
    file = save_tuner(SCTuner([8] * 6), tmp_path / "other.safetensors")
    with pytest.raises(SceditError, match="other.safetensors is a tuner for another base"):
        bench(quality=True, tuners=[str(file)])

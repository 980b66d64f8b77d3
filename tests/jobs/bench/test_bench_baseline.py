from __future__ import annotations

import json
import platform
from dataclasses import replace

import pytest

from scedit_cli import SceditError
from scedit_cli.benchmark import compare, config
from tests.jobs.bench.conftest import bench, figures
from tests.recorder import Note, Recorder


@pytest.mark.parametrize(
    ("change", "seconds", "worse"),
    [
        ({}, None, None),
        ({"peak_memory": 520 * 2**20}, None, None),
        ({"peak_memory": 530 * 2**20}, None, "sc: peak_memory was 5.24288e+08, is 5.55745e+08 (+6.0%)"),
        ({"trainable_parameters": 1100}, None, "sc: trainable_parameters was 1000, is 1100 (+10.0%)"),
        ({"trainable_parameters": 900}, None, None),
        ({"flops_per_step": 2 * 10**9}, None, "sc: flops_per_step was 1e+09, is 2e+09 (+100.0%)"),
        ({"file_size": 8192}, None, "sc: file_size was 4096, is 8192 (+100.0%)"),
        ({}, [0.25, 0.25, 0.25], "sc: images_per_second was 8, is 4 (-50.0%)"),
        ({}, [0.125, 0.25, 0.9, 0.125, 0.9], None),
        ({}, [0.01], None),
    ],
)
def test_what_got_worse_is_named(change, seconds, worse, faked, baseline):
    made, before = faked["sc"]
    faked["sc"] = replace(made, **change), seconds or before
    result = bench(base="mine", methods=["sc"], baseline=baseline)
    assert result.worse == result.document()["worse"] == ([worse] if worse else [])


def test_the_tolerance_is_a_share_of_the_baseline(faked, baseline):
    faked["sc"] = replace(faked["sc"][0], flops_per_step=13 * 10**8), faked["sc"][1]
    assert bench(base="mine", methods=["sc"], baseline=baseline, tolerance="30%").worse == []
    assert len(bench(base="mine", methods=["sc"], baseline=baseline, tolerance=0.29).worse) == 1


def test_another_machine_is_compared_in_what_is_the_same_on_all(faked, baseline):
    document = json.loads(baseline.read_text())
    baseline.write_text(json.dumps(document | {"device": "NVIDIA H100"}))
    faked["sc"] = replace(faked["sc"][0], peak_memory=2**40, file_size=2**20), faked["sc"][1]
    events = []
    result = bench(base="mine", methods=["sc"], baseline=baseline, reporter=Recorder(events.append))
    assert [sentence.split()[1] for sentence in result.worse] == ["file_size"]
    assert any(isinstance(event, Note) and "NVIDIA H100" in event.text for event in events)


@pytest.mark.parametrize("about", [{"processor": "an abacus"}, {"threads": 999}])
def test_another_processor_is_another_machine(about, faked, baseline):
    document = json.loads(baseline.read_text())
    baseline.write_text(json.dumps(document | {"environment": document["environment"] | about}))
    faked["sc"] = replace(faked["sc"][0], peak_memory=2**40), [100.0]
    assert bench(base="mine", methods=["sc"], baseline=baseline).worse == []
    baseline.write_text(json.dumps(document | {"environment": document["environment"] | {"platform": "updated"}}))
    assert len(bench(base="mine", methods=["sc"], baseline=baseline).worse) == 2


def test_the_processor_is_told_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "_PROCESSORS", tmp_path / "cpuinfo")
    assert config.processor_name() == platform.processor() or platform.machine()
    (tmp_path / "cpuinfo").write_text("vendor_id\t: X\nmodel name\t: Fast 9000 @ 3GHz\nmodel name\t: Fast 9000\n")
    assert config.processor_name() == "Fast 9000 @ 3GHz"


def test_estimates_are_compared_on_any_machine(tmp_path, monkeypatch):
    made = {"sc": figures("sc")}
    monkeypatch.setattr(compare, "estimate", lambda method, *_, **__: made[method])
    bench(estimate=True, methods=["sc"], out=tmp_path / "bench.json")
    document = json.loads((tmp_path / "bench.json").read_text())
    document["environment"]["threads"] = 999
    (tmp_path / "bench.json").write_text(json.dumps(document))
    made["sc"] = replace(figures("sc"), peak_memory=600 * 2**20)
    result = bench(estimate=True, methods=["sc"], baseline=tmp_path / "bench.json")
    assert result.worse == ["sc: peak_memory was 5.24288e+08, is 6.29146e+08 (+20.0%)"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("{", "is no benchmark"),
        ("[]", "is no benchmark: the whole is .*: input should be a dictionary"),
        ('{"results": [{"method": "sc"}]}', "is no benchmark: base is missing"),
        ('{"base": "mine", "results": []}', "is no benchmark: it has no batch, resolution, dtype, device"),
        ({"environment": None}, "is no benchmark: environment is None: input should be a valid dictionary"),
        ({"quality": [1]}, r"is no benchmark: quality is \[1\]: "),
        ({"quality": {"sc": {"loss": "low"}}}, "is no benchmark: quality.sc.loss is 'low': should be a number"),
        ({"results": [{"method": "sc", "peak_memory": "much"}]}, "results.0.peak_memory is 'much': input should be"),
        ({"estimate": {"base": "sd15", "results": 3}}, "is no benchmark: estimate.results is 3: "),
        ({"compiled": True}, "measured with compiled True, this is False"),
        ({"batch": 16}, "measured with batch 16, this is 1"),
        ({"dtype": "bf16"}, "measured with dtype bf16, this is fp32"),
        ({"lora_rank": 16}, "measured with lora_rank 16, this is 64"),
        ({"results": []}, "has none of sc"),
    ],
)
def test_a_baseline_must_be_comparable(content, message, faked, baseline):
    if isinstance(content, dict):
        content = json.dumps(json.loads(baseline.read_text()) | content)
    baseline.unlink() if content is None else baseline.write_text(content)
    with pytest.raises(SceditError, match=f"--baseline .*bench.json.* {message}") as error:
        bench(base="mine", methods=["sc"], baseline=baseline)
    assert error.value.exit_code == 2
    assert not faked["calls"] or "measured with" in message, "it is read before anything is measured"

"""The script for a card, tried out on a CPU with small sizes; nothing that it measures here is kept."""

from __future__ import annotations

import json
import time
from importlib.metadata import version
from pathlib import Path

import pytest

from scedit_cli.benchmark import cuda
from scedit_cli.utils.errors import WorkFailed


def result(method: str, speed: float, **setting) -> dict:
    about = {"base": "sd15", "resolution": 512, "batch": 8, "quantize": "none", "offload": "none", "dtype": "bf16"}
    about |= {"lora_feed_forward": False} | setting
    memory = {"estimated_peak_memory": 95 * 2**20, "peak_memory": 100 * 2**20, "peak_reserved": 120 * 2**20}
    return {"setting": about, "method": method, "images_per_second": speed, **memory}


def document(*results: dict) -> dict:
    return {"environment": {"torch": "2", "cuda": "13"}, "device": "a card", "results": list(results), "failed": []}


def test_the_script_measures_writes_prints_and_goes_on(tmp_path, capsys):
    pytest.importorskip("torchao")
    out = tmp_path / "card.json"
    small = ["--bases", "scenes:1", "--resolution", "32", "--steps", "1", "--minutes", "0", "--device", "cpu"]
    assert cuda.main([*small, "--methods", "sc", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    [sc] = found["results"]
    assert found["device"] == "cpu" and sc["peak_memory"] > 0 and found["environment"]["torch"] == version("torch")
    late = [(each["method"], each["quantize"], each["offload"]) for each in found["failed"]]
    assert late == [*cuda.SMALL] and all("not reached" in each["reason"] for each in found["failed"])
    said = capsys.readouterr().out
    assert "| scenes 32², batch 1, sc, float32 |" in said and "Measured on cpu with torch" in said

    assert cuda.main([*small, "--methods", "sc", "lora", "--at-once", "2", "--out", str(out)]) == 0
    again = json.loads(out.read_text())
    assert again["results"] == [sc] and [each["method"] for each in again["failed"]][0] == "lora"


def test_the_most_telling_measurements_come_first():
    wanted = cuda.cases([("sd15", [1, 8, 16]), ("sdxl", [1, 4])], cuda.METHODS, None, 10, published=True)
    places = [(each.setting.base, each.setting.batch) for each in wanted]
    small = 2 * len(cuda.SMALL)
    assert places[:10] == [("sd15", 1)] * 5 + [("sdxl", 1)] * 5 and len(wanted) == 25 + small + 6
    assert {place for place in places[10 : 10 + small]} == {("sd15", 1), ("sdxl", 1)}
    assert all("-checkpoint" in each.method for each in wanted[10 : 10 + small])
    assert [*dict.fromkeys(places[10 + small : -6])] == [("sd15", 8), ("sd15", 16), ("sdxl", 4)]
    others = [(each.method, each.setting.batch, each.setting.dtype) for each in wanted[-6:]]
    assert others == [(method, batch, "fp32") for method, batch in cuda.PUBLISHED]


def test_one_process_measures_while_others_estimate(monkeypatch, tmp_path):
    """The one that got its turn keeps it until it has ended."""
    using, most = [], []

    def apart(method, setting, reporter, device, turn):
        with turn:
            using.append(method)
            most.append(len(using))
            time.sleep(0.01)
            using.remove(method)
        raise WorkFailed(f"{method} is not measured here")

    monkeypatch.setattr(cuda, "measure_apart", apart)
    made = cuda.run(cuda.cases([("sd15", [1])], cuda.METHODS, None, 1), tmp_path / "card.json", 5, "cpu", at_once=4)
    assert most == [1] * 14 and [each["reason"] for each in made["failed"]][0] == "sc is not measured here"


def test_the_table_tells_ratios():
    results = result("sc", 12.0), result("lora", 10.0), result("sc-checkpoint", 3.0, quantize="int4", offload="encoder")
    text = cuda.table(document(*results))
    assert "| sd15 512², batch 8, sc | 95 | 100 | 120 | 0.950 | 12.00 |" in text
    assert "sc-checkpoint, int4, encoder offloaded |" in text
    assert "sc makes 1.20 times the images/s of lora." in text and "times the images/s of full" not in text


def test_the_page_holds_the_table_of_the_shipped_measurements():
    package = Path(cuda.__file__).parents[1]
    measured = json.loads((package / "results" / "card-h200.json").read_text())
    page = (package / "benchmark" / "README.md").read_text("utf-8")
    assert cuda.table(measured) in page
    shares = [each["estimated_peak_memory"] / each["peak_memory"] for each in measured["results"]]
    assert len(shares) == 45 and all(abs(share - 1) < cuda.NEAR for share in shares)


def test_without_a_card_it_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert cuda.main(["--out", str(tmp_path / "card.json")]) == 2
    assert "there is no CUDA card here" in capsys.readouterr().err and not (tmp_path / "card.json").exists()

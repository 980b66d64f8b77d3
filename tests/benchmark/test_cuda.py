"""The script for a card, tried out on a CPU with small sizes; nothing that it measures here is kept."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import pytest

from scedit_cli.benchmark import cuda
from scedit_cli.utils.errors import SceditError


def result(method: str, speed: float, **setting) -> dict:
    about = {"base": "sd15", "resolution": 512, "batch": 8, "quantize": "none", "offload": "none"} | setting
    memory = {"estimated_peak_memory": 95 * 2**20, "peak_memory": 100 * 2**20, "peak_reserved": 120 * 2**20}
    return {"setting": about, "method": method, "images_per_second": speed, **memory}


def document(*results: dict) -> dict:
    return {"environment": {"torch": "2", "cuda": "13"}, "device": "a card", "results": list(results), "failed": []}


def test_the_script_measures_writes_and_prints(tmp_path, capsys):
    pytest.importorskip("torchao")
    out = tmp_path / "card.json"
    small = ["--bases", "scenes:1", "--methods", "sc", "--resolution", "32", "--steps", "1", "--minutes", "0"]
    assert cuda.main([*small, "--out", str(out), "--device", "cpu"]) == 0
    found = json.loads(out.read_text())
    [sc] = found["results"]
    assert found["device"] == "cpu" and sc["peak_memory"] > 0 and found["environment"]["torch"] == version("torch")
    late = [(each["method"], each["quantize"], each["offload"]) for each in found["failed"]]
    assert late == [*cuda._SMALL] and all("not reached" in each["reason"] for each in found["failed"])
    said = capsys.readouterr().out
    assert "| scenes 32², batch 1, sc |" in said and "Measured on cpu with torch" in said


def test_the_most_telling_measurements_come_first():
    wanted = cuda.cases([("sd15", [1, 8, 16]), ("sdxl", [1, 4])], cuda.METHODS, None, 10)
    places = [(each.setting.base, each.setting.batch, each.setting.quantize) for each in wanted]
    assert len(wanted) == 5 * 5 + 2 * 3 and places[:10] == [("sd15", 1, "none")] * 5 + [("sdxl", 1, "none")] * 5
    assert [each for _, _, each in places[10:16]] == ["int4"] * 6
    assert {place[:2] for place in places[16:]} == {("sd15", 8), ("sd15", 16), ("sdxl", 4)}


def test_the_table_tells_ratios_and_goals():
    results = result("sc", 12.0), result("lora", 10.0), result("sc-checkpoint", 3.0, quantize="int4", offload="encoder")
    text = cuda.table(document(*results))
    assert "| sd15 512², batch 8, sc | 95 | 100 | 120 | 0.950 | 12.00 |" in text
    assert "sc-checkpoint, int4, encoder offloaded |" in text
    assert "sc makes 1.20 times the images/s of lora (goal 1.17)." in text and "times the images/s of full" not in text


def test_the_readme_gets_the_table_in_the_sentences_place(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("Before it. No\ncard has measured it yet. More\nof it.\n\nAfter.\n")
    cuda.fill_in(readme, "| a table |\n")
    assert readme.read_text() == "Before it. More\nof it.\n\n| a table |\n\nAfter.\n"
    with pytest.raises(SceditError, match="does not say that no card"):
        cuda.fill_in(readme, "again")


@pytest.mark.parametrize("page", ["README.md", "scedit_cli/benchmark/README.md"])
def test_the_pages_hold_the_sentence(page):
    assert cuda.SENTENCE.search((Path(__file__).parents[2] / page).read_text("utf-8"))


def test_without_a_card_it_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert cuda.main(["--out", str(tmp_path / "card.json")]) == 2
    assert "there is no CUDA card here" in capsys.readouterr().err and not (tmp_path / "card.json").exists()

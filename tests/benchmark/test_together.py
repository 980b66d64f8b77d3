"""Two conditions in one run beside two runs, on a tiny budget and by a clock that counts steps."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

import scedit_cli as scedit
from scedit_cli.benchmark import together

SECONDS = {1: 1.5, 2: 2.0}  # of a step, by its number of conditions
SMALL = ["--seconds", "6", "--batch", "2", "--training-scenes", "4", "--scenes", "2", "--sampling-steps", "2"]
PACKAGE = Path(together.__file__).parents[1]


@pytest.fixture
def clock(monkeypatch) -> list[str]:
    """The trainers that have made steps, one entry for each step."""
    steps, now = [], 0.0
    advance = together.Trainer.advance

    def counted(trainer):
        nonlocal now
        kinds = [each.condition for each in together.tuners_of(trainer.tuner)]
        steps.append("-".join(kinds))
        now += SECONDS[len(kinds)]
        return advance(trainer)

    def timed(work, device):
        began = now
        work()
        return now - began

    monkeypatch.setattr(together.Trainer, "advance", counted)
    monkeypatch.setattr(together, "timed", timed)
    monkeypatch.setattr(together, "_WARM_UP", 0)
    monkeypatch.setattr(together, "_TIMED", 1)
    return steps


def test_arms_get_equal_seconds_and_are_kept(clock, tmp_path, capsys):
    work, out = tmp_path / "work", tmp_path / "found.json"
    given = [*SMALL, "--work", str(work), "--out", str(out), "--seeds", "1"]
    assert together.main(given) == 0
    assert clock == ["canny", "color", "canny-color", *["canny"] * 2, *["color"] * 2, *["canny-color"] * 3]
    first, shown = json.loads(out.read_text()), capsys.readouterr().out
    assert first.keys() == {"environment", "budget", "recipe", "seconds_per_step", "results"}
    assert first["seconds_per_step"] == {"canny": 1.5, "color": 1.5, "canny-color": 2.0}
    apart, bundle = first["results"]
    assert [(each["kinds"], each["steps"]) for each in apart["trainings"]] == [(["canny"], 2), (["color"], 2)]
    assert [(each["kinds"], each["steps"]) for each in bundle["trainings"]] == [(["canny", "color"], 3)]
    for each in (apart, bundle):
        assert sum(part["seconds"] for part in each["trainings"]) == 6.0
        scores = each["scores"]
        assert list(scores) == list(together.FIGURES)
        assert scores["both"] == pytest.approx((scores["canny"] + scores["color"]) / 2)
    assert "| apart | 2 + 2 | 6 |" in shown and "| one bundle, hint dropout 0 | 3 | 6 |" in shown

    files = [work / each["file"] for each in apart["trainings"]]
    sampling = scedit.SamplingOptions(steps=2)
    both = scedit.evaluate(files, images=2, sampling=sampling)
    assert (both["canny"]["score"], both["color"]["score"]) == (apart["scores"]["canny"], apart["scores"]["color"])
    assert apart["scores"]["color_alone"] != apart["scores"]["color"]

    clock.clear()
    assert together.main(given) == 0
    assert not clock and json.loads(out.read_text()) == first and capsys.readouterr().out == shown

    (work / apart["trainings"][1]["file"]).unlink()
    assert together.main([*given, "--hint-dropout", "0", "0.9"]) == 0
    assert clock == ["color"] * 2 + ["canny-color"] * 3
    again = json.loads(out.read_text())["results"]
    assert again[:2] == first["results"] and again[2]["scores"] != bundle["scores"]


def test_the_table_pairs_the_seeds():
    def result(arm: str, seed: int, score: float) -> dict:
        part = {"kinds": ["canny"], "steps": 3, "seconds": 2.0}
        return {"arm": arm, "seed": seed, "trainings": [part], "scores": dict.fromkeys(together.FIGURES, score)}

    scores = {"apart": (0.5, 0.6), "one bundle, hint dropout 0": (0.6, 0.5)}
    results = [result(arm, seed, each[seed]) for seed in (0, 1) for arm, each in scores.items()]
    text = together.table({"results": results})
    assert "| apart | 3 | 2 | 0.550 (0.500 to 0.600) |" in text
    assert "| one bundle, hint dropout 0: difference |  |  | +0.000 (-0.100 to +0.100) |" in text


def test_the_page_holds_the_table_of_the_shipped_results():
    found = json.loads((PACKAGE / "results" / "together-cpu.json").read_text())
    assert together.table(found) in (PACKAGE / "benchmark" / "README.md").read_text("utf-8")
    taken = Counter()
    for each in found["results"]:
        taken[each["arm"] == together.APART] += sum(part["seconds"] for part in each["trainings"])
    assert abs(taken[False] / taken[True] - 1) < 0.15  # processor seconds vary with what else the machine does


@pytest.mark.parametrize("given", [["--hint-dropout", "2"], ["--batch", "0"]])
def test_bad_input_gets_a_sentence(given, tmp_path, capsys):
    assert together.main([*given, "--work", str(tmp_path)]) == 2
    [sentence] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert ("data.hint_dropout: 2.0" if "2" in given else "train.batch_size: 0") in sentence
    assert not (tmp_path / "together.json").exists()

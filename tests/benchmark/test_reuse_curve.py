"""The curve of reused layers, and the warning about a machine that others use."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from scedit_cli.benchmark import machine_load
from scedit_cli.benchmark.compare import Costs
from scedit_cli.benchmark.config import BenchConfig
from scedit_cli.benchmark.document import read_result
from scedit_cli.benchmark.machine_load import MachineLoad, warning
from scedit_cli.benchmark.results import BenchResult
from scedit_cli.benchmark.reuse import ReusePoint, draw_reuse
from scedit_cli.benchmark.sampling import StepTime

POINTS = [ReusePoint(1, 1.0, 0.7, 0.9), ReusePoint(3, 0.48, 0.69, 0.89)]


def test_the_share_of_others_is_what_is_neither_idle_nor_ours(monkeypatch):
    spent = iter([(100.0, 10.0, 200.0), (130.0, 20.0, 240.0), (140.0, 50.0, 240.0)])
    monkeypatch.setattr(machine_load, "_spent", lambda: next(spent))
    load = MachineLoad()
    assert load.of_others() == pytest.approx((30 - 10) / 40)
    assert load.of_others() == 0.0  # clocks that are read one after another may disagree a little


def test_time_is_counted_once():
    busy, own, everything = machine_load._spent()
    assert 0 < own <= busy < everything


@pytest.mark.parametrize(("share", "said"), [(0.0, False), (0.1, False), (0.25, True)])
def test_a_busy_machine_is_told(share, said):
    assert bool(warning(share)) == said and (not said or "25%" in warning(share))


def test_the_curve_is_kept_by_a_document(tmp_path):
    times = [StepTime("base", 0.5, 1.0, (1.0, 1.0), 0.0, 0.6)]
    result = BenchResult(Costs(BenchConfig("scenes", None, 256, "fp32", "cpu"), []), sampling=times, reuse=POINTS)
    (tmp_path / "bench.json").write_text(json.dumps(result.document()))
    again = read_result(tmp_path / "bench.json", "--show")
    assert list(again.reuse) == POINTS and list(again.sampling) == times
    [(_, (_, steps)), (_, (header, rows))] = again.tables()
    assert "0.600" in steps[0] and header[0] == "reuse" and rows[1][:2] == ["3", "0.480"]


def test_the_curve_without_scores_is_drawn_too(tmp_path):
    sizes = []
    for name, points in {"all.png": POINTS, "time.png": [ReusePoint(1, 1.0), ReusePoint(2, 0.6)]}.items():
        draw_reuse(tmp_path / name, points)
        sizes.append(Image.open(tmp_path / name).convert("L").resize((60, 36)).tobytes())
    assert sizes[0] != sizes[1]

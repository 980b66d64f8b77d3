from __future__ import annotations

import csv
import io
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from PIL import Image

from scedit_cli import SceditError
from scedit_cli.benchmark import compare
from scedit_cli.benchmark.architecture import architecture
from scedit_cli.benchmark.compare import Costs, largest_batch
from scedit_cli.benchmark.config import BenchConfig, Figures, Spread
from scedit_cli.benchmark.plot import draw
from scedit_cli.benchmark.quality_plot import draw_quality
from scedit_cli.benchmark.report import (
    as_csv,
    as_markdown,
    cost_table,
    quality_facts,
    quality_table,
    ratios,
    reference_of,
)
from scedit_cli.cli.bench_request import read_tolerance
from scedit_cli.models.base import load_base
from scedit_cli.utils.reporter import SILENT
from tests import tiny

SETTING = BenchConfig("mine", 2, 64, "fp32", "cpu")


def figures(method: str, **changes: object) -> Figures:
    made = Figures(
        method, 10**6, 0.1, 0.3, 10**9, 500 * 2**20, None,
        {"libraries": 2**28, "weights": 2**26, "gradients": 2**24, "optimizer": 2**25, "activations": 2**27},
        400 * 2**20, 8.0, Spread((7.0, 9.0), 4.0, [8.0]), 0.5, 4 * 10**6,
    )  # fmt: skip
    return replace(made, **changes)


def test_a_base_of_the_hub_stays_at_its_revision(monkeypatch):
    base, asked = load_base(tiny.pipeline_folder("sd15")), []
    base.name = "owner/model"  # as `load_base` names it
    configs = "scedit_cli.benchmark.architecture.download_configs"
    monkeypatch.setattr(configs, lambda *parts: asked.append(parts) or tiny.pipeline_folder("sd15"))
    monkeypatch.setattr("scedit_cli.benchmark.architecture.load_base", lambda name, **_: asked.append(name) or base)
    found = architecture("owner/model@v2")
    assert found.unet(torch.float32, torch.device("cpu")) is base.unet and found.name == "owner/model@v2"
    assert asked == [("owner/model", "v2"), "owner/model@v2"]


@pytest.mark.parametrize("room", [0, 104, 105, 106, 117, 118, 130, 131, 999, 1000, 12345])
@pytest.mark.parametrize("bend", [0, 3, 40])
@pytest.mark.parametrize("given", [{}, {"first": 8, "fixed": 100}, {"first": 8, "fixed": 40}, {"fixed": 105}])
def test_the_largest_batch_is_the_largest_that_fits(room, bend, given):
    def peak_of(batch: int) -> int:
        asked.append(batch)
        return 100 + 5 * batch + 7 * max(0, batch - bend)

    asked: list[int] = []
    wanted = max((batch for batch in range(1, 3000) if 100 + 5 * batch + 7 * max(0, batch - bend) <= room), default=0)
    assert largest_batch(peak_of, room, **given) == wanted
    assert len(asked) <= 20


def _ten_an_image(batch: int) -> dict[str, int]:
    return {"weights": 100, "activations": 10 * batch}


def test_what_fits_leaves_room_for_the_card_itself(monkeypatch):
    base, three = architecture("sd15"), 130
    monkeypatch.setattr(compare, "rehearsed", lambda *_, **__: nullcontext(_ten_an_image))
    able = Costs(SETTING, [figures("sc-plain", memory={"libraries": 2**28}), Figures("full")], 10**10)
    found = compare.fitting(able, base, compare.CONTEXT + three, "cuda", SILENT)
    assert [each.largest_batch for each in found.results] == [3, None]
    found = compare.fitting(able, base, three, "cuda", SILENT)
    assert found.results[0].largest_batch == 0
    found = compare.fitting(able, base, 2**28 + three, "cpu", SILENT)  # where the libraries take theirs
    assert found.results[0].largest_batch == 3


def test_a_curve_over_batches_is_of_estimates(monkeypatch):
    base = architecture("sd15")
    monkeypatch.setattr(compare, "rehearsed", lambda *_, **__: nullcontext(_ten_an_image))
    sweep = compare.swept(Costs(SETTING, [figures("sc-plain")]), base, [1, 2, 4], "cpu", SILENT)
    assert sweep == [("sc-plain", 1, 110 + 2**28), ("sc-plain", 2, 400 * 2**20), ("sc-plain", 4, 140 + 2**28)]


def _held(method: str, base: object, batch: int, *_: object, **__: object) -> dict[str, int]:
    return {"weights": 100, "vae": 50, "activations": 10 * batch, "reserve": 7}


@pytest.mark.parametrize(("beside", "more"), [(("vae",), 0), (("vae", "reserve"), 7)])
def test_other_batches_hold_what_the_own_batch_holds_besides(monkeypatch, beside, more):
    base, setting = architecture("sd15"), replace(SETTING, batch=1, beside=beside)
    monkeypatch.setattr(compare, "held", _held)
    own = compare.with_beside(figures("sc-plain", memory={}), base, setting, "cuda")
    assert own.peak_memory == 160 + more
    sweep = compare.swept(Costs(setting, [own]), base, [1, 3], "cuda", SILENT)
    assert sweep == [("sc-plain", 1, 160 + more), ("sc-plain", 3, 180 + more)]
    for room, most in ((180 + more, 3), (179 + more, 2)):
        found = compare.fitting(Costs(setting, [own]), base, compare.CONTEXT + room, "cuda", SILENT)
        assert found.results[0].largest_batch == most


def test_ratios_are_to_the_like():
    results = [figures("sc"), figures("csc", peak_memory=1000), figures("lora")]
    results.append(figures("controlnet", peak_memory=2500))
    assert [reference_of(each.method, results).method for each in results] == ["sc", "csc", "sc", "csc"]
    assert ratios(results[3], results)["peak_memory"] == 2.5 and ratios(results[3], results)["to"] == "csc"
    assert reference_of("controlnet", results[:1]).method == "sc"
    assert ratios(results[2], results[2:]) == {} == ratios(Figures("lora"), results)


def test_tables():
    results = [figures("sc"), figures("lora", trainable_parameters=2 * 10**6), Figures("full")]
    header, rows = cost_table(results, estimated=False)
    assert [row[0] for row in rows] == ["sc", "lora", "full"] and all(len(row) == len(header) for row in rows)
    assert rows[1][1] == "2 M (2.00×)" and set(rows[2][1:]) == {"–"}
    assert "largest batch" not in header and "reserved" not in header
    header, rows = cost_table([figures("sc", largest_batch=0)], estimated=True)
    assert rows[0][header.index("largest batch")] == "0" and "images/s" not in header
    assert as_markdown(["a", "b"], [["x", "1"]]) == "| a | b |\n| --- | ---: |\n| x | 1 |\n"
    lines = list(csv.DictReader(io.StringIO(as_csv([each.document() for each in results]))))
    assert lines[0]["memory.weights"] == str(2**26) and lines[1]["trainable_parameters"] == "2000000"
    assert lines[2]["peak_memory"] == ""


def test_tables_of_quality():
    base = {"psnr": 32.41, "objects": 0.9, "scenes": 16}
    learned = {
        "steps": 300.0, "seconds": 71.6, "loss": 0.16234, "loss_deviation": 0.0011, "score": None, "objects": 0.45,
        "frechet": 1233.8, "trainable_parameters": 165120, "estimated_peak_memory": 2**26, "learning_rate": 2e-4,
        "seeds": 3, "scenes": 16, "seconds_per_step": 0.24,
    }  # fmt: skip
    found = {"base": base, "sc, same steps": learned}
    header, rows = quality_table(found)
    assert rows[0] == ["base", "–", "–", "–", "–", "–", "0.900", "–", "–", "–"]
    assert rows[1][1:] == ["300", "72", "0.0002", "0.1623 ± 0.0011", "–", "0.450", "1,234", "165,120", "64"]
    assert len(header) == 10 and quality_facts(found) == "3 seeds, 16 scenes"
    header, rows = quality_table({"canny": {"score": 0.61, "with": 0.7, "scenes": 1}})
    assert (header, rows) == (["", "score", "with"], [["canny", "0.610", "0.700"]])
    assert quality_facts({"canny": {"scenes": 1}}) == "1 scene"


@pytest.mark.parametrize("sweep", [[], [("sc", 1, 2**30), ("sc", 4, 2**31), ("full", 1, 2**31), ("full", 4, 2**32)]])
def test_plots_of_what_there_is(sweep, tmp_path):
    measured = Costs(SETTING, [figures("sc"), figures("full"), Figures("lora")], 1e12, sweep)
    guessed = Costs(SETTING, [figures("sc", images_per_second=None)])
    draw(tmp_path / "one.png", [measured])
    draw(tmp_path / "two.png", [measured, guessed])
    with Image.open(tmp_path / "one.png") as one, Image.open(tmp_path / "two.png") as two:
        assert one.width == two.width > 1000 and two.height > one.height


def test_no_name_in_a_plot_is_a_formula(tmp_path):
    """A base is called as its folder is, and the methods as an earlier document calls them."""
    results, sweep = [figures("sc$^$"), figures("full")], [("sc$^$", 1, 2**30), ("sc$^$", 4, 2**31)]
    draw(tmp_path / "costs.png", [Costs(replace(SETTING, base="a$^$"), results, 1e12, sweep)])
    names = ("score", "frechet", "objects", "loss", "estimated_peak_memory")
    draw_quality(tmp_path / "quality.png", {"sc$^$, same steps": dict.fromkeys(names, 1.0)}, "a$^$")
    for name in ("costs", "quality"):
        with Image.open(tmp_path / f"{name}.png") as drawn:
            assert drawn.width > 1000


@pytest.mark.parametrize(("text", "value"), [("5%", 0.05), ("0.1", 0.1), (" 12.5 %", 0.125), ("0", 0.0)])
def test_tolerances(text, value):
    assert read_tolerance(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["five", "-1%", "nan", "inf", ""])
def test_what_is_no_tolerance(text):
    with pytest.raises(SceditError, match="no share of a figure"):
        read_tolerance(text)


def test_a_straight_peak_is_estimated_at_three_batches_only():
    asked = []

    def peak_of(batch: int) -> int:
        asked.append(batch)
        return 1000_000 + 7000 * batch

    peaks = compare.StraightPeaks(peak_of)
    assert largest_batch(peaks, 1000_000 + 7000 * 50 + 10) == 50 and len(asked) == 3
    assert peaks(123) == 1000_000 + 7000 * 123 and len(asked) == 3


def test_a_peak_off_the_line_is_estimated_everywhere():
    def peak_of(batch: int) -> int:
        return 1000_000 + 7000 * batch + 500 * batch**2

    peaks = compare.StraightPeaks(peak_of, {4: peak_of(4)})
    assert [peaks(batch) for batch in (1, 2, 9, 5)] == [peak_of(batch) for batch in (1, 2, 9, 5)]

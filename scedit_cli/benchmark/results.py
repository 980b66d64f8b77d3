"""The result of a benchmark, as a document for programs and as tables for users."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from scedit_cli.benchmark.compare import Costs
from scedit_cli.benchmark.config import BenchConfig, environment
from scedit_cli.benchmark.report import (
    Table,
    as_csv,
    as_markdown,
    cost_table,
    evaluation_facts,
    quality_facts,
    quality_table,
    ratios,
    shown,
    sweep_table,
)
from scedit_cli.benchmark.reuse import ReusePoint
from scedit_cli.benchmark.sampling import StepTime
from scedit_cli.benchmark.skips import SkipEffect
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.markdown import plain


@dataclass(frozen=True)
class BenchResult:
    """Costs of methods, times of sampling steps, scores of tuners or methods, or effects of skips, with the
    configuration that they hold for.

    Attributes:
        costs: the measured costs, or the estimated ones where none were to be measured; empty results in other modes.
        estimate: the estimate of another base beside the one measured.
        quality: name -> figures. A condition of tuners has {score, with, without, reconstruction, images} and their
            intervals, with `scenes` for `images` on held-out ones; a single SC-Tuner, as "style", {nearer, objects,
            scenes}; whole images, as "images", {clip_score, fid, images}; the embedded base, as "base", {psnr, objects,
            scenes}; and a method, as "METHOD, same steps" and "METHOD, same seconds", those of `quality.summed_up`.
        evaluation: how tuners were evaluated: protocol, data, annotators, resolution, sampler, steps, tuners.
        skips: the effects of every change of every skip.
        sampling: the cost that tuners add to a step of sampling.
        reuse: the cost and quality of sampling that reuses deep layers.
        environment: the machine and the versions.
        plot: the path of the plot.
        worse: sentences, one for each figure that got worse than the baseline.
        grid: the images of changed skips.
        unwritten: the reason why a file could not be written; the figures are complete all the same.
        is_first: whether this is the process of a launch that shows and writes the result.
    """

    costs: Costs
    estimate: Costs | None = None
    quality: dict[str, dict[str, Any]] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    skips: Sequence[SkipEffect] = ()
    sampling: Sequence[StepTime] = ()
    reuse: Sequence[ReusePoint] = ()
    environment: dict[str, str | int] = field(default_factory=environment)
    plot: Path | None = None
    worse: Sequence[str] = ()
    grid: Image.Image | None = None
    unwritten: SceditError | OSError | None = None
    is_first: bool = True

    @property
    def setting(self) -> BenchConfig:
        return self.costs.setting

    def document(self) -> dict[str, Any]:
        """Return the document as JSON values."""
        return {
            **_costs(self.costs),
            "quality": self.quality,
            "evaluation": self.evaluation,
            "skips": [asdict(effect) for effect in self.skips],
            "sampling": [asdict(each) for each in self.sampling],
            "reuse": [asdict(each) for each in self.reuse],
            "estimate": _costs(self.estimate) if self.estimate else None,
            "plot": None if self.plot is None else str(self.plot),
            "environment": self.environment,
            "worse": list(self.worse),
        }

    def tables(self) -> list[tuple[str, Table]]:
        """Return the tables shown to the user, each with its title."""
        tables = []
        for each in self._all():
            tables.append((facts(each.setting), cost_table(each.results, each.matrix_rate is None)))
            if each.sweep:
                title = f"{each.setting.base}: estimated peak memory in MiB against batch size"
                tables.append((title, sweep_table(each.sweep)))
        if self.skips:
            header = ["skip", "channels", "stride", "change", "image change", "objects", "before"]
            tables.append(("", (header, [[shown(value) for value in asdict(each).values()] for each in self.skips])))
        if self.sampling:
            tables.append((facts(self.setting), _sampling_table(self.sampling, self.setting.device)))
        if self.reuse:
            header = ["reuse", "time of a step", "control score", "objects"]
            tables.append(("", (header, [[shown(value) for value in asdict(each).values()] for each in self.reuse])))
        if self.quality:
            title = f"{facts(self.setting)}, {quality_facts(self.quality)}{evaluation_facts(self.evaluation)}"
            tables.append((title, quality_table(self.quality)))
        return tables

    def markdown(self) -> str:
        """Return the tables in Markdown."""
        return "\n".join(f"{plain(title)}\n\n{as_markdown(*table)}".lstrip() for title, table in self.tables())

    def csv(self) -> str:
        """Return a line of CSV for each row of the tables, with the JSON's names and plain numbers."""
        return as_csv(self._records())

    def _records(self) -> list[dict[str, Any]]:
        rows = []
        for each in self._all():
            document = _costs(each)
            about = {name: document[name] for name in ("base", "batch", "resolution", "dtype", "device")}
            rows += [about | result for result in document["results"]]
            rows += [about | point for point in document["sweep"] if point["batch"] != each.setting.batch]
        rows += [asdict(each) for each in (*self.skips, *self.sampling, *self.reuse)]
        return rows + [{"name": name} | figures for name, figures in self.quality.items()]

    def _all(self) -> list[Costs]:
        return [each for each in (self.costs, self.estimate) if each and each.results]


def facts(setting: BenchConfig) -> str:
    """Return the configuration in one line."""
    batch = f", batch {setting.batch}" if setting.batch else ""
    size, compiled = f"{setting.resolution}×{setting.resolution}", ", compiled" if setting.compiled else ""
    stored = f", base in {setting.quantize}" if setting.quantize != "none" else ""
    stored = f"{stored}, encoder offloaded" if setting.offload != "none" else stored
    beside = f", with {' and '.join(setting.beside)}" if setting.beside else ""
    return f"{setting.base} on {setting.device}, {size}{batch}, {setting.dtype}{compiled}{stored}{beside}"


def _costs(costs: Costs) -> dict[str, Any]:
    return {
        **asdict(costs.setting),
        "matrix_rate": costs.matrix_rate,
        "results": [each.document() | {"ratios": ratios(each, costs.results)} for each in costs.results],
        "sweep": [
            {"method": method, "batch": batch, "estimated_peak_memory": bytes_} for method, batch, bytes_ in costs.sweep
        ],
    }


def _sampling_table(times: Sequence[StepTime], device: str | None) -> Table:
    rows = []
    for each in times:
        low, high = (f"{quartile - 1:+.1%}" for quartile in each.ratio_quartiles)
        clock = "–" if each.clock_seconds is None else f"{each.clock_seconds:.3f}"
        figures = [f"{each.seconds:.3f}", clock, f"{each.ratio - 1:+.1%}", f"{low} … {high}", f"{each.once:.3f}"]
        rows.append([each.name, *figures])
    clocks = ["CPU s" if device == "cpu" else "seconds", "by the clock"]
    return ["one step", *clocks, "to the base", "quartiles", "once per image"], rows

"""The figures as tables, Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from scedit_cli.benchmark.config import Figures
from scedit_cli.utils.markdown import plain

Table = tuple[list[str], list[list[str]]]

_MIB = 2**20
_LEARNED = {  # column: (figure, unit, format)
    "steps": ("steps", 1, ",.0f"),
    "seconds": ("seconds", 1, ",.0f"),
    "rate": ("learning_rate", 1, ".2g"),
    "loss": ("loss", 1, ".4f"),
    "control score": ("score", 1, "z.3f"),
    "objects": ("objects", 1, ".3f"),
    "Fréchet": ("frechet", 1, ",.0f"),
    "parameters": ("trainable_parameters", 1, ",.0f"),
    "estimated MiB": ("estimated_peak_memory", _MIB, ",.0f"),
}
_ENDS = ("_low", "_high")  # of the names of 95 % intervals
_CONTROLLED = ("csc", "controlnet", "t2i")
_COMPARED = (
    "trainable_parameters", "flops_per_step", "peak_memory", "images_per_second", "processor_seconds_per_step",
    "file_size",
)  # fmt: skip


def reference_of(method: str, results: Sequence[Figures]) -> Figures | None:
    """Return the SCEdit method that `method` is compared with, if measured: a CSC-Tuner for methods with a hint, else
    an SC-Tuner; memory-lean if both are there."""
    able = {each.method: each for each in results if each.trainable_parameters is not None}
    names = ("csc", "csc-plain") if method.startswith(_CONTROLLED) else ("sc", "sc-plain")
    return next((able[name] for name in (*names, "sc", "sc-plain") if name in able), None)


def ratios(figures: Figures, results: Sequence[Figures]) -> dict[str, Any]:
    """Return each figure's ratio to SCEdit's, and `to`, the method that it is compared with."""
    reference = reference_of(figures.method, results)
    if reference is None or figures.trainable_parameters is None:
        return {}
    found: dict[str, Any] = {"to": reference.method}
    for name in _COMPARED:
        value, unit = getattr(figures, name), getattr(reference, name)
        if value is not None and unit:
            found[name] = value / unit
    return found


def cost_table(results: Sequence[Figures], estimated: bool) -> Table:
    """Return the table of costs; each figure is followed by its ratio to SCEdit's."""
    columns = {
        "method": lambda each: each.method,
        "parameters": lambda each: _figure(each, "trainable_parameters", 1e6, ".3g", results, " M"),
        "of base": lambda each: _percent(each.share_of_base),
        "of ControlNet": lambda each: _percent(each.share_of_controlnet),
        "GFLOP/step": lambda each: _figure(each, "flops_per_step", 1e9, ",.1f", results),
        "peak MiB": lambda each: _figure(each, "peak_memory", _MIB, ",.0f", results),
    }
    if estimated:
        columns["weights + gradients + optimizer + activations"] = lambda each: _memory(each)
        columns["encoders"] = lambda each: _encoders(each)
        columns["reserved"] = lambda each: _figure(each, "peak_reserved", _MIB, ",.0f")
    else:
        columns["estimated"] = lambda each: _figure(each, "estimated_peak_memory", _MIB, ",.0f")
        columns["reserved"] = lambda each: _figure(each, "peak_reserved", _MIB, ",.0f")
        columns["images/s"] = lambda each: _figure(each, "images_per_second", 1, ".3g", results, _spread(each))
        columns["CPU s/step"] = lambda each: _figure(each, "processor_seconds_per_step", 1, ".3g", results)
        columns["of matrix rate"] = lambda each: _percent(each.share_of_matrix_rate)
    columns["file MiB"] = lambda each: _figure(each, "file_size", _MIB, ",.1f")
    columns["largest batch"] = lambda each: "–" if each.largest_batch is None else str(each.largest_batch)
    rows = [[column(each) for column in columns.values()] for each in results]
    used = [k for k in range(len(columns)) if k == 0 or any(row[k] != "–" for row in rows)]
    return [list(columns)[k] for k in used], [[row[k] for k in used] for row in rows]


def sweep_table(sweep: Sequence[tuple[str, int, int]]) -> Table:
    """Return the estimated peak memory in MiB, with a row for each method and a column for each batch."""
    peaks = {(method, batch): f"{bytes_ / _MIB:,.0f}" for method, batch, bytes_ in sweep}
    batches = sorted({batch for _, batch, _ in sweep})
    methods = dict.fromkeys(method for method, _, _ in sweep)
    rows = [[method, *(peaks.get((method, batch), "–") for batch in batches)] for method in methods]
    return ["method", *(f"batch {batch}" for batch in batches)], rows


def quality_table(quality: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return the table of scores, or of quality and cost; a mean over seeds is followed by its deviation, and
    one over images by its 95 % interval."""
    if any("learning_rate" in each for each in quality.values()):
        columns = _LEARNED
    else:
        names = dict.fromkeys(name for figures in quality.values() for name in figures)
        names = [name for name in names if name not in ("scenes", "images") and not name.endswith(_ENDS)]
        columns = {name.replace("_", " "): (name, 1, ".3f") for name in names}
    rows = [[name, *(_learned(figures, *column) for column in columns.values())] for name, figures in quality.items()]
    return ["", *columns], rows


def quality_facts(quality: Mapping[str, Mapping[str, Any]]) -> str:
    """Return how many scenes and seeds the figures are means over."""
    last = list(quality.values())[-1]
    counts = {name: last[name] for name in ("seeds", "scenes", "images") if name in last}
    return ", ".join(f"{count} {name if count > 1 else name[:-1]}" for name, count in counts.items())


def evaluation_facts(details: Mapping[str, Any]) -> str:
    """Return how tuners were evaluated, in words that follow others; empty where none were."""
    if not details:
        return ""
    figures = [f"{kind}: {figure} (by {details['annotators'][kind]})" for kind, figure in details["figures"].items()]
    guided = f"guidance {details['guidance']:g}"
    if details.get("control_guidance", 1) != 1:
        guided += f", of the conditions {details['control_guidance']:g}"
    drawn = f"{details['sampler']}, {details['steps']} steps, {guided}, seed {details['seed']}"
    lacking = [f"{name} needs {weights}" for name, weights in details["missing"].items()]
    of = f" of {details['data']} ({', '.join(details['resolution'])})" if details["resolution"] else ""
    return "; ".join([of, f"protocol {details['protocol']}", drawn, *figures, *lacking])


def as_markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in GitHub's Markdown; the first column is text, the others are figures."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *([plain(text), *figures] for text, *figures in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def as_csv(documents: Sequence[dict[str, Any]]) -> str:
    """Return a CSV line per result, with the JSON's names and plain numbers; nested fields are `name.key`, `name.0`."""
    lines = [_flat(document) for document in documents]
    names = list(dict.fromkeys(name for line in lines for name in line))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return buffer.getvalue()


def _learned(figures: Mapping[str, Any], name: str, unit: float, form: str) -> str:
    value, deviation = (figures.get(each) for each in (name, f"{name}_deviation"))
    if value is None:
        return "–"
    low, high = (figures.get(f"{name}{end}") for end in _ENDS)
    if low is not None and high is not None:
        return f"{value / unit:{form}} ({low / unit:{form}} to {high / unit:{form}})"
    return f"{value / unit:{form}}" + ("" if deviation is None else f" ± {deviation / unit:{form}}")


def shown(value: Any) -> str:
    """Format a figure of a skip."""
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _flat(document: dict[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in document.items():
        if isinstance(value, list | tuple):
            value = dict(enumerate(value))
        if isinstance(value, dict):
            flat |= _flat(value, f"{before}{name}.")
        else:
            flat[f"{before}{name}"] = value
    return flat


def _figure(
    figures: Figures, name: str, unit: float, form: str, results: Sequence[Figures] = (), after: str = ""
) -> str:
    value = getattr(figures, name)
    if value is None:
        return "–"
    ratio = ratios(figures, results)
    times = f" ({ratio[name]:.2f}×)" if name in ratio and ratio["to"] != figures.method else ""
    return f"{value / unit:{form}}{after}{times}"


def _memory(figures: Figures) -> str:
    if not figures.memory:
        return "–"
    names = ("weights", "gradients", "optimizer", "activations")
    return " + ".join(f"{figures.memory.get(name, 0) / _MIB:,.0f}" for name in names)


def _encoders(figures: Figures) -> str:
    found = [figures.memory[name] for name in ("vae", "text") if name in figures.memory]
    return f"{sum(found) / _MIB:,.0f}" if found else "–"


def _spread(figures: Figures) -> str:
    if not figures.spread.images_per_second_quartiles:
        return ""
    slow, fast = figures.spread.images_per_second_quartiles
    return f" ± {(fast - slow) / 2:.2g}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.2%}"

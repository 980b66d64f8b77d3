"""The plot of a benchmark: memory, speed and parameters of the methods, and memory against batch size."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.io import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from scedit_cli.benchmark.compare import Costs

OURS, PEERS, INK, FAINT = "#d1495b", "#5b7c99", "#26262c", "#8a8f98"
_PARTS = {"libraries": "#e4e7eb", "weights": "#b9c4cf", "optimizer": "#8fa3b5", "gradients": "#5f7488"}
_LINES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
_MIB, _GIB = 2**20, 2**30


def check_plot(path: Path, argument: str = "`plot`") -> None:
    """Raise SceditError if the suffix of `path` is not that of an image format that can be drawn."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    suffixes = sorted(FigureCanvasAgg.get_supported_filetypes())
    if path.suffix.lower().removeprefix(".") not in suffixes:
        raise SceditError(
            f"{argument} {path}: not the name of an image", hint=f"end it in one of {', '.join(suffixes)}"
        )


def draw(path: Path, costs: Sequence[Costs]) -> None:
    """Draw a row of panels for each of `costs`: peak memory by category, speed (if measured), parameters, and memory
    against batch size (if swept). SCEdit's methods have their own colour.

    Raises:
        SceditError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    heights = [1.5 + 0.36 * max(4, len(_able(each))) for each in costs]
    with letter_by_letter():
        figure = Figure(figsize=(13, sum(heights)), dpi=130, layout="constrained")
        rows = figure.subfigures(len(costs), height_ratios=heights, squeeze=False)[:, 0]
        for row, each in zip(rows, costs, strict=True):
            _draw_row(row, each)
        save(figure, path)


def letter_by_letter() -> AbstractContextManager[None]:
    """Draw the dollar signs of names as they are within the block, not as formulas."""
    from matplotlib import rc_context

    return rc_context({"text.parse_math": False})


def save(figure: Figure, path: Path) -> None:
    """Write a figure whole, without the time and the random names that some formats contain."""
    from matplotlib import rc_context

    buffer, format = io.BytesIO(), path.suffix.lower().removeprefix(".")
    dated = {"svg": {"Date": None}, "svgz": {"Date": None}, "pdf": {"CreationDate": None}}
    with rc_context({"svg.hashsalt": "scedit"}):
        figure.savefig(buffer, format=format, metadata=dated.get(format))
    write_whole(path, buffer.getvalue())


def is_ours(method: str) -> bool:
    return method.startswith(("sc", "csc"))


def bars(axes: Axes, names: Sequence[str], values: Sequence[float], title: str, note: str = "") -> None:
    """Draw horizontal bars labelled with their figures, the first on top."""
    axes.barh(range(len(names)), values, color=[OURS if is_ours(name) else PEERS for name in names], height=0.68)
    label(axes, names, values, [f"{value:.3g}" for value in values])
    style(axes, title, note)


def label(axes: Axes, names: Sequence[str], ends: Sequence[float], texts: Sequence[str]) -> None:
    """Name the bars, and write a figure behind each, with enough room."""
    for row, (end, text) in enumerate(zip(ends, texts, strict=True)):
        axes.annotate(text, (end, row), (4, 0), textcoords="offset points", va="center", fontsize=8.5, color=INK)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlim(0, 1.25 * max(ends))
    axes.invert_yaxis()


def style(axes: Axes, title: str, note: str) -> None:
    axes.set_title(title, loc="left", fontsize=9.5, color=INK)
    axes.set_xlabel(note, loc="left", fontsize=8, color=FAINT)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.spines["left"].set_color(FAINT)
    axes.set_xticks([])
    axes.tick_params(axis="y", length=0, labelsize=9, labelcolor=INK)


def _draw_row(row: Figure, costs: Costs) -> None:
    shown = _able(costs)
    names = [each.method for each in shown]
    speeds = [each.images_per_second for each in shown]
    measured = all(each.images_per_second and each.spread.images_per_second_quartiles for each in shown)
    axes = row.subplots(1, 2 + measured + bool(costs.sweep), squeeze=False)[0]
    _memory(axes[0], costs)
    if measured:
        slow, fast = zip(*(each.spread.images_per_second_quartiles for each in shown), strict=True)
        spread = [
            [s - low for s, low in zip(speeds, slow, strict=True)],
            [high - s for s, high in zip(speeds, fast, strict=True)],
        ]
        colors = [OURS if is_ours(name) else PEERS for name in names]
        ink = {"ecolor": INK, "lw": 1}
        axes[1].barh(range(len(names)), speeds, xerr=spread, color=colors, height=0.68, error_kw=ink)
        label(axes[1], names, fast, [f"{value:.3g}" for value in speeds])
        style(axes[1], "images per second", "line: the middle half of the steps")
    bars(axes[1 + measured], names, [each.trainable_parameters / 1e6 for each in shown], "trained parameters, millions")
    if costs.sweep:
        _sweep(axes[-1], costs)
    used = costs.setting
    row.suptitle(
        f"A training step: {used.base}, {used.resolution}×{used.resolution}, batch {used.batch}, {used.dtype}, "
        f"{used.device}",
        x=0.01, ha="left", fontsize=10.5, color=INK,
    )  # fmt: skip


def _memory(axes: Axes, costs: Costs) -> None:
    """Draw the peak by category; all but the last part are held at the end of every step."""
    shown = _able(costs)
    names, left = [each.method for each in shown], [0.0] * len(shown)
    seen = []
    for part, color in _PARTS.items():
        # Measured gradients may reach their size only after the peak, so that only estimated ones are drawn.
        sizes = [each.memory.get(part, 0) / _MIB for each in shown]
        if part == "gradients" and costs.matrix_rate is not None or not any(sizes):
            continue
        axes.barh(range(len(shown)), sizes, left=left, color=color, height=0.68, label=part)
        left = [before + size for before, size in zip(left, sizes, strict=True)]
        seen.append(part)
    peaks = [each.peak_memory / _MIB for each in shown]
    rest = [peak - before for peak, before in zip(peaks, left, strict=True)]
    colors = [OURS if is_ours(name) else PEERS for name in names]
    axes.barh(range(len(shown)), rest, left=left, color=colors, height=0.68)
    label(axes, names, peaks, [f"{peak:,.0f}" for peak in peaks])
    style(axes, "peak memory, MiB", f"grays: {', '.join(seen)};\ncolour: activations")


def _sweep(axes: Axes, costs: Costs) -> None:
    methods = list(dict.fromkeys(method for method, _, _ in costs.sweep))
    counts = {True: 0, False: 0}
    for method in methods:
        batches, peaks = zip(*((batch, bytes_ / _GIB) for each, batch, bytes_ in costs.sweep if each == method))
        ours = is_ours(method)
        line = _LINES[counts[ours] % len(_LINES)]
        counts[ours] += 1
        axes.plot(batches, peaks, color=OURS if ours else PEERS, linestyle=line, linewidth=1.6, label=method)
    for each in costs.results:
        if each.images_per_second is not None:
            color = OURS if is_ours(each.method) else PEERS
            axes.plot([costs.setting.batch], [each.peak_memory / _GIB], "o", markersize=4, color=color)
    points = "; points: measured" if costs.matrix_rate else ""
    style(axes, "peak memory against batch size, GiB", f"lines: estimated{points}")
    axes.set_ylim(0, 1.05 * axes.get_ylim()[1])  # the highest line is drawn whole
    ticks = sorted({batch for _, batch, _ in costs.sweep})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.spines["bottom"].set_visible(True)
    axes.spines["bottom"].set_color(FAINT)
    axes.tick_params(axis="both", labelsize=8, labelcolor=INK, color=FAINT)
    axes.legend(frameon=False, fontsize=8, labelcolor=INK)


def _able(costs: Costs) -> list:
    return [each for each in costs.results if each.trainable_parameters is not None and each.peak_memory is not None]

"""A benchmark as a picture: memory, speed and parameters of the methods, side by side."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scedit_cli.benchmark.measure import Measurement
from scedit_cli.errors import SceditError
from scedit_cli.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_OURS, _PEERS, _FROZEN, _INK, _FAINT = "#d1495b", "#5b7c99", "#dfe3e8", "#26262c", "#8a8f98"
_MIB = 2**20


def check_plot(path: Path) -> None:
    """Raises SceditError where `path` does not end as a picture that can be drawn."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    suffixes = sorted(FigureCanvasAgg.get_supported_filetypes())
    if path.suffix.lower().removeprefix(".") not in suffixes:
        raise SceditError(f"--plot {path}: not the name of a picture", hint=f"end it in one of {', '.join(suffixes)}")


def draw(path: Path, results: Sequence[Measurement], title: str) -> None:
    """Writes the bars of all methods that were measured, SCEdit's in their own colour.

    Raises:
        SceditError: the place cannot be written to.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [each for each in results if each.trainable_parameters is not None]
    figure = Figure(figsize=(11, 1.3 + 0.42 * len(shown)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    memory, speed, size = figure.subplots(1, 3, sharey=True)
    names = [each.method for each in shown]
    colors = [_OURS if name.startswith(("sc", "csc")) else _PEERS for name in names]

    before = [each.memory_before / _MIB for each in shown]
    peak = [each.peak_memory / _MIB for each in shown]
    memory.barh(names, peak, color=colors, height=0.68)
    memory.barh(names, before, color=_FROZEN, height=0.68)
    _label(memory, peak, [f"{value:,.0f}" for value in peak])
    _style(memory, "peak memory, MiB", "light: libraries and the frozen U-Net")

    rate = [each.images_per_second for each in shown]
    slow, fast = zip(*(each.images_per_second_quartiles for each in shown), strict=True)
    spread = [[r - s for r, s in zip(rate, slow, strict=True)], [f - r for r, f in zip(rate, fast, strict=True)]]
    speed.barh(names, rate, xerr=spread, color=colors, height=0.68, error_kw={"ecolor": _INK, "elinewidth": 1})
    _label(speed, fast, [f"{value:.3g}" for value in rate])
    _style(speed, "images per second", "line: the middle half of the steps")

    millions = [each.trainable_parameters / 1e6 for each in shown]
    size.barh(names, millions, color=colors, height=0.68)
    _label(size, millions, [f"{value:.3g}" for value in millions])
    _style(size, "trained parameters, millions", "")

    memory.invert_yaxis()
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=_INK)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix.lower().removeprefix("."))
    write_whole(path, buffer.getvalue())


def _label(axes: Axes, ends: Sequence[float], texts: Sequence[str]) -> None:
    """Writes a figure behind each bar, with room for it."""
    for row, (end, text) in enumerate(zip(ends, texts, strict=True)):
        axes.annotate(text, (end, row), (4, 0), textcoords="offset points", va="center", fontsize=9, color=_INK)
    axes.set_xlim(0, 1.22 * max(ends))


def _style(axes: Axes, title: str, note: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, color=_INK)
    axes.set_xlabel(note, loc="left", fontsize=8, color=_FAINT)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.spines["left"].set_color(_FAINT)
    axes.set_xticks([])
    axes.tick_params(axis="y", length=0, labelsize=10, labelcolor=_INK)

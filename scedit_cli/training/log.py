"""The log of a run, one line of JSON per logged step, and the plot of its loss."""

from __future__ import annotations

import gc
import io
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scedit_cli.utils.io import read_json, write_whole

if TYPE_CHECKING:
    import numpy as np

_RAW, _SMOOTH, _HELD_OUT = "#9db4d6", "#1f4e9c", "#c8553d"


def read_log(path: Path, until: int | None = None) -> list[dict[str, Any]]:
    """Return the log's lines up to step `until`, without a last line that was cut off."""
    lines = []
    for text in path.read_text("utf-8").split("\n") if path.exists() else ():
        try:
            line = read_json(text)
        except ValueError:
            break
        if until is not None and line["step"] > until:
            break
        lines.append(line)
    return lines


def recent_loss(path: Path, count: int = 50) -> float | None:
    """Return the mean of the last `count` logged losses, or None where there are none."""
    losses = [line["loss"] for line in read_log(path) if line["loss"] is not None][-count:]
    return sum(losses) / len(losses) if losses else None


def last_value(path: Path, name: str) -> Any:
    """Return the value of `name` in the last line of the log that has it, or None where no line has it."""
    values = [line[name] for line in read_log(path) if name in line]
    return values[-1] if values else None


def as_lines(entries: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(entry) + "\n" for entry in entries)


def draw_curve(path: Path, lines: Sequence[dict[str, Any]], title: str) -> None:
    """Plot the loss of a log's lines over the steps: the values faint, their trend strong, and the loss on held-out
    images where it was measured. Without any loss no file is written."""
    import numpy as np

    # On its first import matplotlib scans all fonts and logs that in the middle of the progress line.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    known = [line for line in lines if line["loss"] is not None]
    if not known:
        return
    steps, raw = [line["step"] for line in known], np.asarray([line["loss"] for line in known])
    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(steps, raw, color=_RAW, linewidth=0.8, alpha=0.7, marker="." if len(raw) == 1 else None)
    axes.plot(steps, smoothed(raw), color=_SMOOTH, linewidth=2.0)
    held_out = [(line["step"], line["validation_loss"]) for line in known if "validation_loss" in line]
    if held_out:
        axes.plot(*zip(*held_out, strict=True), color=_HELD_OUT, linewidth=1.5, marker="o", label="held-out images")
        axes.legend(frameon=False)
        raw = np.concatenate([raw, [loss for _, loss in held_out]])
    low, high = np.percentile(raw, (0.5, 99.5))  # A few outliers must not flatten the curve.
    margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    axes.set_ylim(low - margin, high + margin)
    axes.set_xlim(0, 1.02 * max(steps))  # A point at the last step is drawn whole.
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.set_title(title, loc="left", fontsize=11, parse_math=False)  # Names may hold dollar signs.
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_whole(path, buffer.getvalue())
    del figure, axes
    gc.collect()  # A figure refers to itself, so memory would grow with every save until Python's own collection.


def smoothed(values: np.ndarray) -> np.ndarray:
    """Return the trend of `values` (N,) without lag: their mean under a centred Hann window about a twelfth as long."""
    import numpy as np

    half = max(1, len(values) // 24)
    window = np.hanning(2 * half + 3)[1:-1]
    weights = np.convolve(np.ones(len(values)), window)[half:-half]
    return np.convolve(values, window)[half:-half] / weights

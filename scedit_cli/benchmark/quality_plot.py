"""The plot of quality against cost: the methods' results, and the memory of their steps."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scedit_cli.benchmark.evaluation import CONDITION, LOOK
from scedit_cli.benchmark.plot import FAINT, INK, OURS, PEERS, is_ours, letter_by_letter, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MIB = 2**20
_BUDGETS = {"same steps": {"markerfacecolor": "white"}, "same seconds": {}}
_QUALITIES = {
    "score": "control score (more is better)",
    "frechet": "Fréchet distance (less is better)",
    "objects": "share of the named objects drawn (more is better)",
    "loss": "held-out denoising loss (less is better)",
}


def is_drawn(quality: Mapping[str, Mapping[str, Any]]) -> bool:
    """Return whether there are methods among the entries; only methods are drawn."""
    return bool(_trained(quality))


def draw_quality(path: Path, quality: Mapping[str, Mapping[str, Any]], title: str) -> None:
    """Draw a row of panels for the methods without a hint, and one for those with; names are "METHOD, BUDGET".

    Raises:
        SceditError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    trained = _trained(quality)
    groups = [
        {name: each for name, each in trained.items() if (each["score"] is None) == plain} for plain in (True, False)
    ]
    groups = [group for group in groups if group]
    panels = [
        [name for name in _QUALITIES if any(each[name] is not None for each in group.values())] for group in groups
    ]
    with letter_by_letter():
        figure = Figure(figsize=(3.6 * max(map(len, panels)), 3.5 * len(groups) + 0.5), dpi=130, layout="constrained")
        axes = figure.subplots(len(groups), max(map(len, panels)), squeeze=False)
        for row, group, names in zip(axes, groups, panels, strict=True):
            hinted = next(iter(group.values()))["score"] is not None
            row[0].set_ylabel(f"learned: {f'{CONDITION} control' if hinted else f'the {LOOK} look'}", color=INK)
            for panel, name in zip_longest(row, names):
                if name:
                    _draw_panel(panel, group, name)
                else:
                    panel.set_visible(False)
        legend = "hollow: after the same steps, filled: after the same seconds; bars: deviation over seeds"
        figure.suptitle(f"{title}; {legend}", x=0.01, ha="left", fontsize=10.5, color=INK)
        save(figure, path)


def _trained(quality: Mapping[str, Mapping[str, Any]]) -> dict[tuple[str, str], Mapping[str, Any]]:
    """Return the figures by (method, budget)."""
    named = {tuple(name.split(", ")): each for name, each in quality.items() if set(_QUALITIES) <= each.keys()}
    return {name: each for name, each in named.items() if name[1:] and name[1] in _BUDGETS}


def _draw_panel(axes: Axes, group: Mapping[tuple[str, str], Mapping[str, Any]], name: str) -> None:
    last = dict(group.keys())  # method -> its last budget, whose point is labelled
    for (method, budget), each in group.items():
        color = OURS if is_ours(method) else PEERS
        memory = each["estimated_peak_memory"] / _MIB
        error = each.get(f"{name}_deviation")
        look = {"fmt": "o", "markersize": 6, "color": color, "ecolor": color, "elinewidth": 1, **_BUDGETS[budget]}
        axes.errorbar(memory, each[name], error, **look)
        if budget == last[method]:
            axes.annotate(method, (memory, each[name]), (7, 3), textcoords="offset points", fontsize=8, color=INK)
    axes.set_title(_QUALITIES[name], loc="left", fontsize=9, color=INK)
    axes.set_xlabel("peak memory of a step, MiB (estimated)", fontsize=8, color=FAINT)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(labelsize=8, labelcolor=INK, color=FAINT)
    axes.margins(x=0.2, y=0.15)

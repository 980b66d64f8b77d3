"""The labelled grid of images: prompts by seeds, or by the scales of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image

from scedit_cli.generation.image_jobs import ImageJob
from scedit_cli.inference.sampler import grid

_ACROSS = 8  # images side by side


def sheet(
    jobs: Sequence[ImageJob], images: Sequence[Image.Image], shown: Sequence[Mapping[str, Image.Image]]
) -> Image.Image:
    """Draw a row for every row label of `jobs`, or several rows where its images are many. On the left are the
    condition images of the row's first job, unless they are those of the row above."""
    rows: dict[str, list[int]] = {}
    for i, job in enumerate(jobs):
        rows.setdefault(job.row, []).append(i)
    kinds = list(dict.fromkeys(kind for each in shown for kind in each))
    across = min(_ACROSS, max(map(len, rows.values())))
    cells, labels, above = [], [], {}
    for row, places in rows.items():
        for at in range(0, len(places), across):
            mine = shown[places[at]]
            given = [None if mine.get(kind) is above.get(kind) else mine.get(kind) for kind in kinds]
            cells.append([*given, *(images[i] for i in places[at : at + across])])
            labels.append(row if at == 0 else "")
            above = mine
    columns = {tuple(jobs[i].column for i in places) for places in rows.values()}
    told = columns.pop() if len(columns) == 1 else ()
    headings = told if 0 < len(told) <= across else [""] * across
    return grid(cells, [*kinds, *headings], labels if any(labels) else None)

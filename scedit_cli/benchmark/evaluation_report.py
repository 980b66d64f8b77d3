"""What an evaluation shows of its images: a table of all, and a contact sheet of the best, the median and the worst."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from scedit_cli.benchmark.report import as_csv
from scedit_cli.conditions.protocols import Protocol
from scedit_cli.data.evaluation_set import EvaluationSet
from scedit_cli.inference.evaluation import Arm, Evaluated, Evaluator
from scedit_cli.inference.sampler import grid
from scedit_cli.utils.transparency import in_8_bits

_EACH = 3  # images of the best, of the median and of the worst


def per_image_csv(images: EvaluationSet, found: Evaluated) -> str:
    """Return a line of CSV for each image and condition, with all figures as ARM.FIGURE."""
    rows = []
    for kind in images.specs or [None]:
        for place, item in enumerate(images.items):
            row = {"image": item.image.relative_to(images.dataset.path).as_posix(), "number": images.numbers[place],
                   "condition": kind or "", "caption": item.text}  # fmt: skip
            for arm, by_kind in found.figures.items():
                figures = by_kind.get(kind, [])
                row |= {f"{arm}.{name}": value for name, value in (figures[place] if figures else {}).items()
                        if name != "counts"}  # fmt: skip
            for arm, values in found.further.items():
                if "clip_score" in values:
                    row[f"{arm}.clip_score"] = float(values["clip_score"][place, 0])
            rows.append(row)
    return as_csv(rows)


def contact_sheet(evaluator: Evaluator, protocol: Protocol, found: Evaluated, arms: Sequence[Arm]) -> Image.Image:
    """Draw the images with the best, median and worst figures of the first condition, each arm in a column."""
    images = evaluator.images
    kind, name = next(iter(images.specs)), protocol.figure(next(iter(images.specs)))
    figures = [each[name] for each in found.figures["with"][kind]]
    order = sorted(range(len(images)), key=lambda place: figures[place], reverse=kind not in protocol.less_is_better)
    rows, labels = [], []
    for title, places in _chosen(order).items():
        for place in places:
            [batch] = [batch for batch in evaluator.batches if place in batch]
            drawn = [evaluator.drawn(arm, batch)[batch.index(place)] for arm in arms]
            shown = [in_8_bits(images.conditions(each, [place])[0]) for each in images.specs]
            rows.append([*shown, *drawn, *images.images([place])])
            values = ", ".join(f"{arm.name} {found.figures[arm.name][kind][place][name]:.3g}" for arm in arms)
            labels.append(f"{title}: {values} · {images.items[place].text}")
    return grid(rows, [*images.specs, *(arm.name for arm in arms), "reference"], labels)


def _chosen(order: Sequence[int]) -> dict[str, list[int]]:
    """Return the places of the best, median and worst images, from their order; few images are shown once."""
    if len(order) <= 3 * _EACH:
        return {"": list(order)} if len(order) < 3 else {
            "best": list(order[:1]), "median": list(order[1:-1]), "worst": list(order[-1:])
        }
    middle = (len(order) - _EACH) // 2
    return {"best": list(order[:_EACH]), "median": list(order[middle : middle + _EACH]), "worst": list(order[-_EACH:])}

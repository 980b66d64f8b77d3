"""Condition pictures by kind: how each is made from a picture, and how well a picture follows one.

A kind is a file in `kinds/` that defines `KIND`; nothing else has to know of it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from PIL import Image

from scedit_cli.conditions.registry import Annotator, Kind, all_kinds, annotators, find
from scedit_cli.conditions.scoring import (
    check_measurable,
    consistencies,
    consistency,
    control_score,
    measured,
    measured_by,
    measured_kinds,
)
from scedit_cli.utils.transparency import photograph

__all__ = [
    "KINDS", "Annotator", "Kind", "annotate", "annotators", "channels_of", "check_measurable", "consistencies",
    "consistency", "control_score", "find", "is_quick", "kind_of_path", "measured", "measured_by", "measured_kinds",
    "scene_annotator",
]  # fmt: skip

KINDS: tuple[str, ...] = tuple(all_kinds())


def annotate(
    kind: str,
    image: Image.Image,
    annotator: str | None = None,
    weights: Path | None = None,
    device: str = "cpu",
    **parameters: float | str,
) -> Image.Image:
    """The condition picture of `image`, of its size. `find(kind).annotator().load` serves many pictures.

    Args:
        annotator: by default the kind's first.
        weights: a folder with local copies of the annotator's weights; by default they come from the hub.
        device: PyTorch's name of the device that computes it.
        parameters: the annotator's settings.

    Raises:
        SceditError: an unknown kind, annotator or parameter, or weights that are not there.
    """
    chosen = find(kind).annotator(annotator)
    return chosen.load(chosen.settings(**parameters), weights, device)([photograph(image)])[0]


def channels_of(kind: str) -> int:
    """Of a hint of this kind: 3, or 4 where its alpha counts. A kind that nothing makes has 3."""
    return find(kind).channels if kind in KINDS else 3


def is_quick(kind: str) -> bool:
    """Whether a condition of this kind can be made without a network's weights."""
    return kind in KINDS and not find(kind).annotator().weights


def scene_annotator(kind: str) -> str | None:
    """The annotator that reads pictures of the embedded world, for the kinds that have one of its own."""
    return "scene" if any(each.name == "scene" for each in annotators(kind)) else None


def kind_of_path(path: str | os.PathLike[str]) -> str | None:
    """The kind that a condition picture's name tells (`depth.png`, `chair-depth.png`), else its folder's
    (`conditions/depth/0001.png`); None where neither names one, or the name several."""
    path = Path(path)
    for name in (path.stem, path.parent.name):
        named = _named(name.lower())
        if named:
            return named.pop() if len(named) == 1 else None
    return None


def _named(name: str) -> set[str]:
    """The kinds whose names are words of `name`; of lineart and lineart-anime the longer."""
    words = f"-{'-'.join(re.findall('[a-z0-9]+', name))}-"
    named = {kind for kind in KINDS if f"-{kind}-" in words}
    return {kind for kind in named if not any(kind != other and f"-{kind}-" in f"-{other}-" for other in named)}

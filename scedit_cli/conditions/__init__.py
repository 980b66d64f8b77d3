"""Condition images by kind: their annotators, and measures of how well an image follows a condition.

A kind is a file in `kinds/` that defines `KIND`; it needs no other registration.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from PIL import Image

from scedit_cli.conditions.registry import Annotator, Kind, all_kinds, annotators, find, kind_named
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
    "consistency", "control_score", "find", "is_quick", "kind_named", "kind_of_path", "measured", "measured_by",
    "measured_kinds", "scene_annotator",
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
    """Return the condition image of `image`, in the same size. For many images use `find(kind).annotator().load`.

    Args:
        annotator: the annotator's name; by default the kind's first.
        weights: a folder with local copies of the annotator's weights; by default they come from the hub.
        device: PyTorch's name of the device to compute on.
        parameters: the annotator's settings.

    Raises:
        SceditError: the kind, annotator or a parameter is unknown, or weights are missing.
    """
    chosen = find(kind).annotator(annotator)
    return chosen.load(chosen.settings(**parameters), weights, device)([photograph(image)])[0]


def channels_of(kind: str) -> int:
    """Return the channels of a hint of this kind: 3, or 4 where its alpha counts. A user's own kind has 3."""
    return kind_named(kind).channels


def is_quick(kind: str) -> bool:
    """Return whether a condition of this kind can be made without a network's weights."""
    return kind in KINDS and not find(kind).annotator().weights


def scene_annotator(kind: str) -> str | None:
    """Return the annotator of images of the embedded world; None for kinds that have none of its own."""
    return "scene" if any(each.name == "scene" for each in annotators(kind)) else None


def kind_of_path(path: str | os.PathLike[str]) -> str | None:
    """Return the kind in a condition image's name (`depth.png`, `chair-depth.png`), else in its folder's
    (`conditions/depth/0001.png`); None where neither contains a kind, or the first that does contains several."""
    path = Path(path)
    for name in (path.stem, path.parent.name):
        named = _named(name.lower())
        if named:
            return named.pop() if len(named) == 1 else None
    return None


def _named(name: str) -> set[str]:
    """Return the kinds whose names are words of `name`; "lineart-anime" does not count as "lineart" too."""
    words = f"-{'-'.join(re.findall('[a-z0-9]+', name))}-"
    named = {kind for kind in KINDS if f"-{kind}-" in words}
    return {kind for kind in named if not any(kind != other and f"-{kind}-" in f"-{other}-" for other in named)}

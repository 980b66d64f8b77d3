"""Condition pictures by kind: how each is made from a picture, and how well a picture follows one.

A kind is a file in `kinds/` that defines `KIND`; nothing else has to know of it.
"""

from __future__ import annotations

import difflib
import os
import pkgutil
import re
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from PIL import Image

from scedit_cli.conditions import kinds
from scedit_cli.conditions.kind import Kind
from scedit_cli.errors import SceditError

__all__ = ["KINDS", "Kind", "annotate", "consistencies", "consistency", "control_score", "find", "kind_of_path"]

_REGISTRY: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        import_module(f"{kinds.__name__}.{module.name}").KIND for module in pkgutil.iter_modules(kinds.__path__)
    )
}
KINDS: tuple[str, ...] = tuple(_REGISTRY)


def find(name: str) -> Kind:
    """The kind called `name`.

    Raises:
        SceditError: there is none.
    """
    if name not in _REGISTRY:
        guess = difflib.get_close_matches(name, KINDS, n=1)
        hint = f"did you mean {guess[0]}?" if guess else f"choose one of {', '.join(KINDS)}"
        raise SceditError(f"no kind of condition is called {name!r}", hint)
    return _REGISTRY[name]


def annotate(kind: str, image: Image.Image, annotator: str | None = None, **parameters: float | str) -> Image.Image:
    """The condition picture of `image`, of its size. `find(kind).annotate` takes many pictures at once.

    Raises:
        SceditError: an unknown kind, annotator or parameter.
    """
    return find(kind).annotate([image.convert("RGB")], annotator, **parameters)[0]


def consistency(kind: str, picture: Image.Image, condition: Image.Image) -> float:
    """How well `picture` follows `condition`, in [0, 1]: its own condition picture, compared by the kind's measure.

    Raises:
        SceditError: an unknown kind, or pictures of two sizes.
    """
    return consistencies(kind, [picture], [condition])[0]


def consistencies(kind: str, pictures: Sequence[Image.Image], conditions: Sequence[Image.Image]) -> list[float]:
    """`consistency` of each picture with the condition at its place, the quick way for many."""
    measure = find(kind).consistency
    for picture, condition in zip(pictures, conditions, strict=True):
        if picture.size != condition.size:
            sizes = ["x".join(map(str, image.size)) for image in (picture, condition)]
            raise SceditError(f"a picture of {sizes[0]} pixels cannot be compared with a {kind} of {sizes[1]}")
    return measure([p.convert("RGB") for p in pictures], [c.convert("RGB") for c in conditions]) if pictures else []


def control_score(with_: Sequence[float], without: Sequence[float], reconstruction: Sequence[float]) -> float | None:
    """What share of the reachable control a tuner gives: (with - without) / (reconstruction - without), each the mean
    consistency over the same pictures. Generated with the tuner, without it, and real ones through the autoencoder,
    which no latent model can surpass by much. None where there is nothing to reach."""
    means = [sum(values) / len(values) for values in (with_, without, reconstruction)]
    reachable = means[2] - means[1]
    return (means[0] - means[1]) / reachable if reachable > 0 else None


def kind_of_path(path: str | os.PathLike[str]) -> str | None:
    """The kind that a condition picture's name tells (`depth.png`, `chair-depth.png`), else its folder's
    (`conditions/depth/0001.png`); None where neither names one, or the name several."""
    path = Path(path)
    for name in (path.stem, path.parent.name):
        named = {word for word in re.split(r"[^a-z0-9]+", name.lower()) if word in _REGISTRY}
        if named:
            return named.pop() if len(named) == 1 else None
    return None

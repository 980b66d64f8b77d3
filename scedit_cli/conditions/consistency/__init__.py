"""How well pictures follow their conditions: one measure a kind, each in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PIL import Image

from scedit_cli.conditions.consistency.color import color_agreement
from scedit_cli.conditions.consistency.depth import depth_agreement
from scedit_cli.conditions.consistency.edges import edge_f1
from scedit_cli.conditions.consistency.normal import normal_agreement
from scedit_cli.conditions.consistency.seg import mean_iou
from scedit_cli.errors import SceditError

Pictures = Sequence[Image.Image]
Measure = Callable[[Pictures, Pictures], list[float]]

MEASURES: dict[str, Measure] = {
    "canny": edge_f1,
    "color": color_agreement,
    "depth": depth_agreement,
    "normal": normal_agreement,
    "seg": mean_iou,
}


def consistency(kind: str, picture: Image.Image, condition: Image.Image) -> float:
    """How well `picture` follows `condition`, in [0, 1]: its own condition picture, compared by the kind's measure.

    Raises:
        SceditError: a kind without a measure, or pictures of two sizes.
    """
    return consistencies(kind, [picture], [condition])[0]


def consistencies(kind: str, pictures: Pictures, conditions: Pictures) -> list[float]:
    """`consistency` of each picture with the condition at its place, the quick way for many."""
    if kind not in MEASURES:
        raise SceditError(f"nothing measures how well a picture follows {kind}", hint=f"choose {', '.join(MEASURES)}")
    for picture, condition in zip(pictures, conditions, strict=True):
        if picture.size != condition.size:
            sizes = ["x".join(map(str, image.size)) for image in (picture, condition)]
            raise SceditError(f"a picture of {sizes[0]} pixels cannot be compared with a {kind} of {sizes[1]}")
    if not pictures:
        return []
    return MEASURES[kind]([p.convert("RGB") for p in pictures], [c.convert("RGB") for c in conditions])


def control_score(with_: Sequence[float], without: Sequence[float], reconstruction: Sequence[float]) -> float | None:
    """What share of the reachable control a tuner gives: (with - without) / (reconstruction - without), each the mean
    consistency over the same pictures. Generated with the tuner, without it, and real ones through the autoencoder,
    which no latent model can surpass by much. None where there is nothing to reach."""
    means = [sum(values) / len(values) for values in (with_, without, reconstruction)]
    reachable = means[2] - means[1]
    return (means[0] - means[1]) / reachable if reachable > 0 else None

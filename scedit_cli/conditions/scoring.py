"""Consistency of images with their conditions: images are annotated again and compared by their kind's measure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from scedit_cli.conditions.annotation_spec import AnnotationSpec
from scedit_cli.conditions.consistency.measure import Figures, Measure
from scedit_cli.conditions.registry import Annotator, all_kinds, find
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.transparency import condition_image, photograph


def measured_kinds() -> tuple[str, ...]:
    """Return the kinds that have a measure."""
    return tuple(name for name, kind in all_kinds().items() if kind.measure)


def consistency(kind: str, image: Image.Image, condition: Image.Image, annotator: str | None = None) -> float:
    """Return how well `image` follows `condition`, in [0, 1]: its own condition image is compared with it by the
    kind's measure.

    Raises:
        SceditError: the kind has no measure or lacks the annotator, or the two images differ in size.
    """
    return consistencies(kind, [image], [condition], annotator)[0]


def consistencies(
    kind: str,
    images: Sequence[Image.Image],
    conditions: Sequence[Image.Image],
    annotator: str | None = None,
    device: str = "cpu",
) -> list[float]:
    """Return the `consistency` of each image with the condition at the same place, faster than one by one."""
    return [figures["consistency"] for figures in measured(kind, images, conditions, annotator, device=device)]


def measured(
    kind: str,
    images: Sequence[Image.Image],
    conditions: Sequence[Image.Image],
    annotator: str | None = None,
    weights: Path | None = None,
    device: str = "cpu",
    measure: Measure | None = None,
    **parameters: float | str,
) -> list[Figures]:
    """Return for each image its `consistency` (0 to 1) with the condition at the same place and the measure's other
    figures, by name and in their own units.

    Args:
        annotator: the annotator that made the conditions; by default the kind's first.
        weights, device: as in `annotate`.
        measure: the measure; by default the annotator's own.
        parameters: the settings with which the conditions were made.

    Raises:
        SceditError: as in `consistency`.
    """
    if measure:
        chosen = find(kind).annotator(annotator)
    else:
        chosen, measure = _measure(kind, annotator)
    for image, condition in zip(images, conditions, strict=True):
        if image.size != condition.size:
            sizes = ["x".join(map(str, each.size)) for each in (image, condition)]
            raise SceditError(f"an image of {sizes[0]} pixels cannot be compared with a {kind} of {sizes[1]}")
    found = [photograph(image) for image in images]
    conditions = [condition_image(each, find(kind).channels, f"the {kind} condition") for each in conditions]
    if measure.annotates and found:
        found = chosen.load(chosen.settings(**parameters), weights, device)(found)
    return [measure.compare(mine, wanted) for mine, wanted in zip(found, conditions, strict=True)]


def measured_by(
    makers: Sequence[AnnotationSpec],
    images: Sequence[Image.Image],
    conditions: Sequence[Image.Image],
    device: str = "cpu",
    choose: Callable[[str], Measure] | None = None,
) -> list[Figures]:
    """Return `measured` for each image with the condition and the spec at the same place. `makers` are the specs that
    made the conditions, without ranges; `choose` returns the measure for an annotator's name. Raises as `measured`."""
    alike: dict[AnnotationSpec, list[int]] = defaultdict(list)
    for place, maker in enumerate(makers):
        alike[maker].append(place)
    figures: list[Figures] = [{} for _ in makers]
    for maker, places in alike.items():
        found, wanted = ([each[place] for place in places] for each in (images, conditions))
        measure = choose and choose(maker.by)
        values = measured(maker.kind, found, wanted, maker.by, maker.weights, device, measure, **dict(maker.values))
        for place, value in zip(places, values, strict=True):
            figures[place] = value
    return figures


def check_measurable(
    kind: str,
    annotator: str | None = None,
    weights: Path | None = None,
    device: str = "cpu",
    **parameters: float | str,
) -> None:
    """Load everything that `measured` needs, so that errors appear before images are generated.

    Raises:
        SceditError: the kind has no measure or lacks the annotator, or weights are missing.
        WorkFailed: the hub cannot be reached.
    """
    chosen, measure = _measure(kind, annotator)
    if measure.annotates:
        chosen.load(chosen.settings(**parameters), weights, device)


def _measure(kind: str, annotator: str | None) -> tuple[Annotator, Measure]:
    if kind not in measured_kinds():
        known = ", ".join(measured_kinds())
        raise SceditError(f"nothing measures how well an image follows {kind}", hint=f"choose {known}")
    chosen = find(kind).annotator(annotator)
    return chosen, chosen.measure or find(kind).measure


def control_score(with_: Sequence[float], without: Sequence[float], reconstruction: Sequence[float]) -> float | None:
    """Return the share of the reachable control that a tuner gives: (with - without) / (reconstruction - without).

    Each term is the mean consistency over the same conditions: of images generated with the tuner, of images generated
    without it, and of real images through the autoencoder, which no latent model surpasses by much. None where the
    reconstruction is no better than the images without the tuner.
    """
    means = [sum(values) / len(values) for values in (with_, without, reconstruction)]
    reachable = means[2] - means[1]
    return (means[0] - means[1]) / reachable if reachable > 0 else None

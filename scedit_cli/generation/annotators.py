"""The annotator and settings that make a condition of a photograph, or of a generated image to compare the two."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from scedit_cli import conditions
from scedit_cli.conditions.annotation_spec import AnnotationSpec, make_spec, parameters_of
from scedit_cli.conditions.registry import Annotator
from scedit_cli.core.tuners import Tuner
from scedit_cli.data.annotation import recorded_maker
from scedit_cli.inference.controls import Condition
from scedit_cli.models.loading import EMBEDDED
from scedit_cli.recipe import settings_of_made
from scedit_cli.utils.errors import SceditError


def annotation_for(
    condition: Condition, given: Mapping[str, str], taker: Tuner | None, base: str, weights: Path | None = None
) -> AnnotationSpec | None:
    """Return how `condition` was made, or is to be made of its photograph; None for a kind without annotators.

    The `given` settings come first; the others are those recorded in the condition image's file, else those in the
    recipe of `taker`, the tuner that takes it, else the annotator's defaults. The annotator is the one that the
    condition image's file records, else on the embedded base the base's own reader where the kind has it, else the
    kind's first.

    Raises:
        SceditError: a given setting is unknown, invalid or a range.
    """
    kind = condition.kind
    if kind not in conditions.KINDS:
        return None
    known = None if condition.spec.photo else recorded_maker(condition.spec.file, kind)
    if known:
        annotator, values = known.annotator, {name: str(value) for name, value in known.values}
    else:
        annotator = conditions.find(kind).annotator(conditions.scene_annotator(kind) if base == EMBEDDED else None)
        values = _taught(annotator, taker)
    order = make_spec(annotator, values | given, weights)
    if order.ranges:
        name, low, high = order.ranges[0]
        raise SceditError(
            f"--param {kind}.{name}={low:g}..{high:g}: one picture has nothing to draw from", hint="give one number"
        )
    return order


def _taught(annotator: Annotator, taker: Tuner | None) -> dict[str, str]:
    """Return the settings in the tuner's recipe, without those that it drew for each image."""
    params = settings_of_made(taker.metadata.get("recipe", "")) if taker else []
    try:
        return dict(make_spec(annotator, parameters_of([annotator.kind], params)[annotator.kind]).values)
    except SceditError:
        return {}

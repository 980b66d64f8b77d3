"""By whom and with which settings a condition is made: of a photo, and of a generated picture to compare the two."""

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
    """How `condition` was made, or is to be made of its photo; None for a kind that nothing makes.

    Settings are those `given`; the others are what the condition picture's file says of itself, else what the recipe
    of `taker`, the tuner that takes it, made of the pictures it learned from, else the annotator's defaults. The
    annotator is the one that the condition picture names, else on the embedded base the base's own reader where the
    kind has it, else the kind's first.

    Raises:
        SceditError: an unknown setting or a value that cannot be, among those given.
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
    """The settings in the recipe of the tuner; those that it drew for each picture are nobody's."""
    params = settings_of_made(taker.metadata.get("recipe", "")) if taker else []
    try:
        return dict(make_spec(annotator, parameters_of([annotator.kind], params)[annotator.kind]).values)
    except SceditError:
        return {}

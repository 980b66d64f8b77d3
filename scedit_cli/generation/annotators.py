"""The annotator and settings that make a condition of a photograph, or of a generated image to compare the two."""

from __future__ import annotations

from scedit_cli import conditions
from scedit_cli.conditions.annotation_spec import AnnotationSpec, make_spec, parameters_of
from scedit_cli.conditions.registry import Annotator
from scedit_cli.core.tuners import Tuner
from scedit_cli.data.annotation import recorded_maker
from scedit_cli.data.inputs import file_of
from scedit_cli.inference.controls import OpenedControl
from scedit_cli.models.loading import EMBEDDED
from scedit_cli.recipe import settings_of_made
from scedit_cli.utils.errors import SceditError, in_field
from scedit_cli.utils.io import expanded


def annotation_for(opened: OpenedControl, taker: Tuner | None, base: str) -> AnnotationSpec | None:
    """Return how a condition image was made, or is to be made of its photograph; None for a kind without annotators.

    The control's own settings come first; the others are those recorded in the condition image's file, else those in
    the recipe of `taker`, the tuner that takes it, else the annotator's defaults. The annotator is the one that the
    condition image's file records, else on the embedded base the base's own reader where the kind has it, else the
    kind's first.

    Raises:
        SceditError: a given setting is unknown, invalid or a range.
    """
    control, kind = opened.control, opened.kind
    if kind not in conditions.KINDS:
        return None
    known = recorded_maker(file, kind) if (file := file_of(control.image)) else None
    if known:
        annotator, values = known.annotator, {name: str(value) for name, value in known.values}
    else:
        annotator = conditions.find(kind).annotator(conditions.scene_annotator(kind) if base == EMBEDDED else None)
        values = _trained_settings(annotator, taker)
    weights = None if control.weights is None else expanded(control.weights)
    field = f"{opened.field}.params"
    with in_field(field, named=False):
        spec = make_spec(annotator, values | dict(control.params), weights)
    if spec.ranges:
        name, low, high = spec.ranges[0]
        message = f"{field} {kind}.{name}={low:g}..{high:g}: one image has nothing to draw from"
        raise SceditError(message, "give one number", field)
    return spec


def _trained_settings(annotator: Annotator, taker: Tuner | None) -> dict[str, str]:
    """Return the settings in the tuner's recipe, without those that it drew for each image."""
    params = settings_of_made(taker.metadata.get("recipe", "")) if taker else []
    try:
        return dict(make_spec(annotator, parameters_of([annotator.kind], params, "data.params")[annotator.kind]).values)
    except SceditError:
        return {}

"""The weights that a run starts from in place of new ones: those of a tuner that there is."""

from __future__ import annotations

from scedit_cli.core.bundle import Bundle, tuners_of
from scedit_cli.core.source import locate, read_header
from scedit_cli.core.tuners import Tuner
from scedit_cli.core.weights import FORMAT, load_tuner
from scedit_cli.models.base import Base
from scedit_cli.recipe import TunerSection
from scedit_cli.scenes import tuner_place
from scedit_cli.utils.errors import SceditError, in_field
from scedit_cli.utils.reporter import SILENT, Reporter

# The key of a recipe that decides each of a tuner's sizes.
_KEYS = {
    "hidden": "tuner.down_ratio",
    "hint_channels": "tuner.hint_channels",
    "hint_kernel": "tuner.hint_kernel",
    "hint_widths": "tuner.hint_width",
}


def start_from(tuner: Tuner | Bundle, options: TunerSection, base: Base, reporter: Reporter = SILENT) -> None:
    """Give `tuner` the weights of the tuner that `options.weights` names; the scales of a bundle are left out.

    Raises:
        SceditError: there is no tuner, or it has other conditions or sizes.
    """
    name = options.weights
    with in_field("tuner.weights"):
        file = locate(tuner_place(name))
        names_its_conditions = read_header(file)[0].get("format") == FORMAT
        found = load_tuner(file, None if names_its_conditions else options.kinds)
        ours, theirs = tuners_of(tuner), tuners_of(found)
        if [each.condition for each in ours] != [each.condition for each in theirs]:
            told = f"{name} holds the {found}, and the recipe trains the {tuner}"
            raise SceditError(told, "name a tuner of the same conditions")
        for one, other in zip(ours, theirs, strict=True):
            _check_sizes(name, one, other)
            one.load_state_dict(other.state_dict())
    reporter.note(f"starting from the weights of {name}")
    if isinstance(found, Bundle) and set(found.scales) != {1.0}:
        said = ", ".join(f"{scale:g}" for scale in found.scales)
        reporter.note(f"tuner.weights: {name} has the scales {said}; training begins with 1")
    facts = {"base_fingerprint": base.fingerprint, "prediction_type": base.prediction_type}
    called = {"base_fingerprint": "base", "prediction_type": "prediction type"}
    if other := [called[fact] for fact, value in facts.items() if theirs[0].metadata.get(fact, value) != value]:
        reporter.note(f"tuner.weights: {name} was trained for another {' and '.join(other)}; training adapts it")


def _check_sizes(name: str, ours: Tuner, theirs: Tuner) -> None:
    """Raise SceditError that names the key of the recipe by which the sizes of the tuner `name` differ."""
    for part, size in ours.sizes.items():
        if size != theirs.sizes[part]:
            told = f"{name}: {part} of its {theirs} is {theirs.sizes[part]}, this recipe's is {size}"
            hint = f"set {_KEYS[part]} as it was trained" if part in _KEYS else "it is for another kind of base"
            raise SceditError(told, hint)

"""The keys of a recipe that may, or may not, change when a run is resumed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from scedit_cli.utils.errors import SceditError

Values = Mapping[str, Mapping[str, Any]]

# A change of these keys makes a different run. Base and images are identified by their content, not by their names.
_FIXED = {
    *("tuner.kind", "tuner.condition", "tuner.conditions", "tuner.down_ratio"),
    *("tuner.hint_kernel", "tuner.hint_channels", "tuner.hint_width", "tuner.weights"),
    *("data.scenes", "data.seed", "data.look", "data.make"),
    *("train.batch_size", "train.seed", "train.optimizer", "train.optimizer_options"),
    *("train.prediction", "train.zero_terminal_snr"),
    *("base.prediction", "validation.pictures", "validation.seed"),
}
# These do not affect the result of any step.
_FREE_SECTIONS = ("checkpoints", "samples", "tracking", "score", "validation")
_FREE = {
    *("base.model", "base.revision", "base.vae", "base.vae_revision", "data.path"),
    *("train.micro_batch_size", "train.memory", "train.recompute", "train.offload", "train.tf32"),
    *("train.channels_last", "train.compile", "train.max_skipped", "train.checkpoint_every", "train.log_every"),
}


def check_changes(before: Values, now: Values) -> str | None:
    """Return a sentence about the changes that affect the training of a run begun with the values `before` (section ->
    key -> value) and resumed with those of `now`; None where there are none.

    Raises:
        SceditError: keys that may not change differ; the message names all of them.
    """
    changes = list(_changes(before, now))
    if refused := [sentence for key, sentence in changes if key in _FIXED]:
        raise SceditError(
            f"the run cannot be resumed with another recipe: {'; '.join(refused)}",
            hint="resume with the recipe it began with, or start a new run",
        )
    others = [sentence for key, sentence in changes if key not in _FREE and not key.startswith(_FREE_SECTIONS)]
    return f"resuming with another recipe: {'; '.join(others)}" if others else None


def _changes(before: Values, now: Values) -> Iterator[tuple[str, str]]:
    """Yield each key whose value differs, with a sentence about it."""
    for section, values in now.items():
        for key, value in values.items():
            if before[section][key] != value:
                name = f"{section}.{key}"
                yield name, f"{name} was {_said(before[section][key])} and is {_said(value)}"


def _said(value: object) -> str:
    return "left out" if value is None else str(value)

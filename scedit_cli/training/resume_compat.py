"""What a recipe may change while a run is on its way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from scedit_cli.recipe import Recipe, load_recipe
from scedit_cli.utils.errors import SceditError

# With another of these it would be another run. The base and the pictures are known by what is in them, not by name.
_FIXED = {
    *("tuner.kind", "tuner.condition", "tuner.down_ratio"),
    *("tuner.hint_kernel", "tuner.hint_channels", "tuner.hint_width"),
    *("data.scenes", "data.seed", "data.look", "data.make"),
    *("train.batch_size", "train.seed", "train.optimizer", "train.optimizer_options"),
    *("train.prediction", "train.zero_terminal_snr"),
    *("base.prediction", "validation.pictures", "validation.seed"),
}
# No step's outcome depends on them.
_FREE_SECTIONS = ("checkpoints", "samples", "tracking", "score", "validation")
_FREE = {
    *("base.model", "base.revision", "base.vae", "base.vae_revision", "data.path"),
    *("train.micro_batch_size", "train.memory", "train.recompute", "train.tf32", "train.channels_last"),
    *("train.compile", "train.max_skipped", "train.checkpoint_every", "train.log_every"),
}


def check_changes(begun_with: Path, recipe: Recipe) -> str | None:
    """A sentence about what `recipe` changes in the learning of a run whose own recipe is the file `begun_with`; None
    where it changes nothing, or the file is gone.

    Raises:
        SceditError: it changes what cannot change on the way; every such key is named.
    """
    try:
        before = load_recipe(begun_with)
    except SceditError:  # removed, or written by another version: the checkpoint itself is checked in any case
        return None
    changes = list(_changes(before, recipe))
    if refused := [sentence for key, sentence in changes if key in _FIXED]:
        raise SceditError(
            f"the run cannot go on with another recipe: {'; '.join(refused)}",
            hint="resume with the recipe it began with, or start a new run",
        )
    told = [sentence for key, sentence in changes if key not in _FREE and not key.startswith(_FREE_SECTIONS)]
    return f"going on with another recipe: {'; '.join(told)}" if told else None


def _changes(before: Recipe, now: Recipe) -> Iterator[tuple[str, str]]:
    """Each key whose value differs, and a sentence about it."""
    old, new = before.model_dump(), now.model_dump()
    for section, values in new.items():
        for key, value in values.items():
            if old[section][key] != value:
                name = f"{section}.{key}"
                yield name, f"{name} was {_said(old[section][key])} and is {_said(value)}"


def _said(value: object) -> str:
    return "left out" if value is None else str(value)

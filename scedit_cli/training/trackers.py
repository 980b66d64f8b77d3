"""TensorBoard and Weights & Biases, through accelerate's trackers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from scedit_cli.recipe import TrackingSection
from scedit_cli.utils.errors import not_installed


def check_trackers(tracking: TrackingSection) -> None:
    """Check that the trackers are installed; raise SceditError otherwise."""
    from accelerate.tracking import get_available_trackers

    here = [str(getattr(kind, "value", kind)) for kind in get_available_trackers()]
    for name in tracking.to:
        if name not in here:
            raise not_installed(f"tracking.to {name}", name, name)


class Trackers:
    """The trackers that a recipe names, which show its values (section -> key -> value). TensorBoard writes into
    `folder`, Weights & Biases beside it."""

    def __init__(self, tracking: TrackingSection, values: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        self._trackers = []
        for name in tracking.to:
            kind = LOGGER_TYPE_TO_CLASS[name]
            place = {"logging_dir": folder} if kind.requires_logging_directory else {"dir": folder.parent}
            tracker = kind(tracking.project, **place)
            tracker.start()
            tracker.store_init_configuration(_flat(values))
            self._trackers.append(tracker)

    def log(self, values: dict[str, Any], step: int) -> None:
        numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
        for tracker in self._trackers:
            tracker.log(numbers, step=step)

    def show(self, name: str, image: Image.Image, step: int) -> None:
        for tracker in self._trackers:
            layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            tracker.log_images({name: np.asarray(image)[None]}, step=step, **layout)

    def close(self) -> None:
        for tracker in self._trackers:
            tracker.finish()


def _flat(values: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return all values by "section.key"; those other than numbers, booleans and strings become strings."""
    values = {f"{name}.{key}": each for name, section in values.items() for key, each in section.items()}
    return {key: each if isinstance(each, bool | int | float | str) else str(each) for key, each in values.items()}

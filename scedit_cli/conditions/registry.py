"""Kinds of condition and annotators, and their look-up by name."""

from __future__ import annotations

import difflib
import pkgutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, ValidationError

from scedit_cli.conditions import kinds as _kinds
from scedit_cli.conditions import licences
from scedit_cli.conditions.consistency.measure import Measure
from scedit_cli.conditions.looks import Look
from scedit_cli.conditions.quiet import silent
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.transparency import condition_image

Make = Callable[[Sequence[Image.Image]], list[Image.Image]]


class Parameters(BaseModel):
    """The settings of an annotator. Every setting has a default, and settings with equal values are equal and hash
    alike."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Annotator:
    """One way to make the condition images of a kind.

    Attributes:
        kind: the kind of condition that it makes.
        name: its name, which differs from those of the kind's other annotators.
        library: the library that does the work.
        loader: the function that `load` calls.
        weights: hub repositories ("owner/repository"), or single files in them ("owner/repository:file").
        licence: the licence of the weights, or of the library where there are none.
        commercial: whether that licence allows commercial use.
        parameters: the model of its settings.
        measure: its own measure of consistency; None for the kind's.
        can_use: returns whether it computes on a device (PyTorch's name); by default it does so if it has weights.
    """

    kind: str
    name: str
    library: str
    loader: Callable[[Any, Path | None, str], Make]
    weights: tuple[str, ...] = ()
    licence: str = "Apache-2.0"
    commercial: bool = True
    parameters: type[Parameters] = Parameters
    measure: Measure | None = None
    can_use: Callable[[str], bool] | None = None

    def runs_on(self, device: str) -> bool:
        """Return whether it computes on `device`, a device other than the CPU, when it is loaded for that."""
        return self.can_use(device) if self.can_use else bool(self.weights)

    def load(self, parameters: Parameters, weights: Path | None = None, device: str = "cpu") -> Make:
        """Return a function from RGB images to as many condition images of the same sizes; the batch does not affect
        them. Loading again with other parameters is cheap.

        Args:
            parameters: settings from `settings`.
            weights: a folder with local copies of the weights; None for the hub.
            device: PyTorch's name of the device to compute on.

        Raises:
            SceditError: the weights' licence is not accepted, or weights are missing.
            WorkFailed: the hub cannot be reached.
        """
        licences.require(self)
        with silent() if self.weights else nullcontext():  # only libraries that load weights print
            return self.loader(parameters, weights, device)

    def settings(self, **values: Any) -> Parameters:
        """Return the default settings, overridden by `values` (numbers, or their texts).

        Raises:
            SceditError: parameters are unknown or values invalid; the message names all of them.
        """
        try:
            return self.parameters(**values)
        except ValidationError as error:
            wrong = [self._told(each) for each in error.errors()]
            raise SceditError(
                f"{self.kind} by {self.name}: {'; '.join(told for told, _ in wrong)}",
                hint="; ".join(dict.fromkeys(hint for _, hint in wrong)),
            ) from None

    def _told(self, error: Any) -> tuple[str, str]:
        if not error["loc"]:  # settings that do not go together
            return error["msg"].removeprefix("Value error, "), "set both"
        name = str(error["loc"][0])
        if error["type"] == "extra_forbidden":
            takes = ", ".join(sorted(self.parameters.model_fields))
            return f"no parameter {name!r}", f"it takes {takes or 'none'}"
        wanted = error["msg"].removeprefix("Value error, ")
        return f"{name} is {error['input']!r}", f"{name}: {wanted[:1].lower()}{wanted[1:]}"


@dataclass(frozen=True)
class Kind:
    """A kind of condition image, such as canny.

    Attributes:
        name: the name, also of the dataset's folder and column and of the tuner's condition.
        annotators: its annotators, the default first.
        measure: the measure of how well an image follows a condition; None where there is none.
        channels: the hint's channels, a CSC-Tuner's `in_channels`: 3, or 4 where the condition image's alpha counts.
        labels: whether colours stand for classes, so that resizing must not blend them.
        look: how its condition images look.
    """

    name: str
    annotators: tuple[Annotator, ...]
    measure: Measure | None = None
    channels: int = 3
    labels: bool = False
    look: Look = Look()

    def hint(self, image: Image.Image) -> np.ndarray:
        """Return a condition image as the tuner sees it: float32 (channels, H, W) in [0, 1]. 8-bit values are divided
        by 255, 16-bit ones by 65535; a gray channel is repeated; without alpha, an image counts as opaque.

        Raises:
            SceditError: the image's transparency leaves nothing of it.
        """
        image = condition_image(image, self.channels, f"the {self.name} condition")
        if image.mode.startswith("I;16"):
            values = np.asarray(image)[..., None] / np.float32(65535)
        else:
            values = np.asarray(image.convert("RGBA" if self.channels == 4 else "RGB")) / np.float32(255)
        return np.broadcast_to(values, (*values.shape[:2], self.channels)).transpose(2, 0, 1)

    def doubt(self, image: Image.Image) -> str | None:
        """Return what makes it doubtful that `image` is of this kind, to follow the image's name; else None."""
        return self.look.difference(image, self.name)

    def annotator(self, name: str | None = None) -> Annotator:
        """Return the annotator `name`, by default the first.

        Raises:
            SceditError: the kind has none of that name.
        """
        for each in self.annotators:
            if name in (None, each.name):
                return each
        has = ", ".join(each.name for each in self.annotators)
        raise SceditError(f"{self.name} has no annotator {name!r}", hint=f"it has {has}")


def annotators(kind: str) -> tuple[Annotator, ...]:
    """Return the annotators of a kind, the default first.

    Raises:
        SceditError: no kind has that name.
    """
    return find(kind).annotators


def find(name: str) -> Kind:
    """Return the kind `name`.

    Raises:
        SceditError: no kind has that name.
    """
    if name not in all_kinds():
        guess = difflib.get_close_matches(name, all_kinds(), n=1)
        hint = f"did you mean {guess[0]}?" if guess else f"choose one of {', '.join(all_kinds())}"
        raise SceditError(f"no kind of condition is called {name!r}", hint)
    return all_kinds()[name]


def kind_named(name: str) -> Kind:
    """Return the kind `name`, or for the name of a user's own kind one without annotators."""
    return all_kinds().get(name) or Kind(name, ())


@cache
def all_kinds() -> dict[str, Kind]:
    """Return all kinds by name: the constant KIND of each file in `kinds/`."""
    modules = (import_module(f"{_kinds.__name__}.{module.name}") for module in pkgutil.iter_modules(_kinds.__path__))
    return {module.KIND.name: module.KIND for module in modules}

"""What a kind of condition and an annotator are, and where they are found by name."""

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
from scedit_cli.conditions.quiet import silent
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.transparency import condition_image

Make = Callable[[Sequence[Image.Image]], list[Image.Image]]


class Parameters(BaseModel):
    """An annotator's settings: every one has a default, and equal settings are equal and hash alike."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Annotator:
    """One way to make the condition pictures of a kind.

    Attributes:
        kind: the kind of condition that it makes.
        name: what --annotator calls it.
        library: the library that does the work.
        loader: what `load` calls.
        weights: hub repositories ("owner/repository"), or single files in them ("owner/repository:file").
        licence: of the weights, or of the library where there are none.
        commercial: whether that licence allows commercial use.
        parameters: the model of its settings.
        measure: how a picture is compared with what it makes, where that is not the kind's.
        can_use: whether it computes on a device, by PyTorch's name; by default on any, where it has weights.
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
        """Whether another device than the CPU does its work when it is loaded for that."""
        return self.can_use(device) if self.can_use else bool(self.weights)

    def load(self, parameters: Parameters, weights: Path | None = None, device: str = "cpu") -> Make:
        """A function from RGB pictures to as many condition pictures of their sizes, each made for itself, whatever it
        is batched with. Loading again with other parameters is cheap.

        Args:
            parameters: from `settings`.
            weights: a folder with local copies of the weights; None for the hub.
            device: PyTorch's name of the device that computes.

        Raises:
            SceditError: the weights' licence is not accepted, or they are not there.
            WorkFailed: the hub cannot be reached.
        """
        licences.require(self)
        with silent() if self.weights else nullcontext():  # what loads nothing has nothing to say
            return self.loader(parameters, weights, device)

    def settings(self, **values: Any) -> Parameters:
        """`values` (numbers, or their texts) over the defaults.

        Raises:
            SceditError: names every unknown parameter and every value that cannot be.
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
        name = str(error["loc"][0]) if error["loc"] else "parameters"
        if error["type"] == "extra_forbidden":
            takes = ", ".join(sorted(self.parameters.model_fields))
            return f"no parameter {name!r}", f"it takes {takes or 'none'}"
        wanted = error["msg"].removeprefix("Value error, ")
        return f"{name} is {error['input']!r}", f"{name}: {wanted[:1].lower()}{wanted[1:]}"


@dataclass(frozen=True)
class Kind:
    """A kind of condition picture, such as canny.

    Attributes:
        name: names the dataset's folder and column, and the tuner's condition.
        annotators: the default first.
        measure: how well a picture follows one; None where nothing tells.
        channels: of the hint, so a CSC-Tuner's `in_channels`: 3, or 4 where the condition picture's alpha counts.
        labels: its colours stand for classes, so that resizing must not blend them.
    """

    name: str
    annotators: tuple[Annotator, ...]
    measure: Measure | None = None
    channels: int = 3
    labels: bool = False

    def hint(self, picture: Image.Image) -> np.ndarray:
        """A condition picture as the tuner sees it: float32 (channels, H, W) in [0, 1]. 8-bit values are divided by
        255, 16-bit ones by 65535; one gray channel is repeated; a picture without alpha is all kept.

        Raises:
            SceditError: its transparency leaves nothing of it.
        """
        picture = condition_image(picture, self.channels, f"the {self.name} condition")
        if picture.mode.startswith("I;16"):
            values = np.asarray(picture)[..., None] / np.float32(65535)
        else:
            values = np.asarray(picture.convert("RGBA" if self.channels == 4 else "RGB")) / np.float32(255)
        return np.broadcast_to(values, (*values.shape[:2], self.channels)).transpose(2, 0, 1)

    def annotator(self, name: str | None = None) -> Annotator:
        """The annotator called `name`, by default the first.

        Raises:
            SceditError: the kind has none of that name.
        """
        for each in self.annotators:
            if name in (None, each.name):
                return each
        has = ", ".join(each.name for each in self.annotators)
        raise SceditError(f"{self.name} has no annotator {name!r}", hint=f"it has {has}")


def annotators(kind: str) -> tuple[Annotator, ...]:
    """The annotators of a kind, the default first.

    Raises:
        SceditError: no kind has that name.
    """
    return find(kind).annotators


def find(name: str) -> Kind:
    """The kind called `name`.

    Raises:
        SceditError: there is none.
    """
    if name not in all_kinds():
        guess = difflib.get_close_matches(name, all_kinds(), n=1)
        hint = f"did you mean {guess[0]}?" if guess else f"choose one of {', '.join(all_kinds())}"
        raise SceditError(f"no kind of condition is called {name!r}", hint)
    return all_kinds()[name]


@cache
def all_kinds() -> dict[str, Kind]:
    """Every kind by its name: one a file in `kinds/`, where it is called KIND."""
    modules = (import_module(f"{_kinds.__name__}.{module.name}") for module in pkgutil.iter_modules(_kinds.__path__))
    return {module.KIND.name: module.KIND for module in modules}

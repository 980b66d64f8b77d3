"""Tuners that a caller gives to be merged or evaluated. PyTorch is imported only when one is loaded."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scedit_cli.utils.errors import SceditError

if TYPE_CHECKING:
    from scedit_cli.core.bundle import Bundle
    from scedit_cli.core.tuners import Tuner
    from scedit_cli.inference.controls import PlacedTuner


@dataclass(frozen=True)
class Ingredient:
    """A tuner or bundle, and its scale.

    Attributes:
        tuner: a loaded one, or a file, folder, hub id or shipped tuner's name.
        scale: a factor on the scales that a bundle has already; None is 1.
        conditions: the conditions of another program's CSC-Tuners, in order.
    """

    tuner: str | Path | Tuner | Bundle
    scale: float | None = None
    conditions: tuple[str, ...] = ()

    @property
    def file(self) -> str | None:
        """The name of its file; None for a loaded tuner."""
        return str(self.tuner) if isinstance(self.tuner, str | Path) else None

    def placed(self, number: int = 1) -> list[PlacedTuner]:
        """Return its tuners; one without a file is called after its `number`.

        Raises:
            SceditError: the file is missing or no tuner, or the named conditions do not suit its tuners.
        """
        from scedit_cli.core.tuners import CSCTuner
        from scedit_cli.inference.controls import placed_of

        # It gets other conditions below.
        source = copy.deepcopy(self.tuner) if self.conditions and self.file is None else self.tuner
        placed = placed_of(source, self.scale, f"tuner {number}")
        if not self.conditions:
            return placed
        file = self.file or placed[0].file
        takers = [each.tuner for each in placed if isinstance(each.tuner, CSCTuner)]
        if len(self.conditions) != len(takers):
            raise SceditError(
                f"{file} holds {len(takers)} CSC-Tuners, and {', '.join(self.conditions)} names {len(self.conditions)}",
                hint="name each one, as in canny,depth=FILE",
            )
        for name, tuner in zip(self.conditions, takers, strict=True):
            if "format" in tuner.metadata and tuner.condition != name:
                raise SceditError(
                    f"{file} takes {tuner.condition} conditions, not {name}",
                    hint="KIND= names the conditions of another program's file; leave it out",
                )
            tuner.condition = name
        return placed


def ingredients(tuners: Sequence[object]) -> list[Ingredient]:
    """Return ingredients of tuners, bundles or files, each alone or in a pair with its scale."""
    found = []
    for each in tuners:
        if isinstance(each, Ingredient):
            found.append(each)
        elif isinstance(each, tuple):
            found.append(Ingredient(*each))
        else:
            found.append(Ingredient(each))
    return found

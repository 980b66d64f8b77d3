"""What a kind of condition is made of."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from scedit_cli.errors import SceditError

Pictures = Sequence[Image.Image]
Annotator = Callable[..., list[Image.Image]]
Measure = Callable[[Pictures, Pictures], list[float]]


@dataclass(frozen=True)
class Kind:
    """A kind of condition picture, such as canny.

    Attributes:
        name: names the dataset's folder and column, and the tuner's condition.
        annotators: by name, the default first. Each takes RGB pictures, and numbers as keywords with defaults, and
            gives condition pictures of the same sizes.
        consistency: how well each picture follows its condition picture, in [0, 1].
        labels: its colours stand for classes, so that resizing must not blend them.
    """

    name: str
    annotators: Mapping[str, Annotator]
    consistency: Measure
    labels: bool = False

    def annotate(
        self, pictures: Pictures, annotator: str | None = None, **parameters: float | str
    ) -> list[Image.Image]:
        """Condition pictures, one per RGB picture, by `annotator` (default: the kind's first).

        Raises:
            SceditError: the kind has no such annotator, or the annotator no such parameter or value.
        """
        annotator = annotator or next(iter(self.annotators))
        if annotator not in self.annotators:
            raise SceditError(
                f"{self.name} has no annotator {annotator!r}", hint=f"it has {', '.join(self.annotators)}"
            )
        run = self.annotators[annotator]
        known = {name for name, p in inspect.signature(run).parameters.items() if p.default is not p.empty}
        for name in parameters:
            if name not in known:
                takes = f"it takes {', '.join(sorted(known))}" if known else "it takes none"
                raise SceditError(f"{self.name} by {annotator} has no parameter {name!r}", hint=takes)
        return run(pictures, **{name: self._number(name, value) for name, value in parameters.items()})

    def _number(self, name: str, value: float | str) -> float:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number) or number < 0:
            raise SceditError(f"{self.name}: {name} is {value!r}", hint="give a number, 0 or more")
        return number

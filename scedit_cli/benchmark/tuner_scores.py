"""The scores of tuners, as shown by `bench --quality --tuner`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from scedit_cli.core.tuners import Tuner
from scedit_cli.models.base import Base
from scedit_cli.training.evaluation import control_scores, style_score
from scedit_cli.utils.errors import SceditError


def scores_of(
    base: Base, tuners: Sequence[Tuner], scales: Sequence[float], scenes: int, on_step: Callable[[int, int], None]
) -> dict[str, dict[str, Any]]:
    """Return the control scores of tuners attached together, by condition; for a single SC-Tuner its score as "style".

    Raises:
        SceditError: there are several SC-Tuners, or a condition that scenes do not have.
    """
    if any(tuner.condition for tuner in tuners):
        scores = control_scores(base, tuners, scales, scenes=scenes, on_step=on_step)
        return {
            kind: {name.rstrip("_"): value for name, value in asdict(each).items()} for kind, each in scores.items()
        }
    if len(tuners) > 1:
        raise SceditError("the quality of one SC-Tuner is measured at a time", hint="scedit merge makes one of several")
    return {"style": asdict(style_score(base, tuners[0], scale=scales[0], scenes=scenes, on_step=on_step))}

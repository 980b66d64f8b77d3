"""The scores of tuners, as shown by `bench --quality --tuner`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from scedit_cli.core.tuners import Tuner
from scedit_cli.models.base import Base
from scedit_cli.training.evaluation import control_scores, style_score
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.reporter import Reporter


def scores_of(
    base: Base, tuners: Sequence[Tuner], scales: Sequence[float], scenes: int, reporter: Reporter
) -> dict[str, dict[str, Any]]:
    """Return the control scores of tuners attached together, by condition; for a single SC-Tuner its score as "style".

    Raises:
        SceditError: there are several SC-Tuners, or a condition that scenes do not have.
    """
    if any(tuner.condition for tuner in tuners):
        scores = control_scores(base, tuners, scales, scenes=scenes, reporter=reporter)
        return {
            kind: {name.rstrip("_"): value for name, value in asdict(each).items()} for kind, each in scores.items()
        }
    if len(tuners) > 1:
        raise SceditError("--quality measures one SC-Tuner at a time", hint="scedit merge makes one of several")
    return {"style": asdict(style_score(base, tuners[0], scale=scales[0], scenes=scenes, reporter=reporter))}

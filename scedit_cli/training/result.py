"""The result of a run."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scedit_cli.training.evaluation import Score


@dataclass(frozen=True)
class TrainResult:
    """The result of a run. `seconds` is the time of the whole command; `images_per_second` counts its training steps
    alone, and is None without any; `waiting_share` is the share of their time that they waited for data.
    `validation_loss` is the last loss on held-out images, `best` the step of the highest control score on them, and
    `skipped` the number of steps that fp16 left out; `scores` are the control scores at the end by condition."""

    run: Path
    tuner: Path
    steps: int
    seconds: float
    images_per_second: float | None
    loss: float | None
    trainable_parameters: int
    scores: Mapping[str, Score]
    resumed_at: int | None
    waiting_share: float | None = None
    validation_loss: float | None = None
    skipped: int = 0
    best: Mapping[str, Any] | None = None

    @property
    def control_score(self) -> float | None:
        """The mean control score of all conditions; None where one has none."""
        known = [each.score for each in self.scores.values()]
        return statistics.fmean(known) if known and None not in known else None

    def document(self) -> dict[str, Any]:
        """Return the result as a JSON document."""
        consistencies = {
            kind: {key.rstrip("_"): value for key, value in asdict(each).items() if key != "score"}
            for kind, each in self.scores.items()
        }
        return {
            "run": str(self.run),
            "tuner": str(self.tuner),
            "steps": self.steps,
            "resumed_at": self.resumed_at,
            "seconds": round(self.seconds, 3),
            "images_per_second": self.images_per_second,
            "loss": self.loss,
            "trainable_parameters": self.trainable_parameters,
            "waiting_share": self.waiting_share,
            "validation_loss": self.validation_loss,
            "skipped": self.skipped,
            "best": self.best,
            "control_score": self.control_score,
            "consistency": next(iter(consistencies.values()), None) if len(consistencies) < 2 else consistencies,
        }

    def summary(self) -> list[tuple[str, str]]:
        """Return the rows (name, value) that a person reads."""
        speed = f", {self.images_per_second:.1f} images/s" if self.images_per_second else ""
        if self.waiting_share is not None:
            speed += f", {self.waiting_share:.1%} of the time waiting for data"
        minutes, seconds = divmod(round(self.seconds), 60)
        rows = [
            ("run", str(self.run)),
            ("tuner", f"{self.tuner} ({self.trainable_parameters:,} parameters)"),
            ("steps", f"{self.steps} in {minutes}:{seconds:02d} min{speed}"),
            ("loss", "unknown" if self.loss is None else f"{self.loss:.4f}"),
        ]
        if self.validation_loss is not None:
            rows.append(("held out", f"{self.validation_loss:.4f}"))
        if self.skipped:
            rows.append(("skipped", f"{self.skipped} steps whose values fp16 could not hold"))
        if self.best:
            rows.append(("best", f"control score {self.best['control_score']:z.3f} at step {self.best['step']}"))
        for kind, score in self.scores.items():
            known = "none to reach" if score.score is None else f"{score.score:z.3f}"
            rows.append(
                (
                    "control score" + (f", {kind}" if len(self.scores) > 1 else ""),
                    f"{known} over {score.scenes} held-out scenes (consistency {score.with_:z.3f} with the "
                    f"tuner, {score.without:z.3f} without, {score.reconstruction:z.3f} reconstructed)",
                )
            )
        return rows

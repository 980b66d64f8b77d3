"""What a run does beside its steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from scedit_cli.data.scenes import Example
from scedit_cli.recipe import CheckpointsSection, SamplesSection, TrainSection, ValidationSection
from scedit_cli.training.metrics import HeldOutScores
from scedit_cli.training.trackers import Trackers


@dataclass(frozen=True)
class LoopPlan:
    """What a run does beside its steps.

    Attributes:
        train, checkpoints, samples, validation: the sections of its recipe.
        title: the heading of the loss curve.
        recipe: the text of the resolved recipe, which the run's folder keeps.
        examples: a function that returns the examples of the sample grids.
        trackers: a function that opens the trackers.
        scores: the control scores on held-out images, where they are measured.
    """

    train: TrainSection
    checkpoints: CheckpointsSection
    samples: SamplesSection
    validation: ValidationSection
    title: str
    recipe: str
    examples: Callable[[], list[Example]]
    trackers: Callable[[], Trackers]
    scores: HeldOutScores | None = None

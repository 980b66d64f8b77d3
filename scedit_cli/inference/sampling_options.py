"""How the images of an evaluation are drawn."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SamplingOptions:
    """The sampling of an evaluation; None leaves a value to the base, and a `control_guidance` of 1 is none. The image
    at a place of the dataset has the noise of `seed` plus that place."""

    steps: int | None = None
    guidance: float | None = None
    control_guidance: float = 1.0
    scheduler: str | None = None
    seed: int = 0
    batch_size: int | None = None

"""The moving average of a tuner's weights, by diffusers' EMAModel, as in diffusers' own training scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from scedit_cli.core.tuners import Tuner

if TYPE_CHECKING:
    from diffusers.training_utils import EMAModel


def average_of(tuner: Tuner, decay: float, steps: int = 0) -> EMAModel:
    """Return an average that holds the tuner's weights and has had `steps` updates.

    The decay warms up: update n, counted from 0, decays by min(`decay`, (1 + n) / (10 + n)) and the first one by 0, so
    that the weights before training never count.
    """
    from diffusers.training_utils import EMAModel

    average = EMAModel(tuner.parameters(), decay, foreach=True)
    average.optimization_step = steps
    return average


def averaged_weights(average: EMAModel, tuner: Tuner) -> dict[str, Tensor]:
    """Return the averaged weights by their names in `tuner`."""
    names = [name for name, _ in tuner.named_parameters()]
    return dict(zip(names, average.shadow_params, strict=True))

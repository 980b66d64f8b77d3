"""The moving average of a tuner's weights, kept by diffusers' EMAModel as its own training scripts keep theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from scedit_cli.core.tuners import Tuner

if TYPE_CHECKING:
    from diffusers.training_utils import EMAModel


def average_of(tuner: Tuner, decay: float, steps: int = 0) -> EMAModel:
    """Return an average that holds the tuner's weights, and into which `steps` steps have gone.

    The decay warms up: step n counts from 0 and decays by min(`decay`, (1 + n) / (10 + n)), the first one by 0, so that
    what the weights were before training never counts.
    """
    from diffusers.training_utils import EMAModel

    average = EMAModel(tuner.parameters(), decay, foreach=True)
    average.optimization_step = steps
    return average


def averaged_weights(average: EMAModel, tuner: Tuner) -> dict[str, Tensor]:
    """The averaged weights by their names in `tuner`."""
    names = [name for name, _ in tuner.named_parameters()]
    return dict(zip(names, average.shadow_params, strict=True))

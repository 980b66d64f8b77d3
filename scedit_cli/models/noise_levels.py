"""The noise levels that a U-Net was trained on, read from its scheduler."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scedit_cli.core.objective import FLOW, PREDICTION_TYPES
from scedit_cli.models.samplers import CONTINUOUS, EDM, SAMPLERS, kind_of
from scedit_cli.models.samplers import FLOW as FLOW_MATCHING
from scedit_cli.utils.errors import SceditError

if TYPE_CHECKING:
    from diffusers import SchedulerMixin


@dataclass(frozen=True)
class NoiseLevels:
    """T noise levels, the least noise first: at each, the U-Net takes √ᾱ·x_0 + √(1-ᾱ)·ε and a time.

    EDM's preconditioning (Karras et al. 2022, arXiv 2206.00364, table 1) has this form too: with latents divided by
    σ_data and ᾱ = 1/(1 + (σ/σ_data)²), the input c_in·(x_0 + σ·ε) is the one above, and the network's output F is v, or
    -v where diffusers calls the prediction "epsilon". A loss on F is the paper's loss, whose weight is 1/c_out².

    In flow matching the U-Net takes (1-σ)·x_0 + σ·ε instead, and ᾱ is (1-σ)².

    Attributes:
        alphas: ᾱ, (T,).
        times: the U-Net's time input, (T,): the level's number, ln(σ)/4, or T·σ in flow matching.
        prediction_type: the quantity that the U-Net predicts: "epsilon", "v_prediction", "sample" or "flow".
        sign: 1, or -1 where the U-Net's output is the negative of that quantity.
        sigma_data: the deviation that the latents are divided by.
    """

    alphas: Tensor
    times: Tensor
    prediction_type: str
    sign: int = 1
    sigma_data: float = 1.0

    def alphas_on(self, device: torch.device) -> Tensor:
        """Return ᾱ on `device`, in float32 on Apple's accelerators: EDM's lowest levels need float64, which they lack.
        """
        return (self.alphas.float() if device.type == "mps" else self.alphas).to(device)


def noise_levels(scheduler: SchedulerMixin) -> NoiseLevels:
    """Return the noise levels of a base's scheduler, one per training timestep."""
    prediction_type = prediction_of(scheduler)
    kind = kind_of(scheduler)
    if kind == FLOW_MATCHING:
        # A new scheduler's own sigmas, with the shift that it was made with: sampling replaces them by its steps'.
        sigmas = type(scheduler).from_config(scheduler.config).sigmas.flip(0).double()
        return NoiseLevels((1 - sigmas).square(), (sigmas * len(sigmas)).float(), prediction_type)
    if kind not in (EDM, CONTINUOUS):
        # The scheduler's own alphas_cumprod will not do: Euler's end at a small value where they should end at 0.
        alphas = (1 - scheduler.betas).cumprod(0)
        return NoiseLevels(alphas, torch.arange(len(alphas)), prediction_type)
    whole = copy.deepcopy(scheduler)
    whole.set_timesteps(scheduler.config.num_train_timesteps)
    sigmas, times = whole.sigmas[:-1].flip(0), whole.timesteps.flip(0)  # the last sigma ends sampling
    sigma_data = scheduler.config.get("sigma_data", 1.0)
    alphas = 1 / (1 + (sigmas.double() / sigma_data).square())
    sign = -1 if kind == EDM and prediction_type == "epsilon" else 1
    return NoiseLevels(alphas, times, "v_prediction", sign, sigma_data)


def prediction_of(scheduler: SchedulerMixin) -> str:
    """Return the quantity that a base with this scheduler predicts; schedulers for flow matching do not name it."""
    return FLOW if kind_of(scheduler) == FLOW_MATCHING else scheduler.config.prediction_type


def check_scheduler(scheduler: SchedulerMixin, name: str, by_size: bool = False) -> None:
    """Check that the scheduler of base `name` has noise levels to sample from and to train on; with `by_size`, they may
    be shifted by the image's size in sampling.

    Raises:
        SceditError: it has no betas, a prediction type that is not known, or a form of flow matching that is not.
    """
    kind, config = type(scheduler).__name__, scheduler.config
    prediction_type = config.get("prediction_type")
    is_edm = kind_of(scheduler) == EDM
    if kind.removesuffix("Scheduler") in SAMPLERS[FLOW_MATCHING]:
        if config.get("use_dynamic_shifting") and not by_size:
            raise SceditError(
                f"base {name}: the noise levels of its scheduler, {kind}, change with the image's size",
                hint="set use_dynamic_shifting to false and a shift in scheduler/scheduler_config.json",
            )
        return
    if kind.startswith("FlowMatch") or config.get("use_flow_sigmas") or prediction_type == "flow_prediction":
        raise SceditError(
            f"base {name}: its scheduler, {kind}, is set to flow matching, which is sampled by others",
            hint=f"name one of {', '.join(SAMPLERS[FLOW_MATCHING])} in scheduler/scheduler_config.json",
        )
    known = PREDICTION_TYPES[:2] if is_edm else PREDICTION_TYPES[:3]
    if prediction_type not in known:
        raise SceditError(
            f"base {name}: what its U-Net predicts is {prediction_type!r} by its scheduler, {kind}",
            hint=f"prediction_type in scheduler_config.json is one of {', '.join(known)}",
        )
    if not is_edm and not (hasattr(scheduler, "betas") and hasattr(scheduler, "alphas_cumprod")):
        raise SceditError(
            f"base {name}: its scheduler, {kind}, has no noise levels (betas) to train on",
            hint="name another in scheduler/scheduler_config.json, such as DDIMScheduler",
        )

"""The noise levels that a U-Net was trained on, as its scheduler tells them."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scedit_cli.core.objective import PREDICTION_TYPES
from scedit_cli.models.samplers import CONTINUOUS, EDM, kind_of
from scedit_cli.utils.errors import SceditError

if TYPE_CHECKING:
    from diffusers import SchedulerMixin


@dataclass(frozen=True)
class NoiseLevels:
    """T noise levels, the least noise first: at each the U-Net sees √ᾱ·x_0 + √(1-ᾱ)·ε and is told a time.

    Schedulers with EDM's preconditioning (Karras et al. 2022, arXiv 2206.00364, table 1) fit in: with latents over
    σ_data and ᾱ = 1/(1 + (σ/σ_data)²), the input c_in·(x_0 + σ·ε) is the one above, the network's F is v, or -v where
    diffusers calls what it predicts "epsilon", and a loss on F is the paper's, whose weight is 1/c_out².

    Attributes:
        alphas: ᾱ, (T,).
        times: the time that the U-Net is told, (T,): the level's number, or ln(σ)/4.
        prediction_type: what the U-Net predicts: "epsilon", "v_prediction" or "sample".
        sign: 1, or -1 where the U-Net's output is the negative of it.
        sigma_data: the deviation that the latents are divided by.
    """

    alphas: Tensor
    times: Tensor
    prediction_type: str
    sign: int = 1
    sigma_data: float = 1.0

    def alphas_on(self, device: torch.device) -> Tensor:
        """ᾱ on a device; Apple's accelerators have no float64, which EDM's lowest levels need."""
        return (self.alphas.float() if device.type == "mps" else self.alphas).to(device)


def noise_levels(scheduler: SchedulerMixin) -> NoiseLevels:
    """The noise levels that a base's scheduler tells: as many as it has timesteps."""
    prediction_type = scheduler.config.prediction_type
    kind = kind_of(scheduler)
    if kind not in (EDM, CONTINUOUS):
        # Not the scheduler's alphas_cumprod: where those end at 0, Euler's end at a small value instead.
        alphas = (1 - scheduler.betas).cumprod(0)
        return NoiseLevels(alphas, torch.arange(len(alphas)), prediction_type)
    whole = copy.deepcopy(scheduler)
    whole.set_timesteps(scheduler.config.num_train_timesteps)
    sigmas, times = whole.sigmas[:-1].flip(0), whole.timesteps.flip(0)  # the last sigma ends sampling
    sigma_data = scheduler.config.get("sigma_data", 1.0)
    alphas = 1 / (1 + (sigmas.double() / sigma_data).square())
    sign = -1 if kind == EDM and prediction_type == "epsilon" else 1
    return NoiseLevels(alphas, times, "v_prediction", sign, sigma_data)


def check_scheduler(scheduler: SchedulerMixin, name: str) -> None:
    """Check that the scheduler of base `name` tells noise levels to sample from and to train on.

    Raises:
        SceditError: it is made for flow matching or another process than those, or predicts something else.
    """
    kind, config = type(scheduler).__name__, scheduler.config
    prediction_type = config.get("prediction_type")
    is_edm = kind_of(scheduler) == EDM
    if kind.startswith("FlowMatch") or config.get("use_flow_sigmas") or prediction_type == "flow_prediction":
        raise SceditError(
            f"base {name}: its scheduler, {kind}, is one for flow matching, for which other U-Nets are trained",
            hint="bases that were trained by noise prediction (DDPM, v-prediction, EDM) can be tuned",
        )
    known = PREDICTION_TYPES[:2] if is_edm else PREDICTION_TYPES
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

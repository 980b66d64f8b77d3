"""What tuners add to a step of sampling: the U-Net's call with and without them, and with a ControlNet beside it."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from scedit_cli.benchmark.architecture import Architecture
from scedit_cli.benchmark.methods import Inputs
from scedit_cli.benchmark.peers import controlnet_model
from scedit_cli.benchmark.step import random_batch
from scedit_cli.benchmark.timing import timed
from scedit_cli.core.attach import Attachment, attach
from scedit_cli.core.bundle import Bundle
from scedit_cli.core.tuners import CSCTuner, SCTuner
from scedit_cli.models.base import DTYPES

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

_CONDITIONS = ("canny", "depth", "color")
_WARM_UP = 1

Step = Callable[[], object]
OnStep = Callable[[int, int], None]


@dataclass(frozen=True)
class StepTime:
    """How long a step takes.

    Attributes:
        seconds: of the median step, a guided batch of two; on a CPU its processor time, which other programs on the
            machine disturb less than the clock.
        ratio: to the bare base, the median over the rounds; `ratio_quartiles` say how far rounds differ.
        once: seconds for what is done once per picture: the hints.
    """

    name: str
    seconds: float
    ratio: float
    ratio_quartiles: tuple[float, float]
    once: float


@torch.inference_mode()
def step_times(
    base: Architecture, resolution: int, dtype: str, rounds: int, device: torch.device, on_step: OnStep
) -> list[StepTime]:
    """Times a step of the bare base, with an SC-Tuner, one and three CSC-Tuners, and a ControlNet, in turn in every
    round, so that what slows the machine slows all of them.

    Args:
        base: its weights may be random, which take as long as trained ones.
        resolution: side of the picture in pixels.
        dtype: of everything: fp32, bf16 or fp16.
        device: that computes.
        on_step: called with (steps done, of how many).
    """
    precision = DTYPES[dtype]
    unet = base.unet(precision, device)
    inputs, _ = random_batch(base, 2, resolution, precision, device)
    hint = inputs.hint[:1].to(precision)
    variants = _variants(unet, inputs, hint, precision)

    times: dict[str, list[float]] = {name: [] for name in variants}
    once: dict[str, float] = {}
    total = len(variants) * (_WARM_UP + rounds)
    for round_ in range(_WARM_UP + rounds):
        for number, (name, (enter, step)) in enumerate(variants.items()):
            with enter() as edits:
                once[name] = timed(partial(_encode, edits, hint, inputs.latents), device)
                seconds = timed(step, device)
            if round_ >= _WARM_UP:
                times[name].append(seconds)
            on_step(round_ * len(variants) + number + 1, total)
    bare = times["base"]
    results = []
    for name, seconds in times.items():
        ratios = [mine / theirs for mine, theirs in zip(seconds, bare, strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        results.append(StepTime(name, statistics.median(seconds), statistics.median(ratios), (low, high), once[name]))
    return results


def _encode(edits: Attachment | None, hint: Tensor, sample: Tensor) -> None:
    """What the first step of a picture does beside its own work: later steps find the hints encoded."""
    if edits:
        edits.set_hints({tuner.condition: hint for tuner in edits.tuners if tuner.condition})
        edits._begin(sample)


def _variants(
    unet: UNet2DConditionModel, inputs: Inputs, hint: Tensor, precision: torch.dtype
) -> dict[str, tuple[Callable[[], Any], Step]]:
    """By name, what is entered around the step, and the step."""
    given = inputs.latents, inputs.timesteps

    def plain() -> Tensor:
        return unet(*given, **inputs.text).sample

    def tuned(*tuners: SCTuner | CSCTuner) -> tuple[Callable[[], Any], Step]:
        placed = Bundle([tuner.to(precision).requires_grad_(False) for tuner in tuners])
        return lambda: attach(unet, placed), plain

    controlnet = controlnet_model(unet).to(precision).requires_grad_(False)

    def controlled() -> Tensor:
        shown = hint.expand(2, -1, -1, -1)
        down, mid = controlnet(*given, controlnet_cond=shown, return_dict=False, **inputs.text)
        residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
        return unet(*given, **inputs.text, **residuals).sample

    csc = [CSCTuner.for_unet(unet, condition=condition) for condition in _CONDITIONS]
    return {
        "base": (nullcontext, plain),
        "SC-Tuner": tuned(SCTuner.for_unet(unet)),
        "CSC-Tuner": tuned(csc[0]),
        "3 CSC-Tuners": tuned(*csc),
        "ControlNet": (nullcontext, controlled),
    }

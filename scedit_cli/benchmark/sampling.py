"""The cost that tuners add to a step of sampling: the U-Net is timed with and without them, and with a ControlNet."""

from __future__ import annotations

import statistics
import time
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
from scedit_cli.models.loading import quiet
from scedit_cli.utils.reporter import Reporter

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

_CONDITIONS = ("canny", "depth", "color")
_WARM_UP = 1

Step = Callable[[], object]


@dataclass(frozen=True)
class StepTime:
    """The time of a sampling step.

    Attributes:
        seconds: the time of the median step with a guided batch of two; on a CPU processor time, which other programs
            on the machine disturb less than the clock.
        ratio: the median ratio to the base alone, over the rounds; `ratio_quartiles` are its quartiles.
        once: seconds of the work done once per image, the encoding of hints.
        clock_seconds: the median step by the clock; None in documents of earlier versions.
    """

    name: str
    seconds: float
    ratio: float
    ratio_quartiles: tuple[float, float]
    once: float
    clock_seconds: float | None = None


@torch.inference_mode()
def step_times(
    base: Architecture, resolution: int, dtype: str, rounds: int, device: torch.device, reporter: Reporter
) -> list[StepTime]:
    """Time a step of the base alone, with an SC-Tuner, with one and three CSC-Tuners, and with a ControlNet. They take
    turns in every round, so that a slow minute of the machine affects all of them.

    Args:
        base: the architecture; random weights take as long as trained ones.
        resolution: the side of the image in pixels.
        dtype: the type of all weights: fp32, bf16 or fp16.
        device: the device to compute on.
        reporter: gets (steps done, total).
    """
    precision = DTYPES[dtype]
    unet = base.unet(precision, device)
    inputs, _ = random_batch(base, 2, resolution, precision, device)
    hint = inputs.hint[:1].to(precision)
    variants = _variants(unet, inputs, hint, precision)

    times: dict[str, list[float]] = {name: [] for name in variants}
    clocks: dict[str, list[float]] = {name: [] for name in variants}
    once: dict[str, float] = {}
    total = len(variants) * (_WARM_UP + rounds)
    for round_ in range(_WARM_UP + rounds):
        for number, (name, (enter, step)) in enumerate(variants.items()):
            with enter() as edits:
                once[name] = timed(partial(_encode, edits, hint, inputs.latents), device)
                began = time.perf_counter()
                seconds = timed(step, device)
                clock = time.perf_counter() - began
            if round_ >= _WARM_UP:
                times[name].append(seconds)
                clocks[name].append(clock)
            reporter.progress(round_ * len(variants) + number + 1, total)
    bare = times["base"]
    results = []
    for name, seconds in times.items():
        ratios = [mine / theirs for mine, theirs in zip(seconds, bare, strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        middle = statistics.median(seconds), statistics.median(ratios)
        results.append(StepTime(name, *middle, (low, high), once[name], statistics.median(clocks[name])))
    return results


def _encode(edits: Attachment | None, hint: Tensor, sample: Tensor) -> None:
    """Encode the hints, as only the first step of an image does."""
    if edits:
        edits.set_hints({tuner.condition: hint for tuner in edits.tuners if tuner.condition})
        edits._begin(sample)


def _variants(
    unet: UNet2DConditionModel, inputs: Inputs, hint: Tensor, precision: torch.dtype
) -> dict[str, tuple[Callable[[], Any], Step]]:
    """Return by name the context around the step, and the step."""
    given = inputs.latents, inputs.timesteps

    def plain() -> Tensor:
        return unet(*given, **inputs.text).sample

    def tuned(*tuners: SCTuner | CSCTuner) -> tuple[Callable[[], Any], Step]:
        placed = Bundle([tuner.to(precision).requires_grad_(False) for tuner in tuners])
        return lambda: attach(unet, placed), plain

    with quiet():  # diffusers warns of every cast, even where no module has to stay in float32
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

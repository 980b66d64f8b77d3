"""What tuners add to a step of sampling: the U-Net's call with and without them, and with a ControlNet beside it."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from scedit_cli.base import load_base
from scedit_cli.benchmark.peers import controlnet_model
from scedit_cli.core.attach import Attachment, attach
from scedit_cli.core.bundle import Bundle
from scedit_cli.core.tuners import HINT_SCALE, CSCTuner, SCTuner
from scedit_cli.errors import SceditError
from scedit_cli.pipelines import quiet

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

SHAPES = Path(__file__).parents[1] / "configs"
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


@dataclass(frozen=True)
class SamplingTimes:
    """Step times on one base."""

    base: str
    device: str
    resolution: int
    dtype: str
    rounds: int
    results: list[StepTime]

    def document(self) -> dict[str, Any]:
        """What --json writes."""
        return asdict(self)

    def table(self) -> tuple[list[str], list[list[str]]]:
        """The header and rows that a person reads."""
        header = ["one step", "seconds", "to the base", "quartiles", "once per picture"]
        rows = []
        for each in self.results:
            low, high = (f"{quartile - 1:+.1%}" for quartile in each.ratio_quartiles)
            figures = [f"{each.seconds:.3f}", f"{each.ratio - 1:+.1%}", f"{low} … {high}", f"{each.once:.3f}"]
            rows.append([each.name, *figures])
        return header, rows


@torch.inference_mode()
def step_times(base: str, resolution: int, dtype: str, rounds: int, on_step: OnStep) -> SamplingTimes:
    """Times a step of the bare base, with an SC-Tuner, one and three CSC-Tuners, and a ControlNet, in turn in every
    round, so that what slows the machine slows all of them.

    Args:
        base: as for `load_base`, or "sd15", "sd21" or "sdxl": a U-Net of that shape with random weights, which takes
            as long as a trained one.
        resolution: side of the picture in pixels.
        dtype: of everything: fp32, bf16 or fp16.
        on_step: called with (steps done, of how many).

    Raises:
        SceditError: a base or a resolution that cannot be.
    """
    precision = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    unet = _unet(base, precision)
    deepest = 2 ** (len(unet.config.block_out_channels) - 1)
    if resolution % (HINT_SCALE * deepest):
        raise SceditError(f"--resolution {resolution}: no multiple of {HINT_SCALE * deepest}", "its U-Net halves that")
    side = resolution // HINT_SCALE
    inputs = (torch.randn(2, unet.config.in_channels, side, side, device=unet.device, dtype=precision), 500)
    text = _text(unet, precision)
    hint = torch.rand(1, 3, resolution, resolution, device=unet.device, dtype=precision)
    variants = _variants(unet, inputs, text, hint, precision)

    times: dict[str, list[float]] = {name: [] for name in variants}
    once: dict[str, float] = {}
    total = len(variants) * (_WARM_UP + rounds)
    for round_ in range(_WARM_UP + rounds):
        for number, (name, (enter, step)) in enumerate(variants.items()):
            with enter() as edits:
                once[name] = _timed(partial(_encode, edits, hint, inputs[0]), unet.device)
                seconds = _timed(step, unet.device)
            if round_ >= _WARM_UP:
                times[name].append(seconds)
            on_step(round_ * len(variants) + number + 1, total)
    bare = times["base"]
    results = []
    for name, seconds in times.items():
        ratios = [mine / theirs for mine, theirs in zip(seconds, bare, strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        results.append(
            StepTime(name, statistics.median(seconds), statistics.median(ratios), (low, high), once[name])
        )
    return SamplingTimes(base, str(unet.device), resolution, dtype, rounds, results)


def _encode(edits: Attachment | None, hint: Tensor, sample: Tensor) -> None:
    """What the first step of a picture does beside its own work: later steps find the hints encoded."""
    if edits:
        edits.set_hints({tuner.condition: hint for tuner in edits.tuners if tuner.condition})
        edits._begin(sample)


def _variants(
    unet: UNet2DConditionModel, inputs: Sequence[Any], text: dict[str, Any], hint: Tensor, precision: torch.dtype
) -> dict[str, tuple[Callable[[], Any], Step]]:
    """By name, what is entered around the step, and the step."""
    def plain() -> Tensor:
        return unet(*inputs, **text).sample

    def tuned(*tuners: SCTuner | CSCTuner) -> tuple[Callable[[], Any], Step]:
        placed = Bundle([tuner.to(precision).requires_grad_(False) for tuner in tuners])
        return lambda: attach(unet, placed), plain

    controlnet = controlnet_model(unet).requires_grad_(False)

    def controlled() -> Tensor:
        down, mid = controlnet(*inputs, controlnet_cond=hint.expand(2, -1, -1, -1), return_dict=False, **text)
        return unet(*inputs, **text, down_block_additional_residuals=down, mid_block_additional_residual=mid).sample

    csc = [CSCTuner.for_unet(unet, condition=condition) for condition in _CONDITIONS]
    return {
        "base": (nullcontext, plain),
        "SC-Tuner": tuned(SCTuner.for_unet(unet)),
        "CSC-Tuner": tuned(csc[0]),
        "3 CSC-Tuners": tuned(*csc),
        "ControlNet": (nullcontext, controlled),
    }


def _unet(base: str, precision: torch.dtype) -> UNet2DConditionModel:
    from diffusers import UNet2DConditionModel

    config = SHAPES / base / "unet.json"
    if Path(base).exists() or not config.is_file():
        return load_base(base, dtype=precision).unet
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    with quiet():
        unet = UNet2DConditionModel.from_config(json.loads(config.read_text(encoding="utf-8")))
        return unet.to(device, precision).requires_grad_(False).eval()


def _text(unet: UNet2DConditionModel, precision: torch.dtype) -> dict[str, Any]:
    """A random prompt for both halves of a guided batch."""

    def noise(*shape: int) -> Tensor:
        return torch.randn(2, *shape, device=unet.device, dtype=precision)

    text: dict[str, Any] = {"encoder_hidden_states": noise(77, unet.config.cross_attention_dim)}
    if unet.config.addition_embed_type == "text_time":
        pooled = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
        text["added_cond_kwargs"] = {"text_embeds": noise(pooled), "time_ids": noise(6)}
    return text


def _timed(step: Step, device: torch.device) -> float:
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    began = clock()
    step()
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return clock() - began

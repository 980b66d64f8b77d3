"""What one training method costs on one base: real training steps on random latents."""

from __future__ import annotations

import gc
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from scedit_cli import __version__
from scedit_cli.base import Base, load_base
from scedit_cli.benchmark.memory import Memory
from scedit_cli.benchmark.methods import Inputs, Trainee, controlnet_for, prepare
from scedit_cli.core.objective import add_noise, noise_prediction_loss
from scedit_cli.core.tuners import HINT_SCALE
from scedit_cli.sampling import check_size

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_WARM_UP = 2  # steps that are not timed: the first ones allocate
_LEARNING_RATE = 1e-5

OnStep = Callable[[int, int], None]


@dataclass(frozen=True)
class Conditions:
    """What is measured on. In a request, None leaves a value to the base and the machine; in an answer all are known.

    Attributes:
        batch, resolution: pictures in a step, and their side in pixels.
        dtype: of the frozen weights, one of DTYPES.
        device: where it ran.
    """

    base: str
    batch: int | None = None
    resolution: int | None = None
    dtype: str | None = None
    device: str | None = None


@dataclass(frozen=True)
class Measurement:
    """One method's figures; None is what could not be measured.

    Attributes:
        share_of_base, share_of_controlnet: of the U-Net's and of a ControlNet's parameters.
        flops_per_step: floating-point operations of one forward and backward pass over the batch.
        peak_memory: bytes, see `Memory`.
        memory_before: bytes of it that were taken with the frozen U-Net loaded, before the method was set up.
        images_per_second: at the median step.
        images_per_second_quartiles: at the slower and the faster quartile.
        file_size: bytes of the trained weights as saved.
    """

    method: str
    trainable_parameters: int | None = None
    share_of_base: float | None = None
    share_of_controlnet: float | None = None
    flops_per_step: int | None = None
    peak_memory: int | None = None
    memory_before: int | None = None
    estimated_peak_memory: int | None = None
    images_per_second: float | None = None
    images_per_second_quartiles: tuple[float, float] | None = None
    file_size: int | None = None

    def document(self) -> dict[str, Any]:
        return asdict(self)


def measure(method: str, wanted: Conditions, steps: int, on_step: OnStep) -> tuple[Conditions, Measurement]:
    """Trains by `method` for a few steps as it would be trained for real: latents and text embeddings from a cache
    (random here), the noise objective, AdamW on float32 weights, no autoencoder and no text encoder in memory.

    Args:
        method: one of METHODS.
        wanted: None within it are chosen by the base.
        steps: how many are timed, after a warm-up.
        on_step: called with (steps done, of how many), the warm-up among them.

    Returns:
        The conditions as they were, and the figures.

    Raises:
        SceditError: a base or a setting that cannot be.
    """
    import peft  # noqa: F401  before the memory is measured, so that libraries count alike for all methods

    base = load_base(wanted.base, dtype=DTYPES[wanted.dtype] if wanted.dtype else None)
    used = settled(wanted, base)
    inputs, noise = _batch(base, used)
    unet, schedule, prediction_type = base.unet, base.scheduler.alphas_cumprod, base.prediction_type
    base_parameters = unet.num_parameters()
    del base  # and with it the autoencoder and the text encoders
    gc.collect()

    def loss_of(trainee: Trainee, inputs: Inputs, noise: Tensor) -> Tensor:
        noisy = replace(inputs, latents=add_noise(inputs.latents, noise, inputs.timesteps, schedule))
        answer = trainee.predict(noisy)
        wanted = (each[:, : answer.shape[1]] for each in (noise, inputs.latents))
        return noise_prediction_loss(answer, *wanted, inputs.timesteps, schedule, prediction_type).mean()

    flops, controlnet_parameters = _count(method, unet, inputs, noise, loss_of)
    memory = Memory(unet.device)
    trainee = prepare(method, unet)
    fused = unet.device.type in ("cpu", "cuda")
    optimizer = torch.optim.AdamW(trainee.weights.values(), lr=_LEARNING_RATE, fused=fused)
    seconds = []
    for step in range(_WARM_UP + steps):
        started = time.perf_counter()
        with torch.autocast(unet.device.type, DTYPES[used.dtype], enabled=used.dtype != "fp32"):
            loss = loss_of(trainee, inputs, noise)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if unet.device.type != "cpu":
            torch.accelerator.synchronize()
        seconds.append(time.perf_counter() - started)
        on_step(step + 1, _WARM_UP + steps)
    peak = memory.peak()
    slow, median, fast = (used.batch / each for each in _quartiles(seconds[_WARM_UP:]))
    return used, Measurement(
        method=method,
        trainable_parameters=trainee.count,
        share_of_base=trainee.count / base_parameters,
        share_of_controlnet=trainee.count / controlnet_parameters if controlnet_parameters else None,
        flops_per_step=flops,
        peak_memory=peak,
        memory_before=memory.before,
        images_per_second=median,
        images_per_second_quartiles=(slow, fast),
        file_size=_size_of(trainee),
    )


def settled(wanted: Conditions, base: Base) -> Conditions:
    """The conditions with the base's own choices where nothing was asked for.

    Raises:
        SceditError: a resolution that the base cannot take.
    """
    resolution = wanted.resolution or base.defaults.resolution
    check_size(base, resolution, resolution, "--resolution")
    names = {dtype: name for name, dtype in DTYPES.items()}
    return Conditions(
        base=base.name,
        batch=wanted.batch or (8 if base.family == "scenes" else 1),
        resolution=resolution,
        dtype=names[base.dtype],
        device=device_name(base.device),
    )


def environment() -> dict[str, str | int]:
    """The versions and the machine that figures depend on."""
    libraries = {name: version(name) for name in ("torch", "diffusers", "peft")}
    return {
        "scedit": __version__,
        "python": platform.python_version(),
        **libraries,
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
    }


def device_name(device: torch.device) -> str:
    """Such as "cpu" or "NVIDIA H100 80GB HBM3"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _batch(base: Base, used: Conditions) -> tuple[Inputs, Tensor]:
    """Random inputs of the base's shapes, and the noise to be predicted."""
    draw = torch.Generator().manual_seed(0)
    side = used.resolution // HINT_SCALE
    shape = (used.batch, base.unet.config.in_channels, side, side)
    encoded = base.encode_prompts([""] * used.batch)
    text = {name: torch.randn(each.shape, generator=draw).to(each) for name, each in encoded.items()}
    timesteps = torch.randint(len(base.scheduler.alphas_cumprod), (used.batch,), generator=draw)
    inputs = Inputs(
        latents=torch.randn(shape, generator=draw).to(base.device, base.dtype),
        timesteps=timesteps.to(base.device),
        hint=torch.rand(used.batch, 3, used.resolution, used.resolution, generator=draw).to(base.device),
        text=base.unet_arguments(text, used.resolution, used.resolution),
    )
    return inputs, torch.randn(shape, generator=draw).to(base.device, base.dtype)


def _count(
    method: str,
    unet: torch.nn.Module,
    inputs: Inputs,
    noise: Tensor,
    loss_of: Callable[[Trainee, Inputs, Tensor], Tensor],
) -> tuple[int, int | None]:
    """Operations of a step, and parameters of the base's ControlNet (None where it can have none), both counted on
    the meta device: they depend on no hardware and take no memory."""
    with torch.device("meta"):
        shadow = type(unet).from_config(unet.config)
    try:
        controlnet_parameters = controlnet_for(shadow).num_parameters()
    except (ValueError, NotImplementedError):
        controlnet_parameters = None
    trainee = prepare(method, shadow)
    inputs, noise = _on_meta(inputs), noise.to("meta", torch.float32)
    with FlopCounterMode(display=False) as counter:
        loss_of(trainee, inputs, noise).backward()
    return counter.get_total_flops(), controlnet_parameters


def _on_meta(inputs: Inputs) -> Inputs:
    """The inputs' shapes, in the float32 of a U-Net that is made afresh."""

    def move(each: Any) -> Any:
        if isinstance(each, dict):
            return {name: move(value) for name, value in each.items()}
        return each.to("meta", torch.float32 if each.is_floating_point() else None)

    return Inputs(move(inputs.latents), move(inputs.timesteps), move(inputs.hint), move(inputs.text))


def _quartiles(seconds: list[float]) -> tuple[float, float, float]:
    """Of the times of some steps: the upper one, the median and the lower one."""
    if len(seconds) == 1:
        return seconds[0], seconds[0], seconds[0]
    lower, median, upper = statistics.quantiles(seconds, n=4, method="inclusive")
    return upper, median, lower


def _size_of(trainee: Trainee) -> int:
    with tempfile.TemporaryDirectory(prefix="scedit-bench-") as folder:
        file = Path(folder) / "weights.safetensors"
        trainee.save(file)
        return file.stat().st_size

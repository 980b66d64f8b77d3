"""The measured cost of a training method on a base: real training steps on random latents."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from scedit_cli.benchmark.architecture import Architecture, architecture
from scedit_cli.benchmark.config import BenchConfig, Figures, Spread, device_name
from scedit_cli.benchmark.estimate import count, peak, shares
from scedit_cli.benchmark.matmul_rate import matrix_rate
from scedit_cli.benchmark.methods import Options, TrainableMethod, prepared
from scedit_cli.benchmark.step import loss_of, new_optimizer, random_batch
from scedit_cli.benchmark.timing import synchronise
from scedit_cli.core.offload import offloaded
from scedit_cli.inference.sampler import check_size
from scedit_cli.models.base import DTYPES
from scedit_cli.models.loading import EMBEDDED
from scedit_cli.training.builders import tf32
from scedit_cli.utils.devices import best_device, device_here
from scedit_cli.utils.errors import memory_told
from scedit_cli.utils.process_memory import Memory, workspaces
from scedit_cli.utils.reporter import Reporter

_GIB = 2**30
_WARM_UP = 2  # untimed steps: the first ones allocate


@dataclass(frozen=True)
class Measured:
    """One method's figures in one process, the configuration that they hold for, the seconds of each timed step, the
    rate of matrix products in operations a second, and on a CPU the processor time of each timed step."""

    setting: BenchConfig
    figures: Figures
    seconds: tuple[float, ...]
    matrix_rate: float
    processor_seconds: tuple[float, ...] = ()


@tf32(True)  # as in training
def measure(
    method: str,
    wanted: BenchConfig,
    reporter: Reporter,
    device: str | None = None,
    wait_for_turn: Callable[[], object] = lambda: None,
) -> Measured:
    """Train by `method` for a few steps and measure them. As in real training, latents and text embeddings come from a
    cache (random here), the objective is noise prediction, AdamW updates float32 weights, and no autoencoder or text
    encoder is in memory. All methods use PyTorch's default memory layout.

    Args:
        method: one of METHODS.
        wanted: the configuration, whose None values the base chooses; its `steps` are timed, after a warm-up.
        reporter: gets (steps done, total), warm-up included.
        device: by default the accelerator where there is one.
        wait_for_turn: called after the estimate, before the device is used.

    Raises:
        SceditError: the base or the configuration is invalid.
        WorkFailed: memory ran out.
    """
    device = torch.device(device_here(device) or best_device())
    base = architecture(wanted.base)
    used = settled(wanted, base, device)
    options, dtype, total = options_for(used, base), DTYPES[used.dtype], _WARM_UP + used.steps
    work = count(method, base, used.batch, used.resolution, options)
    guess = peak(method, base, used.batch, used.resolution, used.dtype, device=kind_of(device), options=options)
    wait_for_turn()
    rate = matrix_rate(dtype, device)
    wake_libraries(device)
    if held := workspaces(device):
        guess["workspaces"] = held
    memory = Memory(device)
    needed = f"about {sum(guess.values()) / _GIB:.2f} GiB are estimated for it; take a smaller `batch` or `resolution`"
    starved = partial(memory_told, f"{method} was measured", needed)
    with starved():
        unet = base.unet(dtype, device)
        inputs, noise = random_batch(base, used.batch, used.resolution, dtype, device)
    memory.forget()
    seconds, processor = [], []
    with starved(), ExitStack() as stack, prepared(method, unet, options) as trainable:
        del unet
        if options.offload:
            stack.enter_context(offloaded(trainable.unet, device))
        if options.offload or options.quantize != "none":
            memory.forget()  # the whole weights, which were here before
        if used.compiled:
            trainable.unet.compile()
        optimizer = new_optimizer(trainable)
        gradients = 0
        for step in range(total):
            synchronise(device)
            started, busy = time.perf_counter(), time.process_time()
            with torch.autocast(device.type, dtype) if used.dtype != "fp32" else nullcontext():
                loss = loss_of(trainable, inputs, noise, base)
            loss.backward()
            optimizer.step()
            gradients = gradients or _bytes([weight.grad for weight in trainable.weights if weight.grad is not None])
            optimizer.zero_grad()
            synchronise(device)
            seconds.append(time.perf_counter() - started)
            processor.append(time.process_time() - busy)
            reporter.progress(step + 1, total)
        highest, reserved = memory.peak(), memory.reserved()
        kept = {
            "weights": _bytes([weight for part in trainable.parts for weight in (*part.parameters(), *part.buffers())]),
            "gradients": gradients,
            "optimizer": _bytes([each for state in optimizer.state.values() for each in state.values()]),
        }
        size = _size_of(trainable)
    if device.type == "cpu":
        kept["libraries"] = guess["libraries"] = memory.libraries
    held = sum(bytes_ for name, bytes_ in kept.items() if name != "gradients")
    figures = Figures(
        method=method,
        **shares(work),
        flops_per_step=work.flops,
        peak_memory=highest,
        peak_reserved=reserved,
        memory=kept | {"activations": max(0, highest - held)},
        estimated_peak_memory=None if used.compiled else sum(guess.values()),  # unknown for a compiler
        file_size=size,
    )
    timed, busy = tuple(seconds[_WARM_UP:]), tuple(processor[_WARM_UP:]) if device.type == "cpu" else ()
    return Measured(used, with_speed(figures, [timed], used.batch, rate, busy), timed, rate, busy)


def wake_libraries(device: torch.device) -> None:
    """Make a small training step, so that memory loaded by the libraries at first use counts alike for all methods. On
    a CPU, where the code is resident memory too, also load the embedded base and make a step on it."""
    import diffusers.models.controlnets.controlnet  # noqa: F401
    import peft  # noqa: F401

    layers = [nn.Conv2d(64, 64, 3, padding=1), nn.GroupNorm(8, 64), nn.SiLU(), nn.Conv2d(64, 64, 1)]
    net = nn.Sequential(*layers).to(device)
    optimizer = torch.optim.AdamW(net.parameters(), fused=device.type in ("cpu", "cuda"))
    x = torch.randn(2, 64, 16, 16, device=device)  # small: bfloat16 takes half a minute else where a CPU emulates it
    for dtype in (torch.float32, torch.bfloat16):
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype != torch.float32):
            tokens = net(x).flatten(2).transpose(1, 2)
            nn.functional.scaled_dot_product_attention(tokens, tokens, tokens).float().square().mean().backward()
    optimizer.step()
    synchronise(device)
    if device.type == "cpu":
        base = architecture(EMBEDDED)
        with torch.random.fork_rng(devices=[]), prepared("sc", base.unet(torch.float32, device)) as trainable:
            loss_of(trainable, *random_batch(base, 1, base.resolution, torch.float32, device), base).backward()


def with_speed(
    figures: Figures,
    rounds: Sequence[Sequence[float]],
    batch: int,
    matrix_rate: float,
    processor_seconds: Sequence[float] = (),
) -> Figures:
    """Return the figures with the speed of the timed steps of some rounds, in seconds per step."""
    slow, median, fast = _quartiles([second for each in rounds for second in each])
    return replace(
        figures,
        images_per_second=batch / median,
        spread=Spread((batch / slow, batch / fast), 1 / median, [batch / statistics.median(each) for each in rounds]),
        processor_seconds_per_step=statistics.median(processor_seconds) if processor_seconds else None,
        share_of_matrix_rate=figures.flops_per_step / median / matrix_rate,
    )


def settled(wanted: BenchConfig, base: Architecture, device: torch.device) -> BenchConfig:
    """Return the configuration for `device`, with None values replaced by the base's choices.

    Raises:
        SceditError: the base cannot take the resolution.
    """
    resolution = wanted.resolution or base.resolution
    check_size(base, resolution, resolution, "`resolution`")
    embedded, card = base.name == EMBEDDED, device.type != "cpu"
    return replace(
        wanted,
        batch=wanted.batch or (8 if embedded or card else 1),
        resolution=resolution,
        dtype=wanted.dtype or ("bf16" if card and not embedded else "fp32"),
        device=wanted.device or device_name(device),
    )


def options_for(setting: BenchConfig, base: Architecture) -> Options:
    """Return the methods' sizes. Hint encoders are the paper's on SD1.5 and SD2.1, and those of its authors' recipes on
    SDXL. The embedded base is a fifth as wide as SD1.5; there the hint encoders of CSC-Tuner and ControlNet have a
    quarter of their width."""
    sizes = {"hint_channels": 320, "hint_width": 2.0} if base.pooled else {}
    if base.name == EMBEDDED:
        sizes = {"hint_channels": 64, "hint_width": 0.25, "controlnet_width": 0.25}
    storage = {"quantize": setting.quantize, "offload": setting.offload == "encoder"}
    return Options(setting.lora_rank, setting.lora_feed_forward, setting.down_ratio, **sizes, **storage)


def kind_of(device: torch.device) -> str:
    """Return the device whose rules of autocast and attention hold: "cpu" or "cuda"."""
    return "cpu" if device.type == "cpu" else "cuda"


def _bytes(tensors: Sequence[torch.Tensor]) -> int:
    return sum(each.numel() * each.element_size() for each in tensors)


def _quartiles(seconds: list[float]) -> tuple[float, float, float]:
    """Return the upper quartile, the median and the lower quartile of the times of steps."""
    if len(seconds) == 1:
        return seconds[0], seconds[0], seconds[0]
    lower, median, upper = statistics.quantiles(seconds, n=4, method="inclusive")
    return upper, median, lower


def _size_of(trainable: TrainableMethod) -> int:
    with tempfile.TemporaryDirectory(prefix="scedit-bench-") as folder:
        file = Path(folder) / "weights.safetensors"
        trainable.save(file)
        return file.stat().st_size

"""What methods are compared on: the request, the machine, and the figures that come out."""

from __future__ import annotations

import platform
import re
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from scedit_cli.utils.version import __version__

_DRIVER = Path("/proc/driver/nvidia/version")
_PROCESSORS = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class BenchConfig:
    """What is measured on. In a request, None leaves a value to the base and the machine; in an answer all are known.

    Attributes:
        batch, resolution: pictures in a step, and their side in pixels.
        dtype: of the frozen weights, one of `base.DTYPES`.
        device: where it ran; "cpu (estimated)" and "cuda (estimated)" where nothing did.
        lora_rank: r of LoRA.
        lora_feed_forward: LoRA also on the feed-forward layers, not on attention alone.
        down_ratio: hidden width of SC- and CSC-Tuners as a share of a skip's channels.
        steps: how many are timed (of training, a round; under --sampling of sampling), or under --skips sampled;
            None where none is.
        compiled: whether the U-Net was, by `torch.compile`.
    """

    base: str
    batch: int | None = None
    resolution: int | None = None
    dtype: str | None = None
    device: str | None = None
    lora_rank: int = 64
    lora_feed_forward: bool = False
    down_ratio: float = 1.0
    steps: int | None = None
    compiled: bool = False


@dataclass(frozen=True)
class Figures:
    """One method's figures; None is what was not measured, or does not exist.

    Attributes:
        trainable_parameters: and their share of the U-Net's and of a ControlNet's.
        flops_per_step: floating-point operations of one forward and backward pass over the batch, those of the model
            alone: what a memory-lean method computes a second time is not counted.
        peak_memory: bytes; on an accelerator the most PyTorch had allocated, on a CPU the most that was resident, with
            the libraries. An estimate where nothing was measured.
        peak_reserved: bytes that PyTorch held of the accelerator, allocated or not.
        memory: bytes of the peak by category: weights, gradients, optimizer, activations (what else the step
            holds), and libraries on a CPU. Where measured, gradients are as large as they get, which need not be at
            the peak; where estimated, all are what they are at the peak.
        estimated_peak_memory: bytes, by `estimate`.
        images_per_second, steps_per_second: at the median step.
        images_per_second_quartiles: at the slower and the faster quartile of steps.
        rounds: images per second at the median step of each round.
        share_of_matrix_rate: `flops_per_step` a second over the device's measured rate of matrix products.
        file_size: bytes of the trained weights as saved.
        largest_batch: of those that fit the memory asked about; 0 if none does.
        processor_seconds_per_step: processor time of the median step over all threads, which other programs on the
            machine disturb less than the clock; on a CPU alone.
    """

    method: str
    trainable_parameters: int | None = None
    share_of_base: float | None = None
    share_of_controlnet: float | None = None
    flops_per_step: int | None = None
    peak_memory: int | None = None
    peak_reserved: int | None = None
    memory: dict[str, int] = field(default_factory=dict)
    estimated_peak_memory: int | None = None
    images_per_second: float | None = None
    images_per_second_quartiles: tuple[float, float] | None = None
    steps_per_second: float | None = None
    rounds: list[float] = field(default_factory=list)
    share_of_matrix_rate: float | None = None
    file_size: int | None = None
    largest_batch: int | None = None
    processor_seconds_per_step: float | None = None

    def document(self) -> dict[str, Any]:
        return asdict(self)


def environment() -> dict[str, str | int]:
    """The versions and the machine that figures depend on, and the time in UTC."""
    libraries = {name: version(name) for name in ("torch", "diffusers", "peft")}
    card = {"cuda": str(torch.version.cuda)} if torch.cuda.is_available() else {}
    if card and _DRIVER.is_file():
        card["driver"] = _DRIVER.read_text().splitlines()[0]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "scedit": __version__,
        "python": platform.python_version(),
        **libraries,
        **card,
        "platform": platform.platform(),
        "processor": processor_name(),
        "threads": torch.get_num_threads(),
    }


def device_name(device: torch.device) -> str:
    """Such as "cpu" or "NVIDIA H100 80GB HBM3"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def processor_name() -> str:
    """Such as "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz"; the kind alone, as "x86_64", where no more is told."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", _PROCESSORS.read_text("utf-8", "replace"), re.MULTILINE)
    except OSError:  # on Linux alone
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()

"""The configuration of a benchmark, the machine, and the figures that result."""

from __future__ import annotations

import platform
import re
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from scedit_cli.utils.threads import waiting
from scedit_cli.utils.version import __version__

_DRIVER = Path("/proc/driver/nvidia/version")
_PROCESSORS = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class BenchConfig:
    """The configuration of a benchmark. In a request, None leaves a value to base and machine; a result has all values.

    Attributes:
        batch, resolution: the number of images in a step, and their side in pixels.
        dtype: the type of the frozen weights, one of `base.DTYPES`.
        device: the device measured on; "cpu (estimated)" or "cuda (estimated)" if estimated.
        lora_rank: r of LoRA.
        lora_feed_forward: whether LoRA is also on the feed-forward layers, not on attention alone.
        down_ratio: the hidden width of SC- and CSC-Tuners as a share of a skip's channels.
        steps: the number of timed steps (of training per round, or of sampling), or of denoising steps where skips
            are measured; None where there are none.
        compiled: whether the U-Net was compiled by `torch.compile`.
        quantize, offload: the storage of the frozen weights, as in recipes, and "encoder" where it is offloaded.
        beside: what an estimate counts besides a step's tensors, of `beside.COUNTED`.
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
    quantize: str = "none"
    offload: str = "none"
    beside: tuple[str, ...] = ()


@dataclass(frozen=True)
class Spread:
    """The speed of one method beside the median's images per second; None or empty means not measured.

    Attributes:
        images_per_second_quartiles: the speed at the slower and at the faster quartile of steps.
        steps_per_second: the speed at the median step.
        rounds: images per second at the median step of each round.
    """

    images_per_second_quartiles: tuple[float, float] | None = None
    steps_per_second: float | None = None
    rounds: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Figures:
    """The figures of one method; None means not measured, or not applicable.

    Attributes:
        trainable_parameters: their number; the next fields are its shares of the U-Net's and of a ControlNet's.
        flops_per_step: floating-point operations of the model in one forward and backward pass over the batch, without
            those that a memory-lean method computes a second time.
        peak_memory: bytes; on an accelerator the most that PyTorch had allocated, on a CPU the most that was resident,
            libraries included. An estimate where nothing was measured.
        peak_reserved: bytes of the accelerator that PyTorch held, allocated or not.
        memory: bytes of the peak by category: weights, gradients, optimizer, activations (the rest of the step), and
            libraries on a CPU. Measured gradients are their largest size, which may occur outside the peak; estimated
            categories are all taken at the peak.
        estimated_peak_memory: bytes, by `estimate`.
        images_per_second: the speed at the median step.
        spread: the speeds beside it.
        share_of_matrix_rate: `flops_per_step` per second over the device's measured rate of matrix products.
        file_size: bytes of the trained weights as saved.
        largest_batch: the largest batch that fits the given memory; 0 if none does.
        processor_seconds_per_step: processor time of the median step over all threads, on a CPU only; other programs
            disturb it less than the clock.
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
    spread: Spread = Spread()
    share_of_matrix_rate: float | None = None
    file_size: int | None = None
    largest_batch: int | None = None
    processor_seconds_per_step: float | None = None

    def document(self) -> dict[str, Any]:
        """Return all figures by their names, those of `spread` among them."""
        plain = asdict(self)
        return plain | plain.pop("spread")


def environment() -> dict[str, str | int]:
    """Return the versions and the machine that figures depend on, and the time in UTC."""
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
        "threads_wait": waiting(),
    }


def device_name(device: torch.device) -> str:
    """Return a device's name, such as "cpu" or "NVIDIA H100 80GB HBM3"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def processor_name() -> str:
    """Return the processor's name, such as "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz"; where it is unknown, the
    architecture, such as "x86_64"."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", _PROCESSORS.read_text("utf-8", "replace"), re.MULTILINE)
    except OSError:  # The file exists on Linux only.
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()

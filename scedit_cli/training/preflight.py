"""A summary of a run before its first step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import psutil
import torch

from scedit_cli.core.tuners import Tuner
from scedit_cli.data.shard_dataset import ShardDataset
from scedit_cli.models.base import Base
from scedit_cli.models.loading import quiet
from scedit_cli.recipe import TrainSection
from scedit_cli.utils.distributed import Processes

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel


@dataclass(frozen=True)
class Preflight:
    """The facts of a run that are known before its first step.

    Attributes:
        of_controlnet, of_full: `trainable_parameters` as shares of the parameters of a ControlNet for this base and of
            the U-Net; the first is None where the base can have no ControlNet.
        epochs: passes over the `pictures` to train on.
        seconds_per_step: the time of a step after warm-up; measured in a dry run only.
        estimated_peak_memory: bytes at the peak of a step, or None for the reason in `not_estimated`.
        memory_here: bytes of memory of the device in all.
        shards: the number of shards streamed from, whose images are cut to `size`; 0 and None for a dataset folder.
        warmup: steps in which the learning rate rises.
        scarce_sizes: the number of image sizes with fewer images than a batch, which therefore repeats some.
    """

    base: str
    tuner: str
    trainable_parameters: int
    of_controlnet: float | None
    of_full: float
    pictures: int
    held_out: int
    batch_size: int
    micro_batch_size: int
    processes: int
    base_is_sharded: bool
    device: str
    precision: str
    optimizer: str
    steps: int
    epochs: float
    seconds_per_step: float | None = None
    estimated_peak_memory: int | None = None
    not_estimated: str | None = None
    memory_here: int | None = None
    shards: int = 0
    size: tuple[int, int] | None = None
    scarce_sizes: int = 0
    warmup: int = 0

    def document(self) -> dict[str, Any]:
        """Return the result as a JSON document."""
        return asdict(self) | {"estimated_seconds": self.estimated_seconds}

    @property
    def estimated_seconds(self) -> float | None:
        return None if self.seconds_per_step is None else self.seconds_per_step * self.steps

    def summary(self) -> list[tuple[str, str]]:
        """Return the (name, text) rows shown to the user."""
        beside = f"{self.of_full:.2%} of full fine-tuning"
        if self.of_controlnet is not None:
            beside = f"{self.of_controlnet:.2%} of a ControlNet's, {beside}"
        shared = f" by {self.processes} processes" if self.processes > 1 else ""
        shared += ", each with a part of the base" if self.base_is_sharded else ""
        parts = f", {self.micro_batch_size} at once" if self.micro_batch_size else ""
        rising = f"; train.warmup is {self.warmup}: the learning rate is never reached" * (self.warmup >= self.steps)
        held_out = f", {self.held_out} more held out" if self.held_out else ""
        if self.shards:
            held_out += "; streamed from {} shards, cut to {}x{}, encoded at each step".format(self.shards, *self.size)
        rows = [
            ("base", self.base),
            ("tuner", f"{self.tuner}, {self.trainable_parameters:,} parameters: {beside}"),
            ("data", f"{self.pictures} pictures{held_out}{self._repetition()}"),
            ("training", f"{self.optimizer} in {self.precision} on {self.device}{shared}"),
            ("steps", f"{self.steps} of {self.batch_size} pictures{parts}, {self.epochs:.3g} epochs{rising}"),
        ]
        if memory := self._memory():
            rows.append(("memory", memory))
        if self.seconds_per_step is not None:
            rows.append(("time", f"about {duration(self.estimated_seconds)}, {self.seconds_per_step:.3g} s a step"))
        return rows

    def _repetition(self) -> str:
        """Return a clause about images that occur several times in a batch, or ""."""
        fewer = f"fewer than a batch of {self.batch_size}"
        again = "comes several times in a batch, each time with another noise"
        if self.pictures < self.batch_size:
            return f"; {fewer}, so each {again}"
        return f"; of {self.scarce_sizes} sizes {fewer}, so each of those {again}" if self.scarce_sizes else ""

    def _memory(self) -> str | None:
        if self.estimated_peak_memory is None:
            return self.not_estimated
        said = f"about {gib(self.estimated_peak_memory)} at the peak of a step"
        if self.memory_here is None:
            return said
        if self.estimated_peak_memory <= self.memory_here:
            return f"{said}, of {gib(self.memory_here)} on this {self.device}"
        less = "scedit train --fit finds what fits"
        return f"{said}, more than the {gib(self.memory_here)} on this {self.device}: {less}"


def look_ahead(
    options: TrainSection,
    base: Base,
    tuner: Tuner,
    pictures: int,
    held_out: int,
    processes: Processes,
    shards: ShardDataset | None = None,
    scarce: int = 0,
) -> Preflight:
    """Return the facts of a run on `pictures` images of a dataset folder or `shards`; `scarce` of their
    sizes have fewer images than a batch."""
    parameters = sum(each.numel() for each in tuner.parameters())
    controlnet = controlnet_parameters(base.unet)
    return Preflight(
        base=f"{base.name} ({base.family}, {base.prediction_type})",
        tuner=str(tuner),
        trainable_parameters=parameters,
        of_controlnet=parameters / controlnet if controlnet else None,
        of_full=parameters / base.parameter_count,
        pictures=pictures,
        held_out=held_out,
        batch_size=options.batch_size,
        micro_batch_size=options.micro_batch_size,
        processes=processes.count,
        base_is_sharded=processes.shards_base,
        device=base.device.type,
        precision=options.precision,
        optimizer=options.optimizer,
        steps=options.steps,
        epochs=options.steps * options.batch_size / pictures,
        shards=len(shards.places) if shards else 0,
        size=shards.size if shards else None,
        scarce_sizes=scarce,
        warmup=options.warmup,
        memory_here=memory_of(base.device),
    )


def scarce_sizes(buckets: Sequence[int], batch_size: int) -> int:
    """Return the number of buckets among those of the images that have fewer than `batch_size` images."""
    return sum(count < batch_size for count in Counter(buckets).values())


def memory_of(device: torch.device) -> int | None:
    """Return the bytes of memory of a CUDA card, or of the machine for a CPU."""
    if device.type == "cpu":
        return psutil.virtual_memory().total
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None


def hint_channels(width: float = 1.0) -> tuple[int, ...]:
    """Return the channels of the convolutions that encode ControlNet's hint, `width` times their usual number."""
    return tuple(round(width * each) for each in (16, 32, 96, 256))


def controlnet_parameters(unet: UNet2DConditionModel, width: float = 1.0) -> int | None:
    """Return the number of parameters of a ControlNet for this U-Net, whose hint convolutions have `width` times their
    usual width; None where diffusers cannot make one."""
    from diffusers import ControlNetModel

    try:
        with quiet(), torch.device("meta"):
            made = ControlNetModel.from_unet(unet, "rgb", hint_channels(width), load_weights_from_unet=False)
    except (ValueError, TypeError, AttributeError, KeyError, NotImplementedError):
        return None
    return sum(each.numel() for each in made.parameters())


def duration(seconds: float) -> str:
    """Return a duration as text: "40 s", "12 min", "3.5 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def gib(size: int) -> str:
    """Return a size in bytes as text: "7.45 GiB"."""
    return f"{size / 2**30:.3g} GiB"

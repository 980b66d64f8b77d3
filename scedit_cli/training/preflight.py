"""A summary of a run before its first step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import psutil
import torch

from scedit_cli.core.tuners import Tuner
from scedit_cli.data.shard_dataset import ShardDataset
from scedit_cli.models.base import Base
from scedit_cli.models.controlnet import controlnet_parameters
from scedit_cli.recipe import TrainSection
from scedit_cli.utils.distributed import Processes


@dataclass(frozen=True)
class TunerFacts:
    """The tuner, and its `trainable_parameters` as shares of those of a ControlNet for this base (None where the base
    can have none) and of the U-Net."""

    base: str
    tuner: str
    trainable_parameters: int
    of_controlnet: float | None
    of_full: float


@dataclass(frozen=True)
class DataFacts:
    """The images of a run.

    Attributes:
        pictures, held_out: the numbers of images to train on and to measure with.
        epochs: passes over the images to train on.
        shards: the number of shards streamed from, whose images are cut to `size`; 0 and None for a dataset folder.
        scarce_sizes: the number of image sizes with fewer images than a batch, which therefore repeats some.
    """

    pictures: int
    held_out: int
    epochs: float
    shards: int = 0
    size: tuple[int, int] | None = None
    scarce_sizes: int = 0


@dataclass(frozen=True)
class StepFacts:
    """The steps of a run, and where they are made; `warmup` is the number in which the learning rate rises."""

    steps: int
    warmup: int
    batch_size: int
    micro_batch_size: int
    optimizer: str
    precision: str
    device: str
    processes: int
    base_is_sharded: bool


@dataclass(frozen=True)
class Preflight:
    """The facts of a run that are known before its first step.

    Attributes:
        seconds_per_step: the time of a step after warm-up; measured only in a dry run of steps that fit into memory.
        estimated_peak_memory: bytes at the peak of a step, or None for the reason in `not_estimated`.
        memory_here: bytes of memory of the device in all.
    """

    tuner: TunerFacts
    data: DataFacts
    step: StepFacts
    memory_here: int | None = None
    seconds_per_step: float | None = None
    estimated_peak_memory: int | None = None
    not_estimated: str | None = None

    def document(self) -> dict[str, Any]:
        """Return the result as a JSON document."""
        own = {name: value for name, value in asdict(self).items() if name not in ("tuner", "data", "step")}
        facts = asdict(self.tuner) | asdict(self.data) | asdict(self.step)
        return facts | own | {"estimated_seconds": self.estimated_seconds}

    @property
    def estimated_seconds(self) -> float | None:
        return None if self.seconds_per_step is None else self.seconds_per_step * self.step.steps

    @property
    def fits(self) -> bool:
        """Whether a step fits into memory, as far as that is known."""
        return None in (self.estimated_peak_memory, self.memory_here) or self.estimated_peak_memory <= self.memory_here

    def summary(self) -> list[tuple[str, str]]:
        """Return the (name, text) rows shown to the user."""
        tuner, data, step = self.tuner, self.data, self.step
        beside = f"{tuner.of_full:.2%} of full fine-tuning"
        if tuner.of_controlnet is not None:
            beside = f"{tuner.of_controlnet:.2%} of a ControlNet's, {beside}"
        shared = f" by {step.processes} processes" if step.processes > 1 else ""
        shared += ", each with a part of the base" if step.base_is_sharded else ""
        parts = f", {step.micro_batch_size} at once" if step.micro_batch_size else ""
        rising = f"; train.warmup is {step.warmup}: the learning rate is never reached" * (step.warmup >= step.steps)
        held_out = f", {data.held_out} more held out" if data.held_out else ""
        if data.shards:
            held_out += "; streamed from {} shards, cut to {}x{}, encoded at each step".format(data.shards, *data.size)
        rows = [
            ("base", tuner.base),
            ("tuner", f"{tuner.tuner}, {tuner.trainable_parameters:,} parameters: {beside}"),
            ("data", f"{data.pictures} images{held_out}{self._repetition()}"),
            ("training", f"{step.optimizer} in {step.precision} on {step.device}{shared}"),
            ("steps", f"{step.steps} of {step.batch_size} images{parts}, {data.epochs:.3g} epochs{rising}"),
        ]
        if memory := self._memory():
            rows.append(("memory", memory))
        if self.seconds_per_step is not None:
            rows.append(("time", f"about {duration(self.estimated_seconds)}, {self.seconds_per_step:.3g} s a step"))
        return rows

    def _repetition(self) -> str:
        """Return a clause about images that occur several times in a batch, or ""."""
        data, fewer = self.data, f"fewer than a batch of {self.step.batch_size}"
        again = "comes several times in a batch, each time with another noise"
        if data.pictures < self.step.batch_size:
            return f"; {fewer}, so each {again}"
        return f"; of {data.scarce_sizes} sizes {fewer}, so each of those {again}" if data.scarce_sizes else ""

    def _memory(self) -> str | None:
        if self.estimated_peak_memory is None:
            return self.not_estimated
        said = f"about {gib(self.estimated_peak_memory)} at the peak of a step"
        if self.memory_here is None:
            return said
        if self.fits:
            return f"{said}, of {gib(self.memory_here)} on this {self.step.device}"
        less = "`fit=True` finds the least change that fits"
        return f"{said}, more than the {gib(self.memory_here)} on this {self.step.device}: {less}"


def look_ahead(
    options: TrainSection,
    base: Base,
    tuner: Tuner,
    images: int,
    held_out: int,
    processes: Processes,
    shards: ShardDataset | None = None,
    scarce: int = 0,
) -> Preflight:
    """Return the facts of a run on `images` images of a dataset folder or `shards`; `scarce` of their
    sizes have fewer images than a batch."""
    parameters = sum(each.numel() for each in tuner.parameters())
    controlnet = controlnet_parameters(base.unet)
    return Preflight(
        TunerFacts(
            base=f"{base.name} ({base.family}, {base.prediction_type})",
            tuner=str(tuner),
            trainable_parameters=parameters,
            of_controlnet=parameters / controlnet if controlnet else None,
            of_full=parameters / base.parameter_count,
        ),
        DataFacts(
            images,
            held_out,
            epochs=options.steps * options.batch_size / images,
            shards=len(shards.places) if shards else 0,
            size=shards.size if shards else None,
            scarce_sizes=scarce,
        ),
        StepFacts(
            steps=options.steps,
            warmup=options.warmup,
            batch_size=options.batch_size,
            micro_batch_size=options.micro_batch_size,
            optimizer=options.optimizer,
            precision=options.precision,
            device=base.device.type,
            processes=processes.count,
            base_is_sharded=processes.shards_base,
        ),
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


def duration(seconds: float) -> str:
    """Return a duration as text: "40 s", "12 min", "3.5 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def gib(size: int) -> str:
    """Return a size in bytes as text: "7.45 GiB"."""
    return f"{size / 2**30:.3g} GiB"

"""The requests of `bench`, one class for each kind of measurement. PyTorch is not imported here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from scedit_cli.benchmark.modes import DEFAULT_METHODS
from scedit_cli.inference.sampling_options import SamplingOptions
from scedit_cli.utils.specs import TunerSpec

if TYPE_CHECKING:
    from scedit_cli.data.dataset import Dataset
    from scedit_cli.models.base import Base


@dataclass(frozen=True)
class Sizes:
    """The sizes of the trained parts: r of LoRA, whether LoRA is also on the feed-forward layers, and the hidden width
    of SC- and CSC-Tuners as a share of the channels."""

    lora_rank: int = 64
    lora_feed_forward: bool = False
    down_ratio: float = 1.0


@dataclass(frozen=True)
class Held:
    """How memory is used and counted.

    Attributes:
        quantize: the storage of the frozen weights, as in recipes.
        offload: "encoder" keeps the frozen encoder in the host's memory; tuners on skips alone allow it.
        beside: what an estimate counts besides a step's tensors: of "vae" and "text", encoders in the training loop,
            and "reserve", what PyTorch holds beyond its tensors.
    """

    quantize: str = "none"
    offload: str = "none"
    beside: Sequence[str] = ()


@dataclass(frozen=True)
class CostRequest:
    """Compare training methods by the cost of their steps, each method in its own process.

    Attributes:
        base: "sd15", "sd21" or "sdxl" with random weights, or as for `load_base`. By default sd15 on an accelerator;
            without one the embedded base is measured, and sd15 estimated beside it. An estimate takes sd15.
        methods: names from METHODS. A method that fails has no figures; a note says why.
        batch, resolution: images in a step, and their side in pixels.
        dtype: the precision of the frozen base: fp32, bf16 or fp16.
        device: by default the accelerator where there is one. For an estimate "cuda" or "cpu", whether this machine
            has it or not; "cpu" by default for the embedded base.
        steps: the number of training steps that are timed; 10 by default.
        rounds: how often each method is measured, in turns.
        compiled: whether the models are compiled by `torch.compile`.
        fits: bytes of memory, for which the largest batch of each method is reported.
        batches: the batch sizes at which peak memory is estimated, for the plot.
        estimate: report exact parameters and operations and predicted memory; no step is made.
    """

    base: str | None = None
    methods: Sequence[str] = DEFAULT_METHODS
    batch: int | None = None
    resolution: int | None = None
    dtype: str | None = None
    device: str | None = None
    steps: int | None = None
    rounds: int = 1
    compiled: bool = False
    sizes: Sizes = Sizes()
    held: Held = Held()
    fits: int | None = None
    batches: Sequence[int] = ()
    estimate: bool = False


@dataclass(frozen=True)
class SamplingRequest:
    """Time what tuners and a ControlNet add to a sampling step, by default at the base's resolution, in fp32.

    Attributes:
        scenes: the number of held-out scenes that are drawn for each point of the curve of reused layers; the curve is
            measured where it is drawn.
    """

    base: str | None = None
    resolution: int | None = None
    dtype: str | None = None
    device: str | None = None
    steps: int = 9
    scenes: int = 32


@dataclass(frozen=True)
class SkipsRequest:
    """Measure what each skip connection carries.

    Attributes:
        prediction: as for `load_base`.
        steps: the sampler's steps; by default the base's.
        scenes: the number of held-out scenes; by default 16, or 4 off the embedded base.
        scale, noise: the factor of skips, and their noise in units of their standard deviation.
    """

    base: str | None = None
    prediction: str | None = None
    resolution: int | None = None
    dtype: str | None = None
    device: str | None = None
    steps: int | None = None
    scenes: int | None = None
    scale: float = 0.5
    noise: float = 1.0


@dataclass(frozen=True)
class LearningRequest:
    """Measure the quality of the embedded base, and of `methods` trained on it; the method "base" trains none.

    Attributes:
        steps, seconds: the training of every method, by its steps, or by time, on a CPU processor time; 400 steps and
            75 seconds where neither is given.
        seeds: the number of trainings of every method.
        learning_rates: by method, instead of the swept ones.
        keep: a folder for finished trainings, from which a stopped benchmark resumes.
    """

    methods: Sequence[str] = DEFAULT_METHODS
    device: str | None = None
    batch: int | None = None
    steps: int | None = None
    seconds: float | None = None
    seeds: int = 3
    scenes: int = 128
    learning_rates: Mapping[str, float] = field(default_factory=dict)
    sizes: Sizes = Sizes()
    keep: Path | None = None


@dataclass(frozen=True)
class EvaluationRequest:
    """Evaluate tuners, attached together, on images with conditions.

    Attributes:
        tuners: the tuners and scales; none evaluates the base.
        against: other tuners to compare with, image by image; None compares with none, and an empty one with the base.
        base: as for `load_base`, or a loaded base; the embedded one by default.
        data: a dataset folder, a loaded dataset or shards; on the embedded base held-out scenes by default.
        protocol: one of `protocols.NAMES`.
        images: the most images; by default all of a folder, 1000 of shards, and 128 scenes.
        weights: a folder with local copies of the annotators' weights.
        clip: a folder with a CLIP model, for CLIP scores.
        inception: a TorchScript file of Inception, for FID.
        keep: a folder for the images, a table of their figures and a contact sheet.
    """

    tuners: Sequence[TunerSpec] = ()
    against: Sequence[TunerSpec] | None = None
    base: str | Base | None = None
    data: str | Path | Dataset | None = None
    protocol: str = "scedit"
    images: int | None = None
    sampling: SamplingOptions = SamplingOptions()
    prediction: str | None = None
    dtype: str | None = None
    device: str | None = None
    weights: Path | None = None
    clip: Path | None = None
    inception: Path | None = None
    keep: Path | None = None


@dataclass(frozen=True)
class EarlierResult:
    """Take an earlier document as the result; nothing is measured."""

    path: Path


Request = CostRequest | SamplingRequest | SkipsRequest | LearningRequest | EvaluationRequest | EarlierResult


@dataclass(frozen=True)
class Output:
    """What is done with a result.

    Attributes:
        plot: the file of a figure.
        out: the file of the document.
        baseline: an earlier document; the result's `worse` lists the figures that fell behind it.
        tolerance: the share by which a figure may fall behind the baseline's.
        overwrite: whether existing files at `plot` and `out` are replaced.
    """

    plot: Path | None = None
    out: Path | None = None
    baseline: Path | None = None
    tolerance: float = 0.05
    overwrite: bool = False

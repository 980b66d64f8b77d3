"""What `generate` is asked for: prompts, base, tuners, controls and output, as objects that are checked before any
heavy library is imported."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scedit_cli.data.inputs import check_image_input
from scedit_cli.inference.config import Control, SamplerConfig
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.fields import check_choice, check_number, check_switches, check_type, is_a
from scedit_cli.utils.names import EMBEDDED, LARGEST_SEED, OFFLOADS, PRECISIONS, PREDICTIONS
from scedit_cli.utils.specs import TunerSpec

if TYPE_CHECKING:
    from scedit_cli.core.bundle import Bundle
    from scedit_cli.core.tuners import Tuner
    from scedit_cli.data.inputs import ImageInput
    from scedit_cli.models.base import Base

_PATH = (str, os.PathLike)


@dataclass(frozen=True)
class Prompt:
    """A prompt with settings of its own, which replace those of all images.

    Attributes:
        text: the prompt.
        negative: its negative prompt.
        seeds: its seeds.
        controls: its controls by kind; None leaves the control of that kind out.
        scales: α by the name of a condition or SC-Tuner.
    """

    text: str = ""
    negative: str | None = None
    seeds: tuple[int, ...] | None = None
    controls: Mapping[str, Control | None] = field(default_factory=dict)
    scales: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class BaseConfig:
    """The base, and how it is loaded and run.

    Attributes:
        model: "scenes" (embedded), a diffusers folder, a single file, a hub id with or without `@revision`, or a loaded
            base. For a hub id without revision, the one that the tuners were trained on is used.
        vae, prediction, device: as for `load_base`.
        dtype: one of PRECISIONS; by default the base's.
        any_base: whether tuners may have been trained on other weights than the base's, if its skips are the same.
        vae_slicing, vae_tiling: decode images one at a time, or tile by tile, for less memory.
        offload: one of OFFLOADS: "models" keeps each model on the CPU while it does not run, "encoder" the U-Net's
            encoder and middle alone, which visit the accelerator block by block at every step; None for neither.
        compile: whether the U-Net is compiled.
        fingerprint: the fingerprint that the base must have; None for any.
        unet: a folder with the base's U-Net and its tuners as one graph, as `merge` exports it; the graph takes the
            place of the base's own U-Net, and names the base where `model` is the embedded one.
    """

    model: str | Path | Base = EMBEDDED
    vae: str | Path | None = None
    prediction: str | None = None
    dtype: str | None = None
    device: str | None = None
    any_base: bool = False
    vae_slicing: bool = False
    vae_tiling: bool = False
    offload: str | None = None
    compile: bool = False
    fingerprint: str | None = None
    unet: str | Path | None = None

    @property
    def loaded(self) -> Base | None:
        return None if isinstance(self.model, _PATH) else self.model

    def check(self, field: str = "base") -> None:
        """Raise SceditError for an invalid setting; `field` is the configuration's own name."""
        if not isinstance(self.model, _PATH) and not is_a(self.model, "scedit_cli.models.base", "Base"):
            kind = type(self.model).__name__
            raise SceditError(f"{field} is of type {kind}, which is no base", "`scedit.load_base` loads one", field)
        if self.dtype is not None:
            check_choice(self.dtype, f"{field}.dtype", PRECISIONS)
        if self.prediction is not None:
            check_choice(self.prediction, f"{field}.prediction", PREDICTIONS)
        check_switches(self, field, ("any_base", "vae_slicing", "vae_tiling", "compile"))
        if self.offload is not None:
            check_choice(self.offload, f"{field}.offload", OFFLOADS)
        if self.offload == "encoder" and self.compile:
            place = f"{field}.offload"
            raise SceditError(f"{place}: a compiled U-Net's weights stay in place", "leave one of them out", place)
        for name in ("vae", "prediction", "dtype", "device") if self.loaded else ():
            if getattr(self, name) is not None:
                place = f"{field}.{name}"
                raise SceditError(f"{place} has no effect on a base that is loaded", "pass it to `load_base`", place)


@dataclass(frozen=True)
class InitImage:
    """An image to start from.

    Attributes:
        image: a path, a PIL.Image, or a tensor (C, H, W) of floats in [0, 1].
        strength: the share of the steps that redraw it, above 0, at most 1; by default 0.6, with a mask 1.
        mask: an image of its size, in the same forms, white where it is redrawn; without one all of it is.
        margins: pixels to add and draw on the left, above, on the right and below.
    """

    image: ImageInput
    strength: float | None = None
    mask: ImageInput | None = None
    margins: tuple[int, int, int, int] = (0, 0, 0, 0)

    def check(self, field: str = "init") -> None:
        """Raise SceditError for an invalid attribute; `field` is the image's own name."""
        if self.strength is not None:
            check_number(self.strength, f"{field}.strength")
            if not 0 < self.strength <= 1:
                hint = "give a number above 0, at most 1"
                raise SceditError(f"{field}.strength is {self.strength}", hint, f"{field}.strength")
        check_image_input(self.image, f"{field}.image")
        if self.mask is not None:
            check_image_input(self.mask, f"{field}.mask")
        if not isinstance(self.margins, tuple | list) or len(self.margins) != 4:
            hint = "give pixels on the left, above, on the right and below"
            raise SceditError(f"{field}.margins is {self.margins!r}", hint, f"{field}.margins")
        for side in self.margins:
            check_number(side, f"{field}.margins", 0, 99_999, whole=True)


@dataclass(frozen=True)
class Overrides:
    """What replaces the scale or the region of a condition or an SC-Tuner, by its name: the kind of condition, or for
    an SC-Tuner its file's name without suffix.

    Attributes:
        scales: α.
        sweeps: several α, with an image for each.
        masks: images in the forms of `Control.mask`, white where the condition or SC-Tuner acts.
    """

    scales: Mapping[str, float] = field(default_factory=dict)
    sweeps: Mapping[str, Sequence[float]] = field(default_factory=dict)
    masks: Mapping[str, ImageInput] = field(default_factory=dict)

    def check(self, field: str = "overrides") -> None:
        """Raise SceditError for an invalid value; `field` is the object's own name."""
        for name, scale in self.scales.items():
            check_number(scale, f"{field}.scales[{name!r}]")
            if name in self.sweeps:
                message = f"{field}.scales {name}={scale:g} has no effect beside a sweep of {name}"
                raise SceditError(message, "leave out one of them", f"{field}.scales")
        for name, scales in self.sweeps.items():
            check_type(scales, f"{field}.sweeps[{name!r}]", (tuple, list), "a list of numbers")
            for scale in scales:
                check_number(scale, f"{field}.sweeps[{name!r}]")
        for name, mask in self.masks.items():
            check_image_input(mask, f"{field}.masks[{name!r}]")


@dataclass(frozen=True)
class OutputConfig:
    """What becomes of the images.

    Attributes:
        path: an image file (further images are numbered after it), or a folder; None writes nothing.
        name: the file names in the folder, with fields of `filenames.FIELDS`; by default the next free numbers.
        grid: whether one labelled grid of all images is also written.
        score: whether each image's consistency with each of its conditions is measured.
        overwrite: whether existing images that `path` and `name` name are replaced.
        fps: the frames per second of a video; by default the base's.
    """

    path: str | Path | None = None
    name: str | None = None
    grid: bool = False
    score: bool = False
    overwrite: bool = False
    fps: int | None = None

    def check(self, field: str = "out") -> None:
        """Raise SceditError for an invalid setting; `field` is the configuration's own name."""
        check_type(self.path, field, (*_PATH, type(None)), "a path, or None to write nothing")
        check_switches(self, field, ("grid", "score", "overwrite"))
        if self.fps is not None:
            check_number(self.fps, f"{field}.fps", 1, 100, whole=True)
        for name in ("name", "grid") if self.path is None else ():
            if getattr(self, name):
                raise SceditError(f"{field}.{name} needs a place to write to", "give `out`", f"{field}.{name}")


@dataclass(frozen=True)
class GenerationConfig:
    """All that `generate` takes; `GenerationConfig.of` makes one of its arguments."""

    prompts: Sequence[Prompt] = (Prompt(),)
    base: BaseConfig = BaseConfig()
    tuners: Sequence[TunerSpec] = ()
    controls: Sequence[Control] = ()
    overrides: Overrides = Overrides()
    init: InitImage | None = None
    seeds: Sequence[int] = (0,)
    sampler: SamplerConfig = SamplerConfig()
    out: OutputConfig = OutputConfig()

    @classmethod
    def of(cls, **given: Any) -> GenerationConfig:
        """Return the configuration with each part that is `given` in a short form written out: one prompt, a base's
        name, a tuner without its scale, one seed, a path to write to.

        Raises:
            SceditError: an argument is of another type.
        """
        forms = {
            "prompts": _prompts, "base": _base, "tuners": tuner_specs, "controls": _controls,
            "seeds": _seeds, "out": _out,
        }  # fmt: skip
        for name, wanted in {"overrides": Overrides, "init": (InitImage, type(None)), "sampler": SamplerConfig}.items():
            if name in given:
                kind = (wanted if isinstance(wanted, type) else wanted[0]).__name__
                check_type(given[name], name, wanted, f"a scedit.{kind}")
        return cls(**{name: forms[name](value) if name in forms else value for name, value in given.items()})

    def check(self) -> None:
        """Raise SceditError for an invalid value; files are looked at by their headers alone."""
        self.base.check()
        self.sampler.check()
        if self.base.compile and self.sampler.reuse > 1:
            message = "sampler.reuse has no effect on a compiled U-Net, whose code does not change from step to step"
            raise SceditError(message, "leave out `compile` or `reuse`", "sampler.reuse")
        self.overrides.check()
        self.out.check()
        if self.out.fps is not None and self.sampler.frames is None:
            message = "out.fps is of a video, and images are made"
            raise SceditError(message, "add `frames=16`, or leave it out", "out.fps")
        if self.init:
            self.init.check()
        for place, control in self.placed_controls():
            control.check(place, self.sampler.frames)
        for i, spec in enumerate(self.tuners):
            if spec.scale is not None:
                check_number(spec.scale, f"tuners[{i}].scale")
        for i, prompt in enumerate(self.prompts):
            check_type(prompt.text, f"prompts[{i}]", str, "a text")
            for name, scale in prompt.scales.items():
                check_number(scale, f"prompts[{i}].scales[{name!r}]")
        for place, seeds in [("seeds", self.seeds), *((f"prompts[{i}].seeds", p.seeds) for i, p in
                                                      enumerate(self.prompts) if p.seeds is not None)]:  # fmt: skip
            for seed in seeds:
                check_number(seed, place, 0, LARGEST_SEED, whole=True)
            if not seeds:
                raise SceditError(f"{place} is empty", "give one seed or more", place)

    def placed_controls(self) -> list[tuple[str, Control]]:
        """Return all controls with the names of their fields, those of single prompts last."""
        own = [
            (f"prompts[{i}].controls[{kind!r}]", control)
            for i, prompt in enumerate(self.prompts)
            for kind, control in prompt.controls.items()
            if control is not None
        ]
        return [(f"controls[{i}]", control) for i, control in enumerate(self.controls)] + own


def _prompts(given: Any) -> tuple[Prompt, ...]:
    each = [given] if isinstance(given, str | Prompt) else _listed(given, "prompts", "a text or a list of texts")
    for i, prompt in enumerate(each):
        check_type(prompt, f"prompts[{i}]", (str, Prompt), "a text or a scedit.Prompt")
    return tuple(prompt if isinstance(prompt, Prompt) else Prompt(prompt) for prompt in each) or (Prompt(),)


def _base(given: Any) -> BaseConfig:
    return given if isinstance(given, BaseConfig) else BaseConfig(given)


def tuner_specs(given: Any, field: str = "tuners") -> tuple[TunerSpec, ...]:
    """Return the tuners of a list in which each is an object, a path, or a pair of either and its scale."""
    one = isinstance(given, TunerSpec | str | os.PathLike) or _is_tuner(given)
    each = [given] if one else _listed(given, field, "a list of tuners, of their files, or of either with its scale")
    specs = []
    for i, tuner in enumerate(each):
        scaled = isinstance(tuner, tuple | list) and len(tuner) == 2
        spec = tuner if isinstance(tuner, TunerSpec) else TunerSpec(*tuner) if scaled else TunerSpec(tuner)
        if not (isinstance(spec.source, _PATH) or _is_tuner(spec.source)):
            kind = type(spec.source).__name__
            hint = "give a tuner, its file, or a pair of either and its scale"
            raise SceditError(f"{field}[{i}] is of type {kind}, which is no tuner", hint, f"{field}[{i}]")
        specs.append(spec)
    return tuple(specs)


def _is_tuner(given: Tuner | Bundle | Any) -> bool:
    """Return whether `given` is a module of PyTorch, whose kind is told once it is attached."""
    return is_a(given, "torch.nn", "Module")


def _controls(given: Any) -> tuple[Control, ...]:
    each = [given] if isinstance(given, Control) else _listed(given, "controls", "a list of scedit.Control")
    for i, control in enumerate(each):
        check_type(control, f"controls[{i}]", Control, "a scedit.Control")
    return tuple(each)


def _seeds(given: Any) -> tuple[int, ...]:
    each = given if isinstance(given, Sequence | range) and not isinstance(given, str) else [given]
    return tuple(each)


def _out(given: Any) -> OutputConfig:
    return given if isinstance(given, OutputConfig) else OutputConfig(given)


def _listed(given: Any, field: str, wanted: str) -> list[Any]:
    check_type(given, field, (list, tuple), wanted)
    return list(given)

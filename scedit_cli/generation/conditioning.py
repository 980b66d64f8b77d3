"""The conditioning of each image: its condition images at their size, and where and when the tuners act."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from torch import Tensor

from scedit_cli import conditions
from scedit_cli.conditions.annotation_spec import AnnotationSpec
from scedit_cli.data.images import open_mask
from scedit_cli.data.inputs import file_of, source_of
from scedit_cli.generation.annotators import annotation_for
from scedit_cli.generation.config import GenerationConfig
from scedit_cli.generation.image_jobs import ImageJob
from scedit_cli.generation.init_image import OpenedInitImage
from scedit_cli.generation.provenance import control_text, digests, image_files, model_files, of_kinds
from scedit_cli.inference.config import Control
from scedit_cli.inference.controls import OpenedControl, PlacedTuner, place_tuners
from scedit_cli.inference.denoising import Start
from scedit_cli.inference.sampler import check_size, to_hints, to_tensor
from scedit_cli.inference.sizes import Size, fitting, resized, size_for
from scedit_cli.models.base import Base
from scedit_cli.utils.errors import SceditError, in_field
from scedit_cli.utils.io import expanded, sha256

if TYPE_CHECKING:
    from scedit_cli.data.inputs import ImageInput

_Key = tuple[Any, ...]  # what makes one condition image: its file or the image in memory, its kind, how it is made


@dataclass(eq=False)
class Conditioning:
    """The conditioning of images. `Conditioning.of` makes it from files alone; `fit` adapts it to a base.

    Attributes:
        placed: the tuners to attach, in this order.
        device: PyTorch's name of the device of annotators.
        start: the image to start from; set by `fit`.
    """

    config: GenerationConfig
    placed: list[PlacedTuner]
    init: OpenedInitImage | None
    device: str
    _jobs: Sequence[ImageJob]
    start: Start | None = None
    _opened: dict[_Key, OpenedControl] = field(default_factory=dict)
    _masks: dict[Path | int, Image.Image] = field(default_factory=dict)
    _sizes: dict[tuple[_Key, ...], Size] = field(default_factory=dict)
    _shown: dict[tuple[_Key, Size], Image.Image] = field(default_factory=dict)

    @classmethod
    def of(cls, config: GenerationConfig, jobs: Sequence[ImageJob], base: str, device: str = "cpu") -> Conditioning:
        """Open all images and tuners, and check that they match.

        Args:
            base: the name of the base.

        Raises:
            SceditError: a file cannot be opened, conditions and tuners do not match, or a name is of no tuner, or of
                several.
        """
        used = {_key(control) for job in jobs for control in job.controls}
        opened: dict[_Key, OpenedControl] = {}
        for place, control in config.placed_controls():
            if (key := _key(control)) in used and key not in opened:
                opened[key] = OpenedControl.of(control, place)
        init = OpenedInitImage.of(config.init) if config.init else None
        masks = _open_masks(config)
        placed = place_tuners(config.tuners, list(opened.values()), base)
        opened = _with_makers(opened, placed, base, device if config.out.score else None)
        _check_names(config, [each.name for each in placed])
        return cls(config, placed, init, device, jobs, None, opened, masks)

    def doubts(self) -> list[str]:
        """Return a sentence for each condition image that does not look like one of its kind."""
        return [doubt for each in self._opened.values() if (doubt := each.doubt)]

    def fit(self, base: Base) -> list[str]:
        """Choose every image's size; return a sentence for each file that is resized.

        Raises:
            SceditError: the base cannot draw a size.
        """
        sampler, notes = self.config.sampler, []
        start = str(self.init and file_of(self.config.init.image) or "the image to start from")
        if self.init and (grown := self.init.grown_to(base.multiple)) is not self.init:
            (width, height), (wider, higher) = self.init.size, grown.size
            notes.append(
                f"{start}: {width}x{height} pixels with its margins, extended to {wider}x{higher}: the sides of base "
                f"{base.name} are multiples of {base.multiple}"
            )
            self.init = grown
        for job in self._jobs:
            if (keys := tuple(map(_key, job.controls))) in self._sizes:
                continue
            lead = self._opened[keys[0]] if keys else None
            given = self.init.size if self.init else lead.image.size if lead else None
            redrawn = self.init is not None and self.init.mask is None
            shrink = redrawn or (self.init is None and lead is not None and lead.control.photo is not None)
            size = size_for(given, sampler.width, sampler.height, base, shrink)
            asked = sampler.width or sampler.height or self.init or not lead
            check_size(base, size[1], size[0], "the image to make" if asked else lead.control.name)
            self._sizes[keys] = size
            images = {self._opened[key].control.name: self._opened[key].image.size for key in keys}
            if self.init:
                images |= {start: self.init.size}
            notes += [
                f"{name}: {before[0]}x{before[1]} pixels, {fitting(before, size, sampler.resize)} {size[0]}x{size[1]}"
                for name, before in images.items()
                if before != size
            ]
        if self.init:
            self.start = self.init.start(next(iter(self._sizes.values())), sampler.resize)
        return list(dict.fromkeys(notes))

    def size(self, job: ImageJob) -> Size:
        return self._sizes[tuple(map(_key, job.controls))]

    def scales(self, job: ImageJob) -> tuple[float, ...]:
        """Return α of every placed tuner; 0 where `job` has no such condition."""
        given = {control.kind: control.scale for control in job.controls}
        scales = []
        for each in self.placed:
            named = job.scales.get(each.name)
            if each.tuner.condition is None:
                scales.append(each.scale if named is None else each.own_scale * named)
            elif each.tuner.condition in given:
                scales.append(each.scale * (given[each.tuner.condition] if named is None else named))
            else:
                scales.append(0.0)
        return tuple(scales)

    def spans(self, job: ImageJob) -> tuple[tuple[float, float], ...]:
        """Return between which fractions of the steps each placed tuner acts, as (start, end) in [0, 1]."""
        given = {control.kind: (control.start, control.end) for control in job.controls}
        return tuple(given.get(each.tuner.condition, (0.0, 1.0)) for each in self.placed)

    def regions(self, job: ImageJob) -> list[Tensor | None]:
        """Return the region where each placed tuner acts, for `Attachment.set_regions`."""
        size, rule = self.size(job), self.config.sampler.resize
        images = {name: self._masks[key] for name, key in self.masks(job).items()}
        shown = {name: to_tensor([resized(mask, size, rule)])[:, :1] for name, mask in images.items()}
        return [shown.get(each.name) for each in self.placed]

    def masks(self, job: ImageJob) -> dict[str, Path | int]:
        """Return what tells the masks of `job` apart, by name."""
        return {name: _identity(mask) for name, mask in _masks_of(self.config, job.controls).items()}

    def shown(self, job: ImageJob) -> dict[str, Image.Image]:
        """Return the condition images of `job` by kind, as the tuners see them."""
        size = self.size(job)
        shown = {}
        for control in job.controls:
            key = _key(control)
            if (key, size) not in self._shown:
                image = self._opened[key].shown_at(size, self.config.sampler.resize, self.device)
                self._shown[key, size] = image
            shown[control.kind] = self._shown[key, size]
        return shown

    def hints(self, jobs: Sequence[ImageJob]) -> dict[str, Tensor]:
        """Return the hints of a batch by kind: one if `jobs` share the condition image, else one per job."""
        shown = [self.shown(job) for job in jobs]
        scales = zip(self.placed, self.scales(jobs[0]), strict=True)
        hints = {}
        for kind in [each.tuner.condition for each, scale in scales if scale and each.tuner.condition]:
            images = [each[kind] for each in shown]
            same = all(image is images[0] for image in images)
            hints[kind] = to_hints(kind, images[:1] if same else images)
        return hints

    def measured(self, jobs: Sequence[ImageJob], images: Sequence[Image.Image]) -> list[dict[str, dict[str, float]]]:
        """Return for each image, by kind, its `consistency` with that condition and further figures."""
        makers = [
            (n, self._opened[_key(control)].maker)
            for n, job in enumerate(jobs[: len(images)])
            for control in job.controls
        ]
        figures = conditions.measured_by(
            [maker for _, maker in makers],
            [images[n] for n, _ in makers],
            [self.shown(jobs[n])[maker.kind] for n, maker in makers],
            self.device,
        )
        scores: list[dict[str, dict[str, float]]] = [{} for _ in images]
        for (n, maker), each in zip(makers, figures, strict=True):
            scores[n][maker.kind] = each
        return scores

    def settings(self, job: ImageJob) -> dict[str, Any]:
        """Return the settings that an image's file records, by the names and in the forms of the command line's
        options; `in_memory` lists what no file holds."""
        config, init = self.config, self.config.init
        tuners: list[PlacedTuner] = []
        for each in self.placed:
            if not each.bundled or each.file not in [other.file for other in tuners]:
                tuners.append(each)
        made = [control for control in job.controls if control.photo is not None]
        texts = {control.kind: control_text(control) for control in job.controls if isinstance(control.source, Path)}
        makers = [self._opened[_key(control)].maker for control in made]
        masks = {name: file_of(mask) for name, mask in _masks_of(config, job.controls).items()}
        files = {"image": init and file_of(init.image), "inpaint": init and file_of(init.mask)}
        in_memory = [f"{control.kind} image" for control in job.controls if control.kind not in texts]
        in_memory += [f"mask of {name}" for name, file in masks.items() if file is None]
        in_memory += [each.file for each in tuners if each.path is None and config.base.unet is None]
        in_memory += ["image to start from"] if init and not files["image"] else []
        in_memory += ["mask"] if init and init.mask is not None and not files["inpaint"] else []
        return {
            "conds": [texts[each.kind] for each in job.controls if each.photo is None and each.kind in texts],
            "conds_from": [texts[each.kind] for each in made if each.kind in texts],
            "params": [f"{maker.kind}.{name}={value}" for maker in makers for name, value in maker.values],
            **_recorded_weights(made, makers),
            "tuners": [f"{of_kinds(each.kinds)}{each.lasting}:{each.factor!r}" for each in tuners if each.path],
            "scales": [f"{name}={float(scale)!r}" for name, scale in job.scales.items()],
            "masks": [f"{name}={file.absolute()}" for name, file in masks.items() if file],
            "resize": config.sampler.resize,
            **{name: file and str(file.absolute()) for name, file in files.items()},
            "strength": self.start.strength if self.start else None,
            "outpaint": ",".join(map(str, init.margins)) if init and any(init.margins) else None,
            "files": digests([*image_files(replace(config, prompts=(), controls=job.controls)), *model_files(config)])
            | {each.lasting: sha256(each.path) for each in tuners if each.path},
            "in_memory": in_memory,
        }


def _identity(given: ImageInput) -> Path | int:
    """Return what tells an image apart: its file, or the object in memory."""
    return file_of(given) or id(given)


def _key(control: Control) -> _Key:
    given, is_photo = (control.image, False) if control.photo is None else (control.photo, True)
    return _identity(given), control.kind, is_photo, _weights_of(control), *sorted(control.params.items())


def _weights_of(control: Control) -> str | None:
    """Return the absolute path of the folder with the weights of a control's annotator; None for the hub."""
    return None if control.weights is None else str(expanded(control.weights).absolute())


def _recorded_weights(made: Sequence[Control], makers: Sequence[AnnotationSpec]) -> dict[str, Any]:
    """Return the folder that all annotators with weights take theirs from, or the folders by kind where they differ."""
    folders = {
        control.kind: _weights_of(control)
        for control, maker in zip(made, makers, strict=True)
        if maker.annotator.weights
    }
    if len(set(folders.values())) > 1:
        return {"weights": None, "weights_of": [f"{kind}={folder}" for kind, folder in folders.items() if folder]}
    return {"weights": next(iter(folders.values()), None)}


def _masks_of(config: GenerationConfig, controls: Sequence[Control]) -> dict[str, ImageInput]:
    """Return the masks of these controls and of the overrides, by name."""
    return {each.kind: each.mask for each in controls if each.mask is not None} | dict(config.overrides.masks)


def _open_masks(config: GenerationConfig) -> dict[Path | int, Image.Image]:
    """Return all masks, each by its identity."""
    given = {f"overrides.masks[{name!r}]": mask for name, mask in config.overrides.masks.items()}
    for place, control in config.placed_controls():
        if control.mask is not None:
            if control.kind in config.overrides.masks:
                raise SceditError(f"two masks for {control.kind}", "paint them into one image", f"{place}.mask")
            given[f"{place}.mask"] = control.mask
    masks = {}
    for place, mask in given.items():
        with in_field(place, "check the path"):
            masks[_identity(mask)] = open_mask(source_of(mask))
    return masks


def _check_names(config: GenerationConfig, names: Sequence[str]) -> None:
    """Raise SceditError for an override of a name that none of the tuners, which have these `names`, has alone."""
    given = {f"overrides.{part}": getattr(config.overrides, part) for part in ("masks", "scales", "sweeps")}
    given |= {f"prompts[{i}].scales": prompt.scales for i, prompt in enumerate(config.prompts)}
    for place, values in given.items():
        for name in values:
            if (several := names.count(name)) > 1:
                raise SceditError(
                    f"{place} {name}: {several} tuners have that name",
                    "rename their files, or give each its scale with its file in `tuners`",
                    place,
                )
            if not several:
                guess = difflib.get_close_matches(name, names, n=1)
                there = f"there is {', '.join(names)}" if names else "add its condition with `controls`, or its tuner"
                hint = f"did you mean {guess[0]}?" if guess else there
                raise SceditError(f"{place} {name}: no tuner of that name acts here", hint, place)


def _with_makers(
    opened: dict[_Key, OpenedControl], placed: Sequence[PlacedTuner], base: str, scored_on: str | None
) -> dict[_Key, OpenedControl]:
    """Return the controls with their makers. With a device `scored_on`, also load the models that measure onto it.

    Raises:
        SceditError: a setting is invalid or has no effect.
    """
    for each in opened.values():
        if each.control.params and not scored_on and each.control.photo is None:
            raise SceditError(
                f"{each.field}.params: the {each.kind} condition is neither made nor measured",
                f"leave them out; `Control('{each.kind}', photo)` would make it, and `score` measure it",
                f"{each.field}.params",
            )
    takers = {each.tuner.condition: each.tuner for each in placed}
    made = {key: replace(each, maker=annotation_for(each, takers.get(each.kind), base)) for key, each in opened.items()}
    if scored_on:
        for maker in dict.fromkeys(each.maker for each in made.values()):
            conditions.check_measurable(maker.kind, maker.by, maker.weights, scored_on, **dict(maker.values))
    return made

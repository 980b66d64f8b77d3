"""The conditioning of each image: its condition images at their size, and where and when the tuners act."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from scedit_cli import conditions
from scedit_cli.conditions.annotation_spec import parameters_of
from scedit_cli.conditions.naming import check_one_of_each, check_scorable
from scedit_cli.data.images import open_mask
from scedit_cli.generation.annotators import annotation_for
from scedit_cli.generation.config import Request
from scedit_cli.generation.image_jobs import ImageJob
from scedit_cli.generation.init_image import InitImage
from scedit_cli.generation.provenance import condition_text, digests, sha256
from scedit_cli.inference.controls import (
    Condition,
    PlacedTuner,
    Size,
    open_condition,
    open_named,
    place_tuners,
    resized,
    size_for,
)
from scedit_cli.inference.denoising import Start
from scedit_cli.inference.sampler import check_size, to_hints, to_tensor
from scedit_cli.models.base import Base
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.io import expanded
from scedit_cli.utils.specs import ConditionSpec, parse_tuner

_Key = tuple[Path, str | None, bool]


@dataclass(eq=False)
class Conditioning:
    """The conditioning of a request's images. `Conditioning.of` makes it from files alone; `fit` adapts it to a base.

    Attributes:
        placed: the tuners to attach, in this order.
        device: PyTorch's name of the device of annotators.
        start: the image to start from; set by `fit`.
    """

    request: Request
    placed: list[PlacedTuner]
    canvas: InitImage | None
    device: str
    _specs: list[tuple[ConditionSpec, ...]]
    start: Start | None = None
    _conditions: dict[_Key, Condition] = field(default_factory=dict)
    _masks: dict[str, Image.Image] = field(default_factory=dict)
    _sizes: dict[tuple[ConditionSpec, ...], Size] = field(default_factory=dict)
    _shown: dict[tuple[_Key, Size], Image.Image] = field(default_factory=dict)

    @classmethod
    def of(
        cls, request: Request, orders: Sequence[ImageJob], base: str, scored: bool = False, device: str = "cpu"
    ) -> Conditioning:
        """Open all images and tuners, and check that they match, and, where images are `scored`, that there are
        conditions to measure.

        Raises:
            SceditError: a file cannot be opened, conditions and tuners do not match, or a name is of no tuner, or of
                several.
        """
        opened: dict[_Key, Condition] = {}
        groups = list(dict.fromkeys(order.conditions for order in orders))
        for specs in groups:
            for spec in specs:
                if (key := _key(spec)) not in opened:
                    opened[key] = open_condition(spec)
            check_one_of_each((spec.file, opened[_key(spec)].kind) for spec in specs)
        if scored:
            check_scorable({each.spec.file: each.kind for each in opened.values()})
        canvas = InitImage.of(request) if request.image is not None else None
        masks = {name: open_named(file, "--mask", open_mask) for name, file in request.mask_files.items()}
        placed = place_tuners([parse_tuner(text) for text in request.tuners], list(opened.values()), base)
        opened = _made(opened, placed, request, base, device if scored else None)
        names = [each.name for each in placed]
        said = {"--mask": request.mask_files, "--scale or --sweep": {n: 0 for order in orders for n in order.scales}}
        for option, given in said.items():
            for name in given:
                if (several := names.count(name)) > 1:
                    raise SceditError(
                        f"{option} {name}: {several} tuners have that name",
                        hint="rename their files, or give each its scale behind its file: --tuner FILE:0.5",
                    )
                if not several:
                    guess = difflib.get_close_matches(name, names, n=1)
                    there = f"there is {', '.join(names)}" if names else "add its condition by --cond, or --tuner FILE"
                    hint = f"did you mean {guess[0]}?" if guess else there
                    raise SceditError(f"{option} {name}: no tuner of that name acts here", hint)
        return cls(request, placed, canvas, device, groups, None, opened, masks)

    def fit(self, base: Base) -> list[str]:
        """Choose every image's size; return a sentence for each file that is resized.

        Raises:
            SceditError: the base cannot draw a size.
        """
        request, notes = self.request, []
        rule = request.resize or "crop"
        if self.canvas:
            self.canvas = self.canvas.grown_to(base.multiple)
        said = {"crop": "cropped to", "fit": "set between bars in", "stretch": "stretched to"}[rule]
        for specs in self._specs:
            lead = self._conditions[_key(specs[0])] if specs else None
            picture = self.canvas.size if self.canvas else lead.picture.size if lead else None
            redrawn = self.canvas is not None and self.canvas.mask is None
            shrink = redrawn or (self.canvas is None and lead is not None and lead.spec.photo)
            size = size_for(picture, request.width, request.height, base, shrink)
            asked = request.width or request.height or self.canvas or not lead
            check_size(base, size[1], size[0], "the picture to make" if asked else str(lead.spec.file))
            self._sizes[specs] = size
            files = {str(spec.file): self._conditions[_key(spec)].picture.size for spec in specs}
            if self.canvas:
                files |= {str(request.image): self.canvas.size}
            notes += [
                f"{file}: {before[0]}x{before[1]} pixels, {said} {size[0]}x{size[1]}"
                for file, before in files.items()
                if before != size
            ]
        if self.canvas:
            self.start = self.canvas.start(next(iter(self._sizes.values())), rule, request.strength)
        return list(dict.fromkeys(notes))

    def size(self, order: ImageJob) -> Size:
        return self._sizes[order.conditions]

    def scales(self, order: ImageJob) -> tuple[float, ...]:
        """Return α of every placed tuner; 0 where `order` has no such condition."""
        given = {self._conditions[_key(spec)].kind: spec.scale for spec in order.conditions}
        scales = []
        for each in self.placed:
            named = order.scales.get(each.name)
            if each.tuner.condition is None:
                scales.append(each.scale if named is None else each.own_scale * named)
            elif each.tuner.condition in given:
                scales.append(each.scale * (given[each.tuner.condition] if named is None else named))
            else:
                scales.append(0.0)
        return tuple(scales)

    def spans(self, order: ImageJob) -> tuple[tuple[float, float], ...]:
        """Return between which fractions of the steps each placed tuner acts, as (start, end) in [0, 1]."""
        given = {self._conditions[_key(spec)].kind: (spec.start, spec.end) for spec in order.conditions}
        return tuple(given.get(each.tuner.condition, (0.0, 1.0)) for each in self.placed)

    def regions(self, order: ImageJob) -> list[Tensor | None]:
        """Return the region where each placed tuner acts, for `Attachment.set_regions`."""
        size, rule = self.size(order), self.request.resize or "crop"
        shown = {name: to_tensor([resized(mask, size, rule)])[:, :1] for name, mask in self._masks.items()}
        return [shown.get(each.name) for each in self.placed]

    def shown(self, order: ImageJob) -> dict[str, Image.Image]:
        """Return the condition images of `order` by kind, as the tuners see them."""
        size = self.size(order)
        shown = {}
        for spec in order.conditions:
            condition, key = self._conditions[_key(spec)], (_key(spec), size)
            if key not in self._shown:
                self._shown[key] = condition.shown_at(size, self.request.resize or "crop", self.device)
            shown[condition.kind] = self._shown[key]
        return shown

    def hints(self, orders: Sequence[ImageJob]) -> dict[str, Tensor]:
        """Return the hints of a batch by kind: one if `orders` share the condition image, else one per order."""
        shown = [self.shown(order) for order in orders]
        scales = zip(self.placed, self.scales(orders[0]), strict=True)
        hints = {}
        for kind in [each.tuner.condition for each, scale in scales if scale and each.tuner.condition]:
            pictures = [each[kind] for each in shown]
            same = all(picture is pictures[0] for picture in pictures)
            hints[kind] = to_hints(kind, pictures[:1] if same else pictures)
        return hints

    def measured(
        self, orders: Sequence[ImageJob], pictures: Sequence[Image.Image]
    ) -> list[dict[str, dict[str, float]]]:
        """Return for each image, by kind, its `consistency` with that condition and further figures."""
        makers = [
            (n, self._conditions[_key(spec)].maker)
            for n, order in enumerate(orders[: len(pictures)])
            for spec in order.conditions
        ]
        figures = conditions.measured_by(
            [maker for _, maker in makers],
            [pictures[n] for n, _ in makers],
            [self.shown(orders[n])[maker.kind] for n, maker in makers],
            self.device,
        )
        scores: list[dict[str, dict[str, float]]] = [{} for _ in pictures]
        for (n, maker), each in zip(makers, figures, strict=True):
            scores[n][maker.kind] = each
        return scores

    def settings(self, order: ImageJob) -> dict[str, Any]:
        """Return the settings that an image's file records, as fields of a request with absolute paths."""
        request = self.request
        named = [(self._conditions[_key(spec)].kind, spec) for spec in order.conditions]
        tuners: list[PlacedTuner] = []
        for each in self.placed:
            if not each.bundled or each.file not in [other.file for other in tuners]:
                tuners.append(each)
        pictures = {name: _absolute(getattr(request, name)) for name in ("image", "inpaint")}
        files = [spec.file for _, spec in named]
        files += [*request.mask_files.values(), *(Path(file) for file in pictures.values() if file)]
        files += [expanded(request.vae)] if request.vae is not None else []
        makers = [self._conditions[_key(spec)].maker for _, spec in named if spec.photo]
        return {
            "conds": [condition_text(spec, kind) for kind, spec in named if not spec.photo],
            "conds_from": [condition_text(spec, kind) for kind, spec in named if spec.photo],
            "params": [f"{maker.kind}.{name}={value}" for maker in makers for name, value in maker.values],
            "weights": _absolute(request.weights) if makers else None,
            "tuners": [f"{each.lasting}:{each.factor!r}" for each in tuners],
            "scales": [f"{name}={float(scale)!r}" for name, scale in order.scales.items()],
            "masks": [f"{name}={file.absolute()}" for name, file in request.mask_files.items()],
            "resize": request.resize,
            **pictures,
            "strength": self.start.strength if self.start else None,
            "outpaint": request.outpaint,
            "files": digests(files) | {each.lasting: sha256(each.path) for each in tuners},
        }


def _made(
    opened: Mapping[_Key, Condition], placed: Sequence[PlacedTuner], request: Request, base: str, scored_on: str | None
) -> dict[_Key, Condition]:
    """Return the conditions with their makers. With a device `scored_on`, also load the models that measure onto it.

    Raises:
        SceditError: a setting is invalid or has no effect.
    """
    kinds = list(dict.fromkeys(condition.kind for condition in opened.values()))
    photos = {condition.kind for condition in opened.values() if condition.spec.photo}
    given = parameters_of(kinds, request.params)
    for kind, values in given.items():
        if values and not scored_on and kind not in photos:
            raise SceditError(
                f"--param: the {kind} condition is neither made nor measured",
                hint=f"leave it out; --cond-from {kind}=PHOTO would make it, and --score measure it",
            )
    takers = {each.tuner.condition: each.tuner for each in placed}
    weights = expanded(request.weights) if request.weights is not None else None
    made = {
        key: replace(each, maker=annotation_for(each, given[each.kind], takers.get(each.kind), base, weights))
        for key, each in opened.items()
    }
    if scored_on:
        for maker in dict.fromkeys(each.maker for each in made.values()):
            conditions.check_measurable(maker.kind, maker.by, maker.weights, scored_on, **dict(maker.values))
    return made


def _key(spec: ConditionSpec) -> _Key:
    return spec.file, spec.kind, spec.photo


def _absolute(file: str | Path | None) -> str | None:
    return None if file is None else str(expanded(file).absolute())

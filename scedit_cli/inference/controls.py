"""The controls of a generation: condition images and tuners, opened, matched and checked against a base."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from copy import copy, deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image

from scedit_cli import conditions, scenes
from scedit_cli.conditions.annotation_spec import AnnotationSpec
from scedit_cli.core.bundle import Bundle, unwrapped
from scedit_cli.core.source import locate_pinned
from scedit_cli.core.tuners import CSCTuner, Tuner
from scedit_cli.core.weights import load_tuner
from scedit_cli.data.hints import open_given_condition
from scedit_cli.data.images import open_image
from scedit_cli.inference.config import Control
from scedit_cli.inference.sizes import Size, resized
from scedit_cli.models.base import Base
from scedit_cli.models.loading import EMBEDDED
from scedit_cli.utils.errors import SceditError, in_field
from scedit_cli.utils.hub import is_hub_id, split_revision
from scedit_cli.utils.io import expanded
from scedit_cli.utils.specs import TunerSpec


@dataclass(frozen=True)
class OpenedControl:
    """A control whose image is opened.

    Attributes:
        field: the name of the control in errors.
        image: the condition image, or the photograph of which `maker` makes one.
    """

    control: Control
    field: str
    image: Image.Image
    maker: AnnotationSpec | None = None

    @classmethod
    def of(cls, control: Control, field: str = "control") -> OpenedControl:
        """Open a control's condition image or photograph.

        Raises:
            SceditError: the file is missing, or is no image.
        """
        with in_field(f"{field}.{control.part()}", "check the path"):
            source = control.source
            image = open_given_condition(source, control.kind) if control.photo is None else open_image(source)
        return cls(control, field, image)

    @property
    def kind(self) -> str:
        return self.control.kind

    @property
    def doubt(self) -> str | None:
        """A sentence where the condition image does not look like one of its kind."""
        doubt = conditions.kind_named(self.kind).doubt(self.image) if self.control.photo is None else None
        return doubt and f"{self.control.name} {doubt}; `Control('{self.kind}', photo)` makes one of a photograph"

    def shown_at(self, size: Size, rule: str, device: str = "cpu") -> Image.Image:
        """Return the condition image at `size`, by one of RESIZE_RULES; a photograph is resized and then annotated on
        `device`.

        Raises:
            SceditError: the annotator's weights are missing, or their licence is not accepted.
            WorkFailed: the hub cannot be reached.
        """
        if self.control.photo is None:
            labels = conditions.kind_named(self.kind).labels
            return resized(self.image, size, rule, Image.Resampling.NEAREST if labels else Image.Resampling.LANCZOS)
        field = f"{self.field}.photo"
        try:
            make = self.maker.load(self.maker.settings(""), device)
        except SceditError as error:
            message = f"{field} {self.kind}={self.control.name}: {error.message}"
            raise type(error)(message, error.hint, field) from error
        return make([resized(self.image, size, rule)])[0]


@dataclass(frozen=True)
class PlacedTuner:
    """A tuner as it will be attached.

    Attributes:
        file: the name that it was given by; that of its field for a tuner in memory.
        own_scale, factor: its α within its file, 1 outside bundles, and the given factor of it.
        bundled: whether it comes from a bundle of several tuners.
        path: the tuner's file; None for a tuner in memory.
        lasting: a name that finds the file from any working directory and installation: a shipped tuner's name,
            `owner/name@commit` on the hub, else the absolute path.
        field: the name of the tuner in errors.
        kinds: the conditions of all CSC-Tuners of its file, where that is another program's and does not state them.
    """

    tuner: Tuner
    file: str
    own_scale: float = 1.0
    factor: float = 1.0
    bundled: bool = False
    path: Path | None = None
    lasting: str = ""
    field: str = "tuners"
    kinds: tuple[str, ...] = ()

    @property
    def scale(self) -> float:
        return self.own_scale * self.factor

    @property
    def name(self) -> str:
        """The name for overrides: its condition, or for an SC-Tuner its file's (see `called`)."""
        return self.tuner.condition or called(self.file)


def called(file: str) -> str:
    """Return the name of a tuner's file without suffix, or its folder's name where a run has named the file "tuner"."""
    path = expanded(split_revision(file)[0]).absolute()
    return (path.stem == "tuner" and path.parent.name) or path.stem


def place_tuners(tuners: Sequence[TunerSpec], controls: Sequence[OpenedControl], base: str) -> list[PlacedTuner]:
    """Load the tuners for the `controls`. On the embedded base, a condition that no named tuner takes gets the shipped
    tuner of its kind. A bundle's tuners without a given condition are left out.

    Raises:
        SceditError: a tuner has no condition, a condition has no tuner, or two tuners take one condition.
    """
    files = [load_placed(spec, f"tuners[{i}]") for i, spec in enumerate(tuners)]
    placed = _named(files, [control.kind for control in controls])
    taken = {each.tuner.condition for each in placed}
    for control in controls:
        if control.kind not in taken:
            if base != EMBEDDED or control.kind not in scenes.shipped_tuners():
                raise scenes.untaken(control.control.name, control.kind, control.field)
            placed += load_placed(TunerSpec(str(scenes.shipped_tuner(control.kind))))
            taken.add(control.kind)
    return _needed(placed, {control.kind for control in controls})


def load_placed(spec: TunerSpec, field: str = "tuners") -> list[PlacedTuner]:
    """Load the tuners of one file, a bundle's one by one; the bare name of a shipped tuner loads that. A tuner in
    memory is taken in a copy that shares its weights; `field` is its name in errors."""
    path, lasting, given = None, "", field
    if isinstance(spec.source, str | os.PathLike):
        given = scenes.tuner_place(str(spec.source))
        path, pinned = locate_pinned(given)
        lasting = path.stem if path.parent == scenes.TUNERS else pinned or str(given.absolute())
        loaded = load_tuner(path)
    else:
        with in_field(field):
            loaded = unwrapped(spec.source)
    tuners, scales = (loaded.tuners, loaded.scales) if isinstance(loaded, Bundle) else ([loaded], [1.0])
    factor = 1.0 if spec.scale is None else spec.scale
    bundled = len(tuners) > 1
    placed = [
        PlacedTuner(tuner if path else copy(tuner), str(given), own, factor, bundled, path, lasting, field)
        for tuner, own in zip(tuners, scales, strict=True)
    ]
    return _with_conditions(placed, spec.conditions) if spec.conditions else placed


def on_device(placed: PlacedTuner, device: torch.device, dtype: torch.dtype | None = None) -> PlacedTuner:
    """Return a tuner on `device`, in `dtype` if that is given; one that the caller holds is copied where it changes."""
    tuner = placed.tuner
    if placed.path is None and any((w.device, w.dtype) != (device, dtype or w.dtype) for w in tuner.parameters()):
        tuner = deepcopy(tuner)
    return replace(placed, tuner=tuner.to(device, dtype))


def _with_conditions(placed: Sequence[PlacedTuner], names: Sequence[str]) -> list[PlacedTuner]:
    """Give the CSC-Tuners of another program's file these conditions, in order."""
    file, takers = placed[0].file, [each.tuner for each in placed if isinstance(each.tuner, CSCTuner)]
    if not takers:
        hint = f"leave {','.join(names)}= out"
        raise SceditError(f"{file} is an SC-Tuner, which takes no condition such as {names[0]}", hint)
    if len(names) != len(takers):
        raise SceditError(
            f"{file} holds {len(takers)} CSC-Tuners, and {', '.join(names)} names {len(names)}",
            hint="name each one, as in canny,depth=FILE",
        )
    for name, tuner in zip(names, takers, strict=True):
        if "format" in tuner.metadata and tuner.condition != name:
            raise SceditError(
                f"{file} takes {tuner.condition} conditions, not {name}",
                hint="KIND= names the conditions of another program's file; leave it out",
            )
        tuner.condition = name
    return [replace(each, kinds=tuple(names)) for each in placed]


def as_trained(model: str, placed: Iterable[PlacedTuner]) -> str:
    """Return `model`, with the commit that its tuners were trained on where it is on the hub and they agree on one."""
    if not is_hub_id(model) or expanded(model).exists():
        return model
    facts = [each.tuner.metadata for each in placed if each.tuner.metadata.get("base") == model]
    commits = {known["base_revision"] for known in facts if "base_revision" in known}
    return f"{model}@{commits.pop()}" if len(commits) == 1 else model


def check_base(placed: PlacedTuner, base: Base, option: str = "`base`", any_base: bool | None = None) -> str | None:
    """Check that a tuner was trained for this base.

    Args:
        option: the argument that named the base, as the advice says it.
        any_base: whether a tuner that was trained on other weights with the same skips is allowed; None where the
            command has no such option.

    Returns:
        A sentence that warns of such a tuner, else None.

    Raises:
        SceditError: the tuner was trained for another base.
    """
    facts = placed.tuner.metadata
    name, trained_on = facts.get("base"), facts.get("base_fingerprint")
    fits = tuple(placed.tuner.channels) == base.skips.channels
    if fits and trained_on in (None, *base.fingerprints):
        return None
    hint = f"name its base with {option}, or a tuner that was trained on {base.name}"
    if fits and name == base.name:
        message = f"{placed.file} was trained on {name} when that had other weights than now"
    else:
        whose = f"the base {name}" if name else "another base"
        why = "whose weights differ" if fits else "whose skips have other channels"
        message = f"{placed.file} is a tuner for {whose}, not for {base.name}, {why}"
    if fits and any_base:
        return message
    hint += "; `any_base` takes it as it is" if fits and any_base is False else ""
    raise SceditError(message, hint, placed.field)


def trained_prediction(tuner: Tuner) -> tuple[str, bool] | None:
    """Return the prediction type that a tuner was trained with, and whether with zero terminal SNR; None if unknown."""
    prediction = tuner.metadata.get("prediction_type")
    return (prediction, tuner.metadata.get("zero_terminal_snr") == "true") if prediction else None


def check_trained_alike(placed: Iterable[PlacedTuner], hint: str) -> tuple[str, bool] | None:
    """Return the prediction type and zero terminal SNR that the tuners were trained with; None if no file states them.

    Raises:
        SceditError: two tuners were trained differently.
    """
    files: dict[tuple[str, bool], str] = {}
    for each in placed:
        if way := trained_prediction(each.tuner):
            files.setdefault(way, each.file)
    if len(files) > 1:
        (one, file), (other, second) = list(files.items())[:2]
        names = [kind + (" from noise alone" if alone else "") for kind, alone in (one, other)]
        raise SceditError(
            f"{file} was trained with {names[0]} and {second} with {names[1]}: no base can be sampled for both", hint
        )
    return next(iter(files), None)


def rescheduled_for(placed: Iterable[PlacedTuner], base: Base) -> Base:
    """Return the base with the prediction type and zero terminal SNR that its tuners were trained with, where their
    files state them.

    Raises:
        SceditError: two tuners were trained differently.
    """
    hint = "leave one out, or train them with the same train.prediction and train.zero_terminal_snr"
    way = check_trained_alike(placed, hint)
    return base.rescheduled(*way) if way else base


def prediction_note(base: Base, placed: Iterable[PlacedTuner] = ()) -> str | None:
    """Return a warning where the base's prediction type is a guess that no tuner settles, else None."""
    if not base.is_guessed or any(trained_prediction(each.tuner) for each in placed):
        return None
    return f"{base.doubt}: `prediction=epsilon` takes it for the other"


def _named(files: Sequence[Sequence[PlacedTuner]], kinds: Sequence[str]) -> list[PlacedTuner]:
    """Return the tuners of all `files`. Other programs' files that do not state their tuners' conditions, and whose
    conditions are not given, get those of `kinds` that no other tuner takes, in order."""
    unnamed = [each for file in files for each in file if is_unnamed(each.tuner, each.path is None) and not each.kinds]
    unnamed = [each for each in unnamed if isinstance(each.tuner, CSCTuner)]
    taken = {each.tuner.condition for file in files for each in file if each not in unnamed}
    free = iter(dict.fromkeys(kind for kind in kinds if kind not in taken))
    for each in unnamed:
        each.tuner.condition = next(free, each.tuner.condition)
    placed = []
    for file in files:
        own = [each.tuner.condition for each in file if each in unnamed]
        placed += [replace(each, kinds=tuple(own)) for each in file] if own else file
    return placed


def is_unnamed(tuner: Tuner, in_memory: bool) -> bool:
    """Return whether a tuner is of another program, whose files do not state a condition. A tuner `in_memory` without
    metadata may be a new one, which has its condition, unless that is the stand-in "hint", "hint2", …"""
    foreign = "format" not in tuner.metadata
    return foreign and not (in_memory and re.fullmatch(r"hint\d*", tuner.condition or "") is None)


def _needed(placed: Sequence[PlacedTuner], kinds: set[str]) -> list[PlacedTuner]:
    needed: list[PlacedTuner] = []
    takers: dict[str, str] = {}
    for each in placed:
        kind = each.tuner.condition
        if kind in takers:
            message = f"{takers[kind]} and {each.file} both take {kind} conditions"
            raise SceditError(message, "leave one out", each.field)
        if kind is not None:
            takers[kind] = each.file
        if kind is None or kind in kinds:
            needed.append(each)
    files = {each.file for each in needed}
    for each in placed:
        if each not in needed and not (each.bundled and each.file in files):
            kind = each.tuner.condition
            raise SceditError(
                f"{each.file} takes a {kind} condition, and none is given",
                f"add `Control('{kind}', image)`",
                each.field,
            )
    return needed

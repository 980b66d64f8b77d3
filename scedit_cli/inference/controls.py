"""The controls of a generation: condition images and tuners, opened, matched and checked against a base."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from scedit_cli import conditions, scenes
from scedit_cli.conditions.annotation_spec import AnnotationSpec
from scedit_cli.conditions.naming import told_kind, untold_kind
from scedit_cli.core.bundle import Bundle
from scedit_cli.core.source import locate_pinned
from scedit_cli.core.tuners import CSCTuner, Tuner
from scedit_cli.core.weights import load_tuner
from scedit_cli.data.hints import open_given_condition
from scedit_cli.data.images import open_image
from scedit_cli.models.base import Base
from scedit_cli.models.loading import EMBEDDED
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.hub import is_hub_id, split_revision
from scedit_cli.utils.io import expanded
from scedit_cli.utils.specs import ConditionSpec, TunerSpec

Size = tuple[int, int]  # width, height in pixels


@dataclass(frozen=True)
class Condition:
    """A condition image, or a photograph of which `maker` makes one."""

    spec: ConditionSpec
    kind: str
    picture: Image.Image
    maker: AnnotationSpec | None = None

    def shown_at(self, size: Size, rule: str, device: str = "cpu") -> Image.Image:
        """Return the condition image at `size`, by one of RESIZE_RULES; a photograph is resized and then annotated on
        `device`.

        Raises:
            SceditError: the annotator's weights are missing, or their licence is not accepted.
            WorkFailed: the hub cannot be reached.
        """
        if not self.spec.photo:
            labels = self.kind in conditions.KINDS and conditions.find(self.kind).labels
            return resized(self.picture, size, rule, Image.Resampling.NEAREST if labels else Image.Resampling.LANCZOS)
        try:
            make = self.maker.load(self.maker.settings(self.spec.file.name), device)
        except SceditError as error:
            raise type(error)(f"--cond-from {self.kind}={self.spec.file}: {error.message}", error.hint) from error
        return make([resized(self.picture, size, rule)])[0]


@dataclass(frozen=True)
class PlacedTuner:
    """A tuner as it will be attached.

    Attributes:
        file: the name that it was requested by.
        own_scale, factor: its α within its file, 1 outside bundles, and the requested factor of it.
        bundled: whether it comes from a bundle of several tuners.
        path: the tuner's file.
        lasting: a name that finds the file from any working directory and installation: a shipped tuner's name,
            `owner/name@commit` on the hub, else the absolute path.
    """

    tuner: Tuner
    file: str
    own_scale: float = 1.0
    factor: float = 1.0
    bundled: bool = False
    path: Path | None = None
    lasting: str = ""

    @property
    def scale(self) -> float:
        return self.own_scale * self.factor

    @property
    def name(self) -> str:
        """The name for --mask, --scale and --sweep: its condition, or for an SC-Tuner its file's (see `called`)."""
        return self.tuner.condition or called(self.file)


def called(file: str) -> str:
    """Return the name of a tuner's file without suffix, or its folder's name where a run has named the file "tuner"."""
    path = expanded(split_revision(file)[0]).absolute()
    return (path.stem == "tuner" and path.parent.name) or path.stem


def open_condition(spec: ConditionSpec) -> Condition:
    """Open a condition image, or the photograph to make it of. Without a kind in `spec`, the name of a condition image
    or of its folder gives the kind.

    Raises:
        SceditError: the kind is unknown, no annotator makes it of a photograph, or the file is missing or no image.
    """
    if (kind := told_kind(spec)) is None:
        open_named(spec.file, spec.option)  # a missing file is reported first
        raise untold_kind(spec)
    read = open_image if spec.photo else partial(open_given_condition, kind=kind)
    return Condition(spec, kind, open_named(spec.file, spec.option, read))


def open_named(path: Path, option: str, read: Callable[[Path], Image.Image] = open_image) -> Image.Image:
    """Return the image at `path` as `read` opens it, by default as a photograph; errors name the `option` that gave the
    path."""
    try:
        return read(path)
    except SceditError as error:
        raise SceditError(f"{option}: {error.message}", error.hint or "check the path") from error


def resized(
    picture: Image.Image, size: Size, rule: str, by: Image.Resampling = Image.Resampling.LANCZOS
) -> Image.Image:
    """Return `picture` at `size`, by one of RESIZE_RULES: "crop" fills the size and crops the rest, "fit" keeps the
    whole image between black bars, "stretch" changes its proportions."""
    if picture.size == size:
        return picture
    if picture.mode.startswith("I;16"):  # Pillow resizes floats, but not 16-bit integers
        levels = resized(Image.fromarray(np.asarray(picture).astype(np.float32)), size, rule, by)
        return Image.fromarray(np.asarray(levels).round().clip(0, 65535).astype(np.uint16))
    if rule == "stretch":
        return picture.resize(size, by)
    return (ImageOps.fit if rule == "crop" else ImageOps.pad)(picture, size, by)


def size_for(picture: Size | None, width: int | None, height: int | None, base: Base, shrink: bool = False) -> Size:
    """Return the size to generate: `width` and `height` where given. A missing side follows from the proportions of
    `picture`, in the base's multiple; without `picture`, it is the base's own.

    Args:
        picture: the size of the image that determines the proportions, if any.
        shrink: whether an image of more pixels than the base draws by default is reduced to as many.
    """
    own, multiple = base.defaults.resolution, base.multiple
    if picture is None:
        return width or own, height or own
    wide, high = picture
    factor = 1.0
    if width or height:
        factor = width / wide if width else height / high
    elif shrink:
        factor = min(1.0, (own * own / (wide * high)) ** 0.5)
    return width or _floored(wide * factor, multiple), height or _floored(high * factor, multiple)


def _floored(side: float, multiple: int) -> int:
    return max(1, int(side + 1e-6) // multiple) * multiple


def place_tuners(tuners: Iterable[TunerSpec], steering: Sequence[Condition], base: str) -> list[PlacedTuner]:
    """Load the tuners for the conditions in `steering`. On the embedded base, a condition that no named tuner takes
    gets the shipped tuner of its kind. A bundle's tuners without a given condition are left out.

    Raises:
        SceditError: a tuner has no condition, a condition has no tuner, or two tuners take one condition.
    """
    placed = [each for spec in tuners for each in load_placed(spec)]
    _name_foreign(placed, steering)
    taken = {each.tuner.condition for each in placed}
    for condition in steering:
        if condition.kind not in taken:
            if base != EMBEDDED or condition.kind not in scenes.shipped_tuners():
                raise scenes.untaken(condition.spec.file, condition.kind)
            placed += load_placed(TunerSpec(str(scenes.shipped_tuner(condition.kind))))
            taken.add(condition.kind)
    return _needed(placed, {condition.kind for condition in steering})


def load_placed(spec: TunerSpec) -> list[PlacedTuner]:
    """Load the tuners of one file, a bundle's one by one; the bare name of a shipped tuner loads that."""
    given = scenes.tuner_place(spec.name)
    path, pinned = locate_pinned(given)
    lasting = path.stem if path.parent == scenes.TUNERS else pinned or str(given.absolute())
    return placed_as(load_tuner(path), str(given), spec.scale, path, lasting)


def placed_as(
    loaded: Tuner | Bundle, file: str, scale: float | None = None, path: Path | None = None, lasting: str = ""
) -> list[PlacedTuner]:
    """Return a tuner, or the tuners of a bundle one by one, under the name `file`; None as `scale` is 1."""
    tuners, scales = (loaded.tuners, loaded.scales) if isinstance(loaded, Bundle) else ([loaded], [1.0])
    factor = 1.0 if scale is None else scale
    return [
        PlacedTuner(tuner, file, own, factor, len(tuners) > 1, path, lasting)
        for tuner, own in zip(tuners, scales, strict=True)
    ]


def placed_of(tuner: str | Path | Tuner | Bundle, scale: float | None = None, name: str = "tuner") -> list[PlacedTuner]:
    """Return the tuners of a file, folder, hub id or shipped name, or a loaded tuner or bundle under the name `name`.
    """
    if isinstance(tuner, str | Path):
        return load_placed(TunerSpec(str(tuner), scale))
    return placed_as(tuner, name, scale)


def as_trained(model: str, placed: Iterable[PlacedTuner]) -> str:
    """Return `model`, with the commit that its tuners were trained on where it is on the hub and they agree on one."""
    if not is_hub_id(model) or expanded(model).exists():
        return model
    facts = [each.tuner.metadata for each in placed if each.tuner.metadata.get("base") == model]
    commits = {known["base_revision"] for known in facts if "base_revision" in known}
    return f"{model}@{commits.pop()}" if len(commits) == 1 else model


def check_base(
    placed: PlacedTuner, base: Base, option: str = "--base", any_base: bool | None = None
) -> str | None:
    """Check that a tuner was trained for this base, which `option` named.

    Args:
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
    if fits and trained_on in (None, base.fingerprint):
        return None
    hint = f"name its base with {option}, or a tuner that was trained on {base.name}"
    if fits and name == base.name:
        told = f"{placed.file} was trained on {name} when that had other weights than now"
    else:
        whose = f"the base {name}" if name else "another base"
        why = "whose weights differ" if fits else "whose skips have other channels"
        told = f"{placed.file} is a tuner for {whose}, not for {base.name}, {why}"
    if fits and any_base:
        return told
    raise SceditError(told, f"{hint}; --any-base takes it as it is" if fits and any_base is False else hint)


def taught(tuner: Tuner) -> tuple[str, bool] | None:
    """Return the prediction type that a tuner was trained with, and whether with zero terminal SNR; None if unknown."""
    prediction = tuner.metadata.get("prediction_type")
    return (prediction, tuner.metadata.get("zero_terminal_snr") == "true") if prediction else None


def check_taught_alike(placed: Iterable[PlacedTuner], hint: str) -> tuple[str, bool] | None:
    """Return the prediction type and zero terminal SNR that the tuners were trained with; None if no file states them.

    Raises:
        SceditError: two tuners were trained differently.
    """
    files: dict[tuple[str, bool], str] = {}
    for each in placed:
        if way := taught(each.tuner):
            files.setdefault(way, each.file)
    if len(files) > 1:
        (one, file), (other, second) = list(files.items())[:2]
        names = [kind + (" from noise alone" if alone else "") for kind, alone in (one, other)]
        raise SceditError(
            f"{file} was taught {names[0]} and {second} {names[1]}: no base can be sampled for both", hint
        )
    return next(iter(files), None)


def as_taught(placed: Iterable[PlacedTuner], base: Base) -> Base:
    """Return the base with the prediction type and zero terminal SNR that its tuners were trained with, where their
    files state them.

    Raises:
        SceditError: two tuners were trained differently.
    """
    hint = "leave one out, or train them with the same train.prediction and train.zero_terminal_snr"
    way = check_taught_alike(placed, hint)
    return base.rescheduled(*way) if way else base


def doubt(base: Base, placed: Iterable[PlacedTuner] = ()) -> str | None:
    """Return a warning where the base's prediction type is a guess that no tuner settles, else None."""
    if not base.is_guessed or any(taught(each.tuner) for each in placed):
        return None
    return f"{base.doubt}: --prediction epsilon takes it for the other"


def _name_foreign(placed: Sequence[PlacedTuner], steering: Sequence[Condition]) -> None:
    """Give other programs' tuners, which do not state their condition, those that no other tuner takes, in order."""
    named = {each.tuner.condition for each in placed if "format" in each.tuner.metadata}
    free = iter([condition.kind for condition in steering if condition.kind not in named])
    for each in placed:
        if isinstance(each.tuner, CSCTuner) and "format" not in each.tuner.metadata:
            each.tuner.condition = next(free, each.tuner.condition)


def _needed(placed: Sequence[PlacedTuner], kinds: set[str]) -> list[PlacedTuner]:
    needed: list[PlacedTuner] = []
    takers: dict[str, str] = {}
    for each in placed:
        kind = each.tuner.condition
        if kind in takers:
            raise SceditError(f"{takers[kind]} and {each.file} both take {kind} conditions", hint="leave one out")
        if kind is not None:
            takers[kind] = each.file
        if kind is None or kind in kinds:
            needed.append(each)
    files = {each.file for each in needed}
    for each in placed:
        if each not in needed and not (each.bundled and each.file in files):
            kind = each.tuner.condition
            raise SceditError(
                f"{each.file} takes a {kind} condition, and none is given", hint=f"add --cond {kind}=FILE"
            )
    return needed

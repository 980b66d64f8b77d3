"""What steers a generation: condition pictures and tuners, opened, matched and checked against a base."""

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
    """A picture that steers: the RGB condition picture itself, or a photo that `maker` makes into one."""

    spec: ConditionSpec
    kind: str
    picture: Image.Image
    maker: AnnotationSpec | None = None

    def shown_at(self, size: Size, rule: str, device: str = "cpu") -> Image.Image:
        """The condition picture at `size`; a photo is resized first, and annotated then, on the device of this name.

        Raises:
            SceditError: the annotator's weights are not there, or their licence is not accepted.
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
    """A tuner as it will be attached: what it was asked for by, its α within its file (1 but in bundles), the factor
    that was asked for, whether it is one of a bundle's, the file, and the name by which that is found again wherever
    scedit is installed and run: a shipped tuner's own, `owner/name@commit` of the hub, else the absolute path."""

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
        """What --mask, --scale and --sweep call it: its condition, or for an SC-Tuner what its file is called."""
        return self.tuner.condition or called(self.file)


def called(file: str) -> str:
    """What a tuner's file is called: its name without suffix, or its folder's where a run has named it "tuner"."""
    path = expanded(split_revision(file)[0]).absolute()
    return (path.stem == "tuner" and path.parent.name) or path.stem


def open_condition(spec: ConditionSpec) -> Condition:
    """Opens a condition picture, or the photo to make it from. A condition picture's kind is told by its own or its
    folder's name where the spec names none.

    Raises:
        SceditError: no kind, one that nothing makes from a photo, no such file, or no picture.
    """
    if (kind := told_kind(spec)) is None:
        open_named(spec.file, spec.option)  # a file that is not there is told first
        raise untold_kind(spec)
    read = open_image if spec.photo else partial(open_given_condition, kind=kind)
    return Condition(spec, kind, open_named(spec.file, spec.option, read))


def open_named(path: Path, option: str, read: Callable[[Path], Image.Image] = open_image) -> Image.Image:
    """The picture at `path` by `read`, a photograph unless told otherwise; errors name the option that it was given
    with."""
    try:
        return read(path)
    except SceditError as error:
        raise SceditError(f"{option}: {error.message}", error.hint or "check the path") from error


def resized(
    picture: Image.Image, size: Size, rule: str, by: Image.Resampling = Image.Resampling.LANCZOS
) -> Image.Image:
    """`picture` at `size`, by one of RESIZE_RULES: "crop" fills it and cuts what stands over, "fit" keeps the whole
    picture between black bars, "stretch" changes its proportions."""
    if picture.size == size:
        return picture
    if picture.mode.startswith("I;16"):  # Pillow resizes floats, but not these
        levels = resized(Image.fromarray(np.asarray(picture).astype(np.float32)), size, rule, by)
        return Image.fromarray(np.asarray(levels).round().clip(0, 65535).astype(np.uint16))
    if rule == "stretch":
        return picture.resize(size, by)
    return (ImageOps.fit if rule == "crop" else ImageOps.pad)(picture, size, by)


def size_for(picture: Size | None, width: int | None, height: int | None, base: Base, shrink: bool = False) -> Size:
    """The size to generate: what was asked for, missing sides by the proportions of the `picture` that leads, in the
    multiples that the base takes; without a picture the base's own size.

    Args:
        shrink: a picture of more pixels than the base draws by default is brought down to as many.
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
    """Loads the tuners that the conditions call for. On the embedded base, a condition that no named tuner takes gets
    the shipped tuner of its kind; of a bundle, those whose condition is not given are left out.

    Raises:
        SceditError: a tuner without its condition, a condition without its tuner, or two tuners for one.
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
    """The tuners of one file, a bundle's one by one; a bare name is a shipped tuner's."""
    given = scenes.tuner_place(spec.name)
    path, pinned = locate_pinned(given)
    lasting = path.stem if path.parent == scenes.TUNERS else pinned or str(given.absolute())
    loaded = load_tuner(path)
    tuners, scales = (loaded.tuners, loaded.scales) if isinstance(loaded, Bundle) else ([loaded], [1.0])
    factor = 1.0 if spec.scale is None else spec.scale
    bundled = len(tuners) > 1
    return [
        PlacedTuner(tuner, str(given), own, factor, bundled, path, lasting)
        for tuner, own in zip(tuners, scales, strict=True)
    ]


def as_trained(model: str, placed: Iterable[PlacedTuner]) -> str:
    """`model`, and where it is the hub's base that tuners were trained on, its commit of then if they agree on one."""
    if not is_hub_id(model) or expanded(model).exists():
        return model
    facts = [each.tuner.metadata for each in placed if each.tuner.metadata.get("base") == model]
    commits = {known["base_revision"] for known in facts if "base_revision" in known}
    return f"{model}@{commits.pop()}" if len(commits) == 1 else model


def check_base(
    placed: PlacedTuner, base: Base, option: str = "--base", any_base: bool | None = None
) -> str | None:
    """Checks that a tuner was trained for this base, which `option` named.

    Args:
        any_base: whether one that was trained on other weights with the same skips may act on it; None where nothing
            can be said of that.

    Returns:
        A sentence that tells so, where one does.

    Raises:
        SceditError: it was trained for another base.
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
    """What a tuner learned to predict, and whether from noise alone; None where its file does not tell."""
    prediction = tuner.metadata.get("prediction_type")
    return (prediction, tuner.metadata.get("zero_terminal_snr") == "true") if prediction else None


def check_taught_alike(placed: Iterable[PlacedTuner], hint: str) -> tuple[str, bool] | None:
    """How all tuners that tell were taught; None where none does.

    Raises:
        SceditError: two of them were taught differently.
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
    """The base, sampled as its tuners were taught where that is not how it was made: by what its U-Net predicts, and
    from noise alone. Tuners that do not tell follow.

    Raises:
        SceditError: two of them were taught differently.
    """
    hint = "leave one out, or train them with the same train.prediction and train.zero_terminal_snr"
    way = check_taught_alike(placed, hint)
    return base.rescheduled(*way) if way else base


def doubt(base: Base, placed: Iterable[PlacedTuner] = ()) -> str | None:
    """A sentence where what the base predicts is a guess, and no tuner tells."""
    if not base.is_guessed or any(taught(each.tuner) for each in placed):
        return None
    return f"{base.doubt}: --prediction epsilon takes it for the other"


def _name_foreign(placed: Sequence[PlacedTuner], steering: Sequence[Condition]) -> None:
    """Files of other programs do not name their condition: they take, in order, those that no other tuner takes."""
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

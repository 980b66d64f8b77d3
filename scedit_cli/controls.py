"""What steers a generation: condition pictures and tuners, opened, matched and checked against a base."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image, ImageOps

from scedit_cli import conditions, scenes
from scedit_cli.base import Base
from scedit_cli.core.bundle import Bundle
from scedit_cli.core.tuners import CSCTuner, Tuner
from scedit_cli.core.weights import load_tuner
from scedit_cli.data.hints import open_condition_picture
from scedit_cli.data.pictures import open_picture
from scedit_cli.errors import SceditError
from scedit_cli.pipelines import EMBEDDED
from scedit_cli.specs import ConditionSpec, TunerSpec


@dataclass(frozen=True)
class Condition:
    """A picture that steers: the RGB condition picture itself, or a photo that `annotated` makes into one."""

    spec: ConditionSpec
    kind: str
    picture: Image.Image

    def annotated(self, base: str) -> Condition:
        """The condition picture of a photo, for a picture that `base` will make.

        Raises:
            SceditError: the annotator's weights are not there, or their licence is not accepted.
            WorkFailed: the hub cannot be reached.
        """
        try:
            return replace(self, picture=conditions.annotate(self.kind, self.picture, annotator_for(self.kind, base)))
        except SceditError as error:
            made = f"scedit annotate {self.spec.file} --cond {self.kind} --out {self.kind}.png"
            hint = f"make it with {made}, which also takes --weights DIR, and give --cond {self.kind}.png"
            raise type(error)(f"--cond-from {self.kind}={self.spec.file}: {error.message}", hint) from error


@dataclass(frozen=True)
class PlacedTuner:
    """A tuner as it will be attached: the file it came from, its α, and between which fractions of the steps it
    acts."""

    tuner: Tuner
    file: str
    scale: float
    span: tuple[float, float] = (0.0, 1.0)


def annotator_for(kind: str, base: str) -> str | None:
    """Who makes and measures conditions of pictures by `base`: on the embedded one its own reader, where a kind has it;
    else the kind's default."""
    return conditions.scene_annotator(kind) if base == EMBEDDED else None


def open_condition(spec: ConditionSpec) -> Condition:
    """Opens a condition picture; its kind is told by its own or its folder's name where the spec names none.

    Raises:
        SceditError: no kind, no such file, or no picture.
    """
    kind = spec.kind or conditions.kind_of_path(spec.file)
    if kind is None:
        raise SceditError(
            f"--cond {spec.file}: neither its name nor its folder's tells the kind of condition",
            hint=f"say it: --cond canny={spec.file}",
        )
    return Condition(spec, kind, _open(spec.file, "--cond", kind))


def open_photo(spec: ConditionSpec, width: int | None, height: int | None) -> Condition:
    """Opens a photo to annotate, fitted to `width` x `height` pixels (cut, not stretched) where both are given.

    Raises:
        SceditError: no kind, an unknown one, no such file, or no picture.
    """
    if spec.kind is None:
        raise SceditError(
            f"--cond-from {spec.file}: the kind of condition is missing", hint=f"write canny={spec.file}"
        )
    if spec.kind not in conditions.KINDS:
        raise SceditError(
            f"--cond-from {spec.kind}={spec.file}: nothing makes {spec.kind} conditions",
            hint=f"choose one of {', '.join(conditions.KINDS)}, or give the condition picture with --cond",
        )
    photo = _open(spec.file, "--cond-from")
    if width and height:
        photo = ImageOps.fit(photo, (width, height), Image.Resampling.LANCZOS)
    return Condition(spec, spec.kind, photo)


def agreed_size(steering: Sequence[Condition], width: int | None, height: int | None) -> tuple[int | None, int | None]:
    """(width, height) in pixels of what will be generated: the conditions', else what was asked for.

    Raises:
        SceditError: the conditions are of several sizes, or of another than asked for.
    """
    for each in steering:
        wide, high = each.picture.size
        if (width or wide, height or high) != (wide, high):
            other = "asked for" if each is steering[0] else f"of {steering[0].spec.file}"
            raise SceditError(
                f"{each.spec.file} is {wide}x{high} pixels, not the {width or wide}x{height or high} {other}",
                hint="give conditions of one size, and leave --width and --height out",
            )
        width, height = wide, high
    return width, height


def place_tuners(tuners: Iterable[TunerSpec], steering: Sequence[Condition], base: str) -> list[PlacedTuner]:
    """Loads the tuners, and matches each with the condition it takes. On the embedded base, a condition that no named
    tuner takes gets the shipped tuner of its kind. A scale of a bundle multiplies the bundle's own, a condition's
    scale that of its tuner.

    Raises:
        SceditError: a tuner without its condition, a condition without its tuner, or two for one.
    """
    placed = [each for spec in tuners for each in load_placed(spec)]
    _name_foreign(placed, steering)
    taken = {each.tuner.condition for each in placed}
    for condition in steering:
        if condition.kind not in taken:
            if base != EMBEDDED:
                raise SceditError(
                    f"{condition.spec.file}: no tuner takes {condition.kind} conditions",
                    hint="name one with --tuner; tuners are shipped for the embedded base only",
                )
            placed += load_placed(TunerSpec(str(scenes.shipped_tuner(condition.kind))))
    return _matched(placed, steering)


def load_placed(spec: TunerSpec) -> list[PlacedTuner]:
    """The tuners of one file, a bundle's one by one; a bare name is a shipped tuner's."""
    is_bare = Path(spec.name).name == spec.name and not Path(spec.name).suffix and not Path(spec.name).exists()
    path = scenes.shipped_tuner(spec.name) if is_bare else Path(spec.name).expanduser()
    loaded = load_tuner(path)
    tuners, scales = (loaded.tuners, loaded.scales) if isinstance(loaded, Bundle) else ([loaded], [1.0])
    factor = 1.0 if spec.scale is None else spec.scale
    return [PlacedTuner(tuner, str(path), scale * factor) for tuner, scale in zip(tuners, scales, strict=True)]


def check_base(placed: PlacedTuner, base: Base) -> None:
    """Raises SceditError where a tuner was trained for another base."""
    trained_on = placed.tuner.metadata.get("base_fingerprint")
    fits = tuple(placed.tuner.channels) == base.skips.channels
    if not fits or (trained_on and trained_on != base.fingerprint):
        name = placed.tuner.metadata.get("base")
        raise SceditError(
            f"{placed.file} is a tuner for {f'the base {name}' if name else 'another base'}, not for {base.name}",
            hint=f"name its base with --base{f' {name}' if name else ''}, or a tuner that was trained on {base.name}",
        )


def _open(path: Path, option: str, kind: str | None = None) -> Image.Image:
    try:
        return open_condition_picture(path, kind) if kind else open_picture(path)
    except SceditError as error:
        raise SceditError(f"{option}: {error.message}", error.hint or "check the path") from error


def _name_foreign(placed: Sequence[PlacedTuner], steering: Sequence[Condition]) -> None:
    """Files of other programs do not name their condition: they take, in order, those that no other tuner takes."""
    named = {each.tuner.condition for each in placed if "format" in each.tuner.metadata}
    free = iter([condition.kind for condition in steering if condition.kind not in named])
    for each in placed:
        if isinstance(each.tuner, CSCTuner) and "format" not in each.tuner.metadata:
            each.tuner.condition = next(free, each.tuner.condition)


def _matched(placed: Sequence[PlacedTuner], steering: Sequence[Condition]) -> list[PlacedTuner]:
    by_kind: dict[str, Condition] = {}
    for condition in steering:
        if condition.kind in by_kind:
            raise SceditError(
                f"{by_kind[condition.kind].spec.file} and {condition.spec.file} are both {condition.kind} conditions",
                hint="give one of each kind; KIND=FILE says of which kind a file is",
            )
        by_kind[condition.kind] = condition
    matched: list[PlacedTuner] = []
    takers: dict[str, str] = {}
    for each in placed:
        kind = each.tuner.condition
        if kind is None:
            matched.append(each)
            continue
        if kind in takers:
            raise SceditError(f"{takers[kind]} and {each.file} both take {kind} conditions", hint="leave one out")
        if kind not in by_kind:
            raise SceditError(
                f"{each.file} takes a {kind} condition, and none is given", hint=f"add --cond {kind}=FILE"
            )
        takers[kind] = each.file
        spec = by_kind[kind].spec
        matched.append(replace(each, scale=each.scale * spec.scale, span=(spec.start, spec.end)))
    return matched

"""What is to be made of pictures: kinds, by which annotators, with which settings, fixed or drawn for each picture."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from scedit_cli.conditions.registry import Annotator, Make, Parameters, find
from scedit_cli.utils.errors import SceditError

_RANGE = re.compile(r"(.+?)\.\.(.+)")
_SEEDS = 2**32 - 1  # the largest


@dataclass(frozen=True)
class AnnotationSpec:
    """A kind of condition picture to be made.

    Attributes:
        kind: its name.
        by: the annotator's name.
        values: settings by name, as texts or numbers.
        ranges: settings that are drawn for each picture, evenly between two numbers.
        weights: a folder with local copies of the annotator's weights; None for the hub.
        seed: of the draws.
    """

    kind: str
    by: str
    values: tuple[tuple[str, float | str], ...] = ()
    ranges: tuple[tuple[str, float, float], ...] = ()
    weights: Path | None = None
    seed: int = 0

    @property
    def annotator(self) -> Annotator:
        return find(self.kind).annotator(self.by)

    def settings(self, picture: str) -> Parameters:
        """The settings for the picture of this name: the same for the same name and seed."""
        digest = hashlib.sha256(f"{self.kind} {picture}".encode()).digest()
        generator = np.random.default_rng([self.seed, *digest])
        drawn = {name: self._drawn(generator, name, low, high) for name, low, high in self.ranges}
        return self.annotator.settings(**dict(self.values), **drawn)

    def load(self, settings: Parameters, device: str = "cpu") -> Make:
        """The annotator, ready to make condition pictures."""
        return self.annotator.load(settings, self.weights, device)

    def with_drawn_seed(self) -> AnnotationSpec:
        """The order with the annotator's own `seed`, where it has one and none was given, among what is drawn."""
        given = {name for name, *_ in (*self.values, *self.ranges)}
        if "seed" not in self.annotator.parameters.model_fields or "seed" in given:
            return self
        return replace(self, ranges=(*self.ranges, ("seed", 0, _SEEDS)))

    def drawn(self, picture: str) -> AnnotationSpec:
        """The order for the picture of this name, its `settings` fixed."""
        return replace(self, values=tuple(self.settings(picture).model_dump().items()), ranges=())

    def _drawn(self, generator: np.random.Generator, name: str, low: float, high: float) -> float:
        if self.annotator.parameters.model_fields[name].annotation is int:
            return int(generator.integers(int(low), int(high), endpoint=True))
        return float(generator.uniform(low, high))


def make_specs(
    kinds: Sequence[str],
    params: Iterable[str] = (),
    *,
    annotator: str | None = None,
    weights: Path | None = None,
    seed: int = 0,
    option: str = "--param",
) -> list[AnnotationSpec]:
    """An order for each kind.

    Args:
        params: `[KIND.]NAME=VALUE`, or LOW..HIGH for a number that is drawn anew for each picture. Without a kind it
            is meant for the only one.
        annotator: for the kinds that have it; each of the others, and by default all, get their first.
        option: what messages call a parameter.

    Raises:
        SceditError: an unknown kind, annotator or parameter, or a value that cannot be.
    """
    given = parameters_of(kinds, params, option)
    found = [find(kind) for kind in given]
    having = [kind.name for kind in found if annotator in {each.name for each in kind.annotators}]
    if annotator and not having:
        found[0].annotator(annotator)  # tells what it has
    return [
        make_spec(kind.annotator(annotator if kind.name in having else None), given[kind.name], weights, seed)
        for kind in found
    ]


def parameters_of(kinds: Sequence[str], params: Iterable[str], option: str = "--param") -> dict[str, dict[str, str]]:
    """The values of `[KIND.]NAME=VALUE` texts by kind and name; every one of `kinds` is there.

    Raises:
        SceditError: no such text, or one of another kind.
    """
    given: dict[str, dict[str, str]] = {kind: {} for kind in dict.fromkeys(kinds)}
    for text in params:
        kind, name, value = _parameter(text, list(given), option)
        given[kind][name] = value
    return given


def _parameter(text: str, kinds: list[str], option: str) -> tuple[str, str, str]:
    key, equals, value = text.partition("=")
    kind, dot, name = key.strip().partition(".")
    if not dot and len(kinds) == 1:
        kind, name = kinds[0], key.strip()
    example = f"for example {option} {kinds[0] if kinds else 'canny'}.low=50, or low=50..150 to draw it"
    if not equals or not name or not value:
        many = not dot and equals and len(kinds) > 1
        which = f" of {', '.join(kinds)} is meant" if many else ""
        raise SceditError(f"{option} {text}: {f'say which{which}' if many else 'expected KIND.NAME=VALUE'}", example)
    if kind not in kinds:
        raise SceditError(f"{option} {text}: no {kind} is made here", f"the kinds are {', '.join(kinds) or 'none'}")
    return kind, name, value.strip()


def make_spec(
    annotator: Annotator, given: Mapping[str, str], weights: Path | None = None, seed: int = 0
) -> AnnotationSpec:
    """An order by `annotator`, of values by the names of its parameters, LOW..HIGH for what is drawn.

    Raises:
        SceditError: an unknown parameter, or a value that cannot be.
    """
    kind, values, ranges = annotator.kind, {}, []
    for name, text in given.items():
        ends = _RANGE.fullmatch(text)
        field = annotator.parameters.model_fields.get(name)
        if ends and field and field.annotation in (int, float):
            low, high = (_number(kind, name, text, end) for end in ends.groups())
            if low > high:
                raise SceditError(f"{kind}: {name} is {text!r}", hint="write the smaller number first")
            ranges.append((name, low, high))
        else:
            values[name] = text
    for end in (1, 2):  # tells what is unknown or out of range before the first picture is opened
        whole = {name: bounds[end - 1] for name, *bounds in ranges}
        annotator.settings(**values, **whole)
    return AnnotationSpec(kind, annotator.name, tuple(values.items()), tuple(ranges), weights, seed)


def _number(kind: str, name: str, text: str, end: str) -> float:
    try:
        number = float(end)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise SceditError(f"{kind}: {name} is {text!r}", hint="a range is two numbers, such as 50..150")
    return number

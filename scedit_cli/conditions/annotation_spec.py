"""Specs of condition images: the kind, the annotator and its settings, fixed or drawn for each image."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np

from scedit_cli.conditions.registry import Annotator, Make, Parameters, find
from scedit_cli.utils.errors import SceditError

_RANGE = re.compile(r"(.+?)\.\.(.+)")
_SEEDS = 2**32 - 1  # the largest

Value = float | str | tuple[float, float]  # of a setting; a pair is a range


@dataclass(frozen=True)
class AnnotationSpec:
    """How to make condition images of one kind.

    Attributes:
        kind: the kind's name.
        by: the annotator's name.
        values: fixed settings by name, as texts or numbers.
        ranges: (name, low, high) of settings that are drawn uniformly for each image.
        weights: a folder with local copies of the annotator's weights; None for the hub.
        seed: the seed of the draws.
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

    def settings(self, image: str) -> Parameters:
        """Return the settings for the image of this name: the same for the same name and seed."""
        digest = hashlib.sha256(f"{self.kind} {image}".encode()).digest()
        generator = np.random.default_rng([self.seed, *digest])
        drawn = {name: self._drawn(generator, name, low, high) for name, low, high in self.ranges}
        return self.annotator.settings(**dict(self.values), **drawn)

    def load(self, settings: Parameters, device: str = "cpu") -> Make:
        """Load the annotator as a function from images to condition images."""
        return self.annotator.load(settings, self.weights, device)

    def with_drawn_seed(self) -> AnnotationSpec:
        """Return this spec with the annotator's `seed`, where it has one and none is given, as a drawn setting."""
        given = {name for name, *_ in (*self.values, *self.ranges)}
        if "seed" not in self.annotator.parameters.model_fields or "seed" in given:
            return self
        return replace(self, ranges=(*self.ranges, ("seed", 0, _SEEDS)))

    def drawn(self, image: str) -> AnnotationSpec:
        """Return the spec for the image of this name, with its drawn settings fixed."""
        return replace(self, values=tuple(self.settings(image).model_dump().items()), ranges=())

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
    where: str = "params",
) -> list[AnnotationSpec]:
    """Return a spec for each kind, as `specs_of` does.

    Args:
        params: `[KIND.]NAME=VALUE`, or LOW..HIGH as the value of a number that is drawn for each image. The kind may be
            left out where there is only one.
        where: the place of the texts in messages.

    Raises:
        SceditError: as for `specs_of`; or a text has another form.
    """
    return specs_of(kinds, parameters_of(kinds, params, where), annotator=annotator, weights=weights, seed=seed)


def specs_of(
    kinds: Sequence[str],
    params: Mapping[str, Mapping[str, Value]],
    *,
    annotator: str | None = None,
    weights: Path | None = None,
    seed: int = 0,
) -> list[AnnotationSpec]:
    """Return a spec for each kind.

    Args:
        params: settings by kind and name; see `make_spec`.
        annotator: the annotator of the kinds that have it; all other kinds get their first.

    Raises:
        SceditError: a kind, annotator or parameter is unknown, or a value is invalid.
    """
    found = [find(kind) for kind in dict.fromkeys(kinds)]
    having = [kind.name for kind in found if annotator in {each.name for each in kind.annotators}]
    if annotator and not having:
        found[0].annotator(annotator)  # raises an error that lists the annotators
    return [
        make_spec(kind.annotator(annotator if kind.name in having else None), params[kind.name], weights, seed)
        for kind in found
    ]


def parameters_of(kinds: Sequence[str], params: Iterable[str], where: str) -> dict[str, dict[str, str]]:
    """Return the values of `[KIND.]NAME=VALUE` texts by kind and name; every one of `kinds` is a key. `where` begins
    the error's sentence.

    Raises:
        SceditError: a text has another form, names a kind that is not in `kinds`, or repeats a name.
    """
    given: dict[str, dict[str, str]] = {kind: {} for kind in dict.fromkeys(kinds)}
    for text in params:
        kind, name, value = _parameter(text, list(given), where)
        if name in given[kind]:
            raise SceditError(f"{where} {text}: {kind}'s {name} is {given[kind][name]} already", "give one of the two")
        given[kind][name] = value
    return given


def _parameter(text: str, kinds: list[str], where: str) -> tuple[str, str, str]:
    key, equals, value = text.partition("=")
    kind, dot, name = key.strip().partition(".")
    if not dot and len(kinds) == 1:
        kind, name = kinds[0], key.strip()
    example = f"for example {where} {kinds[0] if kinds else 'canny'}.low=50, or low=50..150 to draw it"
    if not equals or not name or not value:
        many = not dot and equals and len(kinds) > 1
        which = f" of {', '.join(kinds)} is meant" if many else ""
        raise SceditError(f"{where} {text}: {f'say which{which}' if many else 'expected KIND.NAME=VALUE'}", example)
    if kind not in kinds:
        raise SceditError(f"{where} {text}: no {kind} is made here", f"the kinds are {', '.join(kinds) or 'none'}")
    return kind, name, value.strip()


def make_spec(
    annotator: Annotator, given: Mapping[str, Value], weights: Path | None = None, seed: int = 0
) -> AnnotationSpec:
    """Return a spec of `annotator` with the values `given` by parameter: texts or numbers, and LOW..HIGH or a pair of
    numbers for those to be drawn.

    Raises:
        SceditError: a parameter is unknown, or a value is invalid.
    """
    kind, values, ranges = annotator.kind, {}, []
    for name, value in given.items():
        ends = _RANGE.fullmatch(value) if isinstance(value, str) else None
        pair = ends.groups() if ends else value if isinstance(value, tuple | list) and len(value) == 2 else None
        field = annotator.parameters.model_fields.get(name)
        if pair and field and field.annotation in (int, float):
            low, high = (_number(kind, name, value, end) for end in pair)
            if low > high:
                raise SceditError(f"{kind}: {name} is {value!r}", hint="write the smaller number first")
            ranges.append((name, low, high))
        else:
            values[name] = value
    names = [name for name, *_ in ranges]
    for ends in product(*(bounds for _, *bounds in ranges)):  # all that may be drawn is valid where the extremes are
        annotator.settings(**values, **dict(zip(names, ends, strict=True)))
    return AnnotationSpec(kind, annotator.name, tuple(values.items()), tuple(ranges), weights, seed)


def _number(kind: str, name: str, value: Value, end: float | str) -> float:
    try:
        number = float(end)
    except (ValueError, TypeError):
        number = math.nan
    if not math.isfinite(number):
        raise SceditError(f"{kind}: {name} is {value!r}", hint="a range is two numbers, such as 50..150")
    return number

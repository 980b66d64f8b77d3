"""The reporter: the one object by which work reports its progress and its notes. Work never prints."""

from __future__ import annotations

from collections.abc import Callable, Mapping

_NONE: Mapping[str, float] = {}


class Reporter:
    """A silent reporter; those that show something override `progress` and `note`."""

    def progress(self, step: int, total: int, stage: str = "", values: Mapping[str, float] = _NONE) -> None:
        """Report that `step` (counting from 1) of the `total` units of a stage are done.

        Args:
            stage: the stage's name; empty where the caller has named it by `stage`.
            values: current figures by name, such as {"loss": 0.12, "images/s": 31.0}.
        """

    def note(self, text: str) -> None:
        """Report a sentence that the user should read."""

    def stage(self, name: str) -> Reporter:
        """Return a reporter for work that is the stage `name` of this one's."""
        return _Within(self, name)

    def part(self, number: int, parts: int) -> Reporter:
        """Return a reporter for part `number` of `parts` equally long ones, which reports progress over all."""
        return _Within(self, place=lambda step, total: (number * total + step, parts * total))

    def units(self, before: int, total: int) -> Reporter:
        """Return a reporter for work on some of `total` units, `before` of which come earlier."""
        return _Within(self, place=lambda step, _: (before + step, total))


class _Within(Reporter):
    def __init__(
        self, outer: Reporter, name: str = "", place: Callable[[int, int], tuple[int, int]] = lambda *done: done
    ) -> None:
        self._outer, self._name, self._place = outer, name, place

    def progress(self, step: int, total: int, stage: str = "", values: Mapping[str, float] = _NONE) -> None:
        self._outer.progress(*self._place(step, total), stage or self._name, values)

    def note(self, text: str) -> None:
        self._outer.note(text)


SILENT = Reporter()

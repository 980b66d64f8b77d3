"""A reporter that hands what it gets, as events, to a function such as `events.append`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from scedit_cli.utils.reporter import Reporter


@dataclass(frozen=True)
class Progress:
    stage: str
    step: int
    total: int
    values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Note:
    text: str


class Recorder(Reporter):
    def __init__(self, hear: Callable[[Progress | Note], object]) -> None:
        self._hear = hear

    def progress(self, step: int, total: int, stage: str = "", values: Mapping[str, float] = {}) -> None:
        self._hear(Progress(stage, step, total, values))

    def note(self, text: str) -> None:
        self._hear(Note(text))


def steps_to(hear: Callable[[tuple[int, int]], object]) -> Recorder:
    """A reporter that hands only (step, total) of its progress to `hear`."""
    return Recorder(lambda event: isinstance(event, Progress) and hear((event.step, event.total)))


def notes_to(hear: Callable[[str], object]) -> Recorder:
    """A reporter that hands only the texts of its notes to `hear`."""
    return Recorder(lambda event: isinstance(event, Note) and hear(event.text))

"""The events by which jobs report to their caller. A job never prints: it calls `on_event` with an event."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Progress:
    """The progress of a stage: `step` (counting from 1) of `total` units are done; `values` are current figures by
    name, such as {"loss": 0.12, "images/s": 31.0}."""

    stage: str
    step: int
    total: int
    values: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Note:
    """A sentence that the user should read."""

    text: str


OnEvent = Callable[[Progress | Note], None]

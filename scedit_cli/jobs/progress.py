"""What jobs tell their caller while they work. A job never prints: it calls `on_event` with one of these."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Progress:
    """`step` of `total` units of the stage are done, `step` counting from 1; `values` are figures worth watching now,
    by name, such as {"loss": 0.12, "images/s": 31.0}."""

    stage: str
    step: int
    total: int
    values: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Note:
    """Something that the user should read: a sentence."""

    text: str


OnEvent = Callable[[Progress | Note], None]

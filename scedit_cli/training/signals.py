"""Ctrl-C and SIGTERM while training: handled between steps, never inside one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

_STOPS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def terminable() -> Iterator[None]:
    """Make SIGTERM raise SystemExit(143) within the block instead of ending the process at once. A handler that the
    caller has set stays in place."""
    if not _hears_signals() or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def leave(*_: object) -> None:
        raise SystemExit(143)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


class Stops:
    """SIGINT and SIGTERM, held back within the block until `act` or its end; a second signal acts at once. Processes
    that work together agree on the signal by `agreed`: each passes the number of its own, or 0, and all act on the
    number returned."""

    def __init__(self, agreed: Callable[[int], int] = int) -> None:
        self._agreed = agreed
        self._handlers: dict[int, Any] = {}
        self._came: list[int] = []

    def __enter__(self) -> Self:
        self._hold()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._give_back()
        if kind is None:
            self._act_on(*self._came[:1])

    def act(self) -> None:
        """Act on a signal that has come, in all processes or in none of them. A signal that comes while they agree
        waits for the next time."""
        if number := self._agreed(self._came[0] if self._came else 0):
            self._give_back()
            self._act_on(number)
            self._hold()

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Let signals act at once within the block."""
        self._give_back()
        self._act_on(*self._came[:1])
        yield
        self._hold()

    def _act_on(self, *numbers: int) -> None:
        self._came.clear()
        for number in numbers:
            handler = signal.getsignal(number)
            if callable(handler):
                handler(number, None)  # Raising it again would count as a second signal.
            else:
                signal.raise_signal(number)

    def _hold(self) -> None:
        if _hears_signals():
            self._handlers = {number: signal.getsignal(number) for number in _STOPS}
            for number in _STOPS:
                signal.signal(number, self._put_off)

    def _put_off(self, number: int, *_: object) -> None:
        self._came.append(number)
        self._give_back()

    def _give_back(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)


def undisturbed() -> Stops:
    """Delay a signal until the end of the block; a second signal acts at once."""
    return Stops()


def _hears_signals() -> bool:
    return threading.current_thread() is threading.main_thread()

"""Ctrl-C and SIGTERM while training: heard between steps, never inside one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_STOPS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def terminable() -> Iterator[None]:
    """Within, SIGTERM raises SystemExit(143) instead of ending the process on the spot. A caller that has given it a
    handler of its own keeps that one."""
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


@contextmanager
def undisturbed(agreed: Callable[[int], int] = int) -> Iterator[None]:
    """A signal that comes within is heard when the body is done; the next one at once. Which one, if any, is `agreed`
    on by processes that work together: all of them give the number of theirs, or 0."""
    if not _hears_signals():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in _STOPS}
    came: list[int] = []

    def give_back() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def put_off(number: int, *_: object) -> None:
        came.append(number)
        give_back()

    for number in _STOPS:
        signal.signal(number, put_off)
    try:
        yield
    finally:
        give_back()
    number = agreed(came[0] if came else 0)
    if number and callable(handler := handlers[number]):
        handler(number, None)  # not raised again, which whoever counts signals would take for a second one
    elif number:
        signal.raise_signal(number)


def _hears_signals() -> bool:
    return threading.current_thread() is threading.main_thread()

"""Ctrl-C and SIGTERM while training: handled between steps, never inside one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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


@contextmanager
def undisturbed(agreed: Callable[[int], int] = int) -> Iterator[None]:
    """Delay a signal until the end of the block; a second signal acts at once. Processes that work together agree on
    the signal by `agreed`: each passes the number of its own, or 0, and all handle the number returned."""
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
        handler(number, None)  # Raising it again would count as a second signal.
    elif number:
        signal.raise_signal(number)


def _hears_signals() -> bool:
    return threading.current_thread() is threading.main_thread()

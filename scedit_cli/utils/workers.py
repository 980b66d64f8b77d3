"""Processes that work for another one."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process, resource_tracker


@contextmanager
def starting() -> Iterator[None]:
    """Within, processes are started that will `serve_parent`. A terminal sends Ctrl-C to them too, and until they have
    come to that they would tell of it: what is blocked here, they do not hear."""
    resource_tracker.ensure_running()  # or the first start would start it, and unblock the signal again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def serve_parent() -> None:
    """In a process that was started for another: Ctrl-C is left to that one, and this one never outlives it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow, name="follow the parent", daemon=True).start()


def _follow() -> None:
    parent_process().join()
    os._exit(1)

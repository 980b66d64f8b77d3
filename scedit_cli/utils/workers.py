"""Worker processes that leave Ctrl-C to their parent and end with it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process, resource_tracker


@contextmanager
def starting() -> Iterator[None]:
    """Block Ctrl-C while worker processes are started. A terminal sends it to them too, and until they reach
    `serve_parent` they would report it; they inherit the blocking."""
    resource_tracker.ensure_running()  # else the first start would start it, and unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def serve_parent() -> None:
    """Make this worker process ignore Ctrl-C, which is left to its parent, and end when its parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow, name="follow the parent", daemon=True).start()


def _follow() -> None:
    parent_process().join()
    os._exit(1)

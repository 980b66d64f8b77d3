"""Processes that work for another one."""

from __future__ import annotations

import os
import signal
import threading
from multiprocessing import parent_process


def serve_parent() -> None:
    """In a process that was started for another: Ctrl-C is left to that one, and this one never outlives it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow, name="follow the parent", daemon=True).start()


def _follow() -> None:
    parent_process().join()
    os._exit(1)

"""Contexts that silence warnings and log lines of libraries, for the whole process."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from threading import Lock

# While these libraries are imported, their loggers warn about things that users of scedit cannot change.
_AT_IMPORT = (
    "torch.utils._pytree", "diffusers.quantizers.torchao.torchao_quantizer", "bitsandbytes.backends.cpu.ops"
)  # fmt: skip


class Shared:
    """A context of the whole process that several threads share: the first to come enters it and the last to go leaves
    it, so that the state before the first is restored after the last."""

    def __init__(self, context: Callable[[], AbstractContextManager[object]]) -> None:
        self._context, self._lock, self._inside, self._entered = context, Lock(), 0, ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._entered.enter_context(self._context())
            self._inside += 1

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._entered.close()


@contextmanager
def _ignoring() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


no_warnings = Shared(_ignoring)


@contextmanager
def quiet_imports() -> Iterator[None]:
    """Let imports of diffusers, torchao and bitsandbytes inside the block log errors only."""
    loggers = [logging.getLogger(name) for name in _AT_IMPORT]
    for logger in loggers:
        logger.addFilter(_is_error)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(_is_error)


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR

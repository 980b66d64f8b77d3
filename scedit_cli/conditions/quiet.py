"""Suppression of the output of libraries while they are imported or loaded."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from threading import RLock

from scedit_cli.utils.quieting import no_warnings

_ONE_AT_A_TIME = RLock()  # warnings, logging and stdout belong to the whole process
_SET = "KMP_DUPLICATE_LIB_OK"  # controlnet_aux sets this variable; other changes come from other threads and stay


@contextmanager
def silent() -> Iterator[None]:
    """Suppress libraries' warnings and output within the `with` block; afterwards restore warnings, output and the
    environment variable that controlnet_aux sets."""
    with _ONE_AT_A_TIME, no_warnings, redirect_stdout(io.StringIO()):
        before, level = os.environ.get(_SET), logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(level)
            if before is None:
                os.environ.pop(_SET, None)
            else:
                os.environ[_SET] = before

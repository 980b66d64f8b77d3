"""Libraries that talk while they are imported or loaded."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from threading import RLock

from scedit_cli.utils.quieting import no_warnings

_ONE_AT_A_TIME = RLock()  # what is silenced belongs to the whole process
_SET = "KMP_DUPLICATE_LIB_OK"  # by controlnet_aux, for its own process; what else changes is other threads' doing


@contextmanager
def silent() -> Iterator[None]:
    """Within, libraries neither warn nor print; afterwards that is as it was, and so is what they set in the
    environment."""
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

"""Libraries that talk while they are imported or loaded."""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from threading import RLock

_ONE_AT_A_TIME = RLock()  # what is silenced belongs to the whole process


@contextmanager
def silent() -> Iterator[None]:
    """Within, libraries neither warn nor print; afterwards that and the environment are as they were."""
    with _ONE_AT_A_TIME, warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        environment, level = dict(os.environ), logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(level)
            for name in os.environ.keys() - environment.keys():
                del os.environ[name]
            os.environ.update(environment)

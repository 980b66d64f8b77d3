"""What holds for every test: none reaches further than this machine, and neither do the processes it starts."""

from __future__ import annotations

import os
from pathlib import Path

from tests.offline import sitecustomize  # noqa: F401  the guard, in this process

if "PYTEST_XDIST_WORKER" in os.environ:  # the cores are shared; before PyTorch is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")
for name in ("NO_COLOR", "FORCE_COLOR", "PY_COLORS", "TTY_COMPATIBLE"):  # of the shell that the tests are started from
    os.environ.pop(name, None)
os.environ["TERM"] = "xterm-256color"

_GUARD = str(Path(__file__).parent / "offline")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (_GUARD, os.environ.get("PYTHONPATH"))))

"""What holds for every test: none reaches further than this machine, and neither do the processes it starts."""

from __future__ import annotations

import os
from pathlib import Path

from tests.offline import sitecustomize  # noqa: F401  the guard, in this process

_GUARD = str(Path(__file__).parent / "offline")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (_GUARD, os.environ.get("PYTHONPATH"))))

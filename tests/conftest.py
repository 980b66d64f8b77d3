"""What holds for every test: none reaches further than this machine, and neither do the processes it starts."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import tempfile
from pathlib import Path

from scedit_cli.utils.malloc import keep_freed_memory
from scedit_cli.utils.threads import choose_waiting
from tests.offline import sitecustomize  # noqa: F401  the guard, in this process

if "PYTEST_XDIST_WORKER" in os.environ:  # the cores are shared; before PyTorch is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")
choose_waiting()
keep_freed_memory()
for name in ("NO_COLOR", "FORCE_COLOR", "PY_COLORS", "TTY_COMPATIBLE"):  # of the shell that the tests are started from
    os.environ.pop(name, None)
os.environ["TERM"] = "xterm-256color"

# For the processes that tests start: the guard, and the package that is tested.
_PLACES = (str(Path(__file__).parent / "offline"), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH"))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, _PLACES))

# Tests write tens of thousands of small files and wait for each to be on the disk: in memory, where it has room.
_MEMORY = Path("/dev/shm")
if os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > 4 * 2**30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))

# What tests keep for the next run, or accept, is not the user's.
_HOME = tempfile.mkdtemp(prefix="scedit-tests-", dir=os.environ.get("PYTEST_DEBUG_TEMPROOT"))
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
for _name in ("HF_HOME", "SCEDIT_CACHE", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
    os.environ[_name] = os.path.join(_HOME, _name.lower())


def pytest_collection_finish() -> None:
    """The collector of garbage passes over what the imports have left, millions of objects, which is never garbage."""
    gc.collect()
    gc.freeze()

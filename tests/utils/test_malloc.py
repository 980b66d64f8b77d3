"""Freed memory that a process keeps: the pages of its tensors are not filled anew at each step."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")

FAULTS = """
import resource, sys
from scedit_cli.utils.malloc import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
def step():
    return [bytearray(4 * 2**20) for _ in range(8)]
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str, **environment: str) -> int:
    """Return the pages that ten steps of 32 MiB have taken from the system anew, of 4 KiB."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    given = [sys.executable, "-c", FAULTS, how]
    return int(subprocess.run(given, env=inherited | environment, capture_output=True, text=True, check=True).stdout)


def test_kept_memory_is_not_taken_anew():
    assert faults("leave") > 10 * 8192 / 2
    assert faults("keep") < 8192 / 2


def test_what_the_user_has_set_stays():
    assert faults("keep", MALLOC_TRIM_THRESHOLD_="131072") > 10 * 8192 / 2

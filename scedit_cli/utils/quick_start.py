"""Imports of large libraries without the parts that a command does not use."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quick_imports(*unused: str) -> Iterator[None]:
    """Import what the block imports faster, as if the `unused` optional packages were not installed, and without
    searching for garbage among objects that stay.

    Libraries that import optional packages wherever they are installed have a way of their own for where they are not,
    and keep to it. None in `sys.modules` is Python's sign that a module cannot be imported; it is gone after the block,
    so that the packages can be imported then. Packages that are imported already stay.
    """
    hidden = [name for name in unused if name not in sys.modules]
    collects = gc.isenabled()
    gc.disable()
    sys.modules.update(dict.fromkeys(hidden))
    try:
        yield
    finally:
        for name in hidden:
            if sys.modules.get(name, name) is None:
                del sys.modules[name]
        if collects:
            gc.freeze()  # modules, classes and functions stay until the end
            gc.enable()

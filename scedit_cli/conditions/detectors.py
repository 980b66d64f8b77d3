"""controlnet_aux's detectors, one at a time."""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import numpy as np


@cache
def detector(name: str) -> ModuleType:
    """controlnet_aux's module `name`, alone.

    Importing controlnet_aux imports every one of its models, with a page of warnings, and its `util` would import
    torch and round the picture's sides to multiples of 64. So the one module is loaded as part of a private package
    whose `util` has the two helpers that it calls: one that keeps the size, and one that adds missing channels.
    """
    package = ModuleType("_scedit_controlnet_aux")
    package.__path__ = find_spec("controlnet_aux").submodule_search_locations
    util = ModuleType(f"{package.__name__}.util")
    util.resize_image = lambda picture, resolution: picture
    util.HWC3 = lambda picture: picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)
    sys.modules.update({package.__name__: package, util.__name__: util})
    return import_module(f"{package.__name__}.{name}")

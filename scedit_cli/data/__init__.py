"""Dataset folders, what is cached of them, and the batches that training sees.

The names below are imported on first use: rendering processes need none of PyTorch.
"""

from __future__ import annotations

from importlib import import_module

_HOMES = {
    "cache": ("Cache", "cache_latents", "cache_latents_and_text", "cache_text"),
    "dataset": ("Dataset", "Item", "open_dataset", "read_rows", "write_rows"),
    "loader": ("Batch", "batches"),
    "pictures": ("open_picture", "save_picture"),
    "rendered": ("SCENE_KINDS", "Example", "example", "write_scenes"),
    "sampler": ("StatefulSampler",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)

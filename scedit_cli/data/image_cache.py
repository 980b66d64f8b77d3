"""A cache of generated images by what they depend on, a batch in a file."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from scedit_cli.utils.io import write_whole
from scedit_cli.utils.version import __version__

_MOST = 4 * 2**30  # bytes that stay in the folder


def key_of(**about: Any) -> str:
    """Return 32 hex digits that stand for these values and the versions of scedit and PyTorch."""
    known = {"scedit": __version__, "torch": torch.__version__} | about
    return hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode()).hexdigest()[:32]


class ImageCache:
    """Batches of images of one size by key; each is one PNG in which they lie below each other.

    Args:
        folder: the folder of the files; None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def find(self, key: str, count: int) -> list[Image.Image] | None:
        """Return the `count` images kept under `key`; None where there is no whole file of them."""
        if self.folder is None:
            return None
        try:
            data = self._file(key).read_bytes()
            with Image.open(io.BytesIO(data)) as opened:
                stack = np.asarray(opened)
            self._file(key).touch()
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # Pillow's, over damaged or huge files
            return None
        if len(stack) % count:
            return None
        return [Image.fromarray(each.copy()) for each in np.split(stack, count)]

    def keep(self, key: str, images: Sequence[Image.Image]) -> None:
        """Store images of one size and mode.

        Raises:
            SceditError, WorkFailed: the folder cannot be written to.
        """
        if self.folder is not None:
            buffer = io.BytesIO()
            Image.fromarray(np.concatenate([np.asarray(each) for each in images])).save(buffer, "PNG", compress_level=1)
            write_whole(self._file(key), buffer.getvalue())

    def prune(self, most: int = _MOST) -> None:
        """Remove the files that were not used for the longest time until `most` bytes remain."""
        if self.folder is None or not self.folder.is_dir():
            return
        known = []
        for file in self.folder.glob("*.png"):
            try:
                known.append((file.stat().st_mtime_ns, file.stat().st_size, file))
            except OSError:  # another process has removed it
                continue
        for _, size, file in sorted(known, reverse=True):
            most -= size
            if most < 0:
                file.unlink(missing_ok=True)

    def _file(self, key: str) -> Path:
        return self.folder / f"{key}.png"

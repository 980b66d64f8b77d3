"""The names of other programs' formats, and the paths that a tuner in one may be written to."""

from __future__ import annotations

from pathlib import Path

from scedit_cli.utils.errors import SceditError

FORMATS = ("scepter", "ms-swift", "scedit-pytorch")


def is_folder(path: Path) -> bool:
    """Return whether an export to `path` is a folder: it is one already, or has no suffix.

    Raises:
        SceditError: it has a suffix that no tuner file has.
    """
    if path.suffix in (".safetensors", ".bin"):
        return False
    if path.suffix and not path.is_dir():
        raise SceditError(
            f"{path}: a tuner of another program is a .safetensors or .bin file, or a folder",
            hint=f"name it {path.stem}.safetensors, or {path.stem} for a folder with its configuration",
        )
    return True

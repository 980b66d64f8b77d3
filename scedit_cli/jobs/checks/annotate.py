"""The first checks of `scedit annotate`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from scedit_cli.data.dataset import condition_name
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.fields import check_number, check_type
from scedit_cli.utils.io import check_writable


def check_options(source: Any, out: object, sheet: object, preview: int | None) -> None:
    """Raise SceditError for a source that does not exist, and for an argument that is not for this source."""
    if isinstance(source, Image.Image):
        for name, value in {"out": out, "sheet": sheet, "preview": preview}.items():
            if value is not None:
                raise SceditError(f"{name} has no effect on an image in memory", "save what is returned", name)
        return
    check_type(source, "source", (str, os.PathLike), "an image, an image's file, or a dataset folder")
    src = Path(source)
    if not src.exists():
        raise SceditError(f"{src} does not exist", "name a dataset folder, or an image", "source")
    if not src.is_dir():
        if preview is not None:
            message = f"preview is for a dataset folder, and {src} is none"
            raise SceditError(message, "`sheet` shows one image", "preview")
    elif out is not None:
        raise SceditError(
            f"{out}: `out` is for a single image, and {src} is a folder",
            "its condition images go into the folder itself",
            "out",
        )
    elif sheet is not None and preview is None:
        raise SceditError(
            f"{sheet}: `sheet` is for a single image, and {src} is a folder",
            "`preview=8` shows so many images of a folder",
            "sheet",
        )
    elif preview is not None:
        check_number(preview, "preview", 1, whole=True)


def by_kind(kinds: Sequence[str], params: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the settings of each of the `kinds`: the mappings by kind, and single settings, which one kind takes."""
    given: dict[str, dict[str, Any]] = {kind: {} for kind in kinds}
    for name, value in params.items():
        if isinstance(value, Mapping) and name in given:
            given[name] |= value
        elif isinstance(value, Mapping):
            raise SceditError(f"params: no {name} is made here", f"the kinds are {', '.join(kinds)}", "params")
        elif len(kinds) > 1:
            hint = f"give them by kind, as in {kinds[0]}={{{name!r}: {value!r}}}"
            raise SceditError(f"params: say which of {', '.join(kinds)} {name} is for", hint, "params")
        else:
            given[kinds[0]][name] = value
    return given


def check_place(place: Path, overwrite: bool, field: str) -> None:
    """Raise SceditError unless a PNG can be written to `place`, which `field` named."""
    if place.suffix.lower() != ".png":
        raise SceditError(f"{place} is no .png", "condition images are PNG, which loses nothing", field)
    if place.exists() and not overwrite:
        raise SceditError(f"{field} {place} exists already", "name another place, or give `overwrite`", field)
    check_writable(place, field)


def check_names(src: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Raise SceditError if two images of a dataset folder would have the same condition image."""
    owner: dict[str, str] = {}
    for name in (row["file_name"] for row in rows):
        if (other := owner.setdefault(condition_name("any", name), name)) != name:
            raise SceditError(f"{src}: {other} and {name} would share a condition image", hint="rename one of them")

"""Checks that several commands share."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from scedit_cli.data.images import image_size
from scedit_cli.utils.errors import SceditError, not_installed


def check_image(path: Path, option: str) -> None:
    """Raise SceditError unless `path` is an image, by its file's header alone; the message names `option`."""
    try:
        image_size(path)
    except SceditError as error:
        raise SceditError(f"{option}: {error.message}", error.hint or "check the path") from error


def check_folder(path: Path, option: str) -> None:
    """Raise SceditError unless `path` is a folder; the message names `option`."""
    if not path.is_dir():
        what = "is no folder" if path.exists() else "does not exist"
        raise SceditError(f"{option}: {path} {what}", hint="name a folder that is there")


def check_library(what: str, library: str, extra: str, otherwise: str = "") -> None:
    """Raise the error of `not_installed` where the `library` that `what` needs is not installed."""
    if find_spec(library) is None:
        raise not_installed(what, library, extra, otherwise)

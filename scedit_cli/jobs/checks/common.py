"""Checks that several commands share."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from scedit_cli.utils.errors import SceditError, not_installed


def check_folder(path: Path, field: str) -> None:
    """Raise SceditError unless `path` is a folder; the message names the `field`, which may be in backquotes."""
    if not path.is_dir():
        what = "is no folder" if path.exists() else "does not exist"
        raise SceditError(f"{field}: {path} {what}", "name a folder that is there", field.strip("`"))


def check_library(what: str, library: str, extra: str, otherwise: str = "") -> None:
    """Raise the error of `not_installed` where the `library` that `what` needs is not installed."""
    if find_spec(library) is None:
        raise not_installed(what, library, extra, otherwise)

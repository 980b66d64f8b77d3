"""Local files, and remote files by their URLs."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from scedit_cli.utils.errors import SceditError, not_installed, reason

_WEB = ("http", "https")
_LEFT_BEHIND = ("thumbs.db", "desktop.ini")


def is_remote(place: str) -> bool:
    return "://" in place


def is_hidden(name: str) -> bool:
    """Return whether a file or folder of this name is to be ignored: dot files (such as macOS's `._a.png`), macOS's
    folder in zips, and the files that Windows adds to folders."""
    return name.startswith(".") or name == "__MACOSX" or name.lower() in _LEFT_BEHIND


def open_place(place: str) -> BinaryIO:
    """Open the file at a path, or at a URL that fsspec knows (`https://`, `hf://`, `s3://`, …), for sequential reading.

    Raises:
        SceditError: the file does not exist or cannot be reached, or the URL's scheme is unknown.
    """
    if not is_remote(place):
        try:
            return Path(place).open("rb")
        except OSError as error:
            raise SceditError(f"{place} cannot be read: {error.strerror}", hint="bring it back") from error
    import fsspec

    scheme = place.partition("://")[0]
    try:
        return fsspec.open(place, "rb", block_size=0 if scheme in _WEB else None).open()
    except ImportError as error:
        if scheme in _WEB:
            raise not_installed(f"reading {place}", "aiohttp", "stream") from error
        raise SceditError(f"reading {place} needs a library that is not installed", hint=reason(error)) from error
    except Exception as error:  # each file system has error classes of its own
        raise SceditError(
            f"{place} cannot be read: {reason(error)}", hint="check the address and the network"
        ) from error

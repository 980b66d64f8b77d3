"""Files on this machine, and elsewhere by their URLs."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from scedit_cli.utils.errors import SceditError, not_installed, reason

_WEB = ("http", "https")
_LEFT_BEHIND = ("thumbs.db", "desktop.ini")


def is_remote(place: str) -> bool:
    return "://" in place


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is no content: dot files, `._a.png` that macOS leaves behind among them,
    its folder in zips, and what Windows puts into folders."""
    return name.startswith(".") or name == "__MACOSX" or name.lower() in _LEFT_BEHIND


def open_place(place: str) -> BinaryIO:
    """The file at a path, or at a URL that fsspec knows (`https://`, `hf://`, `s3://`, …), to be read from its start.

    Raises:
        SceditError: it is not there, cannot be reached, or is of a kind that nobody knows.
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
    except Exception as error:  # each file system's own: from the network, the server, the login
        raise SceditError(
            f"{place} cannot be read: {reason(error)}", hint="check the address and the network"
        ) from error

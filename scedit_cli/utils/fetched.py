"""Recognition of pointers and web pages in place of files that were not downloaded."""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import BinaryIO

from scedit_cli.utils.errors import SceditError

_PAGE = "is a web page, not the file itself", "download the file, not the page about it"
_POINTER = "is a Git LFS pointer, not the file itself", "run git lfs pull in its folder, or download the file"
_STAND_INS = {
    b"version https://git-lfs": _POINTER,
    b"<!doctype": _PAGE,
    b"<html": _PAGE,
    b"<?xml": _PAGE,
}


def check_fetched(file: str | os.PathLike[str] | BinaryIO, name: str) -> None:
    """Check that `file` is the file itself: a clone without Git LFS has pointers instead of files, and a browser's
    address may give a web page. A file that cannot be read passes; its reader will raise the error.

    Raises:
        SceditError: it is a pointer or a web page; the error calls it `name`.
    """
    try:
        with nullcontext(file) if hasattr(file, "seek") else open(file, "rb") as opened:
            opened.seek(0)
            head = opened.read(64).lstrip().lower()
            opened.seek(0)
    except (OSError, ValueError):
        return
    for start, (what, hint) in _STAND_INS.items():
        if head.startswith(start):
            raise SceditError(f"{name} {what}", hint)

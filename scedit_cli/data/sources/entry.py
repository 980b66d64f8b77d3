"""What every source gives: pictures that are not yet opened, with what belongs to them."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from scedit_cli.utils.errors import SceditError


@dataclass(frozen=True)
class Blob:
    """A file that may lie in a folder, an archive or a table: its name, and how it is opened."""

    name: str
    open: Callable[[], BinaryIO]

    @classmethod
    def of_file(cls, path: Path, name: str | None = None) -> Blob:
        return cls(name or str(path), lambda: path.open("rb"))

    @classmethod
    def of_bytes(cls, data: bytes, name: str) -> Blob:
        return cls(name, lambda: io.BytesIO(data))


@dataclass(frozen=True)
class Entry:
    """A picture to prepare.

    Attributes:
        name: in reports.
        image: None where the source names a picture that it does not have.
        text: the caption; None where it is in `captions`, or nowhere.
        captions: files beside the picture that hold its caption, by suffix, the first to be preferred.
        conditions: by kind; None where the picture lacks what others have.
        more: further columns of a table, which the dataset's metadata keeps.
        fault: why the picture is not to be used, where the source tells already.
    """

    name: str
    image: Blob | None
    text: str | None = None
    captions: dict[str, Blob] = field(default_factory=dict)
    conditions: dict[str, Blob | None] = field(default_factory=dict)
    more: dict[str, str | float | bool] = field(default_factory=dict)
    fault: str | None = None


@dataclass(frozen=True)
class Source:
    """Entries, to be gone through once.

    Attributes:
        count: how many there are.
        entries: made as they are asked for, so that memory does not grow with their number.
        orphans: captions and condition pictures that belong to no picture, and pictures that no table names.
        hidden: how many hidden files (`._*`, `.DS_Store`, `__MACOSX`) were passed over.
        licences: what the source's `licences.json` tells, by kind of condition picture.
        splits: those that the source has, `split` the one that is taken; None where it has none.
        unread: files that look as if they belonged to the pictures, and why they are not read.
    """

    count: int
    entries: Iterable[Entry]
    orphans: list[str] = field(default_factory=list)
    hidden: int = 0
    licences: dict[str, Any] = field(default_factory=dict)
    splits: tuple[str, ...] = ()
    split: str | None = None
    unread: list[tuple[str, str]] = field(default_factory=list)


def text_of(value: object, at: str) -> str | None:
    """A caption out of a table's cell: a text, or the first of a list; None where it is empty.

    Raises:
        SceditError: it is no text.
    """
    if isinstance(value, list | tuple):
        value = value[0] if value else None
    if value is None or value != value:  # how tables write that there is none: null or NaN
        return None
    if not isinstance(value, str):
        raise SceditError(f"{at} is {value!r}", hint="a caption is a text; --columns text=NAME names another column")
    return " ".join(value.split()) or None

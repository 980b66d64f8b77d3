"""The entries that every source yields: images that are not yet opened, with their captions and condition images."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from scedit_cli.utils.errors import SceditError


@dataclass(frozen=True)
class Images:
    """A place of images, and how they are read.

    Attributes:
        place: a folder or zip of images with .txt or .caption files, or with metadata.jsonl, .csv or .parquet at its
            root or in its folders; such a table itself, under any name; WebDataset shards (a .tar or .tar.gz, a folder
            of them, or a pattern such as "shards/{000..099}.tar" or "https://…/{000..099}.tar"); parquet files that
            contain images; a Hugging Face dataset, saved on disk or by its name on the hub.
        conditions: kind -> folder (or zip) of condition images, paired with the images by their stems.
        columns: "image", "text" or a kind of condition -> the name of its column in a table, or suffix in a shard.
        split: the split of a Hugging Face dataset, or of folders and parquet files that are named as splits ("train",
            "validation", "test"); by default "train" where there are several.
        subset, revision: the subset and revision of a dataset on the hub.
    """

    place: str | Path
    conditions: Mapping[str, str | Path] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    split: str | None = None
    subset: str | None = None
    revision: str | None = None


@dataclass(frozen=True)
class Blob:
    """A file in a folder, an archive or a table: its name, and the function that opens it."""

    name: str
    open: Callable[[], BinaryIO]

    @classmethod
    def of_bytes(cls, data: bytes, name: str) -> Blob:
        return cls(name, lambda: io.BytesIO(data))


@dataclass(frozen=True)
class Entry:
    """An image to prepare.

    Attributes:
        name: its name in reports.
        image: the image file; None where the source names one that it does not have.
        text: the caption; None where it is in `captions` or missing.
        captions: files beside the image that hold its caption, by suffix, in order of preference.
        conditions: condition images by kind; None for a kind that other images have and this one lacks.
        more: further columns of a table, which the dataset's metadata keeps.
        original: width and height of the image that this one was cut from before, where that is known.
        crop: top and left of that cut, in pixels of this image.
        fault: why the image cannot be used, where the source knows already.
    """

    name: str
    image: Blob | None
    text: str | None = None
    captions: dict[str, Blob] = field(default_factory=dict)
    conditions: dict[str, Blob | None] = field(default_factory=dict)
    more: dict[str, str | float | bool] = field(default_factory=dict)
    original: tuple[int, int] | None = None
    crop: tuple[int, int] = (0, 0)
    fault: str | None = None


@dataclass(frozen=True)
class Source:
    """A source's entries, which can be iterated once.

    Attributes:
        count: the number of entries.
        entries: the entries, made on demand, so that memory does not grow with their number.
        orphans: captions and condition images that belong to no image, and images that no table names.
        hidden: the number of hidden files (`._*`, `.DS_Store`, `__MACOSX`) that were skipped.
        licences: the content of the source's `licences.json`, by kind of condition image.
        splits: the splits that the source has.
        split: the split that is read; None where there are none.
        unread: files that seem to belong to the images, and why they are not read.
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
    """Return the caption in a table's cell: a text, or the first of a list; None where it is empty.

    Raises:
        SceditError: the cell holds no text. `at` names its place in the message.
    """
    if isinstance(value, list | tuple):
        value = value[0] if value else None
    if value is None or value != value:  # tables write null or NaN for a missing text
        return None
    if not isinstance(value, str):
        raise SceditError(f"{at} is {value!r}", hint="a caption is a text; `columns=text=NAME` names another column")
    return " ".join(value.split()) or None

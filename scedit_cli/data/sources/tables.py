"""Images that tables name: metadata.jsonl, .csv or .parquet, or prompt.json, at the root of a folder or zip or in its
folders."""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from scedit_cli.data.dataset import weight_of
from scedit_cli.data.formats import suffix_of
from scedit_cli.data.licences import LICENCES
from scedit_cli.data.sources.columns import (
    FILE,
    WEIGHT,
    caption_in,
    column_named,
    further,
    is_file_column,
    text_columns,
)  # fmt: skip
from scedit_cli.data.sources.entry import Blob, Entry, Source
from scedit_cli.data.sources.folder import OVERVIEW
from scedit_cli.data.sources.rows import LINES, TABLES, Row, rows_of
from scedit_cli.data.sources.trees import Tree, blob, stem_of
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.fetched import check_fetched
from scedit_cli.utils.names import KIND

_NAMES = (*(f"metadata{suffix}" for suffix in TABLES), LINES)
KINDS = (*TABLES, ".tsv")
_IMAGE = "file_name"
_ALIKE = ("image", "image_path", "img", "filename", "filepath", "file", "path", "target")  # other tools' names of it
_DRIVE = re.compile("[A-Za-z]:")


def named(tree: Tree) -> list[str]:
    """Return the tables of a tree, at most one per folder: the first in the order of `_NAMES`."""
    rank = {name: number for number, name in enumerate(_NAMES)}
    every = [(rank[name], file) for file in tree.files if (name := posixpath.basename(file).lower()) in rank]
    found: dict[str, str] = {}
    for _, file in sorted(every):
        found.setdefault(folder_of(file), file)
    return sorted(found.values())


def find(tree: Tree, parts: Sequence[str]) -> list[str]:
    """Return the tables by which a tree is read: the one at its root; else those below the folders `parts`. Without
    `parts` these are all tables, if every image has one in a folder above it, else none."""
    tables = named(tree)
    if root := [table for table in tables if "/" not in table]:
        return root
    if parts:
        return [table for table in tables if table.startswith(tuple(parts))]
    folders = {table.rpartition("/")[0] for table in tables}
    return tables if all(not folders.isdisjoint(_above(image)) for image in tree.images) else []


def unread(tree: Tree, used: Sequence[str], suffixes: Sequence[str]) -> list[tuple[str, str]]:
    """Return the files of a tree that look like tables by their `suffixes` but are not `used`, and why they are not
    read."""
    suspects = [file for file in set(tree.files) - set(used) if suffix_of(file) in suffixes]
    if not suspects:
        return []
    stems = {stem_of(image) for image in tree.images}
    folders = {folder for stem in stems for folder in _above(stem)}
    found = []
    for file in sorted(suspects):
        stem, name = stem_of(file), posixpath.basename(file)
        # Reports of img2dataset on a folder or an image of that name, and scedit's own files, are no lost tables.
        is_known = stem in stems or stem.removesuffix("_stats") in folders
        is_known = is_known or name == LICENCES or name.endswith("report.json")
        if not is_known:
            found.append((file, _why_unread(file, name)))
    return found


def _why_unread(file: str, name: str) -> str:
    if suffix_of(name) in (".json", ".tsv"):
        return "write what it tells as metadata.jsonl or metadata.csv, or as .txt files beside the images"
    if name.lower() in _NAMES:
        return f"there is another table, or it tells of some of the images alone: name {file} itself to read it"
    return f"a table is called metadata{suffix_of(name)}, or named itself in the place of its folder"


def _above(path: str) -> Iterator[str]:
    while path := path.rpartition("/")[0]:
        yield path


def open_tables(tree: Tree, tables: Sequence[str], columns: Mapping[str, str]) -> Source:
    """Open the images that `tables` name as a source; rows are read on demand. File names are relative to the table's
    folder; rows of splits that the tree leaves out are skipped.

    Raises:
        SceditError: the tables are empty or lack the columns that name images; or a row is malformed.
    """
    for table in tables:
        with tree.open(table) as file:
            check_fetched(file, f"{tree.name}/{table}")
    place = f"{tree.name}/{tables[0]}"
    names = list(dict.fromkeys(chain.from_iterable(row for table in tables for _, row in rows_of(tree, table))))
    if not names:
        raise SceditError(f"{place} names no images", hint="give it a row for each image")

    def column(wanted: str) -> str:
        if (found := column_named(names, wanted)) is not None:
            return found
        alike = next(filter(None, (column_named(names, each) for each in _ALIKE)), "NAME")
        hint = f"it has {', '.join(map(str, names))}; `columns=image={alike},text=NAME` names them"
        raise SceditError(f"{place} has no column {wanted}", hint)

    image = column(columns.get("image", _IMAGE))
    kinds = {kind: column(name) for kind, name in columns.items() if kind not in ("image", "text")}
    texts = [column(columns["text"])] if "text" in columns else text_columns(names)
    weight = column_named(names, WEIGHT)
    known, count, taken = set(tree.files), 0, set()

    def rows() -> Iterator[tuple[str, str, Row]]:
        """Yield each row after its place and its table's folder."""
        for table in tables:
            folder = folder_of(table)
            for at, row in rows_of(tree, table):
                if not tree.others or not file_of(row.get(image), folder, f"{at}: {image}").startswith(tree.others):
                    yield at, folder, row

    def file_of(cell: Any, folder: str, at: str) -> str:
        return _file(cell, folder, at, known)

    for at, folder, row in rows():
        count += 1
        filled = [key for key, cell in row.items() if is_file_column(key) and not _is_none(cell)]
        kinds |= {_kind(key, at): key for key in filled if key not in {image, *kinds.values()}}
        taken.add(file_of(row.get(image), folder, f"{at}: {image}"))
        cells = {name: row.get(name) for name in kinds.values()}
        taken |= {file_of(cell, folder, f"{at}: {name}") for name, cell in cells.items() if not _is_none(cell)}
        if weight is not None:
            weight_of(row.get(weight), at)

    def found(cell: Any, folder: str, at: str) -> Blob | None:
        if _is_none(cell):
            return None
        file = file_of(cell, folder, at)
        return blob(tree, file) if file in known else Blob(file, lambda: _missing(file))

    def entries() -> Iterator[Entry]:
        for at, folder, row in rows():
            text, said_in = caption_in(row, texts, at)
            yield Entry(
                name=folder + row[image],
                image=found(row[image], folder, f"{at}: {image}"),
                text=text,
                conditions={kind: found(row.get(name), folder, f"{at}: {name}") for kind, name in kinds.items()},
                more=further(row, {image, said_in, *kinds.values()}, at),
            )

    orphans = [file for file in tree.images if file not in taken and posixpath.basename(file) != OVERVIEW]
    return Source(count, entries(), orphans, tree.hidden)


def folder_of(table: str) -> str:
    """Return a table's folder with its slash; "" for the root."""
    return table[: table.rfind("/") + 1]


def _kind(column: str, at: str) -> str:
    """Return the kind of condition whose images a column names; it is usable as a folder's name, and in recipes."""
    kind = column.removesuffix(FILE) if column.endswith(FILE) else column.strip().lower().removesuffix(FILE)
    if not re.fullmatch(KIND, kind):
        raise SceditError(f"{at}: the column {column} names no kind of condition", hint="call it as in depth_file_name")
    return kind


def _is_none(cell: Any) -> bool:
    """Return whether a cell is empty, null or NaN."""
    return cell is None or cell == "" or cell != cell


def _file(cell: Any, folder: str, at: str, known: set[str]) -> str:
    """Return the tree's name of the file that a cell names, in a table of `folder`. Forms of other tools, "./a.png",
    "images//a.png" and "images\\a.png", are understood too."""
    if _is_none(cell):
        raise SceditError(f"{at} is missing", hint="it must be the name of a file")
    if not isinstance(cell, str):
        raise SceditError(f"{at} is {cell!r}", hint="it must be the name of a file")
    if "://" in cell:
        raise SceditError(f"{at} is {cell!r}", hint="fetch the images first, for example with img2dataset")
    plain = cell.strip().replace("\\", "/")
    for name in (cell, plain):
        if name.startswith("/") or ".." in name.split("/"):
            raise SceditError(f"{at} is {cell!r}", hint="name a file inside the folder")
    if folder + cell in known:
        return folder + cell
    if _DRIVE.match(plain):
        raise SceditError(f"{at} is {cell!r}", hint="name a file inside the folder")
    return folder + unicodedata.normalize("NFC", posixpath.normpath(plain))  # the form of a tree's names


def _missing(name: str):
    raise FileNotFoundError(name)

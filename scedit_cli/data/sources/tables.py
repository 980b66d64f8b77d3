"""Pictures that a table names: metadata.jsonl, .csv or .parquet, or prompt.json, in a folder or zip."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

from scedit_cli.data.sources.entry import Blob, Entry, Source, text_of
from scedit_cli.data.sources.trees import Tree, blob, is_picture
from scedit_cli.errors import SceditError, not_installed
from scedit_cli.files import check_fetched, read_json

_NAMES = ("metadata.jsonl", "metadata.csv", "metadata.parquet", "prompt.json")  # the last is ControlNet's, of lines
_FILE = "_file_name"
TEXTS = ("text", "caption", "prompt")
_OURS = "overview.png"  # the contact sheet of a dataset folder
_ROWS = 1024  # of a parquet file, read together
_SEPARATORS = ",;\t"  # of a CSV; where the comma is for decimals, programs write semicolons


def find(tree: Tree) -> str | None:
    """The table of a tree, where it has one."""
    return next((name for name in _NAMES if name in tree.files), None)


def open_table(tree: Tree, table: str, columns: Mapping[str, str]) -> Source:
    """Rows are read as they are asked for.

    Raises:
        SceditError: an empty table, one without the columns that name pictures, or (on the way) a malformed row.
    """
    rows = _READERS[table.rpartition(".")[2]]
    with tree.open(table) as file:
        check_fetched(file, f"{tree.name}/{table}")
    with closing(rows(tree, table)) as peek:
        _, first = next(peek, (0, None))
    if first is None:
        raise SceditError(f"{tree.name}/{table} names no pictures", hint="give it a row for each picture")
    image = columns.get("image", "file_name")
    kinds = {key: name for key, name in columns.items() if key not in ("image", "text")}
    text = columns.get("text") or next((name for name in TEXTS if name in first), None)
    for column in filter(None, (image, columns.get("text"), *kinds.values())):
        if column not in first:
            raise SceditError(
                f"{tree.name}/{table} has no column {column}",
                hint=f"it has {', '.join(map(str, first))}; --columns image=NAME,text=NAME names them",
            )
    known, count, named = set(tree.files), 0, {_OURS}
    for at, row in rows(tree, table):
        count += 1
        filled = [key for key, name in row.items() if str(key).endswith(_FILE) and not _is_none(name)]
        kinds |= {_kind(key, at): key for key in filled if key not in {image, *kinds.values()}}
        cells = [row.get(column) for column in (image, *kinds.values())]
        named |= {unicodedata.normalize("NFC", name) for name in cells if isinstance(name, str)}
        _inside(row.get(image), f"{at}: {image}")

    used = {image, text, *kinds.values()}

    def found(name: Any, at: str) -> Blob | None:
        if _is_none(name):
            return None
        place = _inside(name, at)
        return blob(tree, place) if place in known else Blob(name, lambda: _missing(name))

    def entries() -> Iterator[Entry]:
        for at, row in rows(tree, table):
            yield Entry(
                name=row[image],
                image=found(row[image], f"{at}: {image}"),
                text=text_of(row.get(text), f"{at}: {text}") if text else None,
                conditions={kind: found(row.get(column), f"{at}: {column}") for kind, column in kinds.items()},
                more={
                    name: value
                    for name, value in row.items()
                    if isinstance(value, str | int | float) and name not in used and not str(name).endswith(_FILE)
                },
            )

    return Source(count, entries(), [f for f in tree.files if is_picture(f) and f not in named], tree.hidden)


def _jsonl(tree: Tree, table: str) -> Iterator[tuple[str, dict[str, Any]]]:
    with tree.open(table) as lines:
        for number, line in enumerate(lines, 1):
            at = f"{tree.name}/{table} line {number}"
            if not line.strip():
                continue
            try:
                row = read_json(line)
            except ValueError as error:
                raise SceditError(f"{at}: no JSON ({error})", hint="one object per line") from None
            if not isinstance(row, dict):
                raise SceditError(f"{at}: no object", hint='each line looks like {"file_name": "a.png", "text": "..."}')
            yield at, row


def _csv(tree: Tree, table: str) -> Iterator[tuple[str, dict[str, Any]]]:
    with io.TextIOWrapper(tree.open(table), "utf-8-sig", newline="") as text:
        try:
            heading = text.readline()
            text.seek(0)
            between = max(_SEPARATORS, key=heading.count)
            for number, row in enumerate(csv.DictReader(text, strict=True, delimiter=between), 2):
                at = f"{tree.name}/{table} row {number}"
                if None in row or None in row.values():
                    raise SceditError(f"{at}: not as many cells as the heading", hint="quote texts that hold commas")
                yield at, {name: value or None for name, value in row.items()}
        except (csv.Error, UnicodeDecodeError) as error:
            raise SceditError(f"{tree.name}/{table} is no readable CSV: {error}", hint="save it as UTF-8") from None


def _parquet(tree: Tree, table: str) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise not_installed(f"{tree.name}/{table}", "pyarrow", "datasets") from None
    number = 0
    with tree.open(table) as file:
        try:
            for batch in parquet.ParquetFile(file).iter_batches(batch_size=_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{tree.name}/{table} row {number}", row
        except ArrowException as error:
            raise SceditError(f"{tree.name}/{table} is no readable parquet file: {error}", hint="get it anew") from None


_READERS = {"jsonl": _jsonl, "json": _jsonl, "csv": _csv, "parquet": _parquet}


def _kind(column: str, at: str) -> str:
    """The kind of condition whose pictures a column names; it becomes a folder's name."""
    kind = column.removesuffix(_FILE)
    if not kind.strip(".") or "/" in kind or "\\" in kind:
        raise SceditError(f"{at}: the column {column} names no kind of condition", hint="call it as in depth_file_name")
    return kind


def _is_none(cell: Any) -> bool:
    """How tables write that there is nothing: empty, null or NaN."""
    return cell is None or cell == "" or cell != cell


def _inside(name: Any, at: str) -> str:
    if not isinstance(name, str) or not name:
        raise SceditError(f"{at} is {name!r}", hint="it must be the name of a file")
    if name.startswith("/") or ".." in name.split("/"):
        raise SceditError(f"{at} is {name!r}", hint="name a file inside the folder")
    return unicodedata.normalize("NFC", name)  # as a tree's files are called


def _missing(name: str):
    raise FileNotFoundError(name)

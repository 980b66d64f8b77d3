"""The rows of tables: .jsonl, .csv and .parquet, and prompt.json."""

from __future__ import annotations

import csv
import io
import posixpath
from collections.abc import Iterator
from typing import Any

from scedit_cli.data.formats import suffix_of
from scedit_cli.data.sources.trees import Tree
from scedit_cli.data.text_tables import csv_rows, json_objects
from scedit_cli.utils.errors import SceditError, not_installed

LINES = "prompt.json"  # ControlNet's table, which holds JSON lines in spite of its name
_AT_ONCE = 1024  # rows that are read together from a parquet file

Row = dict[str, Any]


def rows_of(tree: Tree, table: str) -> Iterator[tuple[str, Row]]:
    """Yield each row after its place, which messages name; rows are read on demand.

    Raises:
        SceditError: a row is malformed, or the table cannot be read.
    """
    return _READERS[suffix_of(table)](tree, table)


def is_table(file: str) -> bool:
    """Return whether a file of this name is read as a table when it is named directly."""
    return suffix_of(file) in TABLES or posixpath.basename(file).lower() == LINES


def _jsonl(tree: Tree, table: str) -> Iterator[tuple[str, Row]]:
    with tree.open(table) as lines:
        place = f"{tree.name}/{table}"
        for number, row in json_objects(lines, place, '{"file_name": "a.png", "text": "..."}'):
            yield f"{place} line {number}", row


def _csv(tree: Tree, table: str) -> Iterator[tuple[str, Row]]:
    with io.TextIOWrapper(tree.open(table), "utf-8-sig", newline="") as text:
        try:
            for number, row in enumerate(csv_rows(text, strict=True), 2):
                at = f"{tree.name}/{table} row {number}"
                if None in row or None in row.values():
                    raise SceditError(f"{at}: not as many cells as the heading", hint="quote texts that hold commas")
                yield at, {name: value or None for name, value in row.items()}
        except (csv.Error, UnicodeDecodeError) as error:
            raise SceditError(f"{tree.name}/{table} is no readable CSV: {error}", hint="save it as UTF-8") from None


def _parquet(tree: Tree, table: str) -> Iterator[tuple[str, Row]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise not_installed(f"{tree.name}/{table}", "pyarrow", "datasets") from None
    number = 0
    with tree.open(table) as file:
        try:
            for batch in parquet.ParquetFile(file).iter_batches(batch_size=_AT_ONCE):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{tree.name}/{table} row {number}", row
        except ArrowException as error:
            raise SceditError(f"{tree.name}/{table} is no readable parquet file: {error}", "get it again") from None


TABLES = (".jsonl", ".csv", ".parquet")
_READERS = {".jsonl": _jsonl, ".json": _jsonl, ".csv": _csv, ".parquet": _parquet}

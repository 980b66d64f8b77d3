"""Tables as text: JSON lines and CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.io import read_json

SEPARATORS = ",;\t"  # of a CSV; programs write semicolons where the comma marks decimals


def json_objects(
    lines: Iterable[bytes | str], place: str, example: str, hint: str = "one object per line"
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the object in each line that is not empty, after the line's number from 1; lines are read on demand.

    Args:
        place: what messages call the table.
        example, hint: the advice for a line that holds no object, and for one that is no JSON.

    Raises:
        SceditError: a line holds no object.
    """
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = read_json(line)
        except ValueError as error:
            raise SceditError(f"{place} line {number}: no JSON ({error})", hint) from None
        if not isinstance(row, dict):
            raise SceditError(f"{place} line {number}: no object", f"each line looks like {example}")
        yield number, row


def csv_rows(text: TextIO, separators: str = SEPARATORS, strict: bool = False) -> csv.DictReader:
    """Return the reader of a CSV's rows, which are separated by the mark that its heading holds most often."""
    heading = text.readline()
    text.seek(0)
    return csv.DictReader(text, delimiter=max(separators, key=heading.count), strict=strict)

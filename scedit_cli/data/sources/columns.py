"""Columns of tables, of Hugging Face datasets and of a sample's .json: their names and the content of their cells."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from scedit_cli.data.dataset import weight_of
from scedit_cli.data.sources.entry import text_of

TEXTS = ("text", "caption", "prompt")  # in order of preference
WEIGHT = "weight"
FILE = "_file_name"


def column_named(columns: Iterable[Any], name: str) -> Any | None:
    """Return the column `name`, else the first that differs only in case or in spaces around it; None without one."""
    columns = list(columns)
    if name in columns:
        return name
    return next((column for column in columns if _plain(column) == _plain(name)), None)


def text_columns(columns: Iterable[Any]) -> list[Any]:
    """Return the columns that hold captions by their usual names, in order of preference."""
    columns = list(columns)
    return [found for name in TEXTS if (found := column_named(columns, name)) is not None]


def caption_in(row: Mapping[Any, Any], columns: Sequence[Any], at: str) -> tuple[str | None, Any | None]:
    """Return a row's caption and its column: the first of `columns` that is not empty; (None, None) without one.

    Raises:
        SceditError: a caption is not a text.
    """
    for column in columns:
        if text := text_of(row.get(column), f"{at}: {column}"):
            return text, column
    return None, None


def further(row: Mapping[Any, Any], used: Collection[Any], at: str) -> dict[str, str | float | bool]:
    """Return the cells of a row that the metadata keeps: texts, finite numbers and the weight, of columns not in `used`
    and not of files.

    Raises:
        SceditError: the weight is invalid, as in `weight_of`.
    """
    kept = {
        name: value
        for name, value in row.items()
        if name not in used and not is_file_column(name) and _plain(name) != WEIGHT and _is_plain_value(value)
    }
    weight = row.get(column_named(row, WEIGHT))
    return kept if weight is None else kept | {WEIGHT: weight_of(weight, at)}


def is_file_column(name: Any) -> bool:
    """Return whether a column's name, such as "depth_file_name", says that it names condition images."""
    return _plain(name).endswith(FILE)


def _plain(name: Any) -> str:
    return str(name).strip().lower()


def _is_plain_value(value: Any) -> bool:
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))

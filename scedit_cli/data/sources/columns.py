"""Columns of tables, of Hugging Face datasets and of a sample's .json: how they are called, and what cells hold."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from scedit_cli.data.dataset import weight_of
from scedit_cli.data.sources.entry import text_of

TEXTS = ("text", "caption", "prompt")  # where a row has several, the first is taken
WEIGHT = "weight"
FILE = "_file_name"


def column_named(columns: Iterable[Any], name: str) -> Any | None:
    """The column called `name`, else the first that only differs in case or in spaces around it; None without one."""
    columns = list(columns)
    if name in columns:
        return name
    return next((column for column in columns if _plain(column) == _plain(name)), None)


def text_columns(columns: Iterable[Any]) -> list[Any]:
    """The columns that hold captions where none is named for them, the first to be preferred."""
    columns = list(columns)
    return [found for name in TEXTS if (found := column_named(columns, name)) is not None]


def caption_in(row: Mapping[Any, Any], columns: Sequence[Any], at: str) -> tuple[str | None, Any | None]:
    """The caption of a row, which stands in the first of `columns` that says something; and that column.

    Raises:
        SceditError: as `text_of`.
    """
    for column in columns:
        if text := text_of(row.get(column), f"{at}: {column}"):
            return text, column
    return None, None


def further(row: Mapping[Any, Any], used: Collection[Any], at: str) -> dict[str, str | float | bool]:
    """The cells of a row that the dataset's metadata keeps: texts and numbers of no `used` column, the weight checked.

    Raises:
        SceditError: as `weight_of`.
    """
    kept = {
        name: value
        for name, value in row.items()
        if name not in used and not is_file_column(name) and _plain(name) != WEIGHT and _is_plain_value(value)
    }
    weight = row.get(column_named(row, WEIGHT))
    return kept if weight is None else kept | {WEIGHT: weight_of(weight, at)}


def is_file_column(name: Any) -> bool:
    """Whether a column's name says that it names the pictures of a condition, as "depth_file_name" does."""
    return _plain(name).endswith(FILE)


def _plain(name: Any) -> str:
    return str(name).strip().lower()


def _is_plain_value(value: Any) -> bool:
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))

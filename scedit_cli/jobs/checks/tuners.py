"""Checks of tuner files by their headers alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os.path import exists
from typing import Any

from scedit_cli import scenes
from scedit_cli.core.foreign.sorting import sorted_out
from scedit_cli.core.source import locate, read_header
from scedit_cli.utils.hub import is_hub_id, split_revision
from scedit_cli.utils.io import read_json


@dataclass(frozen=True)
class Header:
    """The contents of a tuner file, as its header states them.

    Attributes:
        conditions: the conditions of its tuners in order, None for an SC-Tuner; None if the file does not state them.
    """

    conditions: tuple[str | None, ...] | None = None


def header_of(name: str) -> Header:
    """Return the header of a tuner's file or folder, or of a shipped tuner; it is empty for a tuner on the hub.

    Raises:
        SceditError: the file does not exist, or is no tuner.
    """
    path = scenes.tuner_place(name)
    if not exists(path) and is_hub_id(split_revision(path)[0]):
        return Header()
    file = locate(path)
    facts, keys = read_header(file)
    if file.suffix == ".bin":
        return Header()
    if not facts.get("format", "").startswith("scedit/"):
        sorted_out(dict.fromkeys(keys), file)
        return Header()
    return Header(_conditions(facts))


def _conditions(facts: Mapping[str, Any]) -> tuple[str | None, ...] | None:
    """Return None where the metadata is damaged, which is reported when the file is loaded."""
    try:
        parts = read_json(facts["tuners"]) if facts.get("kind") == "bundle" else [{"metadata": facts}]
        return tuple(part["metadata"].get("condition") for part in parts)
    except (ValueError, LookupError, TypeError, AttributeError):
        return None


def known_conditions(headers: Sequence[Header]) -> set[str | None] | None:
    """Return all conditions of these files, or None where a file does not state them."""
    found = [header.conditions for header in headers]
    return None if None in found else {each for conditions in found for each in conditions}

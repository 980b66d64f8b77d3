"""Tuner files by their headers alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scedit_cli import scenes
from scedit_cli.core.foreign.sorting import sorted_out
from scedit_cli.core.source import locate, read_header
from scedit_cli.utils.hub import is_hub_id, split_revision
from scedit_cli.utils.io import read_json


@dataclass(frozen=True)
class Header:
    """What a tuner file holds.

    Attributes:
        conditions: of its tuners in order, None for an SC-Tuner; itself None where the file does not tell.
    """

    conditions: tuple[str | None, ...] | None = None


def header_of(name: str) -> Header:
    """The header of a tuner's file or folder, or of a shipped one; of one on the hub nothing is known.

    Raises:
        SceditError: nothing is there, or it is no tuner.
    """
    path = scenes.tuner_place(name)
    if not path.exists() and is_hub_id(split_revision(path)[0]):
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
    """None where the metadata is damaged, which is told when the file is loaded."""
    try:
        parts = read_json(facts["tuners"]) if facts.get("kind") == "bundle" else [{"metadata": facts}]
        return tuple(part["metadata"].get("condition") for part in parts)
    except (ValueError, LookupError, TypeError, AttributeError):
        return None


def known_conditions(headers: Sequence[Header]) -> set[str | None] | None:
    """All conditions of these files; None where one does not tell."""
    found = [header.conditions for header in headers]
    return None if None in found else {each for conditions in found for each in conditions}

"""The licences under which a dataset's condition images were made: `licences.json` in its folder."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from scedit_cli.conditions.registry import Annotator
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.io import read_json, write_whole

LICENCES = "licences.json"


def record_licences(dataset: Path, annotators: Iterable[Annotator]) -> None:
    """Record by kind how the dataset's condition images were made: annotator, library, weights, their licence, and
    whether it allows commercial use.

    Raises:
        SceditError: `licences.json` is damaged.
    """
    known = _known(dataset / LICENCES)
    made = {
        each.kind: {
            "annotator": each.name,
            "library": each.library,
            "weights": list(each.weights),
            "licence": each.licence,
            "commercial": each.commercial,
        }
        for each in annotators
    }
    if made:
        write_licences(dataset, known | made)


def check_licences(dataset: Path) -> None:
    """Check that `record_licences` will succeed, before the work that it records; else raise SceditError."""
    _known(dataset / LICENCES)


def _known(file: Path) -> dict[str, Any]:
    try:
        known = read_json(file.read_bytes()) if file.exists() else {}
    except ValueError as error:
        raise SceditError(f"{file}: no JSON ({error})", hint="remove it; the next annotate writes it again") from None
    if not isinstance(known, dict):
        raise SceditError(f"{file} holds no licences by kind", hint="remove it; the next annotate writes it again")
    return known


def write_licences(folder: Path, licences: dict[str, Any]) -> None:
    """Write `licences` by kind; where it is empty, remove the file."""
    if licences:
        write_whole(folder / LICENCES, json.dumps(licences, indent=2) + "\n")
    else:
        (folder / LICENCES).unlink(missing_ok=True)


def licences_of(folder: Path) -> dict[str, Any]:
    """Return the licences by kind in a local folder's `licences.json`; {} where there is none."""
    if not (folder / LICENCES).is_file():
        return {}
    with (folder / LICENCES).open("rb") as file:
        return licences_in(file)


def licences_in(file: BinaryIO) -> dict[str, Any]:
    """Return the licences by kind in an open `licences.json`; {} where it is some other file of that name."""
    try:
        read = read_json(file.read())
    except ValueError:
        return {}
    read = read if isinstance(read, dict) else {}
    return {kind: each for kind, each in read.items() if isinstance(each, dict) and "licence" in each}

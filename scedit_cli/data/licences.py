"""Under which licences a dataset's condition pictures were made: `licences.json` in its folder."""

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
    """Enters, by kind, who has made condition pictures of the dataset: annotator, library, weights, their licence, and
    whether it allows commercial use.

    Raises:
        SceditError: the file is damaged.
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
    """Raises SceditError where `record_licences` would, before work that it is to tell of."""
    _known(dataset / LICENCES)


def _known(file: Path) -> dict[str, Any]:
    try:
        known = read_json(file.read_bytes()) if file.exists() else {}
    except ValueError as error:
        raise SceditError(f"{file}: no JSON ({error})", hint="remove it; the next annotate writes it anew") from None
    if not isinstance(known, dict):
        raise SceditError(f"{file} tells no licences by kind", hint="remove it; the next annotate writes it anew")
    return known


def write_licences(folder: Path, licences: dict[str, Any]) -> None:
    """`licences` by kind; where there are none, no file."""
    if licences:
        write_whole(folder / LICENCES, json.dumps(licences, indent=2) + "\n")
    else:
        (folder / LICENCES).unlink(missing_ok=True)


def licences_of(folder: Path) -> dict[str, Any]:
    """What the `licences.json` in a folder of this machine tells, as `licences_in`; nothing where it has none."""
    if not (folder / LICENCES).is_file():
        return {}
    with (folder / LICENCES).open("rb") as file:
        return licences_in(file)


def licences_in(file: BinaryIO) -> dict[str, Any]:
    """What a `licences.json` tells by kind; nothing where it is another file that is called so."""
    try:
        told = read_json(file.read())
    except ValueError:
        return {}
    told = told if isinstance(told, dict) else {}
    return {kind: each for kind, each in told.items() if isinstance(each, dict) and "licence" in each}

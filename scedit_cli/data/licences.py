"""Under which licences a dataset's condition pictures were made: `licences.json` in its folder."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from scedit_cli.conditions.registry import Annotator
from scedit_cli.errors import SceditError
from scedit_cli.files import write_whole

LICENCES = "licences.json"


def record_licences(dataset: Path, annotators: Iterable[Annotator]) -> None:
    """Enters, by kind, who has made condition pictures of the dataset: annotator, library, weights, their licence, and
    whether it allows commercial use.

    Raises:
        SceditError: the file is damaged.
    """
    file = dataset / LICENCES
    try:
        known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    except ValueError as error:
        raise SceditError(f"{file}: no JSON ({error})", hint="remove it; the next annotate writes it anew") from None
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
    write_whole(file, json.dumps(known | made, indent=2) + "\n")

"""The reader of a benchmark's JSON file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scedit_cli.utils.errors import SceditError, reason
from scedit_cli.utils.io import read_json

HINT = "`bench(json=True)` > FILE makes one"


def read_values(path: Path, argument: str) -> Any:
    """Return the JSON in the file at `path`; `argument` names it in messages.

    Raises:
        SceditError: the file does not exist, or does not hold JSON.
    """
    try:
        return read_json(path.read_bytes())
    except FileNotFoundError:
        raise SceditError(f"{argument} {path}: no such file", HINT) from None
    except (OSError, ValueError) as error:
        raise SceditError(f"{argument} {path} is no benchmark: {reason(error)}", HINT) from error

"""A benchmark's document as it stands in its file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scedit_cli.utils.errors import SceditError, reason
from scedit_cli.utils.io import read_json

HINT = "scedit bench --json > FILE makes one"


def read_values(path: Path, option: str) -> Any:
    """The JSON in the file at `path`, which `option` names.

    Raises:
        SceditError: no such file, or none that holds JSON.
    """
    try:
        return read_json(path.read_bytes())
    except FileNotFoundError:
        raise SceditError(f"{option} {path}: no such file", HINT) from None
    except (OSError, ValueError) as error:
        raise SceditError(f"{option} {path} is no benchmark: {reason(error)}", HINT) from error

"""A cache of results that took long, one file each, so that stopped work can resume."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from scedit_cli.utils.io import as_json, expanded, write_whole
from scedit_cli.utils.version import __version__


class ResultCache:
    """Values by name and inputs, one JSON file each: `NAME-DIGEST.json`.

    Args:
        folder: the folder of the files; None caches nothing.
    """

    def __init__(self, folder: str | Path | None) -> None:
        self._folder = None if folder is None else expanded(folder)

    def find(self, name: str, about: dict[str, Any]) -> Any | None:
        """Return the value stored with the same name, `about` and version of scedit, or None where there is none."""
        if self._folder is None:
            return None
        try:
            found = json.loads(self._file(name, about).read_text("utf-8"))
            return found["value"] if found["about"] == _whole(about) else None
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def keep(self, name: str, about: dict[str, Any], value: Any) -> None:
        """Store the value.

        Raises:
            SceditError, WorkFailed: the folder cannot be written to.
        """
        if self._folder is not None:
            write_whole(self._file(name, about), as_json({"about": _whole(about), "value": value}))

    def _file(self, name: str, about: dict[str, Any]) -> Path:
        digest = hashlib.sha256(json.dumps(_whole(about), sort_keys=True).encode()).hexdigest()
        return self._folder / f"{name}-{digest[:8]}.json"


def _whole(about: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps({"scedit": __version__} | about))  # as it is read back: tuples are lists

"""Acceptance of weights' licences that forbid commercial use, once per user, stored in the user's settings."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.io import check_place, expanded, write_whole


class Licensed(Protocol):
    """The attributes of an annotator that concern its licence."""

    kind: str
    name: str
    licence: str
    weights: tuple[str, ...]
    commercial: bool


def require(annotator: Licensed) -> None:
    """Check that the annotator's weights allow commercial use, or that the user has accepted their licence; else raise
    SceditError."""
    if annotator.commercial or _entry(annotator) in _accepted():
        return
    raise SceditError(
        f"{annotator.kind} by {annotator.name}: its weights' licence forbids commercial use ({annotator.licence})",
        hint=f"read it, then accept it once: `annotate(photo.png, kinds={annotator.kind}, annotator={annotator.name}, "
        f"accept_license=True, out={annotator.kind}.png)`",
    )


def accept(annotator: Licensed) -> None:
    """Record that this user accepts the licence of the annotator's weights; do nothing if it allows commercial use.

    Raises:
        SceditError: the settings cannot be read or written.
    """
    from scedit_cli.utils.locks import alone

    if annotator.commercial or _entry(annotator) in _accepted():
        return
    check_place(_book())
    with alone(_book().parent):  # another process may have accepted a licence meanwhile
        if _entry(annotator) not in _accepted():
            now = datetime.now(UTC).isoformat(timespec="seconds")
            write_whole(_book(), json.dumps([*_entries(), _entry(annotator) | {"accepted": now}], indent=2) + "\n")


def _entry(annotator: Licensed) -> dict[str, Any]:
    return {"weights": list(annotator.weights), "licence": annotator.licence}


def _accepted() -> list[dict[str, Any]]:
    return [{"weights": each.get("weights"), "licence": each.get("licence")} for each in _entries()]


def _entries() -> list[dict[str, Any]]:
    try:
        entries = json.loads(_book().read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise SceditError(f"{_book()} cannot be read: {error.strerror}", hint="check the file's permissions") from error
    except ValueError as error:
        raise SceditError(
            f"{_book()} is no JSON: {error}", hint="remove it; licences are then accepted again"
        ) from error
    return [each for each in entries if isinstance(each, dict)] if isinstance(entries, list) else []


def _book() -> Path:
    """Return the path of the accepted licences, in $XDG_CONFIG_HOME or else ~/.config."""
    return expanded(os.environ.get("XDG_CONFIG_HOME") or "~/.config") / "scedit" / "licences.json"

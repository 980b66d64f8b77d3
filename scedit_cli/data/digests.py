"""Digests of files, stored with each file's size and modification time so that unchanged files are not read again."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from scedit_cli.utils.io import read_json, write_whole

_THREADS = 4
_DIGEST = re.compile("[0-9a-f]{32}")


def digests(root: Path, paths: Sequence[Path], memo: Path) -> list[str]:
    """Return 32 hex digits of the SHA-256 of each of the files `paths` below `root`; `memo` keeps them for later calls.
    """
    known = _read(memo)

    def digest(path: Path) -> tuple[str, list]:
        name, state = path.relative_to(root).as_posix(), path.stat()
        stamp = [state.st_size, state.st_mtime_ns]
        if (entry := known.get(name)) and entry[:2] == stamp:
            return name, entry
        with path.open("rb") as file:
            return name, [*stamp, hashlib.file_digest(file, "sha256").hexdigest()[:32]]

    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(digest, paths))
    if (now := dict(found)) != known:
        write_whole(memo, json.dumps(now, separators=(",", ":")))
    return [entry[2] for _, entry in found]


def _read(memo: Path) -> dict[str, list]:
    """Return a memo's well-formed entries; others are dropped, since a memo may come with a downloaded dataset."""
    try:
        held = read_json(memo.read_bytes())
    except (OSError, ValueError):  # it is missing or damaged, so every file is read again
        return {}
    held = held if isinstance(held, dict) else {}
    return {name: entry for name, entry in held.items() if _is_entry(entry)}


def _is_entry(value: object) -> bool:
    is_one = isinstance(value, list) and [type(each) for each in value] == [int, int, str]
    return is_one and bool(_DIGEST.fullmatch(value[2]))

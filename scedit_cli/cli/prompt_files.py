"""Files of prompts: texts, tables, and objects with settings of their own."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from scedit_cli.cli.parsing import parse_control, parse_seeds
from scedit_cli.data.text_tables import csv_rows, json_objects
from scedit_cli.generation.config import Prompt
from scedit_cli.inference.config import Control
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.fields import is_finite

_SEPARATORS = {".csv": ",;", ".tsv": "\t"}  # of tables; in locales with a decimal comma, programs write semicolons
_UNREAD = (".json", ".yaml", ".yml", ".toml", ".xlsx", ".parquet")
_COLUMNS = ("prompt", "prompts", "caption", "text"), ("negative", "negative_prompt"), ("seed",)  # of tables
_EXAMPLE = '{"prompt": "..."}'
_KEYS = ("prompt", "seed", "negative", "conditions", "scales")


def read_prompts(path: Path) -> list[Prompt]:
    """Read the prompts of a text file, one per line, of a .jsonl file, or of a .csv or .tsv with a column of prompts.
    Empty lines are skipped. An object of a .jsonl file has `prompt`, `seed`, `negative`, `conditions` (kind ->
    `FILE[:SCALE[:START-END]]`, relative to the file's folder; null leaves the condition out) and `scales` (name -> α).

    Raises:
        SceditError: the file does not exist or has no prompts, or a line, which the message names, is invalid.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise SceditError(f"--prompts {path}: no text in UTF-8", hint="save it as UTF-8") from error
    except OSError as error:
        raise SceditError(f"--prompts {path}: {error.strerror}", hint="check the path") from error
    suffix = path.suffix.lower()
    if suffix in _UNREAD:
        raise SceditError(f"--prompts {path}: {suffix} is not read", "write one a line, a .jsonl, or a .csv")
    if suffix in _SEPARATORS:
        prompts = _read_table(text, _SEPARATORS[suffix], f"--prompts {path}")
    else:
        prompts = _read_text(text, suffix == ".jsonl", path)
    if not prompts:
        raise SceditError(f"--prompts {path} holds no prompts", hint="write one a line")
    return prompts


def _read_text(text: str, of_objects: bool, path: Path) -> list[Prompt]:
    # str.splitlines would also split at rare Unicode line ends, which editors do not write and prompts may hold.
    lines = [line.strip() for line in text.split("\n")]
    if not of_objects:
        return [Prompt(line) for line in lines if line]
    objects = json_objects(lines, f"--prompts {path},", _EXAMPLE, f"write {_EXAMPLE}")
    return [_prompt_of(given, f"--prompts {path}, line {number}", path.parent) for number, given in objects]


def _read_table(text: str, separators: str, where: str) -> list[Prompt]:
    try:
        rows = list(csv_rows(io.StringIO(text, newline=""), separators))
    except csv.Error as error:
        raise SceditError(f"{where} is no readable table: {error}", hint="save it as UTF-8") from None
    columns = {str(name).strip().lower(): name for name in (rows[0] if rows else ())}
    if crowded := next((number for number, row in enumerate(rows, 2) if None in row), None):
        raise SceditError(f"{where}, row {crowded}: more cells than the heading", "quote texts that hold commas")
    prompt, negative, seed = (next((columns[n] for n in names if n in columns), None) for names in _COLUMNS)
    if prompt is None:
        raise SceditError(f"{where} has no prompts in a column prompt", f"it has {', '.join(columns) or 'no rows'}")
    return [
        Prompt(
            row[prompt].strip(),
            row[negative] or None if negative else None,
            parse_seeds(row[seed], f"{where}, row {number}: seed") if seed and row[seed] else None,
        )
        for number, row in enumerate(rows, 2)
        if (row[prompt] or "").strip()
    ]


def _prompt_of(given: dict[str, Any], where: str, folder: Path) -> Prompt:
    if unknown := [key for key in given if key not in _KEYS]:
        raise SceditError(f"{where}: {unknown[0]}: unknown", hint=f"it may have {', '.join(_KEYS)}")
    for key, kind in {"prompt": str, "negative": str, "conditions": dict, "scales": dict}.items():
        if key in given and not isinstance(given[key], kind):
            hint = f"give {'text' if kind is str else 'an object'}"
            raise SceditError(f"{where}: {key} is {given[key]!r}", hint)
    scales = given.get("scales", {})
    for name, scale in scales.items():
        if not is_finite(scale):
            raise SceditError(f"{where}: scales: {name} is {scale!r}", hint="give a number")
    seed = given.get("seed")
    seeds = ",".join(map(str, seed)) if isinstance(seed, list) else str(seed)
    return Prompt(
        given.get("prompt", ""),
        given.get("negative"),
        None if seed is None else parse_seeds(seeds, f"{where}: seed"),
        {kind: _control(kind, text, where, folder) for kind, text in given.get("conditions", {}).items()},
        scales,
    )


def _control(kind: str, text: Any, where: str, folder: Path) -> Control | None:
    if text is None:
        return None
    if not isinstance(text, str):
        raise SceditError(f"{where}: conditions: {kind} is {text!r}", hint="give FILE[:SCALE[:START-END]], or null")
    return parse_control(str(folder / text), where, kind=kind)

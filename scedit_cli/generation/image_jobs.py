"""The images to make: every prompt with every seed and every scale of a sweep."""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from scedit_cli.conditions import kind_of_path
from scedit_cli.generation.config import Request
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.io import expanded, read_json
from scedit_cli.utils.specs import LARGEST_SEED, ConditionSpec, parse_condition, parse_seeds

_SEPARATORS = {".csv": ",;", ".tsv": "\t"}  # of tables; in locales with a decimal comma, programs write semicolons
_UNREAD = (".json", ".yaml", ".yml", ".toml", ".xlsx", ".parquet")
_COLUMNS = ("prompt", "prompts", "caption", "text"), ("negative", "negative_prompt"), ("seed",)  # of tables
_KEYS = ("prompt", "seed", "negative", "conditions", "scales")


@dataclass(frozen=True)
class PromptLine:
    """A prompt with the other fields of its line in the prompts file; None in `conditions` leaves a condition out."""

    prompt: str
    negative: str | None = None
    seeds: tuple[int, ...] | None = None
    conditions: Mapping[str, ConditionSpec | None] = field(default_factory=dict)
    scales: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ImageJob:
    """One image to make.

    Attributes:
        conditions: the conditions of the image.
        scales: α in place of the one given, by the name of a condition or SC-Tuner.
        row, column: the labels of its place in a grid.
    """

    prompt: str
    negative: str
    seed: int
    conditions: tuple[ConditionSpec, ...] = ()
    scales: Mapping[str, float] = field(default_factory=dict)
    row: str = ""
    column: str = ""


def jobs_of(request: Request) -> list[ImageJob]:
    """Return all image jobs of a request, prompt by prompt, seed by seed, with the last sweep varying fastest.

    Raises:
        SceditError: seeds, conditions, sweeps or the prompts file are invalid.
    """
    lines = [PromptLine(prompt) for prompt in request.prompts]
    if request.prompts_file is not None:
        lines += read_lines(expanded(request.prompts_file))
    given = [_with_kind(parse_condition(text)) for text in request.conds]
    given += [parse_condition(text, "--cond-from") for text in request.conds_from]
    seeds = _seeds(request)
    sweeps = request.scale_sweeps
    orders = []
    for line in lines or [PromptLine("")]:
        specs = tuple(_merged(given, line.conditions))
        for seed in line.seeds or seeds:
            for values in itertools.product(*(values for _, values in sweeps)):
                swept = {name: value for (name, _), value in zip(sweeps, values, strict=True)}
                said = [f"{name} {value:g}" for name, value in swept.items()]
                one_seed = len(line.seeds or seeds) == 1
                row = [line.prompt, *([] if one_seed or not sweeps else [f"seed {seed}"]), *said[:-1]]
                orders.append(
                    ImageJob(
                        line.prompt,
                        (request.negative or "") if line.negative is None else line.negative,
                        seed,
                        specs,
                        {**request.named_scales, **line.scales, **swept},
                        " · ".join(filter(None, row)),
                        said[-1] if sweeps else f"seed {seed}",
                    )
                )
    return orders


def read_lines(path: Path) -> list[PromptLine]:
    """Read the prompts of a text file, one per line, of a .jsonl file, or of a .csv or .tsv with a column of prompts.
    Empty lines are skipped. Paths in a .jsonl file are relative to its folder.

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
        lines = _read_table(text, _SEPARATORS[suffix], f"--prompts {path}")
    else:
        lines = _read_text(text, suffix == ".jsonl", path)
    if not lines:
        raise SceditError(f"--prompts {path} holds no prompts", hint="write one a line")
    return lines


def _read_text(text: str, of_objects: bool, path: Path) -> list[PromptLine]:
    # str.splitlines would also split at rare Unicode line ends, which editors do not write and prompts may hold.
    numbered = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not of_objects:
        return [PromptLine(line) for _, line in numbered]
    return [_read_object(line, f"--prompts {path}, line {number}", path.parent) for number, line in numbered]


def _read_table(text: str, separators: str, where: str) -> list[PromptLine]:
    between = max(separators, key=text.partition("\n")[0].count)
    try:
        rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=between))
    except csv.Error as error:
        raise SceditError(f"{where} is no readable table: {error}", hint="save it as UTF-8") from None
    columns = {str(name).strip().lower(): name for name in (rows[0] if rows else ())}
    prompt, negative, seed = (next((columns[n] for n in names if n in columns), None) for names in _COLUMNS)
    if prompt is None:
        raise SceditError(f"{where} has no prompts in a column prompt", f"it has {', '.join(columns) or 'no rows'}")
    return [
        PromptLine(
            row[prompt].strip(),
            row.get(negative) or None,
            parse_seeds(row[seed], f"{where}, row {number}: seed") if row.get(seed) else None,
        )
        for number, row in enumerate(rows, 2)
        if (row[prompt] or "").strip()
    ]


def _read_object(text: str, where: str, folder: Path) -> PromptLine:
    try:
        said = read_json(text)
    except ValueError as error:
        raise SceditError(f"{where}: no JSON: {error}", hint='write {"prompt": "..."}') from error
    if not isinstance(said, dict):
        raise SceditError(f"{where}: no object", hint='write {"prompt": "..."}')
    if unknown := [key for key in said if key not in _KEYS]:
        raise SceditError(f"{where}: {unknown[0]}: unknown", hint=f"it may have {', '.join(_KEYS)}")
    for key, kind in {"prompt": str, "negative": str, "conditions": dict, "scales": dict}.items():
        if key in said and not isinstance(said[key], kind):
            raise SceditError(f"{where}: {key} is {said[key]!r}", hint=f"give {'text' if kind is str else 'an object'}")
    seed = said.get("seed")
    scales = said.get("scales", {})
    for name, scale in scales.items():
        if isinstance(scale, bool) or not isinstance(scale, int | float) or not math.isfinite(scale):
            raise SceditError(f"{where}: scales: {name} is {scale!r}", hint="give a number")
    seeds = ",".join(map(str, seed)) if isinstance(seed, list) else str(seed)
    return PromptLine(
        said.get("prompt", ""),
        said.get("negative"),
        None if seed is None else parse_seeds(seeds, f"{where}: seed"),
        {kind: _condition(kind, text, where, folder) for kind, text in said.get("conditions", {}).items()},
        scales,
    )


def _condition(kind: str, text: Any, where: str, folder: Path) -> ConditionSpec | None:
    if text is None:
        return None
    if not isinstance(text, str):
        raise SceditError(f"{where}: conditions: {kind} is {text!r}", hint="give FILE[:SCALE[:START-END]], or null")
    return replace(parse_condition(f"{kind}={folder / text}", where), kind=kind)


def _with_kind(spec: ConditionSpec) -> ConditionSpec:
    return replace(spec, kind=spec.kind or kind_of_path(spec.file))


def _seeds(request: Request) -> tuple[int, ...]:
    seeds = parse_seeds(str(request.seed)) if request.seed is not None else (0,)
    if request.num is None:
        return seeds
    if len(seeds) > 1:
        raise SceditError(
            f"--num {request.num} and {len(seeds)} seeds", hint="give --seed one number to count on from, or no --num"
        )
    if seeds[0] + request.num - 1 > LARGEST_SEED:
        raise SceditError(f"--seed {seeds[0]} --num {request.num}: the largest seed is {LARGEST_SEED}", "begin lower")
    return tuple(range(seeds[0], seeds[0] + request.num))


def _merged(given: list[ConditionSpec], own: Mapping[str, ConditionSpec | None]) -> list[ConditionSpec]:
    """Return the given conditions, with a line's `own` in place of those of their kinds."""
    kept = [spec for spec in given if spec.kind not in own]
    return kept + [spec for spec in own.values() if spec is not None]

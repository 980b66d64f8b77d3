"""What a run or a command has to come to, whatever was done to it."""

from __future__ import annotations

import json
from pathlib import Path

from tests.faults.forked import BROKEN, Ended


def told(ended: Ended, *codes: int) -> str:
    """The sentence with which the program ended, by one of these exit codes, and not by a traceback."""
    assert ended.code in codes and ended.code != BROKEN and "Traceback" not in ended.err, ended
    error = json.loads(ended.out)["error"]
    assert error["message"] and error["hint"] and "unexpected" not in error["message"], ended
    return f"{error['message']} ({error['hint']})"


def files_in(folder: Path) -> dict[str, bytes]:
    """The files below the folder, hidden ones too, by their names."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_same_end(one: Path, other: Path) -> None:
    """Two runs: the same files, the same weights, moments, averages and grids in every bit, the same losses and scores
    in the logs."""
    runs = files_in(one), files_in(other)
    assert runs[0].keys() == runs[1].keys(), runs[0].keys() ^ runs[1].keys()
    exact = [name for name in runs[0] if name.endswith((".safetensors", "scores.jsonl")) or "samples/step-" in name]
    assert exact and all(runs[0][name] == runs[1][name] for name in exact)
    assert losses_in(runs[0]["log.jsonl"]) == losses_in(runs[1]["log.jsonl"])


def losses_in(log: bytes) -> list[tuple[int, float, float | None]]:
    """(step, loss, held-out loss where it was measured) of every line."""
    lines = map(json.loads, log.splitlines())
    return [(line["step"], line["loss"], line.get("validation_loss")) for line in lines]

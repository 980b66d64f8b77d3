"""Checkpoints: folders `step-000200` of safetensors and JSON, written whole and verified by checksums."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from scedit_cli.utils.io import discard, read_json, sweep, whole_folder

_FORMAT = "scedit-checkpoint/1"
_MANIFEST, _STATE = "manifest.json", "state.json"
_NAME = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint: `tensors` by file and name, and a `state` of JSON values."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint, keep: int = 2) -> Path:
    """Write `folder`/step-NUMBER, flushed to disk before it gets its name, then remove all but the newest `keep`.
    Checkpoints of later steps belong to an abandoned run and are removed too.

    Raises:
        WorkFailed: the disk is full.
        SceditError: the folder cannot be written to.
    """
    path = folder / f"step-{checkpoint.step:06d}"
    files = {f"{name}.safetensors": save(tensors) for name, tensors in checkpoint.tensors.items()}
    files[_STATE] = json.dumps({"step": checkpoint.step} | checkpoint.state, indent=2).encode()
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    files[_MANIFEST] = json.dumps({"format": _FORMAT, "sha256": sums}, indent=2).encode()
    if path.exists():  # damaged, or from an abandoned run
        discard(path)
    with whole_folder(path) as part:
        for name, data in files.items():
            (part / name).write_bytes(data)
    for step, later in _all(folder).items():
        if step > checkpoint.step:
            discard(later)
    prune(folder, checkpoint.step, keep)
    return path


def prune(folder: Path, step: int, keep: int = 2) -> None:
    """Remove the checkpoints up to `step` except the newest `keep`."""
    steps = {number: path for number, path in _all(folder).items() if number <= step}
    for number in sorted(steps)[:-keep]:
        discard(steps[number])


def newest_checkpoint(folder: Path, needed: Sequence[str] = ()) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest whole checkpoint in `folder` whose state and tensors have the `needed` names, and a sentence
    about each newer one that was passed over. Remains of a killed process's write are removed."""
    sweep(folder)
    torn = []
    for _, path in sorted(_all(folder).items(), reverse=True):
        try:
            found = read_checkpoint(path)
            if missing := [name for name in needed if name not in found.state and name not in found.tensors]:
                raise ValueError(f"it has no {', '.join(missing)}")
            return found, torn
        except (OSError, ValueError, LookupError, TypeError, AttributeError, SafetensorError) as error:
            torn.append(f"the checkpoint {path} is torn ({error}); it is passed over")
    return None, torn


def _all(folder: Path) -> dict[int, Path]:
    entries = folder.iterdir() if folder.is_dir() else ()
    return {int(found[1]): path for path in entries if (found := _NAME.fullmatch(path.name))}


def read_checkpoint(path: Path) -> Checkpoint:
    """Read and verify the checkpoint in this folder; damage raises any of the readers' errors, such as ValueError."""
    manifest = read_json((path / _MANIFEST).read_text("utf-8"))
    if manifest["format"] != _FORMAT:
        raise ValueError(f"its format is {manifest['format']}, not {_FORMAT}")
    for name, wanted in manifest["sha256"].items():
        if Path(name).name != name:
            raise ValueError(f"{name} is no file of it")
        with (path / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != wanted:
                raise ValueError(f"{name} is not what was written")
    state = read_json((path / _STATE).read_text("utf-8"))
    tensors = {Path(name).stem: load_file(path / name) for name in manifest["sha256"] if name != _STATE}
    step = state.pop("step")
    if step != int(_NAME.fullmatch(path.name)[1]):
        raise ValueError(f"its state is of step {step!r}")
    return Checkpoint(step, tensors, state)

"""The kinds of condition that a command line means, and checks that images can be scored against them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from scedit_cli import conditions
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.specs import ConditionSpec


def told_kind(spec: ConditionSpec) -> str | None:
    """Return the kind that `spec` names, else the one in its file's or folder's name; None without one.

    Raises:
        SceditError: `spec` is a photograph to annotate, and its kind is missing or has no annotator.
    """
    if spec.photo and spec.kind is None:
        raise SceditError(f"--cond-from {spec.file}: the kind of condition is missing", hint=f"write canny={spec.file}")
    if spec.photo and spec.kind not in conditions.KINDS:
        raise SceditError(
            f"--cond-from {spec.kind}={spec.file}: nothing makes {spec.kind} conditions",
            hint=f"choose one of {', '.join(conditions.KINDS)}, or give the condition picture with --cond",
        )
    return spec.kind or conditions.kind_of_path(spec.file)


def untold_kind(spec: ConditionSpec) -> SceditError:
    return SceditError(
        f"--cond {spec.file}: neither its name nor its folder's tells the kind of condition",
        hint=f"say it: --cond canny={spec.file}",
    )


def check_one_of_each(kinds: Iterable[tuple[Path, str]]) -> None:
    """Check that no two of an image's condition images, (file, kind), are of one kind; else raise SceditError."""
    files: dict[str, Path] = {}
    for file, kind in kinds:
        if kind in files:
            raise SceditError(
                f"{files[kind]} and {file} are both {kind} conditions",
                hint="give one of each kind; KIND=FILE says of which kind a file is",
            )
        files[kind] = file


def check_scorable(files: Mapping[Path, str]) -> None:
    """Check that images can be scored against these condition images (file -> kind); else raise SceditError."""
    if not files:
        raise SceditError("--score compares pictures with conditions, and none is given", hint="add --cond FILE")
    for file, kind in files.items():
        if kind not in conditions.measured_kinds():
            raise SceditError(
                f"{file}: pictures cannot be scored against {kind} conditions",
                hint=f"leave --score out; it knows {', '.join(conditions.measured_kinds())}",
            )

"""`scedit annotate`: condition pictures for a dataset folder, or for one picture."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from scedit_cli import conditions
from scedit_cli.conditions import Kind
from scedit_cli.data.dataset import column_of, condition_name, read_rows, write_rows
from scedit_cli.data.pictures import open_picture, save_picture
from scedit_cli.errors import SceditError
from scedit_cli.files import whole
from scedit_cli.jobs.progress import OnEvent, Progress

_BATCH = 32


@dataclass(frozen=True)
class AnnotateResult:
    """`written` condition pictures were made, `skipped` were there already, `failed` are (file, reason)."""

    out: Path
    kind: str
    written: int
    skipped: int
    failed: list[tuple[str, str]]
    seconds: float

    def document(self) -> dict[str, Any]:
        """What --json writes."""
        return {
            "out": str(self.out),
            "kind": self.kind,
            "written": self.written,
            "skipped": self.skipped,
            "failed": [{"file": file, "reason": reason} for file, reason in self.failed],
            "seconds": round(self.seconds, 3),
        }

    def summary(self) -> list[tuple[str, str]]:
        """The rows that a person reads."""
        rows = [("out", str(self.out)), (self.kind, f"{self.written} written, {self.skipped} there already")]
        return rows + [("failed", f"{file}: {reason}") for file, reason in self.failed]


def annotate(
    src: str | Path,
    kinds: str | Sequence[str],
    out: str | Path | None = None,
    annotator: str | None = None,
    overwrite: bool = False,
    params: Mapping[str, float | str] | None = None,
    on_event: OnEvent | None = None,
) -> AnnotateResult:
    """Make condition pictures.

    Of a dataset folder every picture gets one of each kind, and the metadata their columns; what is there is kept, so
    that a stopped run goes on where it was. A picture that cannot be read is named and the others go on.

    Args:
        src: a dataset folder, or a picture.
        kinds: one kind or several; a single picture takes one.
        out: the condition picture of a single picture.
        annotator: by default each kind's first.
        overwrite: replace condition pictures that are there.
        params: the annotator's settings, such as {"low": 50}.

    Raises:
        SceditError: bad input; a folder of which no picture could be read is one too.
    """
    started = time.monotonic()
    src = Path(src)
    names = [kinds] if isinstance(kinds, str) else list(dict.fromkeys(kinds))
    if not names:
        raise SceditError("no kind of condition is named", hint=f"choose one of {', '.join(conditions.KINDS)}")
    maker = _Maker([conditions.find(name) for name in names], annotator, dict(params or {}))
    if src.is_dir():
        if out is not None:
            raise SceditError(
                f"{out}: --out is for a single picture, and {src} is a folder",
                hint="its condition pictures go into the folder itself",
            )
        where = src
        written, skipped, failed = _annotate_folder(src, maker, overwrite, on_event)
    else:
        where = _annotate_picture(src, maker, out, overwrite)
        written, skipped, failed = 1, 0, []
    return AnnotateResult(where, ",".join(names), written, skipped, failed, time.monotonic() - started)


@dataclass(frozen=True)
class _Maker:
    kinds: list[Kind]
    annotator: str | None
    params: dict[str, float | str]

    def __post_init__(self) -> None:
        """Bad settings are told before the first picture is opened."""
        for kind in self.kinds:
            kind.annotator(self.annotator).settings(**self.params)

    def make(self, kind: Kind, pictures: list[Image.Image]) -> list[Image.Image]:
        annotator = kind.annotator(self.annotator)
        return annotator.load(annotator.settings(**self.params), None, "cpu")(pictures)


def _annotate_picture(src: Path, maker: _Maker, out: str | Path | None, overwrite: bool) -> Path:
    if len(maker.kinds) > 1:
        raise SceditError(f"{src} is one picture, for which several kinds are named", hint="name one kind at a time")
    if out is None:
        raise SceditError(f"no place is named for the condition of {src}", hint="name it with --out edges.png")
    out = Path(out)
    if out.suffix.lower() != ".png":
        raise SceditError(f"{out} is no .png", hint="condition pictures are PNG, which loses nothing")
    if out.exists() and not overwrite:
        raise SceditError(f"{out} exists already", hint="name another place, or give --overwrite")
    [made] = maker.make(maker.kinds[0], [open_picture(src)])
    _save(made, out)
    return out


def _annotate_folder(
    src: Path, maker: _Maker, overwrite: bool, on_event: OnEvent | None
) -> tuple[int, int, list[tuple[str, str]]]:
    rows = [row for _, row in read_rows(src)]
    written = skipped = 0
    failed: dict[str, str] = {}
    for kind in maker.kinds:
        made, there, unreadable = _annotate_kind(src, rows, kind, maker, overwrite, on_event)
        written, skipped, failed = written + made, skipped + there, failed | unreadable
        if made or there:
            write_rows(src, rows)
    if failed and not written and not skipped:
        first = next(iter(failed.values()))
        raise SceditError(f"none of the pictures of {src} can be read; the first: {first}")
    return written, skipped, list(failed.items())


def _annotate_kind(
    src: Path, rows: list[dict[str, Any]], kind: Kind, maker: _Maker, overwrite: bool, on_event: OnEvent | None
) -> tuple[int, int, dict[str, str]]:
    """Makes what is missing of one kind and enters it into `rows`. What was made but not entered when a run was
    stopped is whole, and counts as there."""
    places = {row["file_name"]: src / condition_name(kind.name, row["file_name"]) for row in rows}
    owner: dict[Path, str] = {}
    for name, place in places.items():
        if (other := owner.setdefault(place, name)) != name:
            raise SceditError(f"{src}: {other} and {name} would share a condition picture", hint="rename one of them")
    todo = [name for name, place in places.items() if overwrite or not place.is_file()]
    failed: dict[str, str] = {}
    with ThreadPoolExecutor(4) as pool:
        for at in range(0, len(todo), _BATCH):
            batch = todo[at : at + _BATCH]
            opened = dict(zip(batch, pool.map(_open, [src / name for name in batch]), strict=True))
            pictures = {name: picture for name, picture in opened.items() if isinstance(picture, Image.Image)}
            failed |= {name: error.message for name, error in opened.items() if isinstance(error, SceditError)}
            made = maker.make(kind, list(pictures.values()))
            list(pool.map(_save, made, [places[name] for name in pictures]))
            if on_event:
                on_event(Progress(kind.name, at + len(batch), len(todo)))
    for row in rows:
        if row["file_name"] not in failed:
            row[column_of(kind.name)] = condition_name(kind.name, row["file_name"])
    return len(todo) - len(failed), len(places) - len(todo), failed


def _open(path: Path) -> Image.Image | SceditError:
    try:
        return open_picture(path)
    except SceditError as error:
        return error


def _save(picture: Image.Image, path: Path) -> None:
    with whole(path) as part:
        save_picture(picture, part)

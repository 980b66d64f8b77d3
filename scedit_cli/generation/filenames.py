"""The file names of images: by template, and never of an existing file without `overwrite`."""

from __future__ import annotations

import difflib
import re
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scedit_cli.data.formats import is_image
from scedit_cli.utils.errors import SceditError, shortened
from scedit_cli.utils.io import write_new, write_whole

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}
VIDEO_FORMATS = {".webp": "WEBP", ".gif": "GIF"}
FIELDS = tuple("number prompt seed sweep base scheduler steps guidance width height date time".split())
_NUMBERS = ("number", "seed", "steps", "guidance", "width", "height")
_NUMBERED = re.compile(r"(\d+)(?:(?:-grid)?\.\w+|-frames)")
# Suffixes that no folder is meant to have; other dots, as in v1.5, belong to a folder's name.
_OF_NO_IMAGE = frozenset(
    ".txt .md .pdf .html .json .jsonl .toml .yaml .csv .mp4 .mov .avi .mkv .webm .zip .tar .safetensors".split()
)
_LONGEST = 80  # characters of a field, since file systems limit names to 255 bytes


@dataclass(frozen=True)
class Names:
    """The files of a run's images.

    Args:
        out: an image file (further images are numbered after it), or a folder.
        template: the file names in the folder, with FIELDS in braces; by default the next free numbers.
        overwrite: whether existing files are replaced.
        formats: the formats to write by suffix, the default one first.
    """

    out: Path
    template: str | None
    overwrite: bool
    formats: Mapping[str, str] = field(default_factory=lambda: FORMATS)

    @property
    def is_file(self) -> bool:
        return self.out.suffix.lower() in self.formats and not self.out.is_dir()

    @property
    def _names_other_file(self) -> bool:
        return is_image(self.out.name) or self.out.suffix.lower() in _OF_NO_IMAGE

    def check(self, count: int, with_grid: bool) -> None:
        """Raise SceditError where a file is in the way, or the template is invalid."""
        if self.template is not None:
            if self.is_file:
                raise _bad_name(self.template, f"`out` {self.out} is a name already", "give a folder")
            _check_template(self.template)
        if self.is_file:
            taken = [file for file in (*self._numbered(count), *([self.grid(1)] if with_grid else [])) if file.exists()]
            if taken and not self.overwrite:
                hint = "name another file, or add `overwrite`"
                raise SceditError(f"out {taken[0]} exists already", hint, "out")
        elif (self.out.exists() or self._names_other_file) and not self.out.is_dir():
            what = "is a file that is no image" if self.out.exists() else "names a format that is not written"
            hint = f"name a folder, or a file ending in {', '.join(self.formats)}"
            raise SceditError(f"out {self.out} {what}", hint, "out")

    def first_number(self) -> int:
        """Return the next free number in the folder; 1 where `out` is a file."""
        if self.is_file or not self.out.is_dir():
            return 1
        names = [_NUMBERED.fullmatch(file.name) for file in self.out.iterdir()]
        return 1 + max((int(name[1]) for name in names if name), default=0)

    def places(self, first: int, facts: Sequence[Mapping[str, Any]]) -> list[Path]:
        """Return a file for each image from its `facts`: FIELDS without the number, which counts from `first`."""
        if self.is_file:
            return self._numbered(len(facts))
        template = self.template or "{number:04d}"
        numbered = ({**known, "number": first + n} for n, known in enumerate(facts))
        return [self.out / _filled(template, each, self.formats) for each in numbered]

    def grid(self, first: int) -> Path:
        return self.out.with_stem(f"{self.out.stem}-grid") if self.is_file else self.out / f"{first:04d}-grid.png"

    def write(
        self, place: Path, data: bytes, taken: set[Path], is_free: Callable[[Path], bool] = lambda place: True
    ) -> Path:
        """Write `data` and return its file: `place`, or the next name that `is_free`. Files that this run wrote,
        `taken`, are never replaced.

        Raises:
            WorkFailed: the folder of such a file is gone; another one is not made in its place.
        """
        make_folder = place.parent not in {file.parent for file in taken}
        if self.overwrite and place not in taken and is_free(place):
            return write_whole(place, data, make_folder=make_folder)
        candidate, number = place, 2
        while candidate in taken or not (is_free(candidate) and write_new(candidate, data, make_folder=make_folder)):
            candidate, number = place.with_stem(f"{place.stem}-{number}"), number + 1
        return candidate

    def _numbered(self, count: int) -> list[Path]:
        return [self.out, *(self.out.with_stem(f"{self.out.stem}-{n}") for n in range(2, count + 1))]


def is_frame(name: str) -> bool:
    """Return whether a frame of a video may have this file name."""
    return re.fullmatch(r"\d{4,}\.png", name) is not None


def frames_folder(video: Path) -> Path:
    """Return the folder of a video file's frames."""
    return video.with_name(f"{video.stem}-frames")


def frames_in_the_way(video: Path, overwrite: bool, inputs: Iterable[Path]) -> str | None:
    """Return why the folder of a video file's frames must stay as it is, where it is there already: its frames may be
    replaced with `overwrite` alone, and never anything else or one of the `inputs`."""
    folder = frames_folder(video)
    if not folder.exists():
        return None
    if not overwrite:
        return "exists already"
    if not folder.is_dir():
        return "is a file"
    if others := [file.name for file in folder.iterdir() if not is_frame(file.name)]:
        return f"holds {shortened(others[0])}, which is no frame"
    real = folder.resolve()
    return "is read from" if any(file.resolve().is_relative_to(real) for file in inputs) else None


def _check_template(template: str) -> None:
    try:
        parts = list(string.Formatter().parse(template))
        for _, name, _, _ in parts:
            if name is not None and name not in FIELDS:
                guess = difflib.get_close_matches(name, FIELDS, n=1)
                hint = f"did you mean {{{guess[0]}}}?" if guess else f"it may hold {', '.join(FIELDS)}"
                raise _bad_name(template, f"{{{name}}} is not known", hint)
        filled = _filled(template, dict.fromkeys(FIELDS, "x") | dict.fromkeys(_NUMBERS, 1))
    except (ValueError, TypeError) as error:
        raise _bad_name(template, str(error), 'write it as in "{prompt}-{seed}"') from error
    if filled.is_absolute() or ".." in filled.parts or not template.strip("./ ") or "\0" in template:
        raise _bad_name(template, "no name within the folder", "`out` names the folder")


def _bad_name(template: str, message: str, hint: str) -> SceditError:
    return SceditError(f"out.name {template}: {message}", hint, "out.name")


def _filled(template: str, facts: Mapping[str, Any], formats: Mapping[str, str] = FORMATS) -> Path:
    safe = {name: _safe(value) if isinstance(value, str) else value for name, value in facts.items()}
    name = template.format_map(safe)
    return Path(name if Path(template).suffix.lower() in formats else f"{name}{next(iter(formats))}")


def _safe(text: str) -> str:
    """Return words of a prompt as a part of a file name."""
    return re.sub(r"[^\w.+]+", "-", text).strip("-.")[:_LONGEST].rstrip("-.") or "empty"

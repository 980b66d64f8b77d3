"""Import of a source's entries into a dataset: images are opened, checked, cut to their buckets and written."""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from PIL import Image

from scedit_cli import conditions
from scedit_cli.data.buckets import Fit, Size, fit
from scedit_cli.data.dataset import METADATA, column_of, row_of
from scedit_cli.data.duplicates import Duplicates, Signature, signature
from scedit_cli.data.formats import suffix_of, unread
from scedit_cli.data.hints import check_levels
from scedit_cli.data.images import check_still, decode, reading, save_image, upright_size
from scedit_cli.data.report import Report
from scedit_cli.data.sources import Blob, Entry, Source
from scedit_cli.utils.errors import NotInstalled, SceditError
from scedit_cli.utils.reporter import SILENT, Reporter
from scedit_cli.utils.transparency import condition_image, photograph

_LONGEST_CAPTION = 2**20  # bytes
_REPORTED_EVERY = 0.2  # seconds


@dataclass(frozen=True)
class Taken:
    """An image that was written to the dataset.

    Attributes:
        row: its line of the metadata.
        files: the written files, relative to the dataset folder.
        kinds: the kinds of the condition images among them.
        caption_from: ".txt", ".caption", ".txt and .caption", "table", or None where it has no caption.
        really: the file's format where its suffix suggests another one, else None.
        doubts: a sentence for each condition image that does not look like one of its kind.
    """

    row: dict[str, Any]
    files: tuple[str, ...]
    kinds: tuple[str, ...]
    size: Size
    signature: Signature
    caption_from: str | None
    really: str | None
    doubts: tuple[str, ...]


@dataclass(frozen=True)
class Rejected:
    """An image that was not written. `fault` is "unreadable", "unpaired" or "small"."""

    fault: str
    reason: str


@dataclass(frozen=True)
class Cut:
    """An image and its conditions, opened and brought to size by the same cut. `original` is the size of the source
    image, or of the one that this was cut from before, and `crop` top and left of the part that is left of it, in
    pixels of the result. `caption_from` and `really` are as in `Taken`, `more` as in `Entry`."""

    image: Image.Image
    conditions: dict[str, Image.Image]
    text: str
    fit: Fit
    original: Size
    crop: tuple[int, int]
    caption_from: str | None
    really: str | None
    more: dict[str, str | float | bool]


def cut(entry: Entry, size_of: Callable[[Size], Size]) -> Cut | Rejected:
    """Open the image of `entry` and its conditions, check them and bring them to size.

    Args:
        size_of: maps the source's size to the size of the result; raises SceditError where the source is too small.
    """
    if entry.fault or entry.image is None:
        return Rejected("unpaired", entry.fault or "it has no image")
    lacking = [kind for kind, blob in entry.conditions.items() if blob is None]
    if lacking:
        return Rejected("unpaired", f"it has no {' and no '.join(lacking)} image")
    try:
        text, caption_from = _caption(entry)
        with _opened(entry.image, "it") as opened:
            source = upright_size(opened)
            try:
                how = fit(source, size_of(source))
            except SceditError as error:
                return Rejected("small", error.message)
            really = _really(entry.image.name, opened)
            image = how.apply(photograph(decode(opened, how.scaled)))
        made = {kind: _condition(kind, blob, how) for kind, blob in entry.conditions.items()}
    except NotInstalled as error:
        return Rejected("unreadable", str(error))
    except SceditError as error:
        return Rejected("unreadable", error.message)
    original, crop = entry.original or how.source, how.crop_after(entry.crop)
    return Cut(image, made, text, how, original, crop, caption_from, really, entry.more)


def take(entry: Entry, name: str, folder: Path, size_of: Callable[[Size], Size]) -> Taken | Rejected:
    """Write the image of `entry` as `images/<name>` and its conditions to `folder`, brought to size by `cut`."""
    made = cut(entry, size_of)
    if isinstance(made, Rejected):
        return made
    kinds, how = tuple(made.conditions), made.fit
    ours = row_of(name, made.text, kinds)
    files = (ours["file_name"], *(ours[column_of(kind)] for kind in kinds))
    for file, image in zip(files, (made.image, *made.conditions.values()), strict=True):
        save_image(image, folder / file)
    row = made.more | ours | {
        "width": how.size[0],
        "height": how.size[1],
        "original_width": made.original[0],
        "original_height": made.original[1],
        "crop_top": made.crop[0],
        "crop_left": made.crop[1],
    }
    looked_at = {kind: conditions.kind_named(kind).doubt(image) for kind, image in made.conditions.items()}
    doubts = tuple(f"its {kind} {doubt}" for kind, doubt in looked_at.items() if doubt)
    return Taken(row, files, kinds, how.size, signature(made.image), made.caption_from, made.really, doubts)


class Importer:
    """Writer of a source's images to a dataset folder, one at a time, so that memory does not grow with their number.

    Attributes:
        report: the counts and faults so far.
        kinds: the kinds of the condition images that were written.
    """

    def __init__(self, size_of: Callable[[Size], Size], drop_duplicates: bool, reporter: Reporter = SILENT) -> None:
        self.size_of, self.drop_duplicates, self.reporter = size_of, drop_duplicates, reporter
        self.report = Report()
        self.kinds: dict[str, None] = {}
        self._duplicates = Duplicates()

    def run(self, source: Source, folder: Path) -> None:
        """Fill the empty `folder`. The reporter gets (images done, of how many), and images per second."""
        self.report.begin(source)
        names: list[str] = []  # names of the entries in progress

        def work() -> Iterator[tuple]:
            for number, entry in enumerate(source.entries):
                names.append(entry.name)
                yield entry, f"{number:06d}.png", folder, self.size_of

        with (folder / METADATA).open("w", encoding="utf-8") as lines:
            spoken, began = 0.0, time.monotonic()
            for done, made in enumerate(in_order(take, work()), 1):
                self._note(names.pop(0), made, folder, lines)
                if (now := time.monotonic()) - spoken > _REPORTED_EVERY or done == source.count:
                    spoken = now
                    speed = {"pictures/s": done / max(now - began, 1e-9)}
                    self.reporter.progress(done, max(source.count, done), values=speed)

    def _note(self, name: str, made: Taken | Rejected, folder: Path, lines: TextIO) -> None:
        report = self.report
        if isinstance(made, Rejected):
            report.rejected.append((name, made.fault, made.reason))
            return
        first = self._duplicates.first_of(name, made.signature)
        if first is not None:
            report.duplicates.append((name, first))
            if self.drop_duplicates:
                for file in made.files:
                    (folder / file).unlink()
                return
        lines.write(json.dumps(made.row, ensure_ascii=False) + "\n")
        report.images += 1
        report.buckets[made.size] += 1
        self.kinds |= dict.fromkeys(made.kinds)
        if made.caption_from:
            report.captions[made.caption_from] += 1
        else:
            report.captionless.append(name)
        if made.really:
            report.misnamed.append((name, made.really))
        report.doubtful += [(name, doubt) for doubt in made.doubts]


def in_order(work: Callable[..., Any], items: Iterable[tuple], threads: int | None = None) -> Iterator[Any]:
    """Yield the results of `work(*item)` in the order of `items`, which are read only a few ahead. Decoding, scaling
    and compression release Python's lock, so that threads use all processors.

    Args:
        threads: the number of threads; by default one per processor of this process, at most 32.
    """
    threads = threads or min(32, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    ahead: deque[Future] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                ahead.append(pool.submit(work, *item))
                if len(ahead) > 2 * threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


@contextmanager
def _opened(blob: Blob, name: str) -> Iterator[Image.Image]:
    if known := unread(blob.name):
        raise SceditError(f"{name} is {known}")
    try:
        file = blob.open()
    except FileNotFoundError:
        raise SceditError(f"{name} does not exist") from None
    except OSError as error:
        raise SceditError(f"{name} cannot be read: {error.strerror or error}") from error
    with file:
        if file.seek(0, os.SEEK_END) == 0:
            raise SceditError(f"{name} is an empty file")
        file.seek(0)
        with reading(file, name) as opened:
            check_still(opened, name)
            yield opened


def _condition(kind: str, blob: Blob, how: Fit) -> Image.Image:
    name, channels = f"its {kind}", conditions.channels_of(kind)
    with _opened(blob, name) as opened:
        if (size := upright_size(opened)) != how.source:
            raise SceditError(
                f"{name} is {size[0]}x{size[1]} pixels, not {how.source[0]}x{how.source[1]} as it is itself"
            )
        image = decode(opened)
        check_levels(opened, kind, name)
        fitted = how.apply(condition_image(image, channels, name), blend=not conditions.kind_named(kind).labels)
        return condition_image(fitted, channels, name)  # scaling leaves colours where alpha becomes 0


def _caption(entry: Entry) -> tuple[str, str | None]:
    """Return an entry's caption and its origin; ("", None) where it is missing or empty."""
    if entry.text:
        return entry.text, "table"
    found = {}
    for suffix, blob in entry.captions.items():
        try:
            with blob.open() as file:
                content = file.read(_LONGEST_CAPTION + 1)
            if len(content) > _LONGEST_CAPTION:
                raise SceditError(f"its caption in {blob.name} has more than {_LONGEST_CAPTION:,} bytes")
            text = " ".join(content.decode("utf-8-sig").split())
        except (OSError, UnicodeDecodeError) as error:
            raise SceditError(f"its caption in {blob.name} cannot be read as UTF-8 text: {error}") from None
        if text:
            found[suffix] = text
    return next(iter(found.values()), ""), " and ".join(found) or None


def _really(name: str, opened: Image.Image) -> str | None:
    known = Image.registered_extensions().get(suffix_of(name))
    # Phones append a second, smaller JPEG.
    known, found = ("JPEG" if name == "MPO" else name for name in (known, opened.format))
    return found if known and found != known else None

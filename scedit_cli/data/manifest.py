"""The record of how a dataset folder was made: its `report.json`, by which `prepare` recognises it, and contact sheet.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scedit_cli.data.formats import is_image, is_shard, suffix_of
from scedit_cli.data.images import save_image
from scedit_cli.data.overview import overview
from scedit_cli.data.report import Report
from scedit_cli.data.shards import shard_places
from scedit_cli.data.sources.folder import CAPTIONS, OVERVIEW
from scedit_cli.data.sources.rows import is_table
from scedit_cli.data.sources.trees import FolderTree
from scedit_cli.data.uris import is_remote
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.io import expanded, read_json, write_whole

REPORT = "report.json"
_READ = (*CAPTIONS, ".arrow")  # read beside images, tables and shards; other files may change


@dataclass(frozen=True)
class Manifest:
    """The arguments of a call of `prepare` (`asked`, with its "source") and a digest of the files that it reads."""

    asked: dict[str, Any]
    files: str

    @classmethod
    def of(cls, asked: dict[str, Any], places: Iterable[str | Path], out: Path) -> Manifest:
        """Make the manifest of a call with the arguments `asked`, from the names, sizes and times of its files.

        Args:
            places: where the images are; remote places are not read and count only by their names in `asked`.
            out: the folder that is made; its files do not count, for it may lie in one of the places.
        """
        digest = hashlib.sha256()
        for place in places:
            for file in _files(place, os.path.realpath(out)):
                with suppress(OSError):  # a broken link, which the report names
                    stat = os.stat(file)
                    digest.update(os.fsencode(f"{file} {stat.st_size} {stat.st_mtime_ns}\n"))
        return cls(asked, digest.hexdigest()[:32])

    def has_made(self, out: Path) -> bool:
        """Return whether the same call has made the folder `out`.

        Raises:
            SceditError: it has, but its files have changed since.
        """
        found = _document_in(out / REPORT)
        if found is None or found["asked"] != self.asked:
            return False
        if found["files"] != self.files:
            raise SceditError(
                f"{out} was prepared by the same call, and {self.asked['source']} has changed since",
                hint=f"name another folder with `out`, or remove {out} first; "
                f"`prepare(out={out})` with `cache` or `shards` takes it as it is",
            )
        return True

    def write(self, folder: Path, report: Report, kinds: list[str]) -> None:
        """Write the report and the contact sheet to the dataset folder `folder`."""
        (folder / REPORT).write_bytes(self._document(report))
        buckets = report.buckets
        sizes = f"{len(buckets)} sizes" if len(buckets) > 1 else "{}x{}".format(*next(iter(buckets)))
        name = Path(self.asked["source"]).name
        heading = f"{name}: {report.images:,} images, {sizes}, {report.coverage:.0%} with a caption"
        save_image(overview(folder, kinds, report.images, heading), folder / OVERVIEW)

    def refuse(self, out: Path, report: Report, error: SceditError) -> SceditError:
        """Write the report of a call that failed to a file beside `out`; return `error` with that file in its hint."""
        place = refused(out)
        if os.path.lexists(place) and _document_in(place) is None:
            found = f"{place} would name every one, and is another file now"
        else:
            found = f"{write_whole(place, self._document(report))} names every one"
        return SceditError(error.message, hint=f"{error.hint}; {found}" if error.hint else found)

    def _document(self, report: Report) -> bytes:
        document = {"source": self.asked["source"]} | report.document() | {"asked": self.asked, "files": self.files}
        text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
        return text.encode("utf-8", "backslashreplace")  # file names may be invalid UTF-8


def refused(out: Path) -> Path:
    """Return the path of the report of a call that did not make the folder `out`."""
    return Path(f"{out}.{REPORT}")


def forget_refused(out: Path) -> None:
    """Remove the report of an earlier call that did not make `out`; any other file of that name is left alone."""
    if _document_in(refused(out)) is not None:
        with suppress(OSError):
            refused(out).unlink()


def _document_in(file: Path) -> dict[str, Any] | None:
    """Return the content of a report; None where `file` is no report of `prepare`."""
    try:
        found = read_json(file.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and {"asked", "files", "rejected"} <= found.keys() else None


def located(src: str | Path) -> str:
    """Return the absolute path of `src` where it exists, else `src` itself."""
    path = expanded(src)
    return os.path.realpath(path) if path.exists() else str(src)


def _files(place: str | Path, out: str) -> Iterator[str]:
    """Yield the files that are read at a place, also through links, without those in the folder `out`, in an order that
    depends on their names alone."""
    path = expanded(place)
    if path.is_file() and is_table(path.name):  # a table's images lie beside it
        path = path.parent
    if not path.is_dir():
        if not is_remote(str(place)):
            with suppress(SceditError):  # it is a dataset on the hub
                yield from shard_places(path)
        return
    tree = FolderTree(Path(os.path.realpath(path)))
    files = (os.path.join(tree.path, tree.on_disk(file)) for file in tree.files if _is_read(file))
    yield from (file for file in files if not file.startswith(os.path.join(out, "")))


def _is_read(file: str) -> bool:
    return is_image(file) or is_table(file) or is_shard(file) or suffix_of(file) in _READ

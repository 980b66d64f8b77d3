"""Trees of files: a folder, or a zip, which is never unpacked to disk."""

from __future__ import annotations

import io
import os
import unicodedata
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from scedit_cli.data.formats import is_image
from scedit_cli.data.images import LARGEST_FILE
from scedit_cli.data.sources.entry import Blob
from scedit_cli.data.uris import is_hidden
from scedit_cli.utils.errors import SceditError, reason


class Tree:
    """Files by their names, which are relative and written with slashes.

    Attributes:
        files: the sorted names, without hidden files.
        hidden: the number of hidden files.
        images: those among `files` that are images, also those of unsupported formats.
        others: the folders, each with its slash, of splits that are left out; none of their files is in `files`.
    """

    def __init__(self, name: str, files: list[str], hidden: int) -> None:
        self.name, self.files, self.hidden = name, sorted(files), hidden
        self.images = [file for file in self.files if is_image(file)]
        self.others: tuple[str, ...] = ()

    def open(self, file: str) -> BinaryIO:
        raise NotImplementedError

    def leave_out(self, folders: tuple[str, ...]) -> None:
        """Remove the files of these `folders`, each with its slash."""
        self.others = folders
        self.files, self.images = (
            [file for file in files if not file.startswith(folders)] for files in (self.files, self.images)
        )


class FolderTree(Tree):
    """The files of a folder and its subfolders, including linked ones."""

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise SceditError(
                f"{path} is no folder" if path.exists() else f"{path} does not exist",
                hint="name a folder, a .zip, a table (.jsonl, .csv, .parquet), WebDataset .tar shards, or a Hugging "
                "Face dataset",
            )
        self.path = path
        files: list[str] = []
        hidden = 0
        above = {str(path): {os.path.realpath(path)}}  # a link may lead back to where it stands
        for folder, folders, names in os.walk(path, followlinks=True):
            places = {name: os.path.realpath(os.path.join(folder, name)) for name in folders if not is_hidden(name)}
            folders[:] = [name for name, place in places.items() if place not in above[folder]]
            above |= {os.path.join(folder, name): above[folder] | {places[name]} for name in folders}
            inside = os.path.relpath(folder, path).replace(os.sep, "/")
            prefix = "" if inside == "." else f"{inside}/"
            kept = [prefix + name for name in names if not is_hidden(name)]
            hidden += len(names) - len(kept)
            files += kept
        self._on_disk = composed(files)
        super().__init__(str(path), list(self._on_disk), hidden)

    def on_disk(self, file: str) -> str:
        """Return a file's name on disk, which may be in decomposed Unicode."""
        return self._on_disk.get(file, file)

    def open(self, file: str) -> BinaryIO:
        return (self.path / self.on_disk(file)).open("rb")


class ZipTree(Tree):
    """The files of a zip. If one folder contains all of them, it is left out of their names."""

    def __init__(self, path: Path) -> None:
        try:
            self._zip = zipfile.ZipFile(path)
        except MemoryError:
            raise
        except Exception as error:  # zipfile raises errors of any class over damaged files
            raise SceditError(f"{path} is no readable zip: {reason(error)}", hint="get it again") from error
        every = {_with_slashes(info.filename): info for info in self._zip.infolist() if not info.is_dir()}
        kept = [name for name in every if not any(map(is_hidden, name.split("/")))]
        tops = {name.split("/")[0] for name in kept}
        prefix = f"{tops.pop()}/" if len(tops) == 1 and all("/" in name for name in kept) else ""
        if prefix in ("images/", "conditions/"):
            prefix = ""
        names = composed(name.removeprefix(prefix) for name in kept)
        self._members = {name: every[prefix + inside] for name, inside in names.items()}
        super().__init__(str(path), list(self._members), len(every) - len(kept))

    def open(self, file: str) -> BinaryIO:
        try:
            info = self._members[file]
        except KeyError:
            raise FileNotFoundError(f"{self.name}: {file}") from None
        if info.file_size > LARGEST_FILE:
            raise SceditError(f"{self.name}: {file} has {info.file_size:,} bytes", hint="no image is so large")
        try:
            return io.BytesIO(self._zip.read(info))
        except MemoryError:
            raise
        except Exception as error:  # and so do its decompressors
            raise SceditError(f"{self.name}: {file} cannot be read: {reason(error)}", "get the zip again") from error


def composed(names: Iterable[str]) -> dict[str, str]:
    """Map names in composed Unicode (NFC) to the given names. Tables and most systems write the composed form, macOS a
    letter and its accent as two characters. A name whose composed form is given too keeps its own form."""
    names = list(names)
    known = set(names)
    return {name if (one := unicodedata.normalize("NFC", name)) in known else one: name for name in names}


def blob(tree: Tree, file: str) -> Blob:
    return Blob(file, lambda: tree.open(file))


def _with_slashes(name: str) -> str:
    """Return a member's name without the backslashes or the leading "./" that some programs write."""
    return name.replace("\\", "/").removeprefix("./")


def stem_of(file: str) -> str:
    """Return a file name without its last suffix, as "deep/a.b" of "deep/a.b.png"."""
    return os.path.splitext(file)[0]

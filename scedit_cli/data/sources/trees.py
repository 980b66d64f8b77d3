"""Files under one roof: a folder, or a zip, which is never unpacked."""

from __future__ import annotations

import io
import os
import unicodedata
import zipfile
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Protocol

from scedit_cli.data.pictures import LARGEST_FILE, SUFFIXES
from scedit_cli.data.sources.entry import Blob
from scedit_cli.errors import SceditError, reason


class Tree(Protocol):
    """Files by their names, which are relative and written with slashes."""

    name: str
    files: list[str]  # sorted, hidden ones left out
    hidden: int  # how many were left out

    def open(self, file: str) -> BinaryIO: ...


class FolderTree:
    """The files of a folder and its subfolders."""

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise SceditError(
                f"{path} is no folder" if path.exists() else f"{path} does not exist",
                hint="name a folder, a .zip, WebDataset .tar shards, or a Hugging Face dataset",
            )
        self.path, self.name = path, str(path)

    def open(self, file: str) -> BinaryIO:
        return (self.path / self._walked[0].get(file, file)).open("rb")

    @cached_property
    def _walked(self) -> tuple[dict[str, str], int]:
        files: list[str] = []
        hidden = 0
        above = {str(self.path): {os.path.realpath(self.path)}}  # a link may lead back to where it stands
        for folder, folders, names in os.walk(self.path, followlinks=True):
            places = {name: os.path.realpath(os.path.join(folder, name)) for name in folders if not is_hidden(name)}
            folders[:] = [name for name, place in places.items() if place not in above[folder]]
            above |= {os.path.join(folder, name): above[folder] | {places[name]} for name in folders}
            inside = os.path.relpath(folder, self.path).replace(os.sep, "/")
            prefix = "" if inside == "." else f"{inside}/"
            kept = [prefix + name for name in names if not is_hidden(name)]
            hidden += len(names) - len(kept)
            files += kept
        return composed(sorted(files)), hidden

    @property
    def files(self) -> list[str]:
        return sorted(self._walked[0])

    @property
    def hidden(self) -> int:
        return self._walked[1]


class ZipTree:
    """The files of a zip; a single folder around all of them is left out of their names."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        try:
            self._zip = zipfile.ZipFile(path)
        except MemoryError:
            raise
        except Exception as error:  # the reader raises whatever a damaged file leads it to
            raise SceditError(f"{path} is no readable zip: {reason(error)}", hint="get it anew") from error
        every = [info.filename for info in self._zip.infolist() if not info.is_dir()]
        kept = sorted(name for name in every if not any(map(is_hidden, name.split("/"))))
        tops = {name.split("/")[0] for name in kept}
        self._prefix = f"{tops.pop()}/" if len(tops) == 1 and all("/" in name for name in kept) else ""
        if self._prefix in ("images/", "conditions/"):
            self._prefix = ""
        self._inside = composed(name.removeprefix(self._prefix) for name in kept)
        self.files = sorted(self._inside)
        self.hidden = len(every) - len(kept)

    def open(self, file: str) -> BinaryIO:
        try:
            info = self._zip.getinfo(self._prefix + self._inside.get(file, file))
        except KeyError:
            raise FileNotFoundError(f"{self.name}: {file}") from None
        if info.file_size > LARGEST_FILE:
            raise SceditError(f"{self.name}: {file} has {info.file_size:,} bytes", hint="no picture is so large")
        try:
            return io.BytesIO(self._zip.read(info))
        except MemoryError:
            raise
        except Exception as error:  # so do its decompressors
            raise SceditError(f"{self.name}: {file} cannot be read: {reason(error)}", "get the zip anew") from error


def composed(names: Iterable[str]) -> dict[str, str]:
    """Each of the names by itself in the composed form, which tables and most systems write: macOS writes a letter and
    its accent as two characters. Where both forms are there, each stays what it is."""
    names = list(names)
    known = set(names)
    return {name if (one := unicodedata.normalize("NFC", name)) in known else one: name for name in names}


def blob(tree: Tree, file: str) -> Blob:
    return Blob(file, lambda: tree.open(file))


def is_picture(file: str) -> bool:
    return os.path.splitext(file)[1].lower() in SUFFIXES


def stem_of(file: str) -> str:
    """ "deep/a.b.png" -> "deep/a.b"."""
    return os.path.splitext(file)[0]


def is_hidden(name: str) -> bool:
    """Dot files, `._a.png` that macOS leaves behind among them, and its folder in zips."""
    return name.startswith(".") or name == "__MACOSX"

"""Reading of a tuner's tensors from a file, a folder that holds one, or a hub id."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterable
from os.path import isdir, isfile  # pathlib's versions raise errors at names that are too long
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from safetensors import safe_open

from scedit_cli.utils.errors import SceditError, is_out_of_memory, reason, shortened
from scedit_cli.utils.fetched import check_fetched
from scedit_cli.utils.hub import download_tuner, is_hub_id, split_revision
from scedit_cli.utils.names import TUNER_SUFFIXES

if TYPE_CHECKING:
    from torch import Tensor

_DTYPES = ("float16", "bfloat16", "float32", "float64")
_PICKLES = (".pt", ".pth", ".ckpt", ".pkl", ".pickle")
Content = TypeVar("Content")
_MOST_TENSORS = 20_000  # the largest bases have some thousands
_LONGEST_KEY = 250  # letters
# The prefixes that DistributedDataParallel, torch.compile, peft and Lightning put before every name.
_WRAPPERS = ("module.", "_orig_mod.", "base_model.model.", "state_dict.")


def locate(path: str | os.PathLike[str]) -> Path:
    """Return the one tuner file at `path`: the file itself, or the one in a folder or in the hub's repository
    `owner/name[@revision]`, which is downloaded.

    Raises:
        SceditError: there is none, or there are several.
    """
    return locate_pinned(path)[0]


def locate_pinned(path: str | os.PathLike[str]) -> tuple[Path, str | None]:
    """Return the file that `locate` returns, and for one from the hub also `owner/name@commit`, else None."""
    place = Path(path)
    if isfile(place):
        return place, None
    if isdir(place):
        return _in_folder(place), None
    repository, revision = split_revision(place)
    if is_hub_id(repository) and place.suffix not in TUNER_SUFFIXES:
        folder = download_tuner(repository, revision)
        return _in_folder(folder), f"{repository}@{folder.name}"
    hint = "give a .safetensors file, a folder with one, or a hub id"
    raise SceditError(f"{shortened(str(path), 400)}: no such tuner file", hint)


def read(file: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Read header and tensors of a `.safetensors` file, or of a `.bin` file, from which only tensors are unpickled.

    Raises:
        SceditError: the file is of another kind, damaged, or holds anything but floating-point tensors.
    """
    _check_file(file)
    header, tensors = ({}, _unpickled(file)) if file.suffix == ".bin" else _opened(file, "pt", _tensors)
    for key, tensor in tensors.items():
        if len(key) > _LONGEST_KEY or not key.isprintable():
            raise SceditError(
                f"{file}: one of its tensors is called {ascii(key[:40])}… ({len(key)} characters)",
                hint="no program names weights so; get the file again",
            )
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype not in _DTYPES or str(tensor.layout) != "torch.strided":
            raise SceditError(
                f"{file}: {key} is {dtype}, not floating-point weights",
                hint="quantised files are not read; get the tuner in float16 or float32",
            )
    return header, dict(zip(_unwrapped(tensors), tensors.values(), strict=True))


def read_header(file: Path) -> tuple[dict[str, str], list[str]]:
    """Read metadata and keys of a tuner file without its tensors and without PyTorch; for a `.bin` file both are empty.

    Raises:
        SceditError: as `read`.
    """
    _check_file(file)
    return ({}, []) if file.suffix == ".bin" else _opened(file, "numpy", lambda opened: _unwrapped(opened.keys()))


def _unwrapped(names: Iterable[str]) -> list[str]:
    """Return the tensors' own names, without the prefixes of a wrapper around the saved module."""
    names = list(names)
    while wrapper := next((w for w in _WRAPPERS if names and all(name.startswith(w) for name in names)), None):
        names = [name.removeprefix(wrapper) for name in names]
    return names


def _check_file(file: Path) -> None:
    if file.suffix and file.suffix not in (*TUNER_SUFFIXES, *_PICKLES):
        raise SceditError(f"{file} is no tuner's file", hint="a tuner is a .safetensors file")
    if file.suffix not in TUNER_SUFFIXES:
        raise SceditError(
            f"{file}: {file.suffix or 'a file without suffix'} is not read, because such a file may run code",
            hint="a tuner is a .safetensors file",
        )
    check_fetched(file, str(file))


def _tensors(opened: Any) -> dict[str, Tensor]:
    return {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118


def _opened(file: Path, framework: str, take: Callable[[Any], Content]) -> tuple[dict[str, str], Content]:
    """Return the metadata of a safetensors file, and the result of `take` on the opened file."""
    try:
        with safe_open(file, framework) as opened:
            count = len(opened.keys())
            if count > _MOST_TENSORS:
                raise SceditError(f"{file} holds {count:,} tensors", hint="no tuner has so many; get the file again")
            return opened.metadata() or {}, take(opened)
    except SceditError:
        raise
    except Exception as error:  # with odd headers, safetensors and PyTorch raise errors of any kind
        if is_out_of_memory(error):
            raise
        raise SceditError(
            f"{file} cannot be read as safetensors: {reason(error)}", hint="the file is damaged or of another kind"
        ) from error


def _unpickled(file: Path) -> dict[str, Tensor]:
    import torch

    try:
        _check_packing(file)
        tensors = torch.load(file, map_location="cpu", weights_only=True)
    except SceditError:
        raise
    except Exception as error:  # of any kind: the bytes may be anything
        if is_out_of_memory(error):
            raise
        raise SceditError(
            f"{file} holds more than plain tensors, or is damaged; it was not loaded",
            hint="a pickle may run code: ask for the tuner as .safetensors",
        ) from error
    if not isinstance(tensors, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in tensors.items()
    ):
        raise SceditError(f"{file} is no flat dictionary of tensors", hint="a tuner is a .safetensors file")
    if sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) > file.stat().st_size:
        raise _blown_up(file)
    return tensors


def _check_packing(file: Path) -> None:
    """Raise SceditError if a zip would unpack to more bytes than the file has: PyTorch writes zips uncompressed."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as packed:
            if sum(entry.file_size for entry in packed.infolist()) > file.stat().st_size:
                raise _blown_up(file)


def _blown_up(file: Path) -> SceditError:
    return SceditError(f"{file} claims more weights than it has bytes", hint="a tuner is a .safetensors file")


def _in_folder(folder: Path) -> Path:
    """Return the one tuner file of a folder, or of its subfolders where it has none itself."""
    if (folder / "tuner.safetensors").is_file():
        return folder / "tuner.safetensors"
    found = tuner_files(folder)
    if len(found) > 1:
        names = ", ".join(str(file.relative_to(folder)) for file in found[:4])
        raise SceditError(f"{folder} holds several files: {names}", hint="name the one to load")
    if found:
        return found[0]
    raise SceditError(f"{folder} holds no tuner file", hint="a tuner is a .safetensors file")


def tuner_files(folder: Path) -> list[Path]:
    """Return the files with a tuner's suffix in a folder, or in its subfolders down to the second level, of the first
    level that has any."""
    for depth in ("", "[!.]*/", "[!.]*/[!.]*/"):  # hidden files may be a killed process's unfinished ones
        found = sorted(file for suffix in TUNER_SUFFIXES for file in folder.glob(f"{depth}[!.]*{suffix}"))
        if found:
            # ms-swift and others may keep one adapter both ways.
            return [file for file in found if file.suffix != ".bin" or file.with_suffix(".safetensors") not in found]
    return []

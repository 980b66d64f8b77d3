"""WebDataset shards: .tar files in which a sample is a run of consecutive files with one stem."""

from __future__ import annotations

import io
import json
import re
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from scedit_cli.data.dataset import ORIGIN, Dataset
from scedit_cli.data.formats import is_shard
from scedit_cli.data.images import LARGEST_FILE
from scedit_cli.data.licences import LICENCES, licences_of, write_licences
from scedit_cli.data.splits import in_files
from scedit_cli.data.uris import is_hidden, is_remote, open_place
from scedit_cli.utils.errors import SceditError, shortened
from scedit_cli.utils.fetched import check_fetched
from scedit_cli.utils.io import read_json, whole_folder, write_whole
from scedit_cli.utils.reporter import SILENT, Reporter

SIZES = "sizes.json"
_SIZES_HINT = f'put {SIZES} beside the shards, as {{"000000.tar": 1000}}; `prepare(shards=N)` writes it'
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True)
class Sample:
    """Files of one stem, the `key` ("deep/000017"); `files` by their suffixes ("png", "txt", "depth.png")."""

    key: str
    files: dict[str, bytes]


def shard_places(place: str | Path) -> list[str]:
    """Return the shards at `place`: a shard, a folder of them, or a pattern ("shards/{000..099}.tar"), by path or URL.

    Raises:
        SceditError: a shard is missing, there are none, a folder holds several splits, or `place` is a command
            (`pipe:`).
    """
    text = str(place)
    if text.startswith("pipe:"):
        raise SceditError(f"{text}: no commands are run here", hint="name files, https:// or hf:// instead")
    if not is_remote(text) and Path(text).is_dir():
        names = [path.name for path in Path(text).glob("[!.]*")]  # hidden files may be incomplete
        names = sorted(filter(is_shard, names))
        if len(splits := in_files(names)) > 1:
            first = {split: files[0] for split, files in splits.items()}
            raise SceditError(
                f"{text} holds shards of several splits: {', '.join(first.values())}",
                hint=f"name those of one, as {text}/{_numbered(next(iter(first.values())))}",
            )
        places = [str(Path(text) / name) for name in names]
    else:
        places = _expanded(text)
    for each in places:
        if not is_remote(each) and not Path(each).is_file():
            raise SceditError(f"{each} does not exist", hint="name .tar shards, or the folder that holds them")
    if not places:
        raise SceditError(f"no .tar shards in {place}")
    return places


def read_samples(shard: str | Path) -> Iterator[Sample]:
    """Yield the samples of one shard in their order, read on demand.

    Raises:
        SceditError: the shard cannot be opened, is no tar, or is truncated; or a sample's files are not consecutive.
    """
    with _told(shard), open_place(str(shard)) as file, tarfile.open(fileobj=file, mode="r|*") as tar:
        for key, members in _samples(tar, shard):
            yield Sample(key, {_split(member.name)[1]: _read(tar, member) for member in members})


def count_samples(shard: str | Path) -> int:
    """Count a local shard's samples, from its headers alone where it is not compressed. Raises as `read_samples`."""
    with _told(shard), tarfile.open(shard, "r:*") as tar:
        return sum(1 for _ in _samples(tar, shard))


def counts_of(shards: Sequence[str], reporter: Reporter = SILENT) -> list[int]:
    """Return how many samples each shard holds, from the `sizes.json` beside it, else by counting.

    Raises:
        SceditError: a `sizes.json` is damaged, or that of remote shards is missing or lacks one; or as `read_samples`.
    """
    known: dict[str, dict[str, int]] = {}
    counts = []
    for number, shard in enumerate(shards, 1):
        folder, slash, name = shard.rpartition("/")
        if folder not in known:
            known[folder] = _sizes(folder + slash, name)
        if name not in known[folder] and is_remote(shard):
            raise SceditError(f"{folder}/{SIZES} does not state how many samples {name} holds", hint=_SIZES_HINT)
        counts.append(known[folder][name] if name in known[folder] else count_samples(shard))
        reporter.progress(number, len(shards))
    return counts


def write_shards(
    dataset: Dataset,
    folder: Path,
    per_shard: int = 1000,
    reporter: Reporter = SILENT,
) -> list[Path]:
    """Write a dataset folder as shards `000000.tar`, … and return their paths.

    A sample's key is its number in the dataset. It has the image, `txt`, `<kind>.png` for each condition, and `json`
    with its `weight` where that is not 1, and the size and place of the source where it is a part of one.
    No shard mixes image sizes, so that batches from one shard are of one size. `sizes.json` holds each shard's number
    of samples, as WebDataset readers expect, and `licences.json` is the dataset's. The same dataset gives the same
    bytes. The folder appears whole, in place of an earlier one.

    Raises:
        WorkFailed: the disk is full.
        SceditError: an image is missing, a weight is invalid, or the folder cannot be written; or `folder` holds files
            that its `sizes.json` does not name, so that they are not from an earlier call.
    """
    sized = sorted(zip(dataset.sizes, range(len(dataset)), strict=True))
    parts = []
    for _, group in groupby(sized, key=lambda each: each[0]):
        indices = [index for _, index in group]
        parts += [indices[at : at + per_shard] for at in range(0, len(indices), per_shard)]
    _check_replaceable(folder)
    done, sizes = 0, {}
    with whole_folder(folder, replace=True) as new:
        for indices in parts:
            name = f"{len(sizes):06d}.tar"
            with tarfile.open(new / name, "w", format=tarfile.USTAR_FORMAT) as tar:
                for index in indices:
                    item, key = dataset.items[index], f"{index:06d}"  # two images may have one stem, and stems dots
                    _add(tar, f"{key}{item.image.suffix.lower()}", item.image.read_bytes())
                    _add(tar, f"{key}.txt", item.text.encode())
                    if about := _about(dataset, index):
                        _add(tar, f"{key}.json", json.dumps(about).encode())
                    for kind, condition in item.conditions.items():
                        _add(tar, f"{key}.{kind}{condition.suffix.lower()}", condition.read_bytes())
            sizes[name] = len(indices)
            done += len(indices)
            reporter.progress(done, len(dataset))
        write_licences(new, licences_of(dataset.path))
        write_whole(new / SIZES, json.dumps(sizes, indent=0) + "\n")
        _check_replaceable(folder)  # files may have appeared in the meantime
    return [folder / name for name in sizes]


def _about(dataset: Dataset, index: int) -> dict[str, float]:
    """Return what a sample's .json holds, by the names of a dataset's line."""
    item, weight = dataset.items[index], dataset.weights[index]
    size = dataset.sizes[index]
    origin = (*(item.original or size), *item.crop)
    about = {} if origin == (*size, 0, 0) else dict(zip(ORIGIN, origin, strict=True))
    return about if weight == 1 else {"weight": weight} | about


def _check_replaceable(folder: Path) -> None:
    """Check that `folder` holds only files that `write_shards` has written; else raise SceditError."""
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    ours = {SIZES, LICENCES, *_sizes(f"{folder}/", "")} if SIZES in there else set()
    if others := sorted(there - ours):
        raise SceditError(
            f"{folder} holds {shortened(others[0])}, which its {SIZES} does not name",
            hint="shards replace those of an earlier call alone: move it elsewhere, or remove it",
        )


def _numbered(shard: str) -> str:
    """Return a pattern of ten shards that begins with this one."""
    number = re.search(r"\d+", shard)
    last = number and str(int(number[0]) + 9).zfill(len(number[0]))
    return f"{shard[: number.start()]}{{{number[0]}..{last}}}{shard[number.end() :]}" if number else shard


def _expanded(pattern: str) -> list[str]:
    """Return the places that a pattern with any number of ranges names."""
    if not (found := _RANGE.search(pattern)):
        return [pattern]
    first, last = found.groups()
    numbered = (_RANGE.sub(f"{number:0{len(first)}d}", pattern, count=1) for number in range(int(first), int(last) + 1))
    return [place for each in numbered for place in _expanded(each)]


def _sizes(folder: str, shard: str) -> dict[str, int]:
    """Return the content of `sizes.json` in `folder` (with its slash); {} where a local folder has none."""
    place = folder + SIZES
    try:
        with open_place(place) as file:
            sizes = read_json(file.read())
    except SceditError as error:
        if not is_remote(place):
            return {}
        raise SceditError(f"the number of samples in {shard} is unknown: {error.message}", hint=_SIZES_HINT) from error
    except ValueError as error:
        raise SceditError(f"{place}: no JSON ({error})", hint="remove it, or write it again") from None
    if not isinstance(sizes, dict) or not all(isinstance(count, int) and count >= 0 for count in sizes.values()):
        raise SceditError(f"{place} holds no counts by name", hint=_SIZES_HINT)
    return sizes


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    about = tarfile.TarInfo(name)
    about.size = len(data)
    tar.addfile(about, io.BytesIO(data))


def _samples(tar: tarfile.TarFile, shard: str | Path) -> Iterator[tuple[str, Iterator[tarfile.TarInfo]]]:
    """Yield each sample's key and files. Files of one sample that are apart, as `tar` may pack a folder, are an error:
    they would be taken for several samples, images without captions and captions without images."""
    seen: set[str] = set()
    for key, members in groupby(_files(tar), key=lambda member: _split(member.name)[0]):
        if key in seen:
            raise SceditError(
                f"{shard}: the files of {key} do not follow one another",
                hint="pack it again, sorted: tar --sort=name, or `prepare(shards=N)`",
            )
        seen.add(key)
        yield key, members


def _files(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for member in tar:
        if member.isfile() and not any(is_hidden(part) for part in member.name.split("/") if part.strip(".")):
            yield member
        tar.members.clear()  # else tarfile keeps every header in memory


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.size > LARGEST_FILE:
        raise SceditError(f"{tar.name or 'a shard'}: {member.name} has {member.size:,} bytes", "no image is so large")
    return tar.extractfile(member).read()


def _split(name: str) -> tuple[str, str]:
    folder, slash, file = name.rpartition("/")
    stem, _, suffix = file.partition(".")
    return folder + slash + stem, suffix


@contextmanager
def _told(shard: str | Path) -> Iterator[None]:
    try:
        yield
    except (MemoryError, SceditError):
        raise
    except (tarfile.TarError, EOFError, zlib.error) as error:
        check_fetched(shard, str(shard))
        raise SceditError(f"{shard} is no whole .tar: {error}", hint="get it again") from error
    except Exception as error:  # each file system has error classes of its own
        if not is_remote(str(shard)) and not isinstance(error, OSError):
            raise
        raise SceditError(f"{shard} cannot be read on: {error}", hint="check the disk or the network") from error

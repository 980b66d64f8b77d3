"""WebDataset shards: .tar files in which a sample is a run of files with one stem."""

from __future__ import annotations

import io
import json
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from scedit_cli.data.dataset import Dataset
from scedit_cli.data.formats import is_shard
from scedit_cli.data.images import LARGEST_FILE
from scedit_cli.data.licences import LICENCES, licences_of, write_licences
from scedit_cli.data.splits import in_files
from scedit_cli.data.uris import is_hidden, is_remote, open_place
from scedit_cli.utils.errors import SceditError, shortened
from scedit_cli.utils.fetched import check_fetched
from scedit_cli.utils.io import read_json, whole_folder, write_whole

SIZES = "sizes.json"
_SIZES_HINT = f'put {SIZES} beside the shards, as {{"000000.tar": 1000}}; prepare --shards writes it'
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True)
class Sample:
    """Files of one stem: `key` as "deep/000017", `files` by what follows its first dot: "png", "txt", "depth.png"."""

    key: str
    files: dict[str, bytes]


def shard_places(place: str | Path) -> list[str]:
    """The shards that `place` is, holds, or names as a pattern: "shards/{000..099}.tar"; of a folder, a file or a URL.

    Raises:
        SceditError: one is missing, there are none, or a command (`pipe:`) is named.
    """
    text = str(place)
    if text.startswith("pipe:"):
        raise SceditError(f"{text}: no commands are run here", hint="name files, https:// or hf:// instead")
    if not is_remote(text) and Path(text).is_dir():
        names = [path.name for path in Path(text).glob("[!.]*")]  # hidden: half-written
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
    """The samples of one shard in their order, read as they are asked for.

    Raises:
        SceditError: it cannot be opened, is no tar, or ends too early; or the files of a sample are not together.
    """
    with _told(shard), open_place(str(shard)) as file, tarfile.open(fileobj=file, mode="r|*") as tar:
        for key, members in _samples(tar, shard):
            yield Sample(key, {_split(member.name)[1]: _read(tar, member) for member in members})


def count_samples(shard: str | Path) -> int:
    """How many samples a shard holds, by its headers alone where it is not compressed. Raises as `read_samples`."""
    with _told(shard), tarfile.open(shard, "r:*") as tar:
        return sum(1 for _ in _samples(tar, shard))


def counts_of(shards: Sequence[str], on_step: Callable[[int, int], None] | None = None) -> list[int]:
    """How many samples each shard holds: as `sizes.json` beside them says, else counted.

    Raises:
        SceditError: shards that are elsewhere without a `sizes.json`, or a damaged one; as `read_samples`.
    """
    known: dict[str, dict[str, int]] = {}
    counts = []
    for number, shard in enumerate(shards, 1):
        folder, slash, name = shard.rpartition("/")
        if folder not in known:
            known[folder] = _sizes(folder + slash, name)
        if name not in known[folder] and is_remote(shard):
            raise SceditError(f"{folder}/{SIZES} does not tell how many samples {name} holds", hint=_SIZES_HINT)
        counts.append(known[folder][name] if name in known[folder] else count_samples(shard))
        if on_step:
            on_step(number, len(shards))
    return counts


def write_shards(
    dataset: Dataset,
    folder: Path,
    per_shard: int = 1000,
    on_step: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Writes a dataset folder as shards `000000.tar`, …, and returns them. A sample has the picture, `txt`,
    `<kind>.png` for each condition, and `json` with its `weight` where that is not 1. Pictures of one size stand
    together and no shard mixes sizes, so that a reader that takes batches from one shard gets batches of one size.
    `sizes.json` tells how many samples each shard has, as readers of WebDataset know it, `licences.json` what the
    dataset's tells. The same dataset gives the same bytes. The folder appears whole, in the place of an earlier one.

    Raises:
        WorkFailed: the disk is full.
        SceditError: a picture is gone, a weight is no number from 0, or the place cannot be written to; or `folder`
            holds what its `sizes.json` does not name, which somebody else has put there.
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
                    item = dataset.items[index]
                    _add(tar, f"{item.image.stem}{item.image.suffix.lower()}", item.image.read_bytes())
                    _add(tar, f"{item.image.stem}.txt", item.text.encode())
                    if (weight := dataset.weights[index]) != 1:
                        _add(tar, f"{item.image.stem}.json", json.dumps({"weight": weight}).encode())
                    for kind, condition in item.conditions.items():
                        _add(tar, f"{item.image.stem}.{kind}{condition.suffix.lower()}", condition.read_bytes())
            sizes[name] = len(indices)
            done += len(indices)
            if on_step:
                on_step(done, len(dataset))
        write_licences(new, licences_of(dataset.path))
        write_whole(new / SIZES, json.dumps(sizes, indent=0) + "\n")
        _check_replaceable(folder)  # it has taken a while
    return [folder / name for name in sizes]


def _check_replaceable(folder: Path) -> None:
    """Raises SceditError where `folder` holds what `write_shards` has not written."""
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    ours = {SIZES, LICENCES, *_sizes(f"{folder}/", "")} if SIZES in there else set()
    if others := sorted(there - ours):
        raise SceditError(
            f"{folder} holds {shortened(others[0])}, which its {SIZES} does not name",
            hint="shards replace those of an earlier call alone: move it elsewhere, or remove it",
        )


def _numbered(shard: str) -> str:
    """The pattern of shards that begins with this one."""
    number = re.search(r"\d+", shard)
    last = number and str(int(number[0]) + 9).zfill(len(number[0]))
    return f"{shard[: number.start()]}{{{number[0]}..{last}}}{shard[number.end() :]}" if number else shard


def _expanded(pattern: str) -> list[str]:
    """`pattern` with each number of its first range, and so on."""
    if not (found := _RANGE.search(pattern)):
        return [pattern]
    first, last = found.groups()
    numbered = (_RANGE.sub(f"{number:0{len(first)}d}", pattern, count=1) for number in range(int(first), int(last) + 1))
    return [place for each in numbered for place in _expanded(each)]


def _sizes(folder: str, shard: str) -> dict[str, int]:
    """What `sizes.json` in `folder` (with its slash) tells; {} where there is none and `shard` can be counted."""
    place = folder + SIZES
    try:
        with open_place(place) as file:
            sizes = read_json(file.read())
    except SceditError as error:
        if not is_remote(place):
            return {}
        raise SceditError(f"nobody knows how many samples {shard} holds: {error.message}", hint=_SIZES_HINT) from error
    except ValueError as error:
        raise SceditError(f"{place}: no JSON ({error})", hint="remove it, or write it anew") from None
    if not isinstance(sizes, dict) or not all(isinstance(count, int) and count >= 0 for count in sizes.values()):
        raise SceditError(f"{place} does not tell counts by name", hint=_SIZES_HINT)
    return sizes


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    about = tarfile.TarInfo(name)
    about.size = len(data)
    tar.addfile(about, io.BytesIO(data))


def _samples(tar: tarfile.TarFile, shard: str | Path) -> Iterator[tuple[str, Iterator[tarfile.TarInfo]]]:
    """The files of each sample. Where those of one lie apart, as `tar` packs a folder, it would be taken for several,
    pictures without captions and captions without pictures."""
    seen: set[str] = set()
    for key, members in groupby(_files(tar), key=lambda member: _split(member.name)[0]):
        if key in seen:
            raise SceditError(
                f"{shard}: the files of {key} do not follow one another",
                hint="pack it again, sorted: tar --sort=name, or scedit prepare --shards",
            )
        seen.add(key)
        yield key, members


def _files(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for member in tar:
        if member.isfile() and not any(is_hidden(part) for part in member.name.split("/") if part.strip(".")):
            yield member
        tar.members.clear()  # tarfile would keep every header it has seen


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.size > LARGEST_FILE:
        raise SceditError(f"{tar.name or 'a shard'}: {member.name} has {member.size:,} bytes", "no picture is so large")
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
        raise SceditError(f"{shard} is no whole .tar: {error}", hint="get it anew") from error
    except Exception as error:  # each file system's own
        if not is_remote(str(shard)) and not isinstance(error, OSError):
            raise
        raise SceditError(f"{shard} cannot be read on: {error}", hint="check the disk or the network") from error

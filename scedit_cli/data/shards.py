"""WebDataset shards: .tar files in which a sample is a run of files with one stem."""

from __future__ import annotations

import io
import re
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from scedit_cli.data.dataset import Dataset
from scedit_cli.errors import SceditError
from scedit_cli.files import whole

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclass(frozen=True)
class Sample:
    """Files of one stem: `key` as "deep/000017", `files` by what follows its first dot: "png", "txt", "depth.png"."""

    key: str
    files: dict[str, bytes]


def shard_paths(place: Path) -> list[Path]:
    """The shards that `place` is, holds, or names as a pattern: "shards/{000..099}.tar".

    Raises:
        SceditError: one is missing, or there are none.
    """
    if place.is_dir():
        paths = sorted(place.glob("[!.]*.tar"))  # hidden: half-written
    elif found := _RANGE.search(str(place)):
        first, last = found.groups()
        numbers = range(int(first), int(last) + 1)
        paths = [Path(_RANGE.sub(f"{number:0{len(first)}d}", str(place), count=1)) for number in numbers]
    else:
        paths = [place]
    if missing := [path for path in paths if not path.is_file()]:
        raise SceditError(f"{missing[0]} does not exist", hint="name .tar shards, or the folder that holds them")
    if not paths:
        raise SceditError(f"no .tar shards in {place}")
    return paths


def read_samples(shard: Path) -> Iterator[Sample]:
    """The samples of one shard in their order, read as they are asked for.

    Raises:
        SceditError: it is no tar, or ends too early.
    """
    with _told(shard), tarfile.open(shard, "r|*") as tar:
        for key, members in groupby(_files(tar), key=lambda member: _split(member.name)[0]):
            yield Sample(key, {_split(member.name)[1]: tar.extractfile(member).read() for member in members})


def count_samples(shard: Path) -> int:
    """How many samples a shard holds, by its headers alone where it is not compressed. Raises as `read_samples`."""
    with _told(shard), tarfile.open(shard, "r:*") as tar:
        return sum(1 for _ in groupby(_files(tar), key=lambda member: _split(member.name)[0]))


def write_shards(
    dataset: Dataset,
    folder: Path,
    per_shard: int = 1000,
    on_step: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Writes a dataset folder as shards `000000.tar`, …, and returns them. A sample has the picture, `txt`, and
    `<kind>.png` for each condition. Pictures of one size stand together and no shard mixes sizes, so that a reader
    that takes batches from one shard gets batches of one size. The same dataset gives the same bytes.

    Raises:
        WorkFailed: the disk is full.
        SceditError: a picture is gone, or the place cannot be written to.
    """
    sized = sorted(zip(dataset.sizes, range(len(dataset)), strict=True))
    parts = []
    for _, group in groupby(sized, key=lambda each: each[0]):
        indices = [index for _, index in group]
        parts += [indices[at : at + per_shard] for at in range(0, len(indices), per_shard)]
    paths, done = [], 0
    folder.mkdir(parents=True, exist_ok=True)
    for number, indices in enumerate(parts):
        path = folder / f"{number:06d}.tar"
        with whole(path) as part, tarfile.open(part, "w", format=tarfile.USTAR_FORMAT) as tar:
            for index in indices:
                item = dataset.items[index]
                _add(tar, f"{item.image.stem}{item.image.suffix.lower()}", item.image.read_bytes())
                _add(tar, f"{item.image.stem}.txt", item.text.encode())
                for kind, condition in item.conditions.items():
                    _add(tar, f"{item.image.stem}.{kind}{condition.suffix.lower()}", condition.read_bytes())
        paths.append(path)
        done += len(indices)
        if on_step:
            on_step(done, len(dataset))
    for stale in set(folder.glob("[!.]*.tar")) - set(paths):  # of an earlier writing with more of them
        stale.unlink()
    return paths


def part_of(shards: Iterable[Path], index: int, count: int) -> list[Path]:
    """The shards of reader `index` of `count` (over all machines, processes and workers): every one has one reader.

    Raises:
        SceditError: fewer shards than readers, so that one would have nothing to read.
    """
    shards = list(shards)
    if len(shards) < count:
        raise SceditError(
            f"{len(shards)} shards for {count} readers", hint="write more and smaller shards, or take fewer workers"
        )
    return shards[index::count]


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    about = tarfile.TarInfo(name)
    about.size = len(data)
    tar.addfile(about, io.BytesIO(data))


def _files(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for member in tar:
        if member.isfile() and not member.name.rpartition("/")[2].startswith("."):
            yield member
        tar.members.clear()  # tarfile would keep every header it has seen


def _split(name: str) -> tuple[str, str]:
    folder, slash, file = name.rpartition("/")
    stem, _, suffix = file.partition(".")
    return folder + slash + stem, suffix


@contextmanager
def _told(shard: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise SceditError(f"{shard} is no whole .tar: {error}", hint="get it anew") from error

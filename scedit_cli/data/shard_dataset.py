"""Datasets that are streamed from shards: their content, how it is read, and which images are held out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path

from scedit_cli.data.buckets import Size, exactly
from scedit_cli.data.dataset import way_to, weight_of, write_rows
from scedit_cli.data.importing import Cut, Rejected, cut, take
from scedit_cli.data.shards import Sample, counts_of, read_samples, shard_places
from scedit_cli.data.sources.entry import Entry
from scedit_cli.data.sources.webdataset import entry_of
from scedit_cli.data.uris import is_remote
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.io import whole_folder
from scedit_cli.utils.reporter import SILENT, Reporter

FIRST = "first.json"  # for each of the first images, its shard's number and its own place there, from 1
_LOOKED_AT = 16  # samples that are searched for a condition


@dataclass(frozen=True)
class ShardDataset:
    """Shards whose samples become images of one size, with their conditions of `kinds`.

    Attributes:
        places: the shards' paths or URLs.
        counts: the number of samples in each shard.
        size: width and height to which every image is cut.
        columns: the names of a sample's files, as in `data.sources.open_source`.
        upscale: whether smaller images are enlarged; otherwise they are rejected.
        held: the number of samples at the start of each shard that are held out.
    """

    places: tuple[str, ...]
    counts: tuple[int, ...]
    size: Size
    kinds: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    upscale: bool = False
    held: tuple[int, ...] = ()

    @property
    def left(self) -> list[int]:
        """The number of streamed samples in each shard."""
        return [count - held for count, held in zip(self.counts, self.held, strict=True)]

    @cached_property
    def fingerprint(self) -> str:
        """32 hex digits over all that determines the sequence of images: the shards' names, sizes and counts, and how
        they are read."""
        lengths = [None if is_remote(place) else Path(place).stat().st_size for place in self.places]
        names = [place.rpartition("/")[2] for place in self.places]
        how = [self.held, self.size, self.kinds, sorted(self.columns.items()), self.upscale]
        return hashlib.sha256(json.dumps([names, lengths, self.counts, how]).encode()).hexdigest()[:32]

    @property
    def written(self) -> list[int | None]:
        """The modification time of each shard in ns; None for remote shards."""
        return [None if is_remote(place) else Path(place).stat().st_mtime_ns for place in self.places]

    def cut(self, sample: Sample) -> Cut | Rejected:
        """Return the image of `sample` and its conditions, cut to `size`, or why they are rejected."""
        entry = self._entry(sample)
        return entry if isinstance(entry, Rejected) else cut(entry, self._size_of)

    def write_first(self, folder: Path, count: int) -> None:
        """Write the first `count` images, or all where there are fewer, as a dataset folder at `folder`.

        Raises:
            SceditError: no sample can be used.
        """
        with whole_folder(folder) as part:
            first, rows, why = [], [], "they are empty"
            for shard, number, place, sample in self._samples():
                entry = self._entry(sample)
                if not isinstance(entry, Rejected):
                    entry = take(entry, f"{len(rows):06d}.png", part, self._size_of)
                if isinstance(entry, Rejected):
                    why = f"{place}: {sample.key}: {entry.reason}"
                    continue
                rows.append(entry.row)
                first.append((shard, number))
                if len(rows) == count:
                    break
            if not rows:
                ways = [f"; {way_to(kind, 'DATASET')}, for `prepare(shards=N)` to take along" for kind in self.kinds]
                raise SceditError(
                    f"data.path: none of the {sum(self.counts)} samples can be used; the last: {why}",
                    hint=f"data.columns names what a sample holds, data.upscale takes small images{''.join(ways)}",
                )
            write_rows(part, rows)
            (part / FIRST).write_text(json.dumps(first))

    def without_first(self, folder: Path, count: int) -> ShardDataset:
        """Return this dataset without its first `count` images, those that `write_first` has written to `folder`.

        Raises:
            SceditError: there are fewer, or none would be left.
        """
        first = json.loads((folder / FIRST).read_text())
        shard, samples = first[count - 1] if 0 < count <= len(first) else (0, 0)
        held = (*self.counts[:shard], samples, *[0] * (len(self.counts) - shard - 1))
        if count > len(first) or not any(replace(self, held=held).left):
            raise SceditError(
                f"validation.pictures: {count} of at most {sum(self.counts)} images would be held out",
                hint="leave some to learn from; where it is left out, a tenth is held out",
            )
        kept = [number for number, left in enumerate(replace(self, held=held).left) if left > 0]
        return replace(
            self,
            places=tuple(self.places[number] for number in kept),
            counts=tuple(self.counts[number] for number in kept),
            held=tuple(held[number] for number in kept),
        )

    def _samples(self) -> Iterator[tuple[int, int, str, Sample]]:
        """Yield each sample after its shard's number, its own number there (from 1), and the shard's place."""
        for shard, place in enumerate(self.places):
            for number, sample in enumerate(read_samples(place), 1):
                yield shard, number, place, sample

    def _entry(self, sample: Sample) -> Entry | Rejected:
        try:
            entry = entry_of(sample, self.columns)
            weight = weight_of(entry.more.get("weight"), f"{sample.key}.json")
        except SceditError as error:
            return Rejected("unreadable", error.message)
        conditions = {kind: entry.conditions.get(kind) for kind in self.kinds}
        return replace(entry, conditions=conditions, more=entry.more | {"weight": weight})

    def _size_of(self, source: Size) -> Size:
        return exactly(source, self.size, self.upscale)


def has_condition(place: str, kind: str, columns: Mapping[str, str]) -> bool:
    """Return whether one of the first 16 samples of the shards at `place` has a condition of `kind`.

    Raises:
        SceditError: a shard is missing or damaged.
    """
    samples = (sample for shard in shard_places(place) for sample in read_samples(shard))
    for sample in islice(samples, _LOOKED_AT):
        with suppress(SceditError):  # streaming skips such a sample too
            if entry_of(sample, columns).conditions.get(kind):
                return True
    return False


def open_streamed(
    place: str,
    size: Size,
    kinds: tuple[str, ...] = (),
    columns: Mapping[str, str] | None = None,
    upscale: bool = False,
    reporter: Reporter = SILENT,
) -> ShardDataset:
    """Open the shards that `place` names as in `shard_places`; `reporter` gets (shards counted, of how many).

    Raises:
        SceditError: there are no shards, one is missing or damaged, or all are empty.
    """
    every = shard_places(place)
    known = [(shard, count) for shard, count in zip(every, counts_of(every, reporter), strict=True) if count]
    if not known:
        raise SceditError(f"data.path: {place} holds no samples", hint="`prepare(shards=N)` writes shards")
    places, counts = zip(*known, strict=True)
    return ShardDataset(places, counts, size, kinds, dict(columns or {}), upscale, (0,) * len(places))

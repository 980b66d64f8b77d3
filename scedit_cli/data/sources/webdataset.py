"""WebDataset shards as a source of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scedit_cli.data.dataset import ORIGIN, weight_of
from scedit_cli.data.formats import is_image, is_readable, is_shard
from scedit_cli.data.licences import licences_of
from scedit_cli.data.shards import Sample, counts_of, read_samples, shard_places
from scedit_cli.data.sources.columns import WEIGHT, caption_in, column_named, text_columns
from scedit_cli.data.sources.entry import Blob, Entry, Source
from scedit_cli.data.sources.folder import CAPTIONS
from scedit_cli.data.uris import is_hidden, is_remote
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.io import read_json

_SHOWN = 6  # files of a sample in a sentence


def is_shards(place: str | Path) -> bool:
    """Return whether a place is a .tar, compressed or not, a pattern of them, a URL, or a folder that holds only shards
    and the .json and .parquet files that describe them."""
    path = Path(place)
    if not path.is_dir():
        return is_shard(path.name) or is_remote(str(place))
    names = {file.name for file in path.iterdir() if not is_hidden(file.name)}
    shards = set(filter(is_shard, names))
    return bool(shards) and all(
        name in shards or name.endswith(".json") or (name.endswith(".parquet") and f"{name[:-8]}.tar" in shards)
        for name in names
    )


def open_shards(path: str | Path, columns: Mapping[str, str]) -> Source:
    """Open the samples of shards as a source.

    Args:
        columns: the suffix of each part: image=jpg, text=txt (or a key of the .json), depth=depth.png. By default the
            only image suffix is the image, and `<kind>.png` is a condition.

    Raises:
        SceditError: a shard is missing or damaged, or there are no samples.
    """
    shards = shard_places(path)
    count = sum(counts_of(shards))
    if not count:
        raise SceditError(f"{path} holds no images", hint="shards hold files such as 000001.jpg, 000001.txt")
    entries = (entry_of(sample, columns) for shard in shards for sample in read_samples(shard))
    beside = {} if is_remote(shards[0]) else licences_of(Path(shards[0]).parent)
    return Source(count, entries, licences=beside)


def entry_of(sample: Sample, columns: Mapping[str, str]) -> Entry:
    """Return a sample as an entry; `columns` is as in `open_shards`, in upper or lower case."""
    files = {name.lower(): data for name, data in sample.files.items()}
    columns = {key: name.lower().removeprefix(".") for key, name in columns.items()}
    kinds = {kind: suffix for kind, suffix in columns.items() if kind not in ("image", "text")}
    plain = [suffix for suffix in files if "." not in suffix and suffix not in kinds.values()]
    alone = [suffix for suffix in plain if is_image(f"a.{suffix}")]
    alone = [suffix for suffix in alone if is_readable(f"a.{suffix}")] or alone[:1]
    image = columns.get("image") or (alone[0] if len(alone) == 1 else None)
    for suffix in files:
        kind, dot, last = suffix.partition(".")
        if dot and "." not in last and is_image(suffix) and suffix != image and suffix not in kinds.values():
            kinds[kind] = suffix

    def blob(suffix: str | None) -> Blob | None:
        return Blob.of_bytes(files[suffix], f"{sample.key}.{suffix}") if suffix in files else None

    about = _json(files["json"], sample.key) if "json" in files else {}
    named = column_named(about, columns["text"]) if "text" in columns else None
    text, _ = caption_in(about, [named] if "text" in columns else text_columns(about), f"{sample.key}.json")
    texts = dict.fromkeys([*(f".{suffix}" for suffix in (columns.get("text"),) if suffix), *CAPTIONS])
    weight = about.get(column_named(about, WEIGHT))
    width, height, top, left = (_pixels(about.get(name)) for name in ORIGIN)
    return Entry(
        name=f"{sample.key}.{image}" if image else sample.key,
        image=blob(image),
        text=text,
        captions={suffix: blob(suffix[1:]) for suffix in texts if suffix[1:] in files},
        conditions={kind: blob(suffix) for kind, suffix in kinds.items()},
        more={} if weight is None else {WEIGHT: weight_of(weight, f"{sample.key}.json")},
        original=(width, height) if width and height else None,
        crop=(top, left),
        fault=None if image in files else _fault(sample, [] if image else alone),
    )


def _fault(sample: Sample, images: Sequence[str]) -> str:
    """Return why a sample has no image, or which of its `images` are ambiguous, with the files that it has."""
    if images:
        return f"it has several images, {' and '.join(images)}: `columns=image={images[0]}` says which it is"
    names = list(sample.files)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    said = f"it has no image: the sample {sample.key} is {', '.join(names[:_SHOWN])}{more}"
    if any("." in name for name in names):
        return f"{said}; a sample's name ends at the first dot of its files: write underscores for the others"
    return f"{said}; the files of a sample have one name and follow each other"


def _pixels(value: Any) -> int:
    """Return a number of pixels of a sample's .json, which may be another program's; 0 for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _json(data: bytes, key: str) -> dict[str, Any]:
    try:
        values = read_json(data)
    except ValueError as error:
        raise SceditError(f"{key}.json: no JSON ({error})", hint="get the shard again") from None
    return values if isinstance(values, dict) else {}

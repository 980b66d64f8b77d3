"""WebDataset shards as a source of pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scedit_cli.data.licences import licences_of
from scedit_cli.data.pictures import SUFFIXES
from scedit_cli.data.places import is_remote
from scedit_cli.data.shards import SUFFIXES as TARS
from scedit_cli.data.shards import Sample, counts_of, read_samples, shard_places
from scedit_cli.data.sources.entry import Blob, Entry, Source, text_of
from scedit_cli.data.sources.folder import CAPTIONS
from scedit_cli.data.sources.tables import TEXTS
from scedit_cli.errors import SceditError
from scedit_cli.files import read_json

_PICTURES = frozenset(suffix[1:] for suffix in SUFFIXES)


def is_shards(place: str | Path) -> bool:
    """A .tar, packed or not, a pattern of them, a URL, or a folder of nothing else but them."""
    path = Path(place)
    if path.is_dir():
        names = [file.name for file in path.iterdir() if not file.name.startswith(".")]
        return any(name.endswith(TARS) for name in names) and all(name.endswith((*TARS, ".json")) for name in names)
    return path.name.endswith(TARS) or is_remote(str(place))


def open_shards(path: str | Path, columns: Mapping[str, str]) -> Source:
    """`columns` says which suffix is what: image=jpg, text=txt (or a key of the .json), depth=depth.png. Left out, a
    lone picture suffix is the picture and `<kind>.png` a condition.

    Raises:
        SceditError: no such shard, or a damaged one.
    """
    shards = shard_places(path)
    count = sum(counts_of(shards))
    if not count:
        raise SceditError(f"{path} holds no pictures", hint="shards hold files such as 000001.jpg, 000001.txt")
    entries = (entry_of(sample, columns) for shard in shards for sample in read_samples(shard))
    beside = {} if is_remote(shards[0]) else licences_of(Path(shards[0]).parent)
    return Source(count, entries, licences=beside)


def entry_of(sample: Sample, columns: Mapping[str, str]) -> Entry:
    """A sample as a picture to prepare; `columns` as for `open_shards`."""
    files = {name.lower(): data for name, data in sample.files.items()}
    kinds = {kind: suffix for kind, suffix in columns.items() if kind not in ("image", "text")}
    alone = [suffix for suffix in files if suffix in _PICTURES and suffix not in kinds.values()]
    image = columns.get("image") or next(iter(alone), None)
    for suffix in files:
        kind, dot, last = suffix.partition(".")
        if dot and last in _PICTURES and suffix != image and suffix not in kinds.values():
            kinds[kind] = suffix

    def blob(suffix: str | None) -> Blob | None:
        return Blob.of_bytes(files[suffix], f"{sample.key}.{suffix}") if suffix in files else None

    about = _json(files["json"], sample.key) if "json" in files else {}
    keys = (columns["text"],) if "text" in columns else TEXTS
    text = next((about[key] for key in keys if key in about), None)
    texts = {f".{suffix}" for suffix in (columns.get("text"),) if suffix} | set(CAPTIONS)
    return Entry(
        name=f"{sample.key}.{image}" if image else sample.key,
        image=blob(image),
        text=text_of(text, f"{sample.key}.json"),
        captions={suffix: blob(suffix[1:]) for suffix in sorted(texts, reverse=True) if suffix[1:] in files},
        conditions={kind: blob(suffix) for kind, suffix in kinds.items()},
        more={"weight": about["weight"]} if isinstance(about.get("weight"), str | int | float) else {},
        fault=None if len(alone) < 2 or "image" in columns else f"it has several pictures ({' and '.join(alone)}); "
        "columns such as image=jpg,seg=png tell what each is",
    )


def _json(data: bytes, key: str) -> dict[str, Any]:
    try:
        values = read_json(data)
    except ValueError as error:
        raise SceditError(f"{key}.json: no JSON ({error})", hint="get the shard anew") from None
    return values if isinstance(values, dict) else {}

"""Hugging Face datasets: saved on disk, by name on the hub, or as parquet files that contain images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from scedit_cli.data.images import reading
from scedit_cli.data.sources.columns import caption_in, column_named, further, text_columns
from scedit_cli.data.sources.entry import Blob, Entry, Source
from scedit_cli.data.splits import chosen, in_files
from scedit_cli.data.uris import is_remote
from scedit_cli.utils.errors import SceditError, not_installed, reason, shortened
from scedit_cli.utils.fetched import check_fetched
from scedit_cli.utils.hub import downloads

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

_SAVED = ("dataset_info.json", "dataset_dict.json")
_BINARY = ("binary", "large_binary", "binary_view")
_TRIED = 100  # rows that are searched for a column's first image


def is_saved(path: Path) -> bool:
    """Return whether `datasets` has written this folder by `save_to_disk`."""
    return any((path / name).is_file() for name in _SAVED)


def hold_images(root: Path, files: Sequence[str]) -> bool:
    """Return whether the parquet files below `root` have a column that may contain images, not just their names.

    Raises:
        SceditError: the first file, which stands for all, cannot be read.
    """
    try:
        from pyarrow import ArrowException, parquet, types
    except ImportError:
        raise not_installed(f"{root}/{files[0]}", "datasets", "datasets") from None
    check_fetched(root / files[0], f"{root}/{files[0]}")
    try:
        schema = parquet.read_schema(root / files[0])
    except ArrowException as error:
        raise SceditError(f"{root}/{files[0]} is no readable parquet file: {reason(error)}", "get it again") from None
    return any(
        types.is_binary(kind) or types.is_large_binary(kind)
        or (types.is_struct(kind) and {"bytes", "path"} & {kind.field(n).name for n in range(kind.num_fields)})
        or (types.is_list(kind) and types.is_uint8(kind.value_type))
        for kind in schema.types
    )


def open_saved(path: Path, columns: Mapping[str, str], split: str | None) -> Source:
    """Open a dataset that `datasets` has saved at `path`.

    Raises:
        SceditError: it is damaged, or has no images or no such split.
    """
    datasets = _library(str(path))
    loaded = _told(str(path), datasets.load_from_disk, str(path))
    return _of_split(loaded, str(path), path, columns, split)


def open_parquet(root: Path, files: Sequence[str], columns: Mapping[str, str], split: str | None) -> Source:
    """Open one split of the parquet `files` below the folder `root`. Raises as `open_saved`."""
    name = str(root / files[0]) if len(files) == 1 else str(root)
    load, splits = _library(name).load_dataset, in_files(files)
    taken = chosen(list(splits), split, name)
    for file in splits[taken]:
        check_fetched(root / file, f"{root}/{file}")
    loaded = _told(name, load, "parquet", data_files=[str(root / file) for file in splits[taken]], split="train")
    return replace(_source(loaded, name, root, columns), splits=tuple(splits), split=taken)


def open_by_name(
    name: str, columns: Mapping[str, str], split: str | None, subset: str | None, revision: str | None
) -> Source:
    """Open a dataset on the hub.

    Raises:
        SceditError: the hub cannot be reached or has no such dataset; or as in `open_saved`.
    """
    loaded = _told(name, _library(name).load_dataset, name, name=subset, revision=revision)
    return _of_split(loaded, name, None, columns, split)


def _library(what: str):
    try:
        import datasets
    except ImportError:
        raise not_installed(what, "datasets", "datasets") from None
    datasets.disable_progress_bars()
    return datasets


def _told(what: str, load: Callable[..., Any], /, *arguments: Any, **options: Any) -> Dataset | DatasetDict:
    try:
        return load(*arguments, **options)
    except MemoryError:
        raise
    except Exception as error:  # errors come from the network, the hub, Arrow, and the library itself
        raise SceditError(
            f"{what}: no dataset that can be loaded: {reason(error)}",
            hint="check the name; one of the hub needs the network once, and may need `subset`",
        ) from error


def _of_split(
    loaded: Dataset | DatasetDict, name: str, place: Path | None, columns: Mapping[str, str], split: str | None
) -> Source:
    if not isinstance(loaded, dict):
        if split:
            raise SceditError(f"`split` {split}: {name} has no splits", "leave it out", "src.split")
        return _source(loaded, name, place, columns)
    taken = chosen(list(loaded), split, name)
    return replace(_source(loaded[taken], name, place, columns), splits=tuple(loaded), split=taken)


def _source(dataset: Dataset, name: str, place: Path | None, columns: Mapping[str, str]) -> Source:
    from datasets import Image

    features = dataset.features
    roots = _roots(place)
    encoded = [column for column, kind in features.items() if isinstance(kind, Image)]
    able = [column for column, kind in features.items() if _may_hold_images(kind)]

    def column(wanted: str) -> str:
        if (found := column_named(features, wanted)) is None:
            raise SceditError(f"{name} has no column {wanted}", hint=f"it has {', '.join(features)}")
        return found

    kinds = {kind: column(wanted) for kind, wanted in columns.items() if kind not in ("image", "text")}
    texts = [column(columns["text"])] if "text" in columns else text_columns(features)
    image = column(columns["image"]) if "image" in columns else (
        _of_images([each for each in encoded if each not in kinds.values()], name)
        or _of_images([e for e in able if e not in kinds.values() and _has_image(dataset, e, roots)], name)
    )
    for each in filter(None, (image, *kinds.values())):
        if each not in able:
            raise SceditError(
                f"{name}: {each} is no column of images",
                hint=f"those are {', '.join(able) or 'none'}; `columns=image=NAME,depth=NAME` names them, and a table "
                "of files' names is called metadata.parquet",
            )
    if image is None:
        addressed = next((each for each, cell in next(iter(dataset), {}).items() if _is_address(cell)), None)
        hint = f"it has {', '.join(features)}; `columns=image=NAME` names one"
        hint = f"{addressed} holds addresses: img2dataset fetches what they name" if addressed else hint
        raise SceditError(f"{name} has no column of images", hint)
    if not len(dataset):
        raise SceditError(f"{name} holds no images")
    for each in {image, *kinds.values()}.intersection(encoded):
        dataset = dataset.cast_column(each, Image(decode=False))
    kept = [each for each in features if each in texts or not _is_nested(features[each])]
    dataset = dataset.select_columns(list(dict.fromkeys((image, *kinds.values(), *kept))))

    def entries() -> Iterator[Entry]:
        for number, row in enumerate(dataset):
            at = f"{name} row {number}"
            text, said_in = caption_in(row, texts, at)
            yield Entry(
                name=f"row {number}",
                image=_blob(row[image], f"row {number}", roots),
                text=text,
                conditions={kind: _blob(row[each], f"row {number}: {kind}", roots) for kind, each in kinds.items()},
                more=further(row, {image, said_in, *kinds.values()}, at),
            )

    return Source(len(dataset), entries())


def _may_hold_images(kind: Any) -> bool:
    """Return whether a column of this type may hold image files: as the library's images, as bytes, as a struct of
    bytes and path, or as a list of bytes."""
    from datasets import Image, LargeList, List, Value

    if isinstance(kind, dict):
        return bool({"bytes", "path"} & kind.keys())
    if isinstance(kind, List | LargeList):
        return isinstance(kind.feature, Value) and kind.feature.dtype == "uint8"
    return isinstance(kind, Image) or (isinstance(kind, Value) and kind.dtype in _BINARY)


def _is_nested(kind: Any) -> bool:
    """Return whether cells of this type are not plain texts or numbers, so that the metadata cannot keep them."""
    from datasets import ClassLabel, Value

    return not isinstance(kind, Value | ClassLabel) or getattr(kind, "dtype", "") in _BINARY


def _of_images(columns: Sequence[str], name: str) -> str | None:
    """Return which of these columns of images holds the images to learn, not conditions; None where there are none.

    Raises:
        SceditError: there are several and none is called image. The first is no safe guess: in the data of ControlNet's
            tutorial it holds the conditions.
    """
    image = column_named(columns, "image")
    if image is None and len(columns) > 1:
        raise SceditError(
            f"{name} has several columns of images, {', '.join(columns)}, and none is called image",
            hint=f"say what each is, as in `columns=image={columns[-1]},canny={columns[0]}`",
        )
    return image or next(iter(columns), None)


def _is_address(cell: Any) -> bool:
    return isinstance(cell, str) and is_remote(cell) and len(cell.split()) == 1


def _has_image(dataset: Dataset, column: str, roots: list[Path]) -> bool:
    """Return whether the first non-empty cell holds an image."""
    cells = (row[column] for row in dataset.select_columns([column]).take(min(_TRIED, len(dataset))))
    blob = next(filter(None, (_blob(cell, column, roots) for cell in cells)), None)
    if blob is None:
        return False
    try:
        with blob.open() as file, reading(file, column):
            return True
    except SceditError:  # it holds other data
        return False


def _roots(place: Path | None) -> list[Path]:
    """Return the folders that may hold files named by rows: the dataset's own, and the caches of the libraries."""
    from datasets import config

    kept = (config.HF_DATASETS_CACHE, config.DOWNLOADED_DATASETS_PATH, config.EXTRACTED_DATASETS_PATH, downloads())
    return [Path(os.path.realpath(root)) for root in (*filter(None, (place,)), *kept)]


def _blob(cell: Any, name: str, roots: list[Path]) -> Blob | None:
    """Return the image that a cell contains, or names as a file relative to the first of `roots`; None where empty."""
    held = cell if isinstance(cell, dict) else {"bytes": cell}
    content, path = held.get("bytes"), held.get("path")
    if content is not None:
        return Blob.of_bytes(bytes(content), name)
    return Blob(name, lambda: _inside(path, roots)) if path is not None else None


def _inside(path: str, roots: list[Path]) -> BinaryIO:
    path = path.replace("\0", "")
    places = [Path(os.path.realpath(roots[0] / name)) for name in (path, path.replace("\\", "/"))]
    place = next(filter(os.path.isfile, places), places[0])
    if not any(map(place.is_relative_to, roots)) or not os.path.isfile(place):
        raise SceditError(f"{shortened(repr(path))} is no file in the dataset", hint="name files inside its folder")
    return place.open("rb")

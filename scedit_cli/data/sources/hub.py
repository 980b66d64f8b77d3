"""Hugging Face datasets: saved on disk, by name on the hub, or parquet files with pictures in them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from scedit_cli.data.places import is_remote
from scedit_cli.data.sources.entry import Blob, Entry, Source, text_of
from scedit_cli.data.sources.tables import TEXTS
from scedit_cli.errors import SceditError, not_installed, reason, shortened
from scedit_cli.files import check_fetched

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

_SAVED = ("dataset_info.json", "dataset_dict.json")


def is_saved(path: Path) -> bool:
    """Whether `datasets` has written this folder by `save_to_disk`."""
    return any((path / name).is_file() for name in _SAVED)


def parquet_files(path: Path) -> list[str]:
    """The parquet files that `path` is or holds."""
    if path.suffix == ".parquet" and path.is_file():
        return [str(path)]
    return sorted(str(file) for file in path.rglob("*.parquet")) if path.is_dir() else []


def open_saved(path: Path, columns: Mapping[str, str], split: str | None) -> Source:
    """Raises SceditError: damaged, or without pictures or the split."""
    datasets = _library(str(path))
    loaded = _told(str(path), datasets.load_from_disk, str(path))
    return _source(_chosen(loaded, str(path), split), str(path), path, columns)


def open_parquet(files: list[str], path: Path, columns: Mapping[str, str], split: str | None) -> Source:
    """Raises SceditError as `open_saved`."""
    load = _library(str(path)).load_dataset
    for file in files:
        check_fetched(file, file)
    loaded = _told(str(path), load, "parquet", data_files=files)
    return _source(_chosen(loaded, str(path), split), str(path), path if path.is_dir() else path.parent, columns)


def open_by_name(
    name: str, columns: Mapping[str, str], split: str | None, subset: str | None, revision: str | None
) -> Source:
    """Raises SceditError: the hub cannot be reached or has no such dataset; or as `open_saved`."""
    loaded = _told(name, _library(name).load_dataset, name, name=subset, revision=revision)
    return _source(_chosen(loaded, name, split), name, None, columns)


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
    except Exception as error:  # from the network, the hub, Arrow, and the library itself
        raise SceditError(
            f"{what}: no dataset that can be loaded: {reason(error)}",
            hint="check the name; one of the hub needs the network once, and may need --subset",
        ) from error


def _chosen(loaded: Dataset | DatasetDict, name: str, split: str | None) -> Dataset:
    """The split that is asked for, else "train", else the only one."""
    if not isinstance(loaded, dict):
        if split:
            raise SceditError(f"--split {split}: {name} has no splits", hint="leave it out")
        return loaded
    wanted = split or ("train" if "train" in loaded or len(loaded) > 1 else next(iter(loaded)))
    if wanted not in loaded:
        raise SceditError(f"{name} has no split {wanted}", hint=f"--split takes one of {', '.join(loaded)}")
    return loaded[wanted]


def _source(dataset: Dataset, name: str, place: Path | None, columns: Mapping[str, str]) -> Source:
    from datasets import Image

    pictures = [column for column, kind in dataset.features.items() if isinstance(kind, Image)]
    text = columns.get("text") or next((column for column in TEXTS if column in dataset.features), None)
    kinds = {key: column for key, column in columns.items() if key not in ("image", "text")}
    left = [column for column in pictures if column not in kinds.values()]
    image = columns.get("image") or ("image" if "image" in left else next(iter(left), None))
    if len(left) > 1 and image not in (columns.get("image"), "image"):
        raise SceditError(
            f"{name} has several columns of pictures, {', '.join(left)}, and none is called image",
            hint=f"say what each is, as in --columns image={left[-1]},canny={left[0]}",
        )
    for column in filter(None, (image, *kinds.values())):
        if column not in pictures:
            raise SceditError(
                f"{name}: {column} is no column of pictures",
                hint=f"those are {', '.join(pictures) or 'none'}; --columns image=NAME,depth=NAME names them",
            )
    if image is None:
        addressed = next((c for c, value in next(iter(dataset), {}).items() if is_remote(str(value))), None)
        has = f"it has {', '.join(dataset.features)}"
        hint = f"{addressed} holds addresses: img2dataset fetches what they name" if addressed else has
        raise SceditError(f"{name} has no column of pictures", hint)
    if text is not None and text not in dataset.features:
        raise SceditError(f"{name} has no column {text}", hint=f"it has {', '.join(dataset.features)}")
    if not len(dataset):
        raise SceditError(f"{name} holds no pictures")
    for column in (image, *kinds.values()):
        dataset = dataset.cast_column(column, Image(decode=False))
    dataset = dataset.select_columns([image, *filter(None, (text,)), *kinds.values()])
    roots = _roots(place)

    def entries() -> Iterator[Entry]:
        for number, row in enumerate(dataset):
            at = f"{name} row {number}"
            yield Entry(
                name=f"row {number}",
                image=_blob(row[image], f"row {number}", roots),
                text=text_of(row[text], f"{at}: {text}") if text else None,
                conditions={
                    kind: _blob(row[column], f"row {number}: {kind}", roots) for kind, column in kinds.items()
                },
            )

    return Source(len(dataset), entries())


def _roots(place: Path | None) -> list[Path]:
    """Where files that rows name may lie: in the folder of the dataset, and where the library keeps what it fetches."""
    from datasets import config
    from huggingface_hub.constants import HF_HUB_CACHE

    kept = (config.HF_DATASETS_CACHE, config.DOWNLOADED_DATASETS_PATH, config.EXTRACTED_DATASETS_PATH, HF_HUB_CACHE)
    return [Path(os.path.realpath(root)) for root in (*filter(None, (place,)), *kept)]


def _blob(cell: dict[str, Any] | None, name: str, roots: list[Path]) -> Blob | None:
    """A picture that is in its row, or in a file that the row names, relative to the first of `roots`."""
    if cell is None or (cell["bytes"] is None and cell["path"] is None):
        return None
    if cell["bytes"] is not None:
        return Blob.of_bytes(cell["bytes"], name)
    return Blob(name, lambda: _inside(cell["path"], roots))


def _inside(path: str, roots: list[Path]) -> BinaryIO:
    place = Path(os.path.realpath(roots[0] / path.replace("\0", "")))
    if not any(map(place.is_relative_to, roots)) or not os.path.isfile(place):
        raise SceditError(f"{shortened(repr(path))} is no file in the dataset", hint="name files inside its folder")
    return place.open("rb")

"""Hugging Face datasets: saved on disk, by name on the hub, or parquet files with pictures in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scedit_cli.data.sources.entry import Blob, Entry, Source, text_of
from scedit_cli.data.sources.tables import TEXTS
from scedit_cli.errors import SceditError, not_installed, reason

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
    return _source(_chosen(_told(str(path), datasets.load_from_disk, str(path)), str(path), split), str(path), columns)


def open_parquet(files: list[str], path: Path, columns: Mapping[str, str], split: str | None) -> Source:
    """Raises SceditError as `open_saved`."""
    load = _library(str(path)).load_dataset
    return _source(_chosen(_told(str(path), load, "parquet", data_files=files), str(path), split), str(path), columns)


def open_by_name(
    name: str, columns: Mapping[str, str], split: str | None, subset: str | None, revision: str | None
) -> Source:
    """Raises SceditError: the hub cannot be reached or has no such dataset; or as `open_saved`."""
    loaded = _told(name, _library(name).load_dataset, name, name=subset, revision=revision)
    return _source(_chosen(loaded, name, split), name, columns)


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


def _source(dataset: Dataset, name: str, columns: Mapping[str, str]) -> Source:
    from datasets import Image

    pictures = [column for column, kind in dataset.features.items() if isinstance(kind, Image)]
    image = columns.get("image") or ("image" if "image" in pictures else next(iter(pictures), None))
    text = columns.get("text") or next((column for column in TEXTS if column in dataset.features), None)
    kinds = {key: column for key, column in columns.items() if key not in ("image", "text")}
    for column in filter(None, (image, *kinds.values())):
        if column not in pictures:
            raise SceditError(
                f"{name}: {column} is no column of pictures",
                hint=f"those are {', '.join(pictures) or 'none'}; --columns image=NAME,depth=NAME names them",
            )
    if image is None:
        raise SceditError(f"{name} has no column of pictures", hint=f"it has {', '.join(dataset.features)}")
    if text is not None and text not in dataset.features:
        raise SceditError(f"{name} has no column {text}", hint=f"it has {', '.join(dataset.features)}")
    if not len(dataset):
        raise SceditError(f"{name} holds no pictures")
    for column in (image, *kinds.values()):
        dataset = dataset.cast_column(column, Image(decode=False))
    dataset = dataset.select_columns([image, *filter(None, (text,)), *kinds.values()])

    def entries() -> Iterator[Entry]:
        for number, row in enumerate(dataset):
            at = f"{name} row {number}"
            yield Entry(
                name=f"row {number}",
                image=_blob(row[image], f"row {number}"),
                text=text_of(row[text], f"{at}: {text}") if text else None,
                conditions={kind: _blob(row[column], f"row {number}: {kind}") for kind, column in kinds.items()},
            )

    return Source(len(dataset), entries())


def _blob(cell: dict[str, Any] | None, name: str) -> Blob | None:
    if cell is None:
        return None
    return Blob.of_bytes(cell["bytes"], name) if cell["bytes"] is not None else Blob.of_file(Path(cell["path"]), name)

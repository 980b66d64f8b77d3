"""Sources of images to prepare: folders, zips, metadata tables, shards, Hugging Face datasets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from scedit_cli.data.formats import is_shard, suffix_of
from scedit_cli.data.licences import LICENCES, licences_in
from scedit_cli.data.sources import folder, hub, rows, tables, webdataset
from scedit_cli.data.sources.entry import Blob, Entry, Images, Source
from scedit_cli.data.sources.trees import FolderTree, Tree, ZipTree
from scedit_cli.data.splits import chosen, in_folders
from scedit_cli.data.uris import is_remote
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.hub import is_hub_id
from scedit_cli.utils.io import expanded

__all__ = ["Blob", "Entry", "Images", "Source", "open_source"]


def open_source(images: Images) -> Source:
    """Open a source: its images in sequence, with their captions and condition images.

    Raises:
        SceditError: the place does not exist or is no source; or an argument does not apply to this source.
    """
    path, columns, conditions = expanded(images.place), images.columns, images.conditions
    split, subset, revision = images.split, images.subset, images.revision
    place = str(images.place)
    if webdataset.is_shards(at := place if is_remote(place) else path):
        _no(split=split, subset=subset, revision=revision, conditions=conditions)
        return webdataset.open_shards(at, columns)
    if not path.exists() and is_hub_id(place):
        _no(conditions=conditions)
        return hub.open_by_name(place, columns, split, subset, revision)
    if hub.is_saved(path):
        _no(conditions=conditions, subset=subset, revision=revision)
        return hub.open_saved(path, columns, split)
    if not path.exists():
        raise SceditError(f"{place} does not exist", "name a folder, a file or shards that are there", "src")
    _no(subset=subset, revision=revision)
    if path.is_file() and rows.is_table(path.name):
        return _open_table(path, conditions, columns, split)
    tree = ZipTree(path) if path.suffix.lower() == ".zip" and path.is_file() else FolderTree(path)
    return _open_tree(tree, conditions, columns, split)


def _open_table(
    path: Path, conditions: Mapping[str, str | Path], columns: Mapping[str, str], split: str | None
) -> Source:
    """Open a table that was named directly and may have any name."""
    _no(conditions=conditions)
    if suffix_of(path.name) == ".parquet" and hub.hold_images(path.parent, [path.name]):
        return hub.open_parquet(path.parent, [path.name], columns, split)
    _no(split=split)
    return _of_tables(FolderTree(path.parent), [path.name], columns)


def _open_tree(
    tree: Tree, conditions: Mapping[str, str | Path], columns: Mapping[str, str], split: str | None
) -> Source:
    elsewhere = {folder.inside_of(tree, place).partition("/")[0] for place in conditions.values()}
    splits = in_folders(tree, tables.named(tree), elsewhere)
    taken = chosen(list(splits), split, tree.name) if splits else None
    tree.leave_out(tuple(folder for other, each in splits.items() if other != taken for folder in each))
    found = tables.find(tree, splits.get(taken, []))
    parquet = [file for file in tree.files if suffix_of(file) == ".parquet"]
    parquet = list(map(tree.on_disk, parquet)) if isinstance(tree, FolderTree) else []
    is_else = tree.images or any(map(is_shard, tree.files))
    if found:
        _no(conditions=conditions, split=not splits and split)
        source = _of_tables(tree, found, columns)
    elif parquet and (not is_else or hub.hold_images(tree.path, parquet)):
        _no(conditions=conditions)
        source = hub.open_parquet(tree.path, parquet, columns, None if splits else split)
        return replace(source, orphans=tree.images, hidden=tree.hidden)
    else:
        _no(columns=columns, split=not splits and split)
        source = folder.open_folder(tree, conditions)
        source = replace(_licensed(source, tree, [LICENCES]), unread=tables.unread(tree, [], (*tables.KINDS, ".json")))
    return replace(source, splits=tuple(splits), split=taken)


def _of_tables(tree: Tree, found: Sequence[str], columns: Mapping[str, str]) -> Source:
    licences = [f"{tables.folder_of(each)}{LICENCES}" for each in found]
    source = _licensed(tables.open_tables(tree, found, columns), tree, licences)
    return replace(source, unread=tables.unread(tree, found, tables.KINDS))


def _licensed(source: Source, tree: Tree, files: Sequence[str]) -> Source:
    licences: dict[str, Any] = {}
    for name in filter(set(tree.files).__contains__, files):
        with tree.open(name) as file:
            licences |= licences_in(file)
    return replace(source, licences=licences)


def _no(**arguments: object) -> None:
    """Refuse arguments that do not apply to a source."""
    if given := [name for name, value in arguments.items() if value]:
        raise SceditError(
            f"`{given[0]}` means nothing for this source",
            "`conditions` pairs folders by stem, `columns` names a table's columns, "
            "`split`, `subset` and `revision` choose from a Hugging Face dataset",
            f"src.{given[0]}",
        )

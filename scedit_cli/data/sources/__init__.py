"""Where pictures to prepare come from: folders, zips, metadata tables, shards, Hugging Face datasets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from scedit_cli.data.licences import LICENCES, licences_in
from scedit_cli.data.places import is_remote
from scedit_cli.data.sources import folder, hub, tables, webdataset
from scedit_cli.data.sources.entry import Blob, Entry, Source
from scedit_cli.data.sources.trees import FolderTree, Tree, ZipTree
from scedit_cli.errors import SceditError
from scedit_cli.files import expanded
from scedit_cli.hub import is_hub_id

__all__ = ["Blob", "Entry", "Source", "open_source"]


def open_source(
    src: str | Path,
    *,
    conditions: Mapping[str, str | Path] | None = None,
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
    subset: str | None = None,
    revision: str | None = None,
) -> Source:
    """The pictures of `src`, one after the other, with their captions and condition pictures.

    Args:
        src: a folder or zip of pictures with .txt or .caption files, or with metadata.jsonl, .csv or .parquet;
            WebDataset shards (a .tar or .tar.gz, a folder of them, or a pattern as "shards/{000..099}.tar" or
            "https://…/{000..099}.tar"); parquet files with pictures in them; a Hugging Face dataset, saved on disk or
            by its name on the hub.
        conditions: kind -> folder (or zip) of condition pictures, paired with the pictures by their stems.
        columns: of a table or shard, "image", "text" or a kind of condition -> how its column (or suffix) is called.
        split, subset, revision: of a Hugging Face dataset.

    Raises:
        SceditError: nothing is there, or it is none of these; or an option that this source has no use for.
    """
    path, columns = expanded(src), dict(columns or {})
    if webdataset.is_shards(place := str(src) if is_remote(str(src)) else path):
        _no(split=split, subset=subset, revision=revision, conditions=conditions)
        return webdataset.open_shards(place, columns)
    if not path.exists() and is_hub_id(src):
        _no(conditions=conditions)
        return hub.open_by_name(str(src), columns, split, subset, revision)
    if hub.is_saved(path):
        _no(conditions=conditions, subset=subset, revision=revision)
        return hub.open_saved(path, columns, split)
    if not path.exists():
        raise SceditError(f"{src} does not exist", hint="name a folder, a file or shards that are there")
    tree = ZipTree(path) if path.suffix.lower() == ".zip" and path.is_file() else FolderTree(path)
    if table := tables.find(tree):
        _no(split=split, subset=subset, revision=revision, conditions=conditions)
        return _licensed(tables.open_table(tree, table, columns), tree)
    if files := hub.parquet_files(path):
        _no(conditions=conditions, subset=subset, revision=revision)
        return hub.open_parquet(files, path, columns, split)
    _no(split=split, subset=subset, revision=revision, columns=columns)
    return _licensed(folder.open_folder(tree, conditions or {}), tree)


def _licensed(source: Source, tree: Tree) -> Source:
    if LICENCES not in tree.files:
        return source
    with tree.open(LICENCES) as file:
        return replace(source, licences=licences_in(file))


def _no(**options: object) -> None:
    """Options that a source has no use for are mistakes."""
    if given := [name for name, value in options.items() if value]:
        raise SceditError(
            f"--{given[0]} means nothing for this source",
            hint="--cond pairs folders by stem, --columns names a table's columns, "
            "--split, --subset and --revision choose from a Hugging Face dataset",
        )

"""Splits by the names of folders and files, as in Hugging Face datasets."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from scedit_cli.utils.errors import SceditError

if TYPE_CHECKING:
    from scedit_cli.data.sources.trees import Tree

_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}


def in_files(files: Iterable[str]) -> dict[str, list[str]]:
    """Return the files by split, which a word of their path names, as in "data/train-00000.parquet". If any path names
    none, all files are "train"."""
    files, splits = list(files), {}
    for file in files:
        words = re.split("[^a-z]+", file.lower())
        splits.setdefault(next((_NAMES[word] for word in words if word in _NAMES), None), []).append(file)
    return {"train": files} if None in splits else splits


def in_folders(tree: Tree, tables: Collection[str], elsewhere: Collection[str]) -> dict[str, list[str]]:
    """Return by split the folders of a tree or its `images/` that are named as splits, each with its slash; {} unless
    no other folder but those `elsewhere` has images, or a folder of several splits holds one of the `tables`."""
    root = "images/" if any(file.startswith("images/") for file in tree.images) else ""
    inside = [file.removeprefix(root) for file in tree.images if file.startswith(root)]
    tops = {file.partition("/")[0] if "/" in file else "" for file in inside} - {*elsewhere, "conditions"}
    splits: dict[str, list[str]] = {}
    for top in sorted(tops):
        if top.lower() in _NAMES:
            splits.setdefault(_NAMES[top.lower()], []).append(f"{root}{top}/")
    folders = [folder for each in splits.values() for folder in each]
    has_table = any(f"{table.rpartition('/')[0]}/" in folders for table in tables)
    return splits if len(folders) == len(tops) or (len(splits) > 1 and has_table) else {}


def chosen(splits: Sequence[str], wanted: str | None, name: str) -> str:
    """Return the split `wanted`; by default "train", or the only one where there is just one.

    Raises:
        SceditError: the dataset `name` has no such split.
    """
    split = wanted or ("train" if "train" in splits or len(splits) > 1 else splits[0])
    split = split if split in splits else _NAMES.get(split.lower(), split)
    if split not in splits:
        raise SceditError(f"{name} has no split {split}", hint=f"`split` takes one of {', '.join(splits)}")
    return split

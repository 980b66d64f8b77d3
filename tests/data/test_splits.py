"""Splits of folders and files: one is taken, by name or by default, and the others are told of and not mixed in."""

from __future__ import annotations

import pytest

from scedit_cli.utils.errors import SceditError
from tests.archives import write_tar
from tests.data.test_sources import png, write, zipped
from tests.data.test_tables import csv_table, jsonl, lines, parquet_table, plain_parquet, rows, saved_dataset
from tests.preparing import open_source, prepare


def tables(folder, train="train", validation="validation"):
    jsonl(folder / train, rows(text="abc"))
    csv_table(folder / validation, rows(text="def"))
    return parquet_table(folder / "test", rows(text="ghi")).parent


def tables_beside_a_picture(folder):
    return write(tables(folder), {"teaser.png": png(9)})


def abbreviated(folder):
    return tables(folder, "Train", "val")


def tables_of_classes(folder):
    for split, texts in {"train": "abc", "validation": "def", "test": "ghi"}.items():
        jsonl(folder / split / "cats", rows(text=texts))
    return folder


def one_table_at_the_root(folder):
    told = []
    for split, texts in {"train": "abc", "validation": "def", "test": "ghi"}.items():
        write(folder / split, {f"{text}.png": png(ord(text)) for text in texts})
        told += [{"file_name": f"./{split}/{text}.png", "text": text} for text in texts]
    return write(folder, {"metadata.jsonl": lines(told)})


def files_beside(folder):
    for split, texts in {"train": "abc", "validation": "def", "test": "ghi"}.items():
        pictures = {f"{text}.png": png(ord(text)) for text in texts}
        write(folder / split, pictures | {f"{text}.txt": text for text in texts})
    return folder


def files_beside_in_images(folder):
    """Condition pictures too; those of other splits are no orphans."""
    for split, names in {"train": "abc", "validation": "def", "test": "ghi"}.items():
        write(folder / "conditions/depth" / split, {f"{name}.png": png(1) for name in names})
    return files_beside(folder / "images").parent


def zip_of_folders(folder):
    made = files_beside(folder / "x")
    files = {str(path.relative_to(made)): path.read_bytes() for path in made.rglob("*") if path.is_file()}
    return zipped(folder, files)


def parquet_files(folder):
    for name, texts in {"train-00000-of-00001": "abc", "validation-00000": "def", "test": "ghi"}.items():
        made = plain_parquet(folder / name, rows(text=texts)) / "data.parquet"
        write(folder / "src/data", {f"{name}.parquet": made.read_bytes()})
    return folder / "src"


def parquet_folders(folder):
    for name, texts in {"train": "abc", "valid": "def", "test": "ghi"}.items():
        plain_parquet(folder / name, rows(text=texts))
    return folder


def saved(folder):
    from datasets import DatasetDict, load_from_disk

    parts = {"train": "abc", "validation": "def", "test": "ghi"}
    loaded = {s: load_from_disk(str(saved_dataset(folder / s, rows(text=texts)))) for s, texts in parts.items()}
    DatasetDict(loaded).save_to_disk(str(folder / "all"))
    return folder / "all"


LAYOUTS = [
    tables, tables_beside_a_picture, abbreviated, tables_of_classes, one_table_at_the_root, files_beside,
    files_beside_in_images, zip_of_folders, parquet_files, parquet_folders, saved,
]  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_split_is_taken(layout, tmp_path):
    pytest.importorskip("datasets")
    src = layout(tmp_path / "src")
    for split, wanted in {None: "abc", "train": "abc", "validation": "def", "val": "def", "test": "ghi"}.items():
        source = open_source(src, split=split)
        texts = [e.text or next(iter(e.captions.values())).open().read().decode() for e in source.entries]
        assert texts == list(wanted) and source.count == 3
        assert source.orphans == (["teaser.png"] if layout is tables_beside_a_picture else [])
        assert set(source.splits) == {"train", "validation", "test"}
        assert source.split == {None: "train", "val": "validation"}.get(split, split)
    with pytest.raises(SceditError, match="has no split other") as error:
        open_source(src, split="other")
    assert error.value.hint.startswith("--split takes one of ")


def test_the_report_tells_which_split_was_taken(tmp_path):
    report = prepare(files_beside(tmp_path / "src"), tmp_path / "out", size=64, split="dev").report
    assert report.document()["split"] == "validation"
    assert sorted(report.document()["splits"]) == ["test", "train", "validation"]
    [row] = [text for name, text in report.summary() if name == "split"]
    assert row.startswith("validation; nothing of ") and "`split`" in row


def test_folders_of_classes_are_no_splits(tmp_path):
    """Nor is a folder among others that happens to be called as one, nor one beside pictures."""
    for place in ("cats", "dogs", "test"):
        write(tmp_path / place, {f"{place}.png": png(len(place)), f"{place}.txt": place})
    assert open_source(tmp_path).count == 3 and open_source(tmp_path).splits == ()
    with pytest.raises(SceditError, match="--split means nothing"):
        open_source(tmp_path, split="test")
    jsonl(tmp_path / "test", rows(text="abc"))  # a dataset that somebody has made in there
    assert open_source(tmp_path).count == 6
    assert [file for file, _ in open_source(tmp_path).unread] == ["test/metadata.jsonl"]


def test_tables_in_every_folder_are_read_together(tmp_path):
    jsonl(tmp_path / "cats", rows(text="abc"))
    csv_table(tmp_path / "dogs", [row | {"depth_file_name": row["file_name"]} for row in rows(text="def")])
    source = open_source(tmp_path)
    assert [entry.text for entry in source.entries] == list("abcdef") and source.unread == []
    assert [entry.conditions["depth"] is None for entry in open_source(tmp_path).entries] == [True] * 3 + [False] * 3


@pytest.mark.parametrize("named", [False, True])
def test_condition_pictures_of_one_split(named, tmp_path):
    write(files_beside(tmp_path / "src"), {f"maps/{s}/{n}.png": png(1) for s, n in (("train", "a"), ("test", "g"))})
    maps = tmp_path / "src/maps" if named else "maps"
    source = open_source(tmp_path / "src", conditions={"depth": maps}, split="test")
    assert [entry.conditions["depth"] is None for entry in source.entries] == [False, True, True]
    assert source.orphans == []


def test_shards_of_several_splits_are_not_mixed(tmp_path):
    for name in ("train-0000.tar", "train-0001.tar", "val-0000.tar"):
        write_tar(tmp_path / name, {f"{name[:3]}.png": png(1)})
    with pytest.raises(SceditError, match="several splits: train-0000.tar, val-0000.tar") as error:
        open_source(tmp_path)
    assert error.value.hint.endswith("/train-{0000..0009}.tar")
    assert open_source(f"{tmp_path}/train-{{0000..0001}}.tar").count == 2

"""Parquet files of pictures without a Hugging Face schema, as pandas, PyArrow and Polars write them."""

from __future__ import annotations

import pytest

from scedit_cli.utils.errors import SceditError
from tests.data.test_sources import png, write
from tests.preparing import open_source, prepare

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("datasets")
PICTURES = [png(number) for number in range(3)]
STRUCT = {"bytes": pyarrow.binary(), "path": pyarrow.string()}
TYPES = {
    "binary": (pyarrow.binary(), PICTURES),
    "large_binary": (pyarrow.large_binary(), PICTURES),
    "struct": (pyarrow.struct(STRUCT), [{"bytes": data, "path": "a.png"} for data in PICTURES]),
    "struct without paths": (pyarrow.struct(STRUCT), [{"bytes": data, "path": None} for data in PICTURES]),
    "struct of bytes": (pyarrow.struct({"bytes": pyarrow.large_binary()}), [{"bytes": data} for data in PICTURES]),
    "struct of paths": (pyarrow.struct(STRUCT), [{"bytes": None, "path": f"{n}.png"} for n in range(3)]),
    "paths of Windows": (pyarrow.struct(STRUCT), [{"bytes": None, "path": f".\\{n}.png"} for n in range(3)]),
    "list": (pyarrow.list_(pyarrow.uint8()), [list(data) for data in PICTURES]),
    "after nulls": (pyarrow.binary(), [None, *PICTURES]),
}
EMBEDDING = {"embedding": pyarrow.array([b"\x00\x01"] * 3, pyarrow.binary())}


def table(path, columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table(columns), path)
    return path


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", ["image", "jpg", "anything"])
@pytest.mark.parametrize("named", [False, True])
def test_columns_of_pictures_of_every_type(kind, name, named, tmp_path):
    arrow, cells = TYPES[kind]
    write(tmp_path, {f"{number}.png": data for number, data in enumerate(PICTURES)} if "path" in kind else {})
    columns = {"caption": [f"t{n}" for n in range(len(cells))], name: pyarrow.array(cells, arrow)}
    table(tmp_path / "data.parquet", columns)
    source = open_source(tmp_path, columns={"image": name.upper()} if named else {})
    images = [entry.image and entry.image.open().read() for entry in source.entries]
    assert images == [*[None] * (len(cells) - 3), *PICTURES] and source.count == len(cells)


def test_the_column_that_holds_pictures_is_found(tmp_path):
    table(tmp_path / "a.parquet", EMBEDDING | {"shot": pyarrow.array(PICTURES), "text": list("abc")})
    assert [entry.image.open().read() for entry in open_source(tmp_path / "a.parquet").entries] == PICTURES
    table(tmp_path / "b.parquet", EMBEDDING | {"text": list("abc")})
    with pytest.raises(SceditError, match="has no column of images") as error:
        open_source(tmp_path / "b.parquet")
    assert error.value.hint == "it has embedding, text; --columns image=NAME names one"
    entry = next(iter(open_source(tmp_path / "b.parquet", columns={"image": "embedding"}).entries))
    assert entry.image.open().read() == b"\x00\x01"


def test_conditions_in_plain_columns(tmp_path):
    columns = {"image": pyarrow.array(PICTURES), "edges": pyarrow.array([png(9), None, png(9)]), "text": list("abc")}
    table(tmp_path / "a.parquet", columns)
    report = prepare(tmp_path / "a.parquet", tmp_path / "out", size=64, columns={"canny": "edges"}).report
    assert report.images == 2 and report.rejected == [("row 1", "unpaired", "it has no canny image")]


@pytest.mark.parametrize(("cells", "sentence"), [
    (["aGVsbG8="] * 3, "no column of pictures|has no column image"),
    ([1, 2, 3], "has no column file_name"),
    (pyarrow.array([[[0, 1], [2, 3]]] * 3, pyarrow.list_(pyarrow.list_(pyarrow.uint8()))), "has no column file_name"),
])  # fmt: skip
def test_columns_that_hold_no_pictures_are_told(cells, sentence, tmp_path):
    src = table(tmp_path / "a.parquet", {"image": cells, "text": list("abc")})
    with pytest.raises(SceditError, match=f"{sentence}|has no column file_name"):
        open_source(src)
    table(tmp_path / "a.parquet", EMBEDDING | {"image": cells, "text": list("abc")})
    with pytest.raises(SceditError, match="image is no column of images") as error:
        open_source(src, columns={"image": "image"})
    assert "those are embedding; " in error.value.hint


def test_several_files_are_one_dataset(tmp_path):
    for number, data in enumerate(PICTURES):
        table(tmp_path / f"deep/part-{number}.parquet", {"image": [data], "text": [f"t{number}"]})
    assert [entry.image.open().read() for entry in open_source(tmp_path).entries] == PICTURES
    table(tmp_path / "deep/part-3.parquet", {"other": [1]})
    with pytest.raises(SceditError, match="no dataset that can be loaded"):
        open_source(tmp_path)


def test_pictures_beside_a_dataset_of_parquet_files_are_named(tmp_path):
    write(tmp_path, {"assets/teaser.png": png(9)})
    table(tmp_path / "data/train-00000.parquet", {"image": PICTURES, "text": list("abc")})
    source = open_source(tmp_path)
    assert (source.count, source.orphans, source.split) == (3, ["assets/teaser.png"], "train")


def test_parquet_files_beside_pictures_are_named_where_they_hold_none(tmp_path):
    write(tmp_path, {"a.png": png(9), "a.txt": "t"})
    table(tmp_path / "captions.parquet", {"file": ["a.png"], "words": ["w"]})
    source = open_source(tmp_path)
    assert source.count == 1 and [file for file, _ in source.unread] == ["captions.parquet"]
    entries = open_source(tmp_path / "captions.parquet", columns={"image": "file", "text": "words"}).entries
    assert [entry.text for entry in entries] == ["w"]


def test_a_bad_cell_is_named_by_its_row(tmp_path):
    table(tmp_path / "a.parquet", {"image": pyarrow.array([PICTURES[0], b"x", b"", None]), "text": list("abcd")})
    report = prepare(tmp_path / "a.parquet", tmp_path / "out", size=64).report
    assert [(name, fault) for name, fault, _ in report.rejected] == [
        ("row 1", "unreadable"), ("row 2", "unreadable"), ("row 3", "unpaired")
    ]  # fmt: skip

"""Tables as other tools write them: the same pictures, captions and weights, whichever wrote them."""

from __future__ import annotations

import csv
import io
import json
import zipfile

import pytest

from scedit_cli.data.dataset import open_dataset
from scedit_cli.utils.errors import SceditError
from tests.archives import write_tar
from tests.data.test_sources import png, write
from tests.preparing import open_source, prepare

FILES = {f"images/{number}.png": png(number) for number in range(3)}


def lines(rows) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def jsonl(folder, rows):
    return write(folder, FILES | {"metadata.jsonl": lines(rows)})


def nested_jsonl(folder, rows):
    inside = {f"one/{name}": data for name, data in FILES.items()}
    return write(folder, inside | {"one/metadata.jsonl": lines(rows)})


def zipped_jsonl(folder, rows):
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        for name, data in (FILES | {"metadata.jsonl": lines(rows).encode()}).items():
            archive.writestr(name, data)
    return folder / "a.zip"


def csv_table(folder, rows):
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(dict.fromkeys(name for row in rows for name in row)))
    writer.writeheader()
    writer.writerows(rows)
    return write(folder, FILES | {"metadata.csv": buffer.getvalue()})


def parquet_table(folder, rows):
    parquet, pyarrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    write(folder, FILES)
    names = dict.fromkeys(name for row in rows for name in row)
    table = pyarrow.table({name: [row.get(name) for row in rows] for name in names})
    parquet.write_table(table, folder / "metadata.parquet")
    return folder


def with_pictures(rows):
    return [{"image": FILES[row["file_name"]]} | {k: v for k, v in row.items() if k != "file_name"} for row in rows]


def plain_parquet(folder, rows):
    parquet, pyarrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    folder.mkdir(parents=True)
    names = dict.fromkeys(name for row in with_pictures(rows) for name in row)
    columns = {name: [row.get(name) for row in with_pictures(rows)] for name in names}
    parquet.write_table(pyarrow.table(columns), folder / "data.parquet")
    return folder


def saved_dataset(folder, rows):
    datasets = pytest.importorskip("datasets")
    names = dict.fromkeys(name for row in with_pictures(rows) for name in row)
    columns = {name: [row.get(name) for row in with_pictures(rows)] for name in names}
    columns["image"] = [{"bytes": data, "path": None} for data in columns["image"]]
    datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image()).save_to_disk(str(folder / "saved"))
    return folder / "saved"


def shards(folder, rows):
    files = {}
    for number, row in enumerate(rows):
        about = {name: value for name, value in row.items() if name != "file_name" and value is not None}
        files |= {f"{number}.png": FILES[row["file_name"]], f"{number}.json": json.dumps(about).encode()}
    folder.mkdir(parents=True)
    write_tar(folder / "0.tar", files)
    return folder


WRITERS = [jsonl, nested_jsonl, zipped_jsonl, csv_table, parquet_table, plain_parquet, saved_dataset, shards]
every_writer = pytest.mark.parametrize("writer", WRITERS)


def rows(**columns):
    """Three rows, each column's values in their order; None leaves a cell out."""
    made = [{"file_name": name} for name in FILES]
    for column, values in columns.items():
        for row, value in zip(made, values, strict=True):
            row |= {} if value is None else {column: value}
    return made


@every_writer
def test_the_weight_reaches_the_dataset_and_its_training(writer, tmp_path):
    made = rows(text="abc", Weight=[0.5, None, 3.0])
    prepare(writer(tmp_path / "src", made), tmp_path / "out", size=64)
    told = [json.loads(line) for line in (tmp_path / "out/metadata.jsonl").read_text().splitlines()]
    assert [row.get("weight") for row in told] == [0.5, None, 3.0]
    assert open_dataset(tmp_path / "out").weights == (0.5, 1.0, 3.0)


@every_writer
@pytest.mark.parametrize("weight", [-1.0, float("inf"), float("nan"), "heavy"])
def test_a_weight_that_is_none_is_named(writer, weight, tmp_path):
    made = rows(text="abc", weight=["1", weight, "1"] if isinstance(weight, str) else [1.0, weight, 1.0])
    src = writer(tmp_path / "src", made)
    with pytest.raises(SceditError, match=rf"(row|line|1\.json).*: weight is '?{weight}"):
        prepare(src, tmp_path / "out", size=64)
    assert not (tmp_path / "out").exists()


@every_writer
def test_columns_are_those_of_all_rows(writer, tmp_path):
    made = rows(text=[None, "b", None], Caption=[None, "no", "c"])
    assert [entry.text for entry in open_source(writer(tmp_path / "src", made)).entries] == [None, "b", "c"]


@every_writer
def test_columns_in_another_case(writer, tmp_path):
    made = rows(TEXT="abc")
    src = writer(tmp_path / "src", made)
    assert [entry.text for entry in open_source(src).entries] == list("abc")
    assert [entry.text for entry in open_source(src, columns={"text": "Text"}).entries] == list("abc")


@every_writer
def test_further_columns_are_kept(writer, tmp_path):
    made = rows(text="abc", author=["x", None, "y"], score=[1.5, 2.0, None], weight=[2.0, 2.0, 2.0])
    more = [entry.more for entry in open_source(writer(tmp_path / "src", made)).entries]
    assert [each["weight"] for each in more] == [2.0] * 3
    if writer is not shards:  # whose .json is another program's
        assert [(each.get("author"), float(each.get("score") or 0)) for each in more] == [
            ("x", 1.5), (None, 2.0), ("y", 0.0)
        ]  # fmt: skip


@pytest.mark.parametrize("change", [
    lambda name: f"./{name}", lambda name: name.replace("/", "//"), lambda name: name.replace("/", "\\"),
    lambda name: f".\\{name}", lambda name: f" {name} ", lambda name: name.replace("/", "/./"),
])  # fmt: skip
@pytest.mark.parametrize("writer", [jsonl, nested_jsonl, zipped_jsonl, csv_table, parquet_table])
def test_names_of_files_as_other_tools_write_them(writer, change, tmp_path):
    made = [row | {"file_name": change(row["file_name"]), "depth_file_name": change(row["file_name"])}
            for row in rows(text="abc")]  # fmt: skip
    source = open_source(writer(tmp_path / "src", made))
    entries = list(source.entries)
    assert [entry.image.open().read() for entry in entries] == list(FILES.values()) and source.orphans == []
    assert [entry.conditions["depth"].open().read() for entry in entries] == list(FILES.values())


def test_a_name_with_a_backslash_in_it_is_that_file(tmp_path):
    write(tmp_path, {"a\\b.png": png(1), "a/b.png": png(2), "metadata.jsonl": lines([{"file_name": "a\\b.png"}])})
    [entry] = open_source(tmp_path).entries
    assert entry.image.open().read() == png(1)


@pytest.mark.parametrize("name", [
    "../a.png", "..\\a.png", "images/..\\..\\a.png", "/a.png", "\\a.png", " /a.png", "C:\\a.png", "c:/a.png",
    "https://x.org/a.png", "./../a.png",
])  # fmt: skip
@pytest.mark.parametrize("column", ["file_name", "depth_file_name"])
def test_names_of_files_outside_are_refused(name, column, tmp_path):
    write(tmp_path, {"a.png": png(1), "src/b.png": png(2)})
    write(tmp_path / "src", {"metadata.jsonl": lines([{"file_name": "b.png"} | {column: name}])})
    with pytest.raises(SceditError, match=rf"line 1: {column} is '") as error:
        open_source(tmp_path / "src")
    assert error.value.hint


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
@pytest.mark.parametrize("mark", [b",", b";", b"\t"])
def test_marks_that_programs_of_windows_write(bom, end, name, mark, tmp_path):
    text = {
        "metadata.jsonl": b'{"file_name": "a.png", "text": "a \xe2\x80\xa8cube"}\n\n'
        b'{"file_name": "b.png", "text": "b"}\n',
        "metadata.csv": b"file_name, text\na.png,a \xe2\x80\xa8cube\nb.png,b\n".replace(b",", mark),
    }[name]
    write(tmp_path, {"a.png": png(0), "b.png": png(1), name: bom + text.replace(b"\n", end)})
    assert [entry.text for entry in open_source(tmp_path).entries] == ["a cube", "b"]


def test_a_table_is_named_itself_by_whatever_name(tmp_path):
    write(tmp_path, FILES | {"captions.jsonl": lines(rows(text="abc"))})
    assert [entry.text for entry in open_source(tmp_path / "captions.jsonl").entries] == list("abc")
    parquet_table(tmp_path, rows(text="def"))
    (tmp_path / "metadata.parquet").rename(tmp_path / "other.parquet")
    assert [entry.text for entry in open_source(tmp_path / "other.parquet").entries] == list("def")


def test_tables_that_are_not_read_are_named(tmp_path):
    kohya = json.dumps({"images/0": {"caption": "a", "tags": "b"}})
    others = ("captions.csv", "meta_cap.json", "notes.tsv", "some/metadata.jsonl")
    text = dict.fromkeys(others, lines(rows(text="abc"))) | {"meta_cap.json": kohya}
    write(tmp_path, {"photos/" + name: data for name, data in FILES.items()} | text | {"some/x.png": png(9)})
    write(tmp_path, {"photos/images/0.json": "{}", "00000_stats.json": "{}", "00000/1.png": png(8)})
    source = open_source(tmp_path)
    assert [file for file, _ in source.unread] == sorted(others) and source.count == 5
    with pytest.raises(SceditError, match="5 of 5 images have no caption") as error:
        prepare(tmp_path, tmp_path / "out", size=64)
    assert "captions.csv is not read: a table is called metadata.csv, or named itself" in error.value.hint
    with pytest.raises(SceditError, match="4 are not read: captions.csv"):
        prepare(tmp_path, tmp_path / "out", size=64, strict=True)
    report = prepare(tmp_path, tmp_path / "out", size=64, allow_captionless=True).report
    assert [each["file"] for each in report.document()["unread"]] == sorted(others)
    assert [line.partition(":")[0] for name, line in report.summary() if name == "unread"] == sorted(others)


def test_a_table_in_capitals(tmp_path):
    write(tmp_path, FILES | {"Metadata.JSONL": lines(rows(text="abc"))})
    source = open_source(tmp_path)
    assert [entry.text for entry in source.entries] == list("abc") and source.unread == []


def test_of_two_tables_in_a_folder_the_other_is_named(tmp_path):
    csv_table(tmp_path, rows(text="abc"))
    jsonl(tmp_path, rows(text="def"))
    source = open_source(tmp_path)
    assert [entry.text for entry in source.entries] == list("def")
    assert [file for file, _ in source.unread] == ["metadata.csv"]


@pytest.mark.parametrize("name", ["image", "Image_Path", "filename", "path"])
def test_how_others_call_the_column_of_files_is_hinted_at(name, tmp_path):
    write(tmp_path, FILES | {"metadata.jsonl": lines({name: each["file_name"]} for each in rows())})
    with pytest.raises(SceditError, match="has no column file_name") as error:
        open_source(tmp_path)
    assert f"--columns image={name}" in error.value.hint
    assert open_source(tmp_path, columns={"image": name}).count == 3


def test_columns_of_conditions_in_capitals(tmp_path):
    names = [{"FILE_NAME": name, "DEPTH_FILE_NAME": name} for name in FILES]
    entries = list(open_source(csv_table(tmp_path, names)).entries)
    assert [entry.conditions["depth"].open().read() for entry in entries] == list(FILES.values())
    assert [entry.more for entry in entries] == [{}] * 3

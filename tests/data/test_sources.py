"""Where pictures come from: every source gives the same entries for the same pictures."""

from __future__ import annotations

import csv
import io
import json
import os
import zipfile

import pytest
from PIL import Image

from scedit_cli.utils.errors import SceditError
from tests.archives import write_tar
from tests.preparing import open_source, prepare

NAMES = ("a", "deep/b", "c")


def png(number: int, size: tuple[int, int] = (64, 64)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (number, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


PICTURES = {name: png(number) for number, name in enumerate(NAMES)}
DEPTHS = {name: png(100 + number) for number, name in enumerate(NAMES)}
TEXTS = {name: f"the picture ä {name}" for name in NAMES}


def write(folder, files: dict[str, bytes | str]):
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
    return folder


def read(source) -> list[tuple[bytes, str | None, dict[str, bytes | None]]]:
    """The entries' contents: picture, caption, conditions."""
    found = []
    for entry in source.entries:
        beside = [blob.open().read().decode() for blob in entry.captions.values()]
        conditions = {kind: blob and blob.open().read() for kind, blob in entry.conditions.items()}
        found.append((entry.image.open().read(), entry.text or next(iter(beside), None), conditions))
    assert len(found) == source.count
    return found


WANTED = sorted((PICTURES[name], TEXTS[name], {"depth": DEPTHS[name]}) for name in NAMES)
BESIDE = {f"{name}.png": data for name, data in PICTURES.items()} | {f"{n}.txt": text for n, text in TEXTS.items()}
ROWS = [{"file_name": f"images/{name}.png", "text": TEXTS[name], "depth_file_name": f"maps/{name}.png", "weight": 0.5}
        for name in NAMES]  # fmt: skip
TABLE = {f"images/{name}.png": data for name, data in PICTURES.items()} | {
    f"maps/{name}.png": data for name, data in DEPTHS.items()
}


def folder_and_maps(place):
    write(place / "maps", {f"{name}.png": data for name, data in DEPTHS.items()})
    return open_source(write(place / "src", BESIDE), conditions={"depth": place / "maps"})


def folder_with_maps_inside(place):
    write(place / "src", {f"maps/{name}.png": data for name, data in DEPTHS.items()})
    return open_source(write(place / "src", BESIDE), conditions={"depth": "maps"})


def folder_with_maps_named_by_path(place):
    write(place / "src", {f"maps/{name}.png": data for name, data in DEPTHS.items()})
    return open_source(write(place / "src", BESIDE), conditions={"depth": place / "src" / "maps"})


def images_and_conditions(place):
    files = {f"images/{name}": data for name, data in BESIDE.items()}
    return open_source(write(place, files | {f"conditions/depth/{name}.png": data for name, data in DEPTHS.items()}))


def zipped(place, files, prefix="") -> str:
    with zipfile.ZipFile(place / "src.zip", "w") as archive:
        for name, data in files.items():
            archive.writestr(prefix + name, data)
    return str(place / "src.zip")


def zip_in_a_folder_of_its_own(place):
    write(place / "maps", {f"{name}.png": data for name, data in DEPTHS.items()})
    return open_source(zipped(place, BESIDE | {"__MACOSX/._a.png": b""}, "all/"), conditions={"depth": place / "maps"})


def zip_with_a_table(place):
    return open_source(zipped(place, TABLE | {"metadata.jsonl": "\n".join(map(json.dumps, ROWS))}))


def jsonl(place):
    return open_source(write(place, TABLE | {"metadata.jsonl": "\n\n".join(map(json.dumps, ROWS))}))


def csv_table(place):
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, ["file_name", "caption", "depth_file_name"])
    writer.writeheader()
    writer.writerows({"file_name": r["file_name"], "caption": r["text"], "depth_file_name": r["depth_file_name"]}
                     for r in ROWS)  # fmt: skip
    return open_source(write(place, TABLE | {"metadata.csv": "\ufeff" + buffer.getvalue()}))


def parquet_table(place):
    parquet = pytest.importorskip("pyarrow.parquet")
    from pyarrow import Table

    write(place, TABLE)
    parquet.write_table(Table.from_pylist(ROWS), place / "metadata.parquet")
    return open_source(place)


def renamed_columns(place):
    rows = [{"photo": r["file_name"], "words": [r["text"], "x"], "map": r["depth_file_name"]} for r in ROWS]
    write(place, TABLE | {"metadata.jsonl": "\n".join(map(json.dumps, rows))})
    return open_source(place, columns={"image": "photo", "text": "words", "depth": "map"})


def rows_of_pictures():
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "text": datasets.Value("string"), "map": datasets.Image()}
    )
    columns = {
        "image": [{"bytes": PICTURES[name], "path": None} for name in NAMES],
        "text": [TEXTS[name] for name in NAMES],
        "map": [{"bytes": DEPTHS[name], "path": None} for name in NAMES],
    }
    return datasets.Dataset.from_dict(columns, features=features)


def saved_dataset(place):
    rows_of_pictures().save_to_disk(str(place / "saved"))
    return open_source(place / "saved", columns={"depth": "map"})


def saved_splits(place):
    from datasets import DatasetDict

    splits = DatasetDict({"train": rows_of_pictures().select([0]), "rest": rows_of_pictures()})
    splits.save_to_disk(str(place / "saved"))
    return open_source(place / "saved", columns={"depth": "map"}, split="rest")


def parquet_with_pictures(place):
    rows_of_pictures().to_parquet(place / "part-0.parquet")
    return open_source(place, columns={"depth": "map"})


def shards(place):
    for number, name in enumerate(NAMES):
        files = {"png": PICTURES[name], "depth.png": DEPTHS[name], "txt": TEXTS[name].encode()}
        write_tar(place / f"{number:02d}.tar", {f"{name}.{suffix}": data for suffix, data in files.items()})
    return open_source(place / "{00..02}.tar")


def shards_with_json(place):
    files = {}
    for name in NAMES:
        about = json.dumps({"prompt": TEXTS[name]}).encode()
        files |= {f"{name}.cond.png": DEPTHS[name], f"{name}.jpg": PICTURES[name], f"{name}.json": about}
    write_tar(place / "0.tar", files)
    return open_source(place, columns={"depth": "cond.png"})


@pytest.mark.parametrize("make", [
    folder_and_maps, folder_with_maps_inside, folder_with_maps_named_by_path, images_and_conditions,
    zip_in_a_folder_of_its_own, zip_with_a_table, jsonl, csv_table, parquet_table, renamed_columns,
    saved_dataset, saved_splits, parquet_with_pictures, shards, shards_with_json,
])  # fmt: skip
def test_every_source_gives_the_same(make, tmp_path):
    source = make(tmp_path)
    assert sorted(read(source)) == WANTED
    assert source.orphans == []


def test_a_dataset_of_the_hub_by_name(monkeypatch):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load(path, **options):
        asked.append((path, options))
        return datasets.DatasetDict({"train": rows_of_pictures()})

    monkeypatch.setattr(datasets, "load_dataset", load)
    source = open_source("owner/name", columns={"depth": "map"}, subset="small", revision="v1")
    assert sorted(read(source)) == WANTED
    assert asked == [("owner/name", {"name": "small", "revision": "v1"})]  # and no trust_remote_code


def test_rows_name_files_inside_their_dataset_alone(tmp_path):
    datasets, parquet = pytest.importorskip("datasets"), pytest.importorskip("pyarrow.parquet")
    write(tmp_path, {"outside.png": png(1), "set/a.png": png(2)})
    os.mkfifo(tmp_path / "set/fifo.png")
    (tmp_path / "set/link.png").symlink_to(tmp_path / "outside.png")
    whole = ["a.png", str(tmp_path / "set/a.png")]
    foul = ["../outside.png", str(tmp_path / "outside.png"), "link.png", "fifo.png", "gone.png", "a\0b", ".", "x" * 999]
    cells = [{"bytes": None, "path": path} for path in (*whole, *foul)]
    features = datasets.Features({"image": datasets.Image()})
    rows = datasets.Dataset.from_dict({"image": cells}, features=features)
    parquet.write_table(rows.data.table, tmp_path / "set/rows.parquet")
    opened = [entry.image for entry in open_source(tmp_path / "set").entries]
    assert [blob.open().read() for blob in opened[: len(whole)]] == [png(2)] * 2
    for blob in opened[len(whole) :]:
        with pytest.raises(SceditError, match="is no file in the dataset"):
            blob.open()


@pytest.mark.parametrize("compression", ["ZIP_DEFLATED", "ZIP_BZIP2", "ZIP_LZMA"])
def test_a_damaged_member_of_a_zip_is_named_and_the_others_are_read(compression, tmp_path):
    smooth = Image.linear_gradient("L").convert("RGB")
    write(tmp_path, {})
    smooth.save(tmp_path / "a.bmp")
    with zipfile.ZipFile(tmp_path / "src.zip", "w", getattr(zipfile, compression)) as archive:
        for name in ("a.bmp", "b.bmp"):
            archive.writestr(name, (tmp_path / "a.bmp").read_bytes())
        at = archive.getinfo("b.bmp").header_offset + len("b.bmp") + 30
        size = archive.getinfo("b.bmp").compress_size
    data = bytearray((tmp_path / "src.zip").read_bytes())
    data[at + 12 : at + size] = bytes(255 - byte for byte in data[at + 12 : at + size])
    (tmp_path / "src.zip").write_bytes(data)
    result = prepare(tmp_path / "src.zip", tmp_path / "out", size=64, allow_captionless=True)
    [(name, fault, why)] = result.report.rejected
    assert (result.images, name, fault) == (1, "b.bmp", "unreadable") and "src.zip: b.bmp cannot be read" in why


def test_both_kinds_of_captions(tmp_path):
    files = {"a.png": png(0), "b.png": png(1), "a.txt": "text", "a.caption": "caption", "b.caption": "b"}
    entries = list(open_source(write(tmp_path, files)).entries)
    assert [list(entry.captions) for entry in entries] == [[".txt", ".caption"], [".caption"]]


def test_what_belongs_to_nothing_and_what_is_hidden(tmp_path):
    files = {"a.png": png(0), "a.txt": "a", "b.txt": "b", "._a.png": b"", ".git/c.png": png(1), "sub/.d.png": b"",
             "maps/x.png": png(2), "maps/a.png": png(3)}  # fmt: skip
    source = open_source(write(tmp_path / "src", files), conditions={"canny": "maps"})
    assert source.orphans == ["b.txt", "canny: maps/x.png"] and source.hidden == 2 and source.count == 1
    table = write(tmp_path / "table", {"a.png": png(0), "b.png": png(1), "overview.png": png(2),
                                       "metadata.jsonl": '{"file_name": "a.png"}'})  # fmt: skip
    assert open_source(table).orphans == ["b.png"]


def test_pairs_that_are_not(tmp_path):
    write(tmp_path, {"a.png": png(0), "b.png": png(1), "maps/a.png": png(2)})
    entries = list(open_source(tmp_path, conditions={"depth": "maps"}).entries)
    assert [entry.conditions["depth"] is None for entry in entries] == [False, True]
    rows = [{"file_name": "a.png", "depth_file_name": "maps/a.png", "seg_file_name": None}, {"file_name": "b.png"}]
    write(tmp_path, {"metadata.jsonl": "\n".join(map(json.dumps, rows))})
    conditions = [entry.conditions for entry in open_source(tmp_path).entries]
    assert [sorted(each) for each in conditions] == [["depth"]] * 2 and conditions[1]["depth"] is None


def test_a_name_alone_pairs_where_no_other_picture_has_it(tmp_path):
    names = ("cats/001", "dogs/001", "dogs/002", "003", "dogs/003")
    write(tmp_path / "src", {f"{name}.png": png(number) for number, name in enumerate(names)})
    write(tmp_path / "maps", {f"{name}.png": png(100) for name in ("001", "002", "003", "dogs/003")})
    source = open_source(tmp_path / "src", conditions={"depth": tmp_path / "maps"})
    found = {entry.name: entry.conditions["depth"] and entry.conditions["depth"].name for entry in source.entries}
    assert found == {
        "003.png": "003.png", "cats/001.png": None, "dogs/001.png": None, "dogs/002.png": "002.png",
        "dogs/003.png": "dogs/003.png",
    }  # fmt: skip
    assert source.orphans == ["depth: 001.png"]


def test_a_tables_further_columns_are_kept(tmp_path):
    assert [entry.more for entry in jsonl(tmp_path).entries] == [{"weight": 0.5}] * 3


@pytest.mark.parametrize(
    ("files", "options", "sentence"),
    [
        (None, {}, "src does not exist"),
        ({"readme.md": ""}, {}, "no images in"),
        ({"a.png": png(0)}, {"conditions": {"depth": "gone"}}, "--cond depth=gone: it does not exist"),
        ({"a.png": png(0), "m/x.txt": ""}, {"conditions": {"depth": "m"}}, "no depth images in m"),
        ({"a.png": png(0)}, {"columns": {"text": "x"}}, "--columns means nothing"),
        ({"a.png": png(0)}, {"split": "train"}, "--split means nothing"),
        ({"metadata.jsonl": "\n"}, {}, r"metadata\.jsonl names no images"),
        ({"metadata.jsonl": "{\n"}, {}, r"metadata\.jsonl line 1: no JSON"),
        ({"metadata.jsonl": "[1]"}, {}, r"line 1: no object"),
        ({"metadata.jsonl": '{"a": 1}'}, {}, "has no column file_name"),
        ({"metadata.jsonl": '{"file_name": "a"}'}, {"columns": {"text": "words"}}, "has no column words"),
        ({"metadata.jsonl": '{"file_name": "../a.png"}'}, {}, r"line 1: file_name is '\.\./a\.png'"),
        ({"metadata.jsonl": '{"file_name": "/a.png"}'}, {}, "line 1: file_name is '/a.png'"),
        ({"metadata.jsonl": '{"file_name": "a"}\n{"file_name": 3}'}, {}, "line 2: file_name is 3"),
        ({"metadata.jsonl": '{"file_name": "a"}\n{"text": "b"}'}, {}, "line 2: file_name is missing"),
        ({"metadata.jsonl": '{"file_name": "a", "../../b_file_name": "a"}'}, {}, "b_file_name names no kind"),
        ({"metadata.jsonl": '{"file_name": "a", "_file_name": "a"}'}, {}, "column _file_name names no kind"),
        ({"metadata.jsonl": '{"file_name": "a", "text": 3}'}, {}, "line 1: text is 3"),
        ({"metadata.csv": "file_name,text\na.png\n"}, {}, "row 2: not as many cells"),
        ({"metadata.csv": b"file_name,text\na.png,\xff\n"}, {}, "no readable CSV"),
        ({"metadata.parquet": b"junk"}, {}, "no readable parquet"),
        ({"a.tar": b"junk"}, {}, r"a\.tar is no whole \.tar"),
        ({"dataset_info.json": "{}"}, {}, "no dataset that can be loaded"),
    ],
)
def test_sources_that_cannot_be_read_are_told(files, options, sentence, tmp_path):
    if files is not None:
        write(tmp_path / "src", files)
    with pytest.raises(SceditError, match=sentence):
        list(open_source(tmp_path / "src", **options).entries)


def test_zips_that_cannot_be_read_are_told(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"junk")
    with pytest.raises(SceditError, match=r"a\.zip is no readable zip"):
        open_source(tmp_path / "a.zip")
    named = zipped(tmp_path, {"ä.png": png(0)})
    (tmp_path / "named.zip").write_bytes((tmp_path / named).read_bytes().replace("ä".encode(), b"\xff\xff"))
    with pytest.raises(SceditError, match=r"named\.zip is no readable zip: it holds bytes that are no text in UTF-8"):
        open_source(tmp_path / "named.zip")
    torn = bytearray((tmp_path / zipped(tmp_path, {"a.png": png(0)})).read_bytes())
    torn[60:70] = bytes(10)
    (tmp_path / "torn.zip").write_bytes(torn)
    [entry] = open_source(tmp_path / "torn.zip").entries
    with pytest.raises(SceditError, match=r"torn\.zip: a\.png cannot be read"):
        entry.image.open()

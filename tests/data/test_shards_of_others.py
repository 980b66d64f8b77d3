"""Shards as other tools write them: img2dataset's folders, suffixes in capitals, names with several dots."""

from __future__ import annotations

import json
from itertools import islice

import pytest

from scedit_cli.data.shard_dataset import open_streamed
from scedit_cli.data.sources.webdataset import is_shards
from scedit_cli.data.stream import Stream
from scedit_cli.recipe import Recipe
from scedit_cli.training.builders import find_shards
from scedit_cli.utils.errors import SceditError
from tests.archives import write_tar
from tests.data.test_formats import encoded
from tests.data.test_sources import png, write
from tests.preparing import open_source, prepare


def img2dataset(folder):
    """Two shards, each beside a table of what was fetched and a table of how it went."""
    parquet, pyarrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    for shard in range(2):
        files, told = {}, []
        for number in range(2):
            key = f"{shard:05d}{number:04d}"
            about = {"caption": f"a thing {key}", "url": "https://x.org/a.jpg", "key": key, "status": "success"}
            files |= {f"{key}.jpg": encoded("JPEG"), f"{key}.json": json.dumps(about).encode(),
                      f"{key}.txt": about["caption"].encode()}  # fmt: skip
            told.append(about)
        write(folder, {f"{shard:05d}_stats.json": json.dumps({"count": 2})})
        write_tar(folder / f"{shard:05d}.tar", files)
        parquet.write_table(pyarrow.Table.from_pylist(told), folder / f"{shard:05d}.parquet")
    return folder


def captions(made: Stream, steps: int) -> list[str]:
    batches = made.batches()
    found = [caption for raw in islice(batches, steps) for caption in raw.captions]
    batches.close()
    return found


def streamed(place, columns: dict[str, str] | None = None) -> Stream:
    return Stream(open_streamed(str(place), (64, 64), (), columns), 1, shuffle=0)


def test_a_folder_of_img2dataset_is_prepared_and_streamed(tmp_path):
    folder = img2dataset(tmp_path / "src")
    report = prepare(folder, tmp_path / "out", size=64).report
    assert (report.images, report.captionless, report.unread) == (4, [], [])
    recipe = {"tuner": {"kind": "sc"}, "base": {"model": "scenes"}, "data": {"path": str(folder), "size": [64, 64]}}

    class base:  # noqa: N801
        defaults = None

    found = find_shards(Recipe.from_dict(recipe).data, (), base)
    assert found.counts == (2, 2)
    assert sorted(captions(Stream(found, 1, shuffle=0), 4)) == [
        "a thing 000000000", "a thing 000000001", "a thing 000010000", "a thing 000010001"
    ]  # fmt: skip


def test_folders_of_pictures_that_img2dataset_wrote(tmp_path):
    """Its tables beside them tell nothing that the files do not, and are no reason to read no images."""
    img2dataset(tmp_path / "src")
    for shard in range(2):
        files = {f"{shard:05d}/{n}.jpg": encoded("JPEG") for n in range(2)}
        write(tmp_path / "src", files | {f"{shard:05d}/{n}.{s}": "{}" for n in range(2) for s in ("txt", "json")})
        (tmp_path / f"src/{shard:05d}.tar").unlink()
    source = open_source(tmp_path / "src")
    assert (source.count, source.unread, source.orphans) == (4, [], [])


def test_what_is_no_folder_of_shards(tmp_path):
    parts = img2dataset(tmp_path / "src")
    assert is_shards(parts)
    (parts / "00000.tar").rename(parts / "00007.tar")
    assert not is_shards(parts)
    with pytest.raises(SceditError, match=r"src holds other files beside the shards, as 00001\.tar"):
        open_source(parts)
    write(tmp_path / "mixed", {"a.tar": b"", "readme.md": ""})
    with pytest.raises(SceditError, match=r"mixed holds other files beside the shards, as a\.tar") as error:
        open_source(tmp_path / "mixed")
    assert "{00000..00009}.tar" in error.value.hint


@pytest.mark.parametrize("columns", [
    {}, {"image": "JPG", "text": "TXT"}, {"image": "jpg", "text": "txt"}, {"image": ".Jpg", "text": ".txt"},
    {"image": "jpg", "depth": "Depth.PNG"},
])  # fmt: skip
def test_suffixes_are_the_same_in_any_case(columns, tmp_path):
    write_tar(tmp_path / "a.tar", {"1.JPG": encoded("JPEG"), "1.TXT": b"a thing", "1.Depth.PNG": png(100)})
    report = prepare(tmp_path / "a.tar", tmp_path / "out", size=64, columns=columns).report
    assert (report.images, report.captionless) == (1, [])
    assert captions(streamed(tmp_path / "a.tar", columns), 1) == ["a thing"]
    assert list(next(iter(open_source(tmp_path / "a.tar", columns=columns).entries)).conditions) == ["depth"]


@pytest.mark.parametrize("columns", [{}, {"text": "Words"}, {"text": "words"}])
def test_keys_of_the_json_are_the_same_in_any_case(columns, tmp_path):
    key = "Words" if columns else "Caption"
    about = {key: "a thing", "WEIGHT": 0.5}
    write_tar(tmp_path / "a.tar", {"1.png": png(1), "1.JSON": json.dumps(about).encode()})
    [entry] = open_source(tmp_path / "a.tar", columns=columns).entries
    assert (entry.text, entry.more) == ("a thing", {"weight": 0.5})
    assert next(streamed(tmp_path / "a.tar", columns).batches()).weights.tolist() == [0.5]


@pytest.mark.parametrize("columns, wanted", [
    ({}, "short"), ({"text": "caption"}, "long"), ({"text": "cap"}, "other"), ({"text": "txt"}, "short"),
    ({"text": "none"}, "short"),
])  # fmt: skip
def test_a_chosen_caption_comes_before_the_usual_ones(columns, wanted, tmp_path):
    texts = {"1.txt": b"short", "1.caption": b"long", "1.cap": b"other"}
    write_tar(tmp_path / "a.tar", {"1.png": png(1)} | texts)
    assert captions(streamed(tmp_path / "a.tar", columns), 1) == [wanted]
    prepare(tmp_path / "a.tar", tmp_path / "out", size=64, columns=columns)
    assert json.loads((tmp_path / "out/metadata.jsonl").read_text())["text"] == wanted


DOTTED = {
    "0001.photo.jpg": r"the sample 0001 is photo\.jpg, photo\.txt; a sample's name ends at the first dot",
    "my.image.0001.jpg": r"the sample my is image\.0001\.jpg, image\.0001\.txt; a sample's name ends at the first dot",
    "deep/v1.5/a.b.png": r"the sample deep/v1\.5/a is b\.png, b\.txt; a sample's name ends at the first dot",
}


@pytest.mark.parametrize("name", DOTTED)
def test_names_with_several_dots_say_what_was_taken_for_one_sample(name, tmp_path):
    write_tar(tmp_path / "a.tar", {name: png(1), f"{name.rpartition('.')[0]}.txt": b"t"})
    with pytest.raises(SceditError, match=f"it has no image: {DOTTED[name]}"):
        prepare(tmp_path / "a.tar", tmp_path / "out", size=64)
    with pytest.raises(SceditError, match=f"none of the 1 samples can be used.*{DOTTED[name]}"):
        open_streamed(str(tmp_path / "a.tar"), (64, 64)).write_first(tmp_path / "first", 1)
    with pytest.raises(SceditError, match=f"9 of 16 samples cannot be used.*{DOTTED[name]}"):
        next(streamed(tmp_path / "a.tar").batches())


def test_a_whole_shard_that_is_one_sample_is_named_in_short(tmp_path):
    write_tar(tmp_path / "a.tar", {f"my.image.{n:04d}.jpg": png(1) for n in range(500)})
    with pytest.raises(SceditError, match=r"image\.0005\.jpg and 494 more; a sample's name ends") as error:
        prepare(tmp_path / "a.tar", tmp_path / "out", size=64)
    assert len(error.value.message) < 500


def test_a_sample_without_a_picture_says_what_it_is(tmp_path):
    write_tar(tmp_path / "a.tar", {"1.png": png(1), "1.txt": b"1", "2.txt": b"2", "3.png": png(3), "3.txt": b"3"})
    [told] = prepare(tmp_path / "a.tar", tmp_path / "out", size=64).document()["rejected"]
    assert told["reason"] == (
        "it has no image: the sample 2 is txt; the files of a sample have one name and follow each other"
    )


def test_of_several_pictures_somebody_says_which_it_is(tmp_path):
    write_tar(tmp_path / "a.tar", {"1.jpg": encoded("JPEG"), "1.png": png(1), "1.txt": b"t"})
    why = "it has several images, jpg and png: [-`]*columns[= ]image=jpg`? says which it is"
    with pytest.raises(SceditError, match=why):
        prepare(tmp_path / "a.tar", tmp_path / "out", size=64)
    with pytest.raises(SceditError, match=why):
        next(streamed(tmp_path / "a.tar").batches())
    assert prepare(tmp_path / "a.tar", tmp_path / "out", size=64, columns={"image": "png"}).images == 1

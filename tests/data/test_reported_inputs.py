"""Datasets as people reported them to other trainers: read for what they mean, or refused in a sentence."""

from __future__ import annotations

import io
import json
import os
import tarfile
import unicodedata
import zipfile

import numpy as np
import pytest
from PIL import Image

from scedit_cli.data.hints import check_levels, open_given_condition
from scedit_cli.data.shards import count_samples, read_samples
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.fetched import check_fetched
from tests.preparing import open_source, prepare

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\nsize 12345\n"
PAGE = "<!DOCTYPE html>\n<html><head><title>model · Hugging Face</title></head></html>"


def image(level: int | np.ndarray = 200, kind: str = "PNG") -> bytes:
    drawn = io.BytesIO()
    levels = np.full((64, 64), level, np.uint8) if isinstance(level, int) else level
    Image.fromarray(levels).save(drawn, kind)
    return drawn.getvalue()


def photo(number: int, kind: str = "PNG") -> bytes:
    return image(np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8), kind)


def write(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return folder


def tar(path, members, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, data in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(data)
            archive.addfile(about, io.BytesIO(data))
    return path


def rows(folder):
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


def captions(source):
    return [entry.text or next((b.open().read().decode() for b in entry.captions.values()), "") for entry in source]


# OneTrainer#400, DatasetHelpers#10: masks stand beside the pictures, with an ending.
@pytest.mark.parametrize("place", ["", "images/", "deep/er/"])
def test_labels_beside_a_picture_are_its_conditions_and_no_pictures(tmp_path, place):
    mask = np.zeros((64, 64), np.uint8)
    mask[16:48] = 255
    source = write(tmp_path / "src", {
        f"{place}a.jpg": photo(1, "JPEG"), f"{place}a.txt": b"one", f"{place}a-masklabel.png": image(mask),
        f"{place}b.png": photo(2), f"{place}b.txt": b"two", f"{place}b-masklabel.png": image(mask),
        f"{place}odd-masklabel.png": photo(3), f"{place}odd-masklabel.txt": b"nobody's label",
    })  # fmt: skip
    found = {entry.name: entry for entry in open_source(source).entries}
    assert set(found) == {f"{place}a.jpg", f"{place}b.png", f"{place}odd-masklabel.png"}
    assert found[f"{place}a.jpg"].conditions["mask"].name == f"{place}a-masklabel.png"
    result = prepare(source, tmp_path / "out", size=64)
    assert (result.images, result.conditions) == (2, ["mask"])
    assert [(file, why) for file, _, why in result.report.rejected] == [
        (f"{place}odd-masklabel.png", "it has no mask image")
    ]
    written = Image.open(tmp_path / "out" / rows(tmp_path / "out")[0]["mask_file_name"]).convert("L")
    assert np.array_equal(np.asarray(written), mask)


def test_labels_where_the_kind_has_a_folder_are_named(tmp_path):
    files = {"a.png": photo(1), "a.txt": b"one", "a-masklabel.png": image(), "masks/a.png": image(255)}
    source = open_source(write(tmp_path / "src", files), conditions={"mask": "masks"})
    assert source.orphans == ["a-masklabel.png"]
    assert next(iter(source.entries)).conditions["mask"].name == "masks/a.png"


def test_a_folder_of_conditions_may_be_a_link(tmp_path):
    source = write(tmp_path / "src", {"a.png": photo(1), "a.txt": b"one"})
    os.symlink(write(tmp_path / "maps", {"a.png": image()}), source / "depth")
    for place in ("depth", source / "depth"):
        [entry] = open_source(source, conditions={"depth": place}).entries
        assert (entry.name, entry.conditions["depth"].name) == ("a.png", "depth/a.png")


def test_a_condition_label_is_a_kind_of_its_own(tmp_path):
    source = write(tmp_path / "src", {"a.png": photo(1), "a.txt": b"one", "a-condlabel.png": photo(2)})
    assert prepare(source, tmp_path / "out", size=64).conditions == ["condlabel"]


# The CMP facades have photo and label map under one name; so have exports of COCO (rectlabel-support#84).
def test_two_pictures_of_one_name_are_not_both_trained_on(tmp_path):
    source = write(tmp_path / "src", {
        "a.jpg": photo(1, "JPEG"), "a.png": photo(2), "a.txt": b"a house",
        "b.jpg": photo(3, "JPEG"), "b.txt": b"a door", "deep/b.png": photo(4), "deep/b.txt": b"another door",
    })  # fmt: skip
    result = prepare(source, tmp_path / "out", size=64)
    assert [row["text"] for row in rows(tmp_path / "out")] == ["a door", "another door"]
    assert [file for file, _, _ in result.report.rejected] == ["a.jpg", "a.png"]
    assert "a.png has the same name" in result.report.rejected[0][2]
    assert "`conditions=KIND=FOLDER`" in result.report.rejected[0][2]
    with pytest.raises(SceditError, match="same name"):
        prepare(source, tmp_path / "strict", size=64, strict=True)


def test_namesakes_with_captions_of_their_own_are_two_pictures(tmp_path):
    files = {"a.jpg": photo(1, "JPEG"), "a.png": photo(2), "a.jpg.txt": "one", "a.png.txt": "two"}
    assert captions(open_source(write(tmp_path / "src", files)).entries) == ["one", "two"]
    (tmp_path / "src/a.txt").write_text("which of them?")
    assert all(entry.fault for entry in open_source(tmp_path / "src").entries)
    (tmp_path / "src/a.txt").unlink()
    (tmp_path / "src/a.png.txt").unlink()  # then it may be the condition of the other
    assert all(entry.fault for entry in open_source(tmp_path / "src").entries)


# gallery-dl and others name captions after the whole file; kohya-trainer#71 had image..txt.
@pytest.mark.parametrize("ending", [".txt", ".caption"])
def test_captions_named_after_the_whole_file(tmp_path, ending):
    source = write(tmp_path / "src", {"a.png": photo(1), f"a.png{ending}": b"one", "b.png": photo(2), "b.txt": b"two"})
    opened = open_source(source)
    assert opened.orphans == []
    assert captions(opened.entries) == ["one", "two"]
    write(source, {f"b.png{ending}": b"other"})
    if ending == ".txt":  # of two captions one is taken, and the other named
        assert open_source(source).orphans == ["b.png.txt"]


# datasets#6853, pytorch-image-models#334: folders are gathered by symbolic links.
def test_folders_behind_links_are_gone_through_and_circles_left(tmp_path):
    elsewhere = write(tmp_path / "elsewhere", {"a.png": photo(1), "a.txt": b"one"})
    source = write(tmp_path / "src", {"b.png": photo(2), "b.txt": b"two"})
    os.symlink(elsewhere, source / "linked")
    os.symlink(source, elsewhere / "back")
    os.symlink(elsewhere, elsewhere / "itself")
    opened = open_source(source)
    assert [entry.name for entry in opened.entries] == ["b.png", "linked/a.png"]
    only = tmp_path / "only"
    only.mkdir()
    os.symlink(elsewhere, only / "images")
    assert [entry.name for entry in open_source(only).entries] == ["images/a.png", "images/back/b.png"]


# paperbanana#240: zips from a Mac hold letters and accents apart, tables together.
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("on_disk", "in_table"), [("NFD", "NFC"), ("NFC", "NFD"), ("NFD", "NFD")])
def test_accents_in_either_form_are_one_name(tmp_path, packed, on_disk, in_table):
    disk, table = (unicodedata.normalize(form, "café über") for form in (on_disk, in_table))
    line = json.dumps({"file_name": f"{table}.png", "text": "x", "depth_file_name": f"maps/{table}.png"})
    files = {f"{disk}.png": photo(1), f"maps/{disk}.png": image(200), "metadata.jsonl": line.encode()}
    source = write(tmp_path / "src", files)
    if packed:
        with zipfile.ZipFile(tmp_path / "src.zip", "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        source = tmp_path / "src.zip"
    result = prepare(source, tmp_path / "out", size=64)
    assert (result.images, result.conditions, result.report.rejected) == (1, ["depth"], [])
    assert result.report.orphans == []


def test_a_caption_and_its_picture_in_two_forms(tmp_path):
    apart = unicodedata.normalize("NFD", "é")
    source = write(tmp_path / "src", {"é.png": photo(1), f"{apart}.txt": b"one", f"depth/{apart}.png": image()})
    [entry] = open_source(source, conditions={"depth": "depth"}).entries
    assert captions([entry]) == ["one"]
    assert entry.conditions["depth"] is not None


def test_pictures_outside_images_are_named(tmp_path):
    source = write(tmp_path / "src", {
        "images/a.png": photo(1), "images/a.txt": b"1", "extra/b.png": photo(2), "conditions/depth/a.png": image(),
    })  # fmt: skip
    assert open_source(source).orphans == ["extra/b.png"]


# PROTzilla#450: spreadsheets write semicolons where the comma is for decimals.
@pytest.mark.parametrize("between", [",", ";", "\t"])
def test_tables_with_other_separators(tmp_path, between):
    text = f'file_name{between}text\r\na.png{between}"one, and; two"\r\n'
    source = write(tmp_path / "src", {"a.png": photo(1), "metadata.csv": b"\xef\xbb\xbf" + text.encode()})
    assert captions(open_source(source).entries) == ["one, and; two"]


# webdataset#140, #11, ray#65044: `tar` packs a folder in any order.
def test_shards_whose_samples_lie_apart_are_refused(tmp_path):
    shard = tar(tmp_path / "a.tar", {"0.png": photo(1), "1.png": photo(2), "0.txt": b"zero", "1.txt": b"one"})
    for read in (count_samples, lambda shard: list(read_samples(shard))):
        with pytest.raises(SceditError, match="the files of 0 do not follow one another") as told:
            read(shard)
        assert "tar --sort=name" in told.value.hint
    with pytest.raises(SceditError, match="do not follow"):
        prepare(shard, tmp_path / "out", size=64, allow_captionless=True)
    assert not (tmp_path / "out").exists()
    whole = tar(tmp_path / "b.tar", {"a/0.png": photo(1), "a/0.txt": b"zero", "b/0.png": photo(2), "b/0.txt": b"0"})
    assert captions(open_source(whole).entries) == ["zero", "0"]


# webdataset#20: two pictures in a sample.
def test_a_sample_with_two_pictures_is_read_where_one_is_told(tmp_path):
    depth = image(np.tile(np.arange(0, 256, 4, np.uint8), (64, 1)))
    shard = tar(tmp_path / "a.tar", {"0.jpg": photo(1, "JPEG"), "0.png": depth, "0.txt": b"zero"})
    for name, columns in (("both", {"image": "jpg", "depth": "png"}), ("the condition", {"depth": "png"})):
        result = prepare(shard, tmp_path / name, size=64, columns=columns)
        assert (result.images, result.conditions) == (1, ["depth"])
    assert prepare(shard, tmp_path / "one", size=64, columns={"image": "jpg"}).images == 1


# webdataset#258, refiner#124: packed shards.
@pytest.mark.parametrize("suffix", [".tar.gz", ".tgz"])
def test_packed_shards_alone_and_in_a_folder(tmp_path, suffix):
    folder = write(tmp_path / "shards", {})
    folder.mkdir()
    shard = tar(folder / f"a{suffix}", {"0.png": photo(1), "0.txt": b"zero"}, "w:gz")
    for place in (shard, folder):
        assert captions(open_source(place).entries) == ["zero"]


# ControlNet#187, sd-webui-controlnet#1801, PAL4Inpaint#4: maps of numbers look black.
@pytest.mark.parametrize(("kind", "levels", "what"), [
    ("depth", np.linspace(400, 9000, 4096).reshape(64, 64).astype(np.uint16), "distances"),
    ("depth", np.linspace(1, 12, 4096).reshape(64, 64).astype(np.uint8), "distances"),
    ("seg", (np.arange(4096).reshape(64, 64) // 128).astype(np.uint8), "numbers of classes"),
    ("seg", (np.arange(4096).reshape(64, 64) // 128).astype(np.uint16), "numbers of classes"),
    ("mask", (np.arange(4096).reshape(64, 64) % 2).astype(np.uint16), "zeros and ones"),
    ("mask", (np.arange(4096).reshape(64, 64) % 2).astype(np.uint8), "zeros and ones"),
])  # fmt: skip
def test_maps_of_numbers_are_told_from_maps_of_levels(tmp_path, kind, levels, what):
    source = write(tmp_path / "src", {"a.png": photo(1), "a.txt": b"one", f"{kind}/a.png": image(levels)})
    with pytest.raises(SceditError, match=f"its {kind} is nearly black, .* as {what} are"):
        prepare(source, tmp_path / "out", size=64, conditions={kind: kind})
    with pytest.raises(SceditError, match=f"a.png is nearly black, .* as {what} are"):
        open_given_condition(source / kind / "a.png", kind)


def test_levels_are_judged_before_the_bright_part_is_cut_away(tmp_path):
    levels = np.full((64, 128), 30, np.uint8)
    levels[:, :8] = 255
    files = {"a.png": image(np.dstack([levels] * 3)), "a.txt": b"one", "d/a.png": image(levels)}
    source = write(tmp_path / "src", files)
    assert prepare(source, tmp_path / "out", size=64, square=True, conditions={"depth": "d"}).images == 1


@pytest.mark.parametrize("kind", ["depth", "seg", "mask", "canny", "color", "mine"])
def test_black_and_full_maps_are_what_they_are(kind):
    for level in (0, 255):
        check_levels(Image.new("RGB", (8, 8), (level, 0, level)), kind, "a.png")


@pytest.mark.parametrize(("kind", "levels"), [
    ("depth", np.full((64, 64), 30, np.uint8)),  # all is far
    ("depth", np.full((64, 64), 20_000, np.uint16)),
    ("seg", np.full((64, 64, 3), (0, 0, 60), np.uint8)),  # a dark colour
    ("mask", np.full((64, 64), 2, np.uint8)),
])  # fmt: skip
def test_dark_maps_of_levels_are_read(tmp_path, kind, levels):
    source = write(tmp_path / "src", {"a.png": photo(1), "a.txt": b"one", f"{kind}/a.png": image(levels)})
    assert prepare(source, tmp_path / "out", size=64, conditions={kind: kind}).images == 1
    assert open_given_condition(source / kind / "a.png", kind).getextrema()[2][1] > 0


@pytest.mark.parametrize("kind", ["canny", "color", "hed", "mine"])
def test_other_kinds_may_be_dark(kind):
    check_levels(Image.new("RGB", (8, 8), (1, 2, 3)), kind, "a.png")


# diffusers#13559, #4406, transformers#27923: a clone without Git LFS, and a page saved as a file.
@pytest.mark.parametrize(("stand_in", "what"), [(LFS, "a Git LFS pointer"), (PAGE, "a web page")])
def test_files_that_were_not_downloaded_are_told_as_such(tmp_path, stand_in, what):
    source = write(tmp_path / "src", {"a.png": stand_in, "a.txt": b"x", "b.png": photo(1), "b.txt": b"y"})
    result = prepare(source, tmp_path / "out", size=64)
    assert result.report.rejected == [("a.png", "unreadable", f"it is {what}, not the file itself")]
    for name in ("metadata.jsonl", "metadata.csv", "shard.tar"):
        place = write(tmp_path / name.replace(".", "-"), {name: stand_in, "b.png": photo(1)})
        with pytest.raises(SceditError, match=f"{name} is {what}, not the file itself") as told:
            open_source(place / name if name.endswith(".tar") else place)
        assert told.value.hint
    with pytest.raises(SceditError, match=what):
        open_source(write(tmp_path / "parquet", {"data/train-00000.parquet": stand_in}))


def test_a_file_that_was_downloaded_is_left_where_it_was(tmp_path):
    file = io.BytesIO(b"\x89PNG rest")
    check_fetched(file, "it")
    assert file.tell() == 0
    check_fetched(tmp_path / "nothing", "it")


def saved(folder, **columns):
    datasets = pytest.importorskip("datasets")
    pictures = {name for name, value in columns.items() if isinstance(value, Image.Image)}
    kinds = {name: datasets.Image() if name in pictures else datasets.Value("string") for name in columns}
    rows = {name: [value] for name, value in columns.items()}
    datasets.Dataset.from_dict(rows, features=datasets.Features(kinds)).save_to_disk(str(folder))
    return folder


# Fill50K, the data of ControlNet's tutorial (docs/train.md): the first picture of a row is the condition.
def test_of_several_picture_columns_none_is_guessed(tmp_path):
    edges, drawn = (Image.open(io.BytesIO(photo(number))) for number in (1, 2))
    source = saved(tmp_path / "a", source=edges, target=drawn, prompt="a circle")
    with pytest.raises(SceditError, match="several columns of images, source, target") as told:
        open_source(source)
    assert "--columns image=target,canny=source" in told.value.hint
    for columns in ({"image": "target", "canny": "source"}, {"canny": "source"}):
        [entry] = open_source(source, columns=columns).entries
        assert np.array_equal(Image.open(entry.image.open()), drawn)
        assert np.array_equal(Image.open(entry.conditions["canny"].open()), edges)
    [entry] = open_source(saved(tmp_path / "b", conditioning_image=edges, image=drawn, text="x")).entries
    assert np.array_equal(Image.open(entry.image.open()), drawn)


def test_addresses_of_pictures_are_told_from_pictures(tmp_path):
    with pytest.raises(SceditError, match="no column of images") as told:
        open_source(saved(tmp_path / "a", image="https://my.host/a.png", text="x"))
    assert "image holds addresses: img2dataset" in told.value.hint
    with pytest.raises(SceditError, match="no column of images") as told:
        open_source(saved(tmp_path / "b", text="x"))
    assert told.value.hint == "it has text; --columns image=NAME names one"


def test_the_folder_of_controlnets_tutorial(tmp_path):
    line = json.dumps({"source": "source/0.png", "target": "target/0.png", "prompt": "a circle"}) + "\n"
    source = write(tmp_path / "src", {"source/0.png": photo(1), "target/0.png": photo(2), "prompt.json": line})
    with pytest.raises(SceditError, match=r"prompt\.json has no column file_name") as told:
        open_source(source)
    assert "source, target, prompt" in told.value.hint
    result = prepare(source, tmp_path / "out", size=64, columns={"image": "target", "canny": "source"})
    assert (result.images, result.conditions, rows(tmp_path / "out")[0]["text"]) == (1, ["canny"], "a circle")
    assert np.array_equal(
        Image.open(tmp_path / "out" / rows(tmp_path / "out")[0]["file_name"]), Image.open(io.BytesIO(photo(2)))
    )

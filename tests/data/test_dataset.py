"""Dataset folders: what is read back, and the sentences about what is wrong in one."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from scedit_cli.data.dataset import open_dataset, row_of, write_rows
from scedit_cli.utils.errors import SceditError


@pytest.fixture
def folder(tmp_path):
    """Three pictures of 64 x 48 with canny; the first two with depth."""
    rows = []
    for index in range(3):
        kinds = ("canny", "depth") if index < 2 else ("canny",)
        for place in ("images", *(f"conditions/{kind}" for kind in kinds)):
            (tmp_path / place).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (64, 48), (index, 0, 0)).save(tmp_path / place / f"{index}.png")
        rows.append(row_of(f"{index}.png", f"picture {index}", kinds))
    write_rows(tmp_path, rows)
    return tmp_path


def test_what_was_written_is_read(folder):
    dataset = open_dataset(folder)
    assert [item.text for item in dataset.items] == ["picture 0", "picture 1", "picture 2"]
    assert dataset.items[1].image == folder / "images/1.png"
    assert dataset.items[1].conditions == {k: folder / f"conditions/{k}/1.png" for k in ("canny", "depth")}
    assert (len(dataset), dataset.kinds, dataset.buckets) == (3, ("canny",), ((64, 48),))
    assert dataset.condition_paths("canny") == [folder / f"conditions/canny/{i}.png" for i in range(3)]


def test_columns_are_those_of_an_imagefolder(folder):
    row = json.loads((folder / "metadata.jsonl").read_text().splitlines()[0])
    assert row == {
        "file_name": "images/0.png",
        "text": "picture 0",
        "canny_file_name": "conditions/canny/0.png",
        "depth_file_name": "conditions/depth/0.png",
    }


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{not json", r"metadata\.jsonl line 2: no JSON"),
        ("[1]", "line 2: no object"),
        ('{"text": "a"}', "line 2: file_name is missing"),
        ('{"file_name": "images/0.png"}', "line 2: text is missing"),
        ('{"file_name": "images/0.png", "text": 5}', "line 2: text is 5"),
        ('{"file_name": null, "text": ""}', "line 2: file_name is None"),
        ('{"file_name": "images/9.png", "text": ""}', "line 2: images/9.png does not exist"),
        ('{"file_name": "../0.png", "text": ""}', "line 2: file_name is '../0.png'"),
        ('{"file_name": "images/0.png", "text": "", "seg_file_name": "/etc/x.png"}', "line 2: seg_file_name"),
        ('{"file_name": "images/0.png", "text": "", "seg_file_name": "no.png"}', "line 2: no.png does not exist"),
        (b'{"file_name": "images/\xff.png"}'.decode("latin-1"), "line 2"),
    ],
)
def test_a_bad_line_is_named(folder, line, sentence):
    lines = (folder / "metadata.jsonl").read_text().splitlines()
    lines[1] = line
    (folder / "metadata.jsonl").write_text("\n".join(lines), "latin-1")
    with pytest.raises(SceditError, match=sentence):
        open_dataset(folder)


def test_a_missing_condition_column_is_named(folder):
    with pytest.raises(SceditError, match=r"line 3: 2\.png has no depth_file_name.*annotate"):
        open_dataset(folder).condition_paths("depth")


def test_a_condition_written_as_missing_is_one(folder):
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    write_rows(folder, [row | {"canny_file_name": None} for row in rows])
    assert open_dataset(folder).kinds == ()


def test_sizes_that_differ_are_named(folder):
    Image.new("RGB", (64, 64)).save(folder / "conditions/canny/1.png")
    with pytest.raises(SceditError, match=r"line 2: canny_file_name 1\.png is 64x64 pixels, its image is 64x48"):
        open_dataset(folder).condition_paths("canny")


def test_folders_that_are_no_dataset(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "blank").mkdir()
    (tmp_path / "blank/metadata.jsonl").write_text("\n\n")
    for name, sentence in {
        "none": "does not exist",
        "empty": "no metadata.jsonl",
        "blank": "names no images",
    }.items():
        with pytest.raises(SceditError, match=sentence):
            open_dataset(tmp_path / name)

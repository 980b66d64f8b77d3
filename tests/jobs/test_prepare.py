"""`prepare`: scenes, folders of pictures, what is rejected, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from scedit_cli.data.dataset import open_dataset
from scedit_cli.errors import SceditError
from scedit_cli.jobs.prepare import prepare
from tests import tiny


def save(path, size=(96, 64), left=(255, 0, 0), right=(0, 0, 255)):
    """A picture of two halves."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[:, : size[0] // 2], pixels[:, size[0] // 2 :] = left, right
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def photos(tmp_path):
    """Two good pictures, one of them in a subfolder, and one of each fault."""
    folder = tmp_path / "photos"
    for name in ("b.png", "deep/a.jpg", "small.png", "mute.png", "blank.png", ".hidden.png"):
        save(folder / name, (40, 90) if name == "small.png" else (96, 64))
    (folder / "torn.png").write_bytes((folder / "b.png").read_bytes()[:100])
    for name, text in {"b": "two\n halves ", "deep/a": "more halves", "small": "s", "torn": "t", "blank": " "}.items():
        (folder / f"{name}.txt").write_text(text)
    return folder


def test_scenes(tmp_path):
    events = []
    result = prepare(None, tmp_path / "out", scenes=3, seed=9, size=64, on_event=events.append)
    assert result.document() | {"seconds": 0} == {
        "out": str(tmp_path / "out"),
        "pictures": 3,
        "rejected": [],
        "conditions": ["canny", "color", "depth", "seg", "normal"],
        "seconds": 0,
    }
    assert (events[-1].stage, events[-1].step, events[-1].total) == ("render", 3, 3)
    assert len(open_dataset(tmp_path / "out")) == 3


def test_pictures_with_captions_beside_them(photos, tmp_path):
    events = []
    result = prepare(photos, tmp_path / "out", size=64, on_event=events.append)
    reasons = dict(result.rejected)
    assert result.pictures == 2
    assert set(reasons) == {"small.png", "mute.png", "blank.png", "torn.png"}
    assert "40x90 pixels, smaller than 64x64" in reasons["small.png"]
    assert "mute.txt does not exist" in reasons["mute.png"]
    assert "blank.txt is empty" in reasons["blank.png"]
    assert "no readable picture" in reasons["torn.png"]
    assert (events[-1].step, events[-1].total) == (6, 6)
    dataset = open_dataset(tmp_path / "out")
    assert [item.text for item in dataset.items] == ["two halves", "more halves"]
    assert dataset.size == (64, 64)
    pixels = np.asarray(Image.open(dataset.items[0].image))
    assert pixels[0, 0].tolist() == [255, 0, 0] and pixels[0, 63].tolist() == [0, 0, 255]  # cut around the middle
    assert np.array_equal(pixels[:, 31], np.tile((255, 0, 0), (64, 1)).astype(np.uint8))


def test_a_dataset_folder_keeps_its_conditions_in_place(tmp_path):
    src = tmp_path / "src"
    for kind, place in {"picture": "images", "seg": "conditions/seg", "canny": "conditions/canny"}.items():
        save(src / place / "0.png", (192, 128))
        save(src / place / "1.png", (192, 128) if kind != "canny" else (100, 100))
    rows = [
        {"file_name": f"images/{i}.png", "text": "x", "seg_file_name": f"conditions/seg/{i}.png",
         "canny_file_name": f"conditions/canny/{i}.png"}
        for i in (0, 1)
    ]  # fmt: skip
    rows.append({"file_name": "images/gone.png", "text": "x"})
    (src / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    result = prepare(src, tmp_path / "out", size=64)
    assert result.pictures == 1
    assert "its canny is 100x100" in dict(result.rejected)["images/1.png"]
    assert "does not exist" in dict(result.rejected)["images/gone.png"]
    assert result.conditions == ["seg", "canny"]
    item = open_dataset(tmp_path / "out").items[0]
    seg = np.asarray(Image.open(item.conditions["seg"]))
    assert {tuple(c) for c in seg.reshape(-1, 3)} == {(255, 0, 0), (0, 0, 255)}  # labels are not blended
    assert np.asarray(Image.open(item.image)).shape == seg.shape


def test_the_cache_is_made(tmp_path):
    base = str(tiny.pipeline_folder("sd15"))
    prepare(None, tmp_path / "out", scenes=2, size=64, cache=["latents", "text"], base=base)
    assert sorted(p.name.split("-")[0] for p in (tmp_path / "out/cache").iterdir()) == ["latents", "text"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"src": None}, "a folder of pictures or a number of scenes"),
        ({"scenes": 2}, "not both"),
        ({"size": 100}, "size is 100.*128 is nearest"),
        ({"cache": ["latent"]}, "latent cannot be cached"),
        ({"src": "nowhere"}, "nowhere does not exist"),
        ({"cache": ["text"], "base": "nowhere"}, "nowhere"),
        ({"size": 1024}, "none of the 6 pictures"),
    ],
)
def test_bad_input_writes_nothing(photos, tmp_path, arguments, sentence):
    with pytest.raises(SceditError, match=sentence):
        prepare(**({"src": photos, "out": tmp_path / "out"} | arguments))
    assert [p.name for p in tmp_path.iterdir()] == ["photos"]


def test_an_empty_folder_is_bad_input(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SceditError, match="no pictures in"):
        prepare(tmp_path / "empty", tmp_path / "out")


def test_nothing_is_overwritten(photos, tmp_path):
    with pytest.raises(SceditError, match="photos exists already"):
        prepare(None, photos, scenes=1)

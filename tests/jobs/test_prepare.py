"""`prepare`: scenes, folders of pictures, what is rejected, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from skimage import data

from scedit_cli.data.dataset import open_dataset
from scedit_cli.scenes import HELD_OUT_SEED
from scedit_cli.utils.errors import SceditError
from tests import tiny
from tests.archives import write_tar
from tests.preparing import prepare
from tests.recorder import Recorder


def save(path, size=(96, 64), left=(255, 0, 0), right=(0, 0, 255)):
    """An image of two halves."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[:, : size[0] // 2], pixels[:, size[0] // 2 :] = left, right
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def photos(tmp_path):
    """Two good pictures, one of them in a subfolder, and one of each fault."""
    folder = tmp_path / "photos"
    for number, name in enumerate(("b.png", "deep/a.jpg", "small.png", ".hidden.png", "._b.png")):
        save(folder / name, (40, 90) if name == "small.png" else (96, 64), left=(255, 50 * number, 0))
    (folder / "torn.png").write_bytes((folder / "b.png").read_bytes()[:100])
    (folder / "empty.png").touch()
    for name, text in {"b": "two\n halves ", "small": "s", "torn": "t", "empty": "e", "lonely": "l"}.items():
        (folder / f"{name}.txt").write_text(text)
    (folder / "deep/a.caption").write_text("more halves")
    return folder


def test_scenes(tmp_path):
    events = []
    result = prepare(None, tmp_path / "out", scenes=3, seed=9, size=64, reporter=Recorder(events.append))
    document = result.document()
    assert {key: document[key] for key in ("out", "pictures", "rejected", "conditions", "buckets")} == {
        "out": str(tmp_path / "out"),
        "pictures": 3,
        "rejected": [],
        "conditions": ["canny", "color", "depth", "seg", "normal"],
        "buckets": {"64x64": 3},
    }
    assert (events[-1].stage, events[-1].step, events[-1].total) == ("render", 3, 3)
    assert len(open_dataset(tmp_path / "out")) == 3
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "conditions", "images", "metadata.jsonl", "overview.png", "report.json",
    ]  # fmt: skip


def test_scenes_for_measuring_are_not_rendered_by_chance(tmp_path):
    held_out = {"scenes": 2, "size": 64, "seed": HELD_OUT_SEED - 1}
    with pytest.raises(SceditError, match="scenes from seed 1000000000 on are kept for measuring"):
        prepare(None, tmp_path / "out", **held_out)
    assert not list(tmp_path.iterdir())
    events = []
    assert prepare(None, tmp_path / "out", held_out=True, reporter=Recorder(events.append), **held_out).images == 2
    assert "train nothing on them" in events[0].text


def test_pictures_with_captions_beside_them(photos, tmp_path):
    events = []
    result = prepare(photos, tmp_path / "out", size=64, reporter=Recorder(events.append))
    reasons = {file: (fault, reason) for file, fault, reason in result.report.rejected}
    assert result.images == 2
    assert set(reasons) == {"small.png", "torn.png", "empty.png"}
    assert reasons["small.png"] == ("small", "40x90 pixels, smaller than 64x64")
    assert reasons["torn.png"][0] == "unreadable" and "no readable image" in reasons["torn.png"][1]
    assert reasons["empty.png"] == ("unreadable", "it is an empty file")
    assert (events[-1].step, events[-1].total) == (5, 5) and events[-1].values["pictures/s"] > 0
    dataset = open_dataset(tmp_path / "out")
    assert [item.text for item in dataset.items] == ["two halves", "more halves"]
    assert dataset.buckets == ((64, 64),)
    assert dataset.items[0].original == (96, 64) and dataset.items[0].crop == (0, 16)
    pixels = np.asarray(Image.open(dataset.items[0].image))
    assert pixels[0, 0].tolist() == [255, 0, 0] and pixels[0, 63].tolist() == [0, 0, 255]  # cut around the middle
    assert np.array_equal(pixels[:, 31], np.tile((255, 0, 0), (64, 1)).astype(np.uint8))
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["captions"] == {"with": 2, "without": 0, "coverage": 1.0, "from": {".txt": 1, ".caption": 1}}
    assert report["orphans"] == ["lonely.txt"] and report["hidden"] == 2 and report["source"] == str(photos)
    assert report["rejected"] == result.document()["rejected"]


def test_buckets_and_squares(tmp_path):
    sizes = {"wide": (400, 200), "tall": (150, 300), "square": (300, 300), "small": (100, 70)}
    for number, (name, size) in enumerate(sizes.items()):
        save(tmp_path / f"src/{name}.png", size, left=(0, 60 * number, 0))
    options = {"size": 128, "allow_captionless": True}
    prepare(tmp_path / "src", tmp_path / "buckets", **options)
    found = {item.original: item.size for item in open_dataset(tmp_path / "buckets").items}
    assert found == {(400, 200): (192, 64), (150, 300): (64, 192), (300, 300): (128, 128), (100, 70): (64, 64)}
    for item in open_dataset(tmp_path / "buckets").items:
        assert Image.open(item.image).size == item.size
    result = prepare(tmp_path / "src", tmp_path / "squares", square=True, **options)
    assert open_dataset(tmp_path / "squares").buckets == ((128, 128),)
    assert result.report.rejected == [("small.png", "small", "100x70 pixels, smaller than 128x128")]
    assert prepare(tmp_path / "src", tmp_path / "large", upscale=True, square=True, **options).images == 4


def test_captions_may_be_missing_where_it_is_allowed(photos, tmp_path):
    (photos / "b.txt").write_text(" ")
    with pytest.raises(SceditError, match=r"1 of 2 images have no caption: b\.png"):
        prepare(photos, tmp_path / "out", size=64)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.report.json", "photos"]
    assert json.loads((tmp_path / "out.report.json").read_text())["captionless"] == ["b.png"]
    result = prepare(photos, tmp_path / "out", size=64, allow_captionless=True)
    assert result.report.captionless == ["b.png"] and open_dataset(tmp_path / "out").items[0].text == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "photos"]


def test_strict_stops_at_anything_worth_a_look(photos, tmp_path):
    for number in range(9):
        (photos / f"lonely{number}.txt").write_text("l")
    wrong = r"3 cannot be used: empty\.png .*; 10 belong to no image: lonely\.txt.* and 5 more"
    with pytest.raises(SceditError, match=rf"{wrong} \(.*out\.report\.json names every one\)"):
        prepare(photos, tmp_path / "out", size=64, strict=True)
    report = json.loads((tmp_path / "out.report.json").read_text())
    assert len(report["orphans"]) == 10 and len(report["rejected"]) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.report.json", "photos"]
    for number in range(9):
        (photos / f"lonely{number}.txt").unlink()
    for name in ("small.png", "torn.png", "empty.png", "lonely.txt", "small.txt", "torn.txt", "empty.txt"):
        (photos / name).unlink()
    assert prepare(photos, tmp_path / "out", size=64, strict=True).images == 2


def test_duplicates_are_listed_and_dropped_where_it_is_asked_for(tmp_path):
    photo = Image.fromarray(data.coffee())
    (tmp_path / "src").mkdir()
    photo.save(tmp_path / "src/a.png")
    photo.save(tmp_path / "src/b.jpg", quality=60)
    Image.fromarray(data.astronaut()).save(tmp_path / "src/c.png")
    options = {"size": 128, "allow_captionless": True}
    kept = prepare(tmp_path / "src", tmp_path / "kept", **options)
    assert kept.report.duplicates == [("b.jpg", "a.png")] and kept.images == 3
    dropped = prepare(tmp_path / "src", tmp_path / "dropped", drop_duplicates=True, **options)
    assert dropped.images == 2 == len(list((tmp_path / "dropped/images").iterdir()))


def test_dropping_duplicates_removes_nothing_but_what_was_written(tmp_path):
    """A table's further columns are facts, whatever they are called and say."""
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    facts = {"text": "x", "profile_name": str(mine), "a_file_name_b": "fact"}
    rows = [{"file_name": f"{name}.png"} | facts for name in "ab"]
    save(tmp_path / "src/a.png")
    save(tmp_path / "src/b.png")
    (tmp_path / "src/metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    result = prepare(tmp_path / "src", tmp_path / "out", size=64, drop_duplicates=True)
    assert mine.read_text() == "mine" and result.conditions == []
    [row] = map(json.loads, (tmp_path / "out/metadata.jsonl").read_text().splitlines())
    assert (row["profile_name"], row["a_file_name_b"]) == (str(mine), "fact")
    assert [path.name for path in (tmp_path / "out/images").iterdir()] == ["000000.png"]


def test_a_wrong_suffix_is_read_and_told(tmp_path):
    (tmp_path / "src").mkdir()
    Image.fromarray(data.coffee()).save(tmp_path / "src/a.png", format="JPEG")
    result = prepare(tmp_path / "src", tmp_path / "out", size=128, allow_captionless=True)
    assert result.report.misnamed == [("a.png", "JPEG")] and result.images == 1


def test_conditions_from_a_folder_of_their_own_are_cut_alike(tmp_path):
    for number, name in enumerate(("a", "b", "c")):
        save(tmp_path / f"src/{name}.png", (200, 130), left=(60 * number, 0, 0))
        (tmp_path / f"src/{name}.txt").write_text(name)
    exif = Image.Exif()
    exif[0x0112] = 6  # the condition is turned like its picture
    turned = Image.open(tmp_path / "src/a.png").rotate(90, expand=True)
    (tmp_path / "maps").mkdir()
    turned.save(tmp_path / "maps/a.jpg", exif=exif, quality=100, subsampling=0)
    Image.open(tmp_path / "src/b.png").resize((100, 65)).save(tmp_path / "maps/b.png")
    result = prepare(tmp_path / "src", tmp_path / "out", size=64, conditions={"depth": tmp_path / "maps"})
    faults = {file: fault for file, fault, _ in result.report.rejected}
    assert faults == {"b.png": "unreadable", "c.png": "unpaired"}
    assert "its depth is 100x65 pixels, not 200x130" in result.report.rejected[0][2]
    [item] = open_dataset(tmp_path / "out").items
    picture, depth = (np.asarray(Image.open(path)).astype(int) for path in (item.image, item.conditions["depth"]))
    assert picture.shape == depth.shape and np.abs(picture - depth).mean() < 3
    assert result.conditions == ["depth"]


def test_condition_images_that_look_like_another_kind_are_told(tmp_path):
    """A photograph, and edges in black on white, in place of edges."""
    edges = np.zeros((64, 96), np.uint8)
    edges[:, 46:50] = 255
    for name, image in {"a": edges, "b": 255 - edges}.items():
        save(tmp_path / f"src/{name}.png", left=(ord(name), 0, 0))
        (tmp_path / f"src/{name}.txt").write_text(name)
        (tmp_path / "edges").mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / f"edges/{name}.png")
    save(tmp_path / "src/c.png", left=(0, 255, 0))
    (tmp_path / "src/c.txt").write_text("c")
    save(tmp_path / "edges/c.png")
    result = prepare(tmp_path / "src", tmp_path / "out", size=64, conditions={"canny": tmp_path / "edges"})
    told = [
        ("b.png", "its canny is mostly light, and canny images are drawn on black"),
        ("c.png", "its canny has colours, and canny images are gray"),
    ]
    assert result.images == 3 and result.report.doubtful == told
    assert [("doubtful", f"{file}: {reason}") for file, reason in told] == result.report.summary()[-2:]
    written = json.loads((tmp_path / "out/report.json").read_text())["doubtful"]
    assert written == [{"file": file, "reason": reason} for file, reason in told]


def test_transparency_of_a_condition_stays(tmp_path):
    save(tmp_path / "src/a.png", (128, 128))
    (tmp_path / "src/a.txt").write_text("a")
    (tmp_path / "holes").mkdir()
    Image.new("RGBA", (128, 128), (9, 9, 9, 0)).save(tmp_path / "holes/a.png")
    prepare(tmp_path / "src", tmp_path / "out", size=64, conditions={"inpaint": tmp_path / "holes"})
    assert Image.open(tmp_path / "out/conditions/inpaint/000000.png").mode == "RGBA"


def test_hugging_face_datasets_loads_what_is_prepared(photos, tmp_path):
    datasets = pytest.importorskip("datasets")
    prepare(photos, tmp_path / "out", size=64, shards=10)
    loaded = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "out"), split="train")
    assert [row["text"] for row in loaded] == ["two halves", "more halves"]
    assert loaded[0]["image"].size == (64, 64)


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
    assert result.images == 1
    reasons = {file: reason for file, _, reason in result.report.rejected}
    assert "its canny is 100x100" in reasons["images/1.png"]
    assert "it has no" in reasons["images/gone.png"]
    assert sorted(result.conditions) == ["canny", "seg"]
    item = open_dataset(tmp_path / "out").items[0]
    seg = np.asarray(Image.open(item.conditions["seg"]))
    assert {tuple(c) for c in seg.reshape(-1, 3)} == {(255, 0, 0), (0, 0, 255)}  # labels are not blended
    assert np.asarray(Image.open(item.image)).shape == seg.shape


def test_the_cache_is_made_and_gone_on_with(tmp_path):
    base, out = str(tiny.pipeline_folder("sd15")), tmp_path / "out"
    first = prepare(None, out, scenes=2, size=64, cache=["latents"], base=base)
    assert [path.name.split("-")[0] for path in sorted((out / "cache").iterdir())] == ["contents.json", "latents"]
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    again = prepare(None, out, cache=["latents", "text"], base=base)
    after = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert before.items() <= after.items() and again.images == first.images == 2
    assert {path.parent.name.split("-")[0] for path in after.keys() - before.keys()} == {"text"}


def test_the_autoencoder_and_the_bases_multiple_reach_the_cache(tmp_path):
    base = str(tiny.pipeline_folder("sdxl"))
    save(tmp_path / "src/a.png", (96, 96))
    options = {"size": 96, "allow_captionless": True, "cache": ["latents"], "base": base}
    prepare(tmp_path / "src", tmp_path / "out", **options)  # sides of SDXL's pictures are multiples of 32 here
    assert open_dataset(tmp_path / "out").buckets == ((96, 96),)
    tiny.pipeline("sd15", seed=1).vae.save_pretrained(tmp_path / "vae")
    prepare(None, tmp_path / "out", cache=["latents"], base=base, vae=str(tmp_path / "vae"))
    assert len(list((tmp_path / "out/cache").glob("latents-*"))) == 2


def test_shards_are_written(tmp_path):
    result = prepare(None, tmp_path / "out", scenes=5, size=64, shards=2)
    assert result.shards == 3 == len(list((tmp_path / "out/shards").glob("*.tar")))
    back = prepare(tmp_path / "out/shards", tmp_path / "back", size=64)
    assert back.images == 5 and sorted(back.conditions) == sorted(result.conditions)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"src": None}, "images or a number of scenes"),
        ({"shards": 0}, "shards of 0"),
        ({"scenes": 2}, "not both"),
        ({"size": 0}, "size is 0.*64 is nearest"),
        ({"size": 100}, "size is 100.*128 is nearest"),
        ({"cache": ["latent"]}, "latent cannot be cached"),
        ({"src": "nowhere"}, "nowhere does not exist"),
        ({"cache": ["text"], "base": "nowhere"}, "nowhere"),
    ],
)
def test_bad_input_writes_nothing(photos, tmp_path, arguments, sentence):
    with pytest.raises(SceditError, match=sentence):
        prepare(**({"src": photos, "out": tmp_path / "out"} | arguments))
    assert [p.name for p in tmp_path.iterdir()] == ["photos"]


def test_no_picture_that_can_be_used_is_told_with_its_report(photos, tmp_path):
    with pytest.raises(SceditError, match=r"none of the 5 images .*out\.report\.json names every one"):
        prepare(photos, tmp_path / "out", size=1024, square=True)
    assert len(json.loads((tmp_path / "out.report.json").read_text())["rejected"]) == 5


def test_shards_that_hold_nothing_of_what_they_promise(tmp_path):
    write_tar(tmp_path / "0.tar", {})
    (tmp_path / "sizes.json").write_text('{"0.tar": 3}')
    with pytest.raises(SceditError, match=r"0\.tar holds no images"):
        prepare(tmp_path / "0.tar", tmp_path / "out")


def test_an_empty_folder_is_bad_input(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SceditError, match="no images in"):
        prepare(tmp_path / "empty", tmp_path / "out")


def test_nothing_is_overwritten(photos, tmp_path):
    with pytest.raises(SceditError, match="photos exists already"):
        prepare(None, photos, scenes=1)

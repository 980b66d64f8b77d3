"""WebDataset shards: what is written is read, and how they are shared out."""

from __future__ import annotations

import io
import json
from itertools import islice

import pytest
from PIL import Image

from scedit_cli.data.dataset import open_dataset, row_of, write_rows
from scedit_cli.data.shard_dataset import open_streamed
from scedit_cli.data.shards import count_samples, counts_of, read_samples, shard_places, write_shards
from scedit_cli.data.stream import Stream
from scedit_cli.utils.errors import SceditError
from tests.archives import write_tar
from tests.preparing import prepare
from tests.recorder import Recorder, steps_to


@pytest.fixture
def dataset(tmp_path):
    """Five pictures of two sizes, with canny."""
    folder = tmp_path / "set"
    for place in ("images", "conditions/canny"):
        (folder / place).mkdir(parents=True)
        for index in range(5):
            Image.new("RGB", (64, 64 if index % 2 else 128), (index, 0, 0)).save(folder / place / f"{index}.png")
    write_rows(folder, [row_of(f"{index}.png", f"picture ä{index}", ("canny",)) for index in range(5)])
    return open_dataset(folder)


def test_a_dataset_becomes_shards_of_one_size_each(dataset, tmp_path):
    steps = []
    shards = write_shards(dataset, tmp_path / "shards", 2, steps_to(steps.append))
    assert [shard.name for shard in shards] == ["000000.tar", "000001.tar", "000002.tar"]
    assert [count_samples(shard) for shard in shards] == [2, 2, 1] and steps == [(2, 5), (4, 5), (5, 5)]
    samples = [list(read_samples(shard)) for shard in shards]
    assert [[int(sample.key) for sample in shard] for shard in samples] == [[1, 3], [0, 2], [4]]
    for shard in samples:
        for sample in shard:
            item = dataset.items[int(sample.key)]
            assert list(sample.files) == ["png", "txt", "canny.png"]
            assert sample.files["png"] == item.image.read_bytes()
            assert sample.files["canny.png"] == item.conditions["canny"].read_bytes()
            assert sample.files["txt"].decode() == item.text
        assert len({Image.open(io.BytesIO(sample.files["png"])).size for sample in shard}) == 1


def test_the_same_dataset_gives_the_same_bytes_and_stale_shards_go(dataset, tmp_path):
    first = [shard.read_bytes() for shard in write_shards(dataset, tmp_path / "shards", 1)]
    assert len(first) == 5
    again = write_shards(dataset, tmp_path / "other", 1)
    assert [shard.read_bytes() for shard in again] == first
    write_shards(dataset, tmp_path / "shards", 100)
    assert sorted(path.name for path in (tmp_path / "shards").glob("*.tar")) == ["000000.tar", "000001.tar"]


def test_images_of_one_stem_and_stems_with_dots_stay_samples_of_their_own(tmp_path):
    names = ("a/cat.0.png", "a/cat.1.png", "b/cat.0.png", f"b/{'long' * 40}.png")
    for red, name in enumerate(names):
        place = tmp_path / "set" / "images" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), (red, 0, 0)).save(place)
    write_rows(tmp_path / "set", [{"file_name": f"images/{name}", "text": name} for name in names])
    dataset = open_dataset(tmp_path / "set")
    [shard] = write_shards(dataset, tmp_path / "shards")
    samples = list(read_samples(shard))
    assert [sample.files["txt"].decode() for sample in samples] == [item.text for item in dataset.items]
    reds = [Image.open(io.BytesIO(sample.files["png"])).getpixel((0, 0))[0] for sample in samples]
    assert sorted(reds) == [0, 1, 2, 3] and count_samples(shard) == 4


def test_shards_replace_those_of_an_earlier_call_alone(dataset, tmp_path):
    """Theirs stay until the new ones are complete, and a folder with anything else is left as it is."""
    place = tmp_path / "shards"
    earlier = write_shards(dataset, place, 1)

    def content() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in place.iterdir()}

    before = content()

    def stop(event: object) -> None:
        assert content() == before
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(dataset, place, 2, Recorder(stop))
    assert content() == before and not list(tmp_path.glob(".*"))
    for name in ("mine.tar", "notes.txt"):
        (place / name).write_text("mine")
        with pytest.raises(SceditError, match=f"shards holds {name}, which its sizes.json does not name"):
            write_shards(dataset, place, 2)
        (place / name).unlink()
    with pytest.raises(SceditError, match="shards holds late.tar"):
        write_shards(dataset, place, 2, Recorder(lambda _: (place / "late.tar").touch()))
    (place / "late.tar").unlink()
    (place / "sizes.json").unlink()
    with pytest.raises(SceditError, match="shards holds 000000.tar"):
        write_shards(dataset, place, 2)
    assert content() == {name: data for name, data in before.items() if name != "sizes.json"} and len(earlier) == 5


@pytest.mark.parametrize("compression", ["w", "w:gz"])
def test_shards_of_others(tmp_path, compression):
    """Folders inside, hidden files, several dots, gzip."""
    names = ("deep/x.a.json", "deep/x.jpg", "deep/._x.jpg", "y.jpg")
    write_tar(tmp_path / "a.tar", {name: name.encode() for name in names}, compression)
    samples = list(read_samples(tmp_path / "a.tar"))
    assert [(sample.key, sorted(sample.files)) for sample in samples] == [("deep/x", ["a.json", "jpg"]), ("y", ["jpg"])]
    assert samples[0].files["jpg"] == b"deep/x.jpg" and count_samples(tmp_path / "a.tar") == 2


def test_places_of_shards(tmp_path):
    for name in ("s-08.tar", "s-09.tar", "s-10.tar"):
        (tmp_path / name).touch()
    (tmp_path / ".1-000000~s-11.tar").touch()  # what a killed process was writing
    paths = shard_places(tmp_path / "s-{08..10}.tar")
    assert paths == [str(tmp_path / f"s-{number}.tar") for number in ("08", "09", "10")] == shard_places(tmp_path)
    remote = shard_places("https://x.org/{a..b}/{0..1}-{08..10}.tar")
    assert len(remote) == 6 and remote[3] == "https://x.org/{a..b}/1-08.tar"
    with pytest.raises(SceditError, match=r"s-11\.tar does not exist"):
        shard_places(tmp_path / "s-{08..11}.tar")
    (tmp_path / "none").mkdir()
    with pytest.raises(SceditError, match="no .tar shards"):
        shard_places(tmp_path / "none")


def test_counts_come_from_sizes_json_or_from_the_shards(dataset, tmp_path):
    shards = [str(path) for path in write_shards(dataset, tmp_path / "shards", 2)]
    known = json.loads((tmp_path / "shards/sizes.json").read_text())
    assert known == {"000000.tar": 2, "000001.tar": 2, "000002.tar": 1} and counts_of(shards) == [2, 2, 1]
    (tmp_path / "shards/sizes.json").write_text(json.dumps({"000000.tar": 9}))
    told = []
    assert counts_of(shards, steps_to(told.append)) == [9, 2, 1] and told == [(1, 3), (2, 3), (3, 3)]
    (tmp_path / "shards/sizes.json").unlink()
    assert counts_of(shards) == [2, 2, 1]


def test_a_torn_shard_is_named(dataset, tmp_path):
    [shard] = write_shards(dataset, tmp_path / "shards", 100)[:1]
    shard.write_bytes(shard.read_bytes()[:700])
    for read in (count_samples, lambda path: list(read_samples(path))):
        with pytest.raises(SceditError, match=r"000000\.tar is no whole \.tar"):
            read(shard)


def test_the_sizes_of_a_dataset_and_of_its_shards_are_the_same(tmp_path):
    """Of what SDXL is conditioned on: the source's size, and the place of the part that was cut from it."""
    (tmp_path / "src").mkdir()
    for name, size in {"a": (200, 100), "b": (64, 160), "c": (64, 64)}.items():
        Image.effect_noise(size, 90).convert("RGB").save(tmp_path / f"src/{name}.png")
        (tmp_path / f"src/{name}.txt").write_text(name)
    prepare(tmp_path / "src", tmp_path / "set", size=64, square=True, shards=8)
    dataset = open_dataset(tmp_path / "set")
    wanted = {item.text: (*item.original[::-1], *item.crop, 64, 64) for item in dataset.items}
    assert wanted == {"a": (100, 200, 0, 32, 64, 64), "b": (160, 64, 48, 0, 64, 64), "c": (64, 64, 0, 0, 64, 64)}
    shards = tmp_path / "set" / "shards"

    def streamed(size) -> dict[str, tuple[int, ...]]:
        batches = Stream(open_streamed(str(shards), size), 1, shuffle=0).batches()
        return {raw.captions[0]: tuple(raw.sizes[0].tolist()) for raw in islice(batches, 3)}

    assert streamed((64, 64)) == wanted
    assert streamed((32, 16)) == {
        "a": (100, 200, 8, 16, 16, 32), "b": (160, 64, 32, 0, 16, 32), "c": (64, 64, 8, 0, 16, 32),
    }  # fmt: skip
    open_streamed(str(shards), (64, 64)).write_first(tmp_path / "first", 3)
    prepare(shards, tmp_path / "again", size=64)
    for made in ("first", "again"):
        again = {item.text: (*item.original[::-1], *item.crop, 64, 64) for item in open_dataset(tmp_path / made).items}
        assert again == wanted


@pytest.mark.parametrize("about", [{}, {"original_width": None, "original_height": "9"}, {"original_width": -3}])
def test_a_source_that_another_program_does_not_tell_is_the_image(about, tmp_path):
    image = io.BytesIO()
    Image.new("RGB", (96, 64)).save(image, "PNG")
    write_tar(tmp_path / "a.tar", {"1.png": image.getvalue(), "1.json": json.dumps(about).encode()})
    raw = next(Stream(open_streamed(str(tmp_path / "a.tar"), (64, 64)), 1).batches())
    assert raw.sizes.tolist() == [[64, 96, 0, 16, 64, 64]]

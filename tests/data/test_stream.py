"""Streaming from shards: the same batches for any number of processes and from any step on, whatever is damaged."""

from __future__ import annotations

import io
import json
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from threading import Thread

import numpy as np
import pytest
import torch
from PIL import Image

from scedit_cli import conditions
from scedit_cli.conditions.annotation_spec import make_specs
from scedit_cli.data.shard_dataset import open_streamed
from scedit_cli.data.shard_schedule import ShardSchedule
from scedit_cli.data.stream import Stream
from scedit_cli.utils.errors import SceditError
from tests.archives import write_tar
from tests.recorder import notes_to

COUNTS = (3, 7, 1, 5, 4)
SIZE = (64, 48)


def files(number: int, size: tuple[int, int] = (72, 50)) -> dict[str, bytes]:
    """A picture that tells its number, its caption and its canny picture."""
    made = {"txt": f"picture {number}".encode()}
    for suffix, blue in (("png", 0), ("canny.png", 255)):
        buffer = io.BytesIO()
        Image.new("RGB", size, (number, 2 * number, blue)).save(buffer, "PNG")
        made[suffix] = buffer.getvalue()
    return made


def write(path, samples: dict[str, dict[str, bytes]]) -> None:
    write_tar(path, {f"{key}.{suffix}": data for key, parts in samples.items() for suffix, data in parts.items()})


def tell_counts(folder, changes: dict[str, int] = {}) -> None:  # noqa: B006
    counts = {f"{shard:03d}.tar": count for shard, count in enumerate(COUNTS)}
    (folder / "sizes.json").write_text(json.dumps(counts | changes))


@pytest.fixture
def shards(tmp_path):
    """Twenty pictures in five shards of unlike sizes."""
    folder, number = tmp_path / "shards", 0
    folder.mkdir()
    for shard, count in enumerate(COUNTS):
        write(folder / f"{shard:03d}.tar", {f"{n:02d}": files(n) for n in range(number, number + count)})
        number += count
    return folder


def stream(place, batch_size=4, step=0, size=SIZE, kinds=("canny",), columns=None, upscale=False, **options) -> Stream:
    made = Stream(open_streamed(str(place), size, kinds, columns, upscale), batch_size, **options)
    made.step = step
    return made


def numbers(made: Stream, steps: int) -> list[list[int]]:
    """Which pictures are in the next batches: pixels, captions and condition pictures agree on it."""
    seen = []
    batches = made.batches()
    for raw in islice(batches, steps):
        found = raw.pixels[:, 0, 0, 0].tolist()
        assert raw.captions == [f"picture {number}" for number in found]
        if raw.hints:
            assert torch.equal(raw.hints["canny"][:, 0, 0, 0] * 255, torch.tensor(found).float())
        seen.append(found)
    batches.close()
    return seen


def test_a_block_is_shuffled_and_nothing_is_lost(shards):
    def drawn(**options) -> list[int]:
        return sum(numbers(stream(shards, 1, **options), 64), [])

    plain, shuffled = drawn(shuffle=0, seed=3), drawn(shuffle=64, seed=3)
    first = [range(sum(COUNTS[:shard]), sum(COUNTS[: shard + 1])) for shard in ShardSchedule(COUNTS, 1, 3).dealt(0, 0)]
    assert plain[:20] == [number for shard in first for number in shard]
    assert sorted(plain[20:40]) == list(range(20)) and plain[20:40] != plain[:20]
    assert shuffled != plain and sorted(shuffled) == sorted(plain)
    assert drawn(shuffle=64, seed=4) != shuffled


@pytest.mark.parametrize("lanes", [1, 2, 3, 5, 8])
def test_every_shard_has_one_reader_in_an_epoch(lanes):
    made = ShardSchedule(COUNTS, lanes, seed=0)
    assert made.count == min(lanes, 5)
    for epoch in range(4):
        dealt = [shard for lane in range(made.count) for shard in made.dealt(lane, epoch)]
        assert sorted(dealt) == list(range(5))
    lane = [(epoch, shard, at) for epoch in range(9) for shard in made.dealt(0, epoch) for at in range(COUNTS[shard])]
    for index in range(0, len(lane), 7):
        epoch, turns = made.find(0, index)
        assert (epoch, turns[0].shard, turns[0].skip) == lane[index]
        rest = [each.shard for each in turns[1:]]
        assert rest == made.dealt(0, epoch)[len(made.dealt(0, epoch)) - len(rest) :]


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_processes_share_the_batches_of_one(shards, processes):
    """Five lanes for seven places: no process has lanes of its own alone."""
    alone = numbers(stream(shards, 7), 12)
    parts = [numbers(stream(shards, 7, share=(index, processes)), 12) for index in range(processes)]
    assert [sum(each, []) for each in zip(*parts, strict=True)] == alone
    opened = [stream(shards, 5, share=(index, 5), workers=1) for index in range(5)]
    assert [len(each.places) for each in opened] == [1] * 5


@pytest.mark.parametrize("workers", [1, 3])
def test_it_goes_on_from_any_step(shards, workers):
    whole = numbers(stream(shards, 3), 30)
    for step in (1, 5, 6, 17, 29):
        first = stream(shards, 3, workers=workers)
        assert numbers(first, step) == whole[:step] and first.epoch == step * 3 // 20
        second = stream(shards, 3, workers=workers)
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert numbers(second, 30 - step) == whole[step:]


def test_another_stream_is_not_gone_on_with(shards):
    state = stream(shards).state_dict()
    for options, told in (
        ({"seed": 1}, "seed was 0 and is 1"), ({"batch_size": 3}, "batch_size was 4"),
        ({"size": (48, 48)}, "are others"), ({"shuffle": 0}, "are others"), ({"kinds": ()}, "are others"),
    ):  # fmt: skip
        with pytest.raises(SceditError, match=f"the data to resume on is not what it was: .*{told}"):
            stream(shards, **options).load_state_dict(state)
    write(shards / "000.tar", {f"{n:02d}": files(n + 100, (80, 60)) for n in range(3)})
    (shards / "000.tar").write_bytes((shards / "000.tar").read_bytes() + bytes(10240))
    with pytest.raises(SceditError, match="are others"):
        stream(shards).load_state_dict(state)


def test_what_is_damaged_is_named_and_others_take_its_place(shards):
    torn = shards / "001.tar"
    tell_counts(shards, {"004.tar": 6})
    torn.write_bytes(torn.read_bytes()[:4000])
    write(shards / "003.tar", {f"{n:02d}": files(n) | ({"png": b"no"} if n == 12 else {}) for n in range(11, 16)})
    told: list[str] = []
    whole = numbers(stream(shards, 4, reporter=notes_to(told.append)), 40)
    known = {"001.tar is no whole .tar", "12: it is no readable image", "004.tar holds fewer samples than sizes.json states"}
    assert all(any(each in sentence for sentence in told) for each in known), told
    assert {n for batch in whole for n in batch} == set(range(20)) - {12} - set(range(4, 10)) | {3}
    for step in (7, 23):
        assert numbers(stream(shards, 4, step=step), 40 - step) == whole[step:]
    parts = [numbers(stream(shards, 4, share=(index, 3)), 40) for index in range(3)]
    assert [sum(each, []) for each in zip(*parts, strict=True)] == whole


def test_too_much_damage_ends_it(shards):
    for shard in range(5):
        write(shards / f"{shard:03d}.tar", {f"{n}": files(n) | ({"png": b"no"} if n % 3 else {}) for n in range(9)})
    with pytest.raises(SceditError, match=r"of 16 samples cannot be used; the last: .*no readable image") as refused:
        numbers(stream(shards, shuffle=0), 30)
    assert "data.unusable" in refused.value.hint
    assert {n for batch in numbers(stream(shards, shuffle=0, unusable=0.9), 30) for n in batch} == {0, 3, 6}
    sizes = {f"{shard:03d}.tar": 9 for shard in range(5)}
    (shards / "sizes.json").write_text(json.dumps(sizes))
    for shard in range(5):
        (shards / f"{shard:03d}.tar").write_bytes(b"no tar")
    with pytest.raises(SceditError, match="none of the shards can be read"):
        numbers(stream(shards), 1)


def test_small_pictures_are_left_out_or_made_larger(shards):
    write(shards / "000.tar", {f"{n:02d}": files(n, (40, 40)) for n in range(3)})
    told: list[str] = []
    kept = numbers(stream(shards, reporter=notes_to(told.append)), 40)
    assert {n for batch in kept for n in batch} == set(range(3, 20))
    assert any("000.tar: 00: 40x40 pixels, smaller than 64x48" in each for each in told)
    assert {n for batch in numbers(stream(shards, upscale=True), 40) for n in batch} == set(range(20))


def test_a_sample_is_cut_as_prepare_cuts_it(shards):
    [raw] = islice(stream(shards, 2, size=(48, 48)).batches(), 1)
    assert raw.pixels.shape == (2, 3, 48, 48) and raw.pixels.dtype == torch.uint8
    assert raw.hints["canny"].shape == (2, 3, 48, 48)
    assert raw.sizes.tolist() == [[50, 72, 0, 11, 48, 48]] * 2  # what SDXL is told: from where the cut is


def test_conditions_are_made_of_the_pictures(shards):
    noise = np.random.default_rng(0).integers(0, 256, (50, 72, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    write(shards / "000.tar", {"a": {"png": buffer.getvalue(), "txt": b"noise"}})
    only = shards / "000.tar"
    made = stream(only, 1, kinds=(), specs=make_specs(["canny"], ["low=10..900", "high=950"]))
    one, other = islice(made.batches(), 2)
    wanted = conditions.annotate("canny", Image.fromarray(one.pixels[0].permute(1, 2, 0).numpy()))
    assert one.hints["canny"].shape == (1, 3, 48, 64) and not torch.equal(one.hints["canny"], other.hints["canny"])
    plain = next(stream(only, 1, kinds=(), specs=make_specs(["canny"])).batches())
    assert np.array_equal(plain.hints["canny"][0, 0].numpy() * 255, np.asarray(wanted.convert("L")))
    holed = stream(only, 1, kinds=(), specs=make_specs(["inpaint"])).batches()
    one, other = (raw.hints["inpaint"] for raw in islice(holed, 2))
    assert one.shape == (1, 4, 48, 64) and not torch.equal(one[:, 3], other[:, 3]), "no image has one hole twice"


def test_columns_say_what_a_sample_holds(shards):
    sample = files(5)
    parts = {"small.png": files(9)["png"], "big.png": sample["png"], "json": b'{"say": "picture 5"}'}
    write(shards / "000.tar", {"a": parts | {"edges.png": sample["canny.png"]}})
    columns = {"image": "big.png", "text": "say", "canny": "edges.png"}
    assert numbers(stream(shards / "000.tar", 1, columns=columns), 2) == [[5], [5]]
    with pytest.raises(SceditError, match="it has no depth image"):
        numbers(stream(shards, kinds=("depth",)), 1)


def test_the_first_pictures_are_held_out(shards, tmp_path):
    opened = open_streamed(str(shards), SIZE, ("canny",))
    opened.write_first(tmp_path / "first", 5)
    rows = [json.loads(line) for line in (tmp_path / "first/metadata.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == [f"picture {n}" for n in range(5)]
    assert (tmp_path / "first/conditions/canny/000004.png").is_file()
    left = opened.without_first(tmp_path / "first", 4)
    assert (left.counts, left.left) == ((7, 1, 5, 4), [6, 1, 5, 4]) and left.fingerprint != opened.fingerprint
    seen = numbers(Stream(left, 4), 30)
    assert {n for batch in seen for n in batch} == set(range(4, 20))
    with pytest.raises(SceditError, match="validation.pictures: 6 of at most 20"):
        opened.without_first(tmp_path / "first", 6)


def test_a_loss_that_is_lost_is_told_with_its_samples(shards):
    made = stream(shards, 4)
    raw = next(made.batches())
    homes = np.repeat(range(5), COUNTS)
    assert [made.name_of(index) for index in raw.indices] == [
        f"{shards}/{homes[number]:03d}.tar: {number:02d}" for number in raw.pixels[:, 0, 0, 0].tolist()
    ]


def test_shards_of_a_server_are_never_kept(shards):
    pytest.importorskip("aiohttp")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=shards))
    Thread(target=server.serve_forever, daemon=True).start()
    place = f"http://127.0.0.1:{server.server_port}/{{000..004}}.tar"
    try:
        with pytest.raises(SceditError, match=r"samples in 000.tar is unknown: .*sizes.json cannot be read"):
            stream(place)
        tell_counts(shards)
        assert numbers(stream(place, 4, step=3), 4) == numbers(stream(shards, 4, step=3), 4)
        (shards / "002.tar").unlink()
        told: list[str] = []
        numbers(stream(place, 4, reporter=notes_to(told.append)), 12)
        assert any("002.tar cannot be read" in each for each in told)
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("pipe:cat shards.tar", "no commands are run here"),
        ("nowhere/{000..002}.tar", "nowhere/000.tar does not exist"),
        ("gopher://x/{000..002}.tar", "Protocol not known: gopher"),
    ],
)
def test_places_that_cannot_be(place, told):
    with pytest.raises(SceditError) as refused:
        open_streamed(place, SIZE)
    assert told in f"{refused.value.message} {refused.value.hint}"


def test_empty_shards_and_wrong_sizes_are_told(shards, tmp_path):
    write(tmp_path / "empty.tar", {})
    with pytest.raises(SceditError, match="holds no samples"):
        open_streamed(str(tmp_path / "empty.tar"), SIZE)
    for content, told in ((b"{", "no JSON"), (b'{"000.tar": "many"}', "holds no counts by name")):
        (shards / "sizes.json").write_bytes(content)
        with pytest.raises(SceditError, match=told):
            open_streamed(str(shards), SIZE)

"""What transparency means is the same however a file holds it, and however the file comes in."""

from __future__ import annotations

import io
from functools import partial

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from scedit_cli import conditions
from scedit_cli.conditions.annotation_spec import make_specs
from scedit_cli.data.buckets import exactly
from scedit_cli.data.cache import cache_latents
from scedit_cli.data.dataset import open_dataset, row_of, write_rows
from scedit_cli.data.hints import Hints, MadeHints, read_uint8
from scedit_cli.data.images import open_image, open_mask
from scedit_cli.data.importing import Rejected, take
from scedit_cli.data.overview import overview
from scedit_cli.data.shard_dataset import open_streamed
from scedit_cli.data.sources import Blob, Entry
from scedit_cli.data.stream import Stream
from scedit_cli.inference.config import Control
from scedit_cli.inference.controls import OpenedControl
from scedit_cli.inference.sampler import to_hints
from scedit_cli.training.datasets import first_images, first_of
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.transparency import condition_image, cut_mask, mask_image
from tests.archives import write_tar
from tests.transparent_files import HIDDEN, WAYS, png, written

SIDE = 64
LEVELS = np.arange(SIDE) * 4  # across a photograph


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SCEDIT_CACHE", str(tmp_path / "cache"))  # shards of one name and length share what is kept


@pytest.fixture
def drawn():
    lines = np.zeros((SIDE, SIDE), bool)
    lines[8:12], lines[:, 30:33], lines[40:60, 50:60] = True, True, True
    return lines


@pytest.fixture
def photo():
    return Image.fromarray(np.broadcast_to(LEVELS, (SIDE, SIDE)).astype(np.uint8)).convert("RGB")


def prepared(file, kind, photo, folder, size=SIDE):
    """The dataset folder of one photo with one condition image."""
    photo.save(folder / "photo.png")
    image, condition = (Blob(str(each), partial(each.open, "rb")) for each in (folder / "photo.png", file))
    entry = Entry("photo", image, "a", conditions={kind: condition})
    taken = take(entry, "000000.png", folder / "set", partial(exactly, size=(size, size)))
    if isinstance(taken, Rejected):
        raise SceditError(taken.reason)
    write_rows(folder / "set", [taken.row])
    return folder / "set"


def sharded(file, kind, photo, folder, size=SIDE):
    """The stream of a shard of the same two files."""
    photo.save(picture := io.BytesIO(), "PNG")
    parts = {"0.png": picture.getvalue(), f"0.{kind}.png": file.read_bytes(), "0.txt": b"a"}
    return open_streamed(str(write_tar(folder / "0.tar", parts)), (size, size), (kind,))


def streamed(file, kind, photo, folder, size=SIDE):
    raw = next(Stream(sharded(file, kind, photo, folder, size), 1, shuffle=0).batches())
    return raw.hints[kind]


def hints(file, kind, photo, folder):
    """The hint of a condition file by every way in, float (C, H, W)."""
    channels = conditions.channels_of(kind)
    path = prepared(file, kind, photo, folder)
    [item] = open_dataset(path).items
    [example] = first_images(open_dataset(path), 1, [kind])
    [kept] = first_images(first_of(sharded(file, kind, photo, folder), 1), 1, [kind])
    return {
        "folder": Hints([file], (SIDE, SIDE), channels=channels).batch([0], 1)[0],
        "prepare": read_uint8(item.conditions[kind], channels) / 255,
        "sample grid": to_hints(kind, [example.conditions[kind]])[0],
        "shard": streamed(file, kind, photo, folder)[0],
        "validation of shards": to_hints(kind, [kept.conditions[kind]])[0],
        "--cond": to_hints(kind, [OpenedControl.of(Control(kind, file)).image])[0],
        "library": to_hints(kind, [Image.open(file)])[0],
    }


@pytest.mark.parametrize("kind", ["canny", "seg", "mine"])
@pytest.mark.parametrize("way", WAYS)
def test_a_condition_is_laid_on_black_by_every_way_in(tmp_path, photo, drawn, way, kind):
    file = written(tmp_path, way, drawn, 255)
    expected = torch.from_numpy(drawn).float().expand(3, -1, -1)
    for name, hint in hints(file, kind, photo, tmp_path).items():
        assert torch.equal(hint, expected), name


@pytest.mark.parametrize(("name", "options"), [("a.webp", {"quality": 90}), ("a.avif", {"quality": 90})])
def test_lossy_files_are_laid_on_black_too(tmp_path, drawn, name, options):
    pixels = np.full((SIDE, SIDE, 4), 255, np.uint8)
    pixels[..., 3] = drawn * 255
    Image.fromarray(pixels).save(tmp_path / name, **options)
    assert (read_uint8(tmp_path / name)[0] - torch.from_numpy(drawn * 255).float()).abs().max() <= 3


@pytest.mark.parametrize(("bits", "alpha"), [(8, "assocalpha"), (16, "unassalpha"), (16, "assocalpha")])
def test_gray_tiffs_whose_alpha_nothing_reads_are_named(tmp_path, bits, alpha):
    pixels = np.full((SIDE, SIDE, 2), 2**bits - 1, f"u{bits // 8}")
    tifffile.imwrite(tmp_path / "a.tiff", pixels, photometric="minisblack", extrasamples=[alpha], planarconfig="contig")
    with pytest.raises(SceditError, match=r"a.tiff is no readable image") as error:
        read_uint8(tmp_path / "a.tiff")
    assert "save it again" in error.value.hint


def test_partial_opacity_is_a_gray_on_black(tmp_path, photo, drawn):
    pixels = np.full((SIDE, SIDE, 4), 255, np.uint8)
    pixels[..., 3] = np.where(drawn, 128, 0)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    expected = torch.from_numpy(np.where(drawn, 128, 0)).expand(3, -1, -1) / 255
    for name, hint in hints(tmp_path / "a.png", "canny", photo, tmp_path).items():
        torch.testing.assert_close(hint.double(), expected.double(), rtol=0, atol=1e-7, msg=name)


@pytest.mark.parametrize("way", WAYS)
def test_a_mask_is_luminance_times_opacity(tmp_path, drawn, way):
    mask = open_mask(written(tmp_path, way, drawn, 255))
    assert mask.mode == "L" and np.array_equal(np.asarray(mask), drawn * 255)


def test_a_masks_soft_values_stay_until_it_is_cut():
    pixels = np.zeros((1, 256, 4), np.uint8)
    pixels[..., 0], pixels[..., 3] = 255, np.arange(256)
    soft = np.asarray(mask_image(Image.fromarray(pixels)))[0]
    assert np.abs(soft - 0.299 * np.arange(256)).max() <= 1
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    assert np.array_equal(np.asarray(cut_mask(ramp))[0], np.where(np.arange(256) >= 127.5, 255, 0))


@pytest.mark.parametrize("way", WAYS)
def test_a_photograph_is_laid_on_white(tmp_path, drawn, way):
    file = written(tmp_path, way, drawn, 0)
    assert np.array_equal(np.asarray(open_image(file)), np.dstack([np.where(drawn, 0, 255)] * 3))
    [order] = make_specs(["gray"])
    made = MadeHints([file], (SIDE, SIDE), order).batch([0], 1)[0]
    assert torch.equal(made, torch.from_numpy(~drawn).float().expand(3, -1, -1))
    assert np.array_equal(np.asarray(conditions.annotate("gray", Image.open(file))), np.where(drawn, 0, 255))


def test_latents_are_of_the_photograph_on_white(tmp_path, drawn):
    class Encoder:
        """As much of a base as is needed to see what is encoded."""

        vae = torch.nn.Conv2d(1, 1, 1)
        moment_channels = 2

        def encode_images(self, images):
            self.seen = images
            return images.new_zeros(len(images), 2, SIDE, SIDE)

    base = Encoder()
    base.vae.config = type("Config", (), {"latent_channels": 1, "block_out_channels": (1,)})
    (tmp_path / "images").mkdir()
    written(tmp_path / "images", "rgba.png", drawn, 0)
    write_rows(tmp_path, [row_of("rgba.png", "", ())])
    cache_latents(open_dataset(tmp_path), base)
    assert torch.equal(base.seen[0], torch.from_numpy(~drawn).float().expand(3, -1, -1))


@pytest.mark.parametrize("kind", ["inpaint", "outpaint"])
@pytest.mark.parametrize("way", WAYS)
def test_an_inpaint_condition_is_black_where_alpha_is_0(tmp_path, photo, drawn, way, kind):
    file = written(tmp_path, way, drawn, 255)
    expected = torch.from_numpy(drawn).float().expand(4, -1, -1)
    for name, hint in hints(file, kind, photo, tmp_path).items():
        assert torch.equal(hint, expected), name


def holed(photo, hidden, folder):
    """The photo with a soft-edged hole, under which it keeps `hidden` pixels."""
    pixels = np.dstack((np.asarray(photo), np.full((SIDE, SIDE), 255, np.uint8)))
    pixels[18:46, 18:46, 3] = 100
    pixels[20:44, 20:44, 3] = 0
    pixels[20:44, 20:44, :3] = hidden
    path = folder / "holed.png"
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize("size", [SIDE, 48, 21])
def test_hidden_colours_leave_no_trace_at_any_size(tmp_path, photo, size):
    noise = np.random.default_rng(0).integers(0, 256, (24, 24, 3))
    seen = []
    for hidden in (0, 255, noise):
        file = holed(photo, hidden, tmp_path)
        [item] = open_dataset(prepared(file, "inpaint", photo, tmp_path, size)).items
        shown = OpenedControl.of(Control("inpaint", file)).shown_at((size, size), "crop")
        seen.append([
            read_uint8(item.conditions["inpaint"], 4) / 255,
            streamed(file, "inpaint", photo, tmp_path, size)[0],
            to_hints("inpaint", [shown])[0],
        ])  # fmt: skip
    for ways in zip(*seen, strict=True):
        assert all(torch.equal(each, ways[0]) for each in ways)
        assert not ways[0][:3, ways[0][3] == 0].any() and (ways[0][3] == 0).any()
    assert torch.equal(seen[0][0], seen[0][1])
    partly = seen[0][0][:3, (seen[0][0][3] > 0.3) & (seen[0][0][3] < 0.5)]
    assert partly.numel() and partly.amax() > 0.5  # what is half transparent keeps its colours


def test_scores_compare_with_what_the_tuner_saw(tmp_path, drawn):
    black = Image.fromarray(drawn.astype(np.uint8) * 255)
    photo = Image.fromarray(np.where(drawn, 255, 40).astype(np.uint8)).convert("RGB")
    for way in WAYS:
        given = Image.open(written(tmp_path, way, drawn, 255))
        assert conditions.consistency("canny", photo, given) == conditions.consistency("canny", photo, black)
    pixels = np.dstack((np.asarray(photo), np.where(drawn, 0, 255).astype(np.uint8)))
    found = conditions.measured("inpaint", [photo], [Image.fromarray(pixels)])[0]
    assert found["consistency"] == 1 and found["kept"] == pytest.approx((~drawn).mean())


NOTHING = "nothing is left of .* once its transparency is laid on black"


@pytest.mark.parametrize("way", WAYS)
def test_a_drawing_in_alpha_alone_is_told(tmp_path, photo, drawn, way):
    file = written(tmp_path, way, drawn, 0)
    reads = [
        lambda: read_uint8(file),
        lambda: open_mask(file),
        lambda: prepared(file, "canny", photo, tmp_path),
        lambda: streamed(file, "canny", photo, tmp_path),
        lambda: to_hints("canny", [Image.open(file)]),
        lambda: conditions.consistency("canny", photo, Image.open(file)),
    ]
    for read in reads:
        with pytest.raises(SceditError, match=NOTHING):
            read()
    with pytest.raises(SceditError, match=f"control.image: nothing is left of .*{way}") as error:
        OpenedControl.of(Control("canny", file))
    assert "draw in white" in error.value.hint


def test_one_bit_with_a_transparent_value(tmp_path, drawn):
    (tmp_path / "white.png").write_bytes(png(drawn, 1, key=0))
    (tmp_path / "black.png").write_bytes(png(~drawn, 1, key=1))
    assert torch.equal(read_uint8(tmp_path / "white.png")[0], torch.from_numpy(drawn * np.uint8(255)))
    with pytest.raises(SceditError, match=NOTHING):
        read_uint8(tmp_path / "black.png")


def test_what_is_transparent_everywhere_may_be_blank_and_no_drawing():
    blank = Image.new("RGBA", (4, 4), (HIDDEN, HIDDEN, HIDDEN, 0))
    assert condition_image(blank).getextrema() == ((0, 0),) * 3
    assert condition_image(Image.new("RGBA", (4, 4), (9, 9, 9, 255))).getextrema() == ((9, 9),) * 3
    blank.putpixel((1, 1), (0, 0, 0, 0))
    with pytest.raises(SceditError, match=NOTHING):
        condition_image(blank)


def test_images_without_transparency_are_as_they_were():
    deep = Image.fromarray(np.arange(16, dtype=np.uint16).reshape(4, 4) * 4000)
    for image in (Image.new("L", (4, 4), 7), Image.new("RGB", (4, 4), (1, 2, 3)), deep):
        assert condition_image(image) is image


def test_the_overview_shows_conditions_as_the_tuner_sees_them(tmp_path, photo):
    pixels = np.full((SIDE, SIDE, 4), 255, np.uint8)
    pixels[8:56, 8:56] = (255, 255, 255, 0)
    Image.fromarray(pixels).save(tmp_path / "hole.png")
    path = prepared(tmp_path / "hole.png", "inpaint", photo, tmp_path)
    sheet = np.asarray(overview(path, ["inpaint"], 1, "one"))
    assert (sheet[60:180, 140:240] == 0).all(-1).sum() >= 40 * 40

"""Every file that looks like a picture is read, or named with what to do about it, wherever it lies."""

from __future__ import annotations

import base64
import io
import sys
from functools import partial

import numpy as np
import pytest
from PIL import Image

from scedit_cli.data import formats
from scedit_cli.data.hints import open_given_condition
from scedit_cli.data.images import image_size, open_image, open_mask
from scedit_cli.data.shard_dataset import open_streamed
from scedit_cli.utils.errors import SceditError
from tests.archives import write_tar
from tests.data.test_sources import png, write, zipped
from tests.preparing import open_source, prepare

READ = {
    ".png": "PNG", ".jpg": "JPEG", ".JPE": "JPEG", ".jfif": "JPEG", ".webp": "WEBP", ".avif": "AVIF", ".gif": "GIF",
    ".GIF": "GIF", ".bmp": "BMP", ".dib": "BMP", ".tif": "TIFF", ".ppm": "PPM", ".pgm": "PPM", ".tga": "TGA",
    ".ico": "ICO",
}  # fmt: skip
UNREAD = {
    ".jxl": "djxl", ".JP2": "save it as PNG", ".jxr": "save it as PNG", ".CR2": "develop it", ".nef": "develop it",
    ".dng": "develop it", ".arw": "develop it", ".psd": "export it", ".xcf": "export it", ".svg": "export it",
    ".eps": "export it", ".exr": "8 bits", ".hdr": "8 bits", ".qoi": "save it as PNG", ".dds": "save it as PNG",
}  # fmt: skip
# A TIFF: what Pillow would take for the thumbnail of a camera's raw picture.
TIFF = io.BytesIO()
Image.new("RGB", (64, 64)).save(TIFF, "TIFF")


def encoded(kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((64, 64)).convert("RGB").save(buffer, kind, **options)
    return buffer.getvalue()


def animated(kind: str) -> bytes:
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "green", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def as_folder(place, files):
    return write(place / "src", files)


def as_zip(place, files):
    return zipped(place, files)


def as_tar(place, files):
    return write_tar(place / "a.tar", dict(sorted(files.items())))


def as_table(place, files):
    names = [name for name in files if not name.endswith("txt")]
    table = "".join(f'{{"file_name": "{name}", "text": "t"}}\n' for name in names)
    return write(place / "src", files | {"metadata.jsonl": table})


PLACES = pytest.mark.parametrize("place", [as_folder, as_zip, as_tar, as_table])


@PLACES
def test_formats_that_are_read(place, tmp_path):
    files = {f"{n}{suffix}": encoded(kind) for n, (suffix, kind) in enumerate(READ.items())}
    captions = {f"{n}.txt": b"t" for n in range(len(READ))}
    report = prepare(place(tmp_path, files | captions), tmp_path / "out", size=64, strict=False).report
    assert (report.images, report.rejected, report.captionless) == (len(READ), [], [])


@PLACES
def test_formats_that_are_not_read_are_named(place, tmp_path):
    files = {f"{n}{suffix}": TIFF.getvalue() for n, suffix in enumerate(UNREAD)}
    src = place(tmp_path, files | {"ok.png": png(1), "ok.txt": b"t"} | {f"{n}.txt": b"t" for n in range(len(UNREAD))})
    result = prepare(src, tmp_path / "out", size=64)
    told = {str(each["file"]).lower(): each["reason"] for each in result.document()["rejected"]}
    assert told.keys() == {name.lower() for name in files} and result.images == 1
    for name, advice in zip(files, UNREAD.values(), strict=True):
        assert advice in told[name.lower()], told
    assert len([name for name, _ in result.summary() if name == "rejected"]) > 10  # and the rest is counted
    with pytest.raises(SceditError, match=f"{len(UNREAD)} cannot be used: "):
        prepare(src, tmp_path / "strict", size=64, strict=True)


@pytest.mark.parametrize("suffix", UNREAD)
@pytest.mark.parametrize("reader", [open_image, image_size])
def test_by_itself_one_is_refused_too(reader, suffix, tmp_path):
    (tmp_path / f"a{suffix}").write_bytes(TIFF.getvalue())
    with pytest.raises(SceditError, match=UNREAD[suffix]):
        reader(tmp_path / f"a{suffix}")


def test_a_raw_file_beside_its_picture_takes_nothing_from_it(tmp_path):
    files = {"a.jpg": encoded("JPEG"), "a.CR2": TIFF.getvalue(), "a.txt": b"t"}
    files |= {"maps/a.exr": b"x", "maps/a.png": png(100)}
    report = prepare(write(tmp_path / "src", files), tmp_path / "out", size=64, conditions={"depth": "maps"}).report
    assert report.images == 1 and [name for name, _, _ in report.rejected] == ["a.CR2"]
    assert report.orphans == ["depth: maps/a.exr"]
    shard = write_tar(tmp_path / "a.tar", {"a.cr2": b"x", "a.jpg": files["a.jpg"], "a.txt": b"t"})
    assert prepare(shard, tmp_path / "sharded", size=64).images == 1


def test_a_condition_picture_that_is_not_read_says_why(tmp_path):
    files = {"a.png": png(1), "a.txt": b"t", "b.png": png(2), "b.txt": b"t", "m/a.exr": b"x", "m/b.png": png(103)}
    report = prepare(write(tmp_path / "src", files), tmp_path / "out", size=64, conditions={"depth": "m"}).report
    [(name, _, why)] = report.rejected
    assert name == "a.png" and why.startswith("its depth is an image of high dynamic range: ")


@pytest.mark.parametrize("kind", formats.ANIMATED)
@PLACES
def test_an_animation_is_named(place, kind, tmp_path):
    files = {f"0.{kind.lower()}": animated(kind), "1.png": png(1), "0.txt": b"t", "1.txt": b"t"}
    result = prepare(place(tmp_path, files), tmp_path / "out", size=64)
    [told] = result.document()["rejected"]
    assert result.images == 1 and told["reason"].startswith("it is an animation: save the frame")


@pytest.mark.parametrize("kind", formats.ANIMATED)
def test_an_animation_is_no_single_image(kind, tmp_path):
    file = tmp_path / f"walk.{kind.lower()}"
    file.write_bytes(animated(kind))
    for read in (open_image, open_mask, partial(open_given_condition, kind="canny")):
        with pytest.raises(SceditError, match="walk.* is an animation: save the frame that is meant"):
            read(file)


def test_pages_and_a_phones_second_picture_are_no_animation(tmp_path):
    frames = {"append_images": [Image.new("RGB", (32, 32))], "save_all": True}
    files = {"a.tif": encoded("TIFF", **frames), "b.jpg": encoded("MPO", **frames), "c.mpo": encoded("MPO", **frames)}
    result = prepare(write(tmp_path / "src", files), tmp_path / "out", size=64, allow_captionless=True)
    assert (result.images, result.report.rejected, result.report.misnamed) == (3, [], [])


def test_streams_pass_over_what_is_not_read(tmp_path):
    write_tar(tmp_path / "a.tar", {"0.CR2": TIFF.getvalue(), "1.gif": animated("GIF"), "2.gif": encoded("GIF")})
    shards = open_streamed(str(tmp_path / "a.tar"), (64, 64))
    reasons = [getattr(shards.cut(sample), "reason", None) for *_, sample in shards._samples()]
    assert "develop it" in reasons[0] and "animation" in reasons[1] and reasons[2] is None


HEIC = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(64)


@PLACES
def test_without_pi_heif_its_extra_is_told(place, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    files = {"0.HEIC": HEIC, "1.heif": HEIC, "2.jpg": HEIC, "3.png": png(1)} | {f"{n}.txt": b"t" for n in range(4)}
    formats.heif_formats.cache_clear()
    try:
        result = prepare(place(tmp_path, files), tmp_path / "out", size=64)
    finally:
        formats.heif_formats.cache_clear()
    assert [each["reason"] for each in result.document()["rejected"]] == [
        "it is a HEIC image, which needs pi_heif, which is not installed (python -m pip install "
        "'scedit-cli[heic]', or save it as PNG)"
    ] * 3


# Of 128 x 64 pixels, red on the left and black on the right, to be turned by a quarter.
TURNED = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAaFtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAADRpbG9jAAAA"
    "AERAAAIAAQAAAAABxQABAAAAAAAAADUAAgAAAAAB+gABAAAAAAAAACQAAAA4aWluZgAAAAAAAgAAABVpbmZlAgAAAAABAABodmMxAAAAABVpbmZl"
    "AgAAAQACAABFeGlmAAAAAA5waXRtAAAAAAABAAAA4GlwcnAAAADAaXBjbwAAAHhodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH/"
    "/wNwAAADAJAAAAMAAAMAHroCQGEAAQArQgEBA3AAAAMAkAAAAwAAAwAeoBAgQWW6kkprm4CGgwIAAAMAMgAAAwACEGIAAQAHRAHBcrAiQAAAABNj"
    "b2xybmNseAABAA0ABoAAAAAUaXNwZQAAAAAAAACAAAAAQAAAABBwaXhpAAAAAAMICAgAAAAJaXJvdAMAAAAYaXBtYQAAAAAAAAABAAEFgQIDBIUA"
    "AAAaaXJlZgAAAAAAAAAOY2RzYwACAAEAAQAAAGFtZGF0AAAAMSgBrwY4Wvz9N/md7///yvXeh/vYOKrxCY+7n/Zf7w5TI/leu//9yiRblc1/9PU9"
    "b4AAAAAGRXhpZgAATU0AKgAAAAgAAQESAAMAAAABAAYAAAAAAAA="
)


@PLACES
def test_with_pi_heif_they_are_read(place, tmp_path):
    pytest.importorskip("pi_heif", reason="the extra 'heic' is not installed")
    files = {"0.HEIC": TURNED, "1.hif": TURNED} | {f"{n}.txt": b"t" for n in range(2)}
    result = prepare(place(tmp_path, files), tmp_path / "out", size=64)
    assert (result.images, result.report.rejected) == (2, [])
    (tmp_path / "a.heic").write_bytes(TURNED)
    made = np.asarray(open_image(tmp_path / "a.heic"))
    assert made.shape[:2] == image_size(tmp_path / "a.heic")[::-1] == (128, 64)
    assert made[4, 4, 0] > 240 and made[-4, 4, 0] < 16
    (tmp_path / "torn.heic").write_bytes(TURNED[:-100])
    with pytest.raises(SceditError, match=r"torn\.heic is no readable image"):
        open_image(tmp_path / "torn.heic")


@pytest.mark.parametrize("suffix", [".TXT", ".Txt", ".CAPTION", ".txt"])
@pytest.mark.parametrize("place", [as_folder, as_zip, as_tar])
def test_captions_in_another_case(place, suffix, tmp_path):
    report = prepare(place(tmp_path, {"a.PNG": png(1), f"a{suffix}": b"t"}), tmp_path / "out", size=64).report
    assert (report.captionless, report.orphans) == ([], []) and sum(report.captions.values()) == 1


def test_of_two_captions_that_differ_in_case_one_is_named(tmp_path):
    files = {"a.png": png(1), "a.TXT": "other", "a.txt": "this", "B.TXT": "", "b.png": png(2)}
    source = open_source(write(tmp_path, files))
    texts = [{suffix: blob.open().read() for suffix, blob in entry.captions.items()} for entry in source.entries]
    assert texts == [{".txt": b"this"}, {}] and source.orphans == ["B.TXT", "a.TXT"]


def test_what_systems_leave_behind_is_passed_over(tmp_path):
    left = {name: b"x" for name in ("Thumbs.db", "._a.png", ".DS_Store", "__MACOSX/._a.png", "desktop.ini")}
    for place in (as_folder, as_zip, as_tar):
        inside = tmp_path / place.__name__
        inside.mkdir()
        report = prepare(place(inside, {"a.png": png(1), "a.txt": b"t"} | left), inside / "out", size=64).report
        assert (report.images, report.rejected, report.orphans) == (1, [], [])
    write(tmp_path / "shards", {"Thumbs.db": b"x"})
    write_tar(tmp_path / "shards/a.tar", {"./a.png": png(1)})
    assert open_source(tmp_path / "shards").count == 1


def test_pictures_outside_of_images_are_named(tmp_path):
    files = {"images/a.png": png(1), "more/b.png": png(2), "c.heic": b"", "overview.png": b""}
    source = open_source(write(tmp_path, files))
    assert source.count == 1 and source.orphans == ["c.heic", "more/b.png"]


@pytest.mark.parametrize("bitmap", ["png", "bmp"])
@pytest.mark.parametrize("side", [64, 128, 256])
def test_an_icon_of_any_size_is_itself(tmp_path, side, bitmap):
    drawn = Image.fromarray(np.random.default_rng(side).integers(0, 256, (side, side, 3), np.uint8))
    drawn.save(tmp_path / "a.ico", sizes=[(side, side)], bitmap_format=bitmap)
    assert np.array_equal(open_image(tmp_path / "a.ico"), drawn)

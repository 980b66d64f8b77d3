"""Reading pictures of every mode, and refusing what is none."""

from __future__ import annotations

import io
import os
import re
from functools import partial

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, ImageCms
from skimage import data

from scedit_cli.data.annotation import read_record
from scedit_cli.data.hints import read_uint8
from scedit_cli.data.images import decode, image_size, open_image, reading, save_image
from scedit_cli.data.importing import cut
from scedit_cli.data.sources import Blob, Entry
from scedit_cli.generation.provenance import settings_in
from scedit_cli.utils.errors import SceditError


def test_modes_become_rgb(tmp_path):
    path = tmp_path / "a.png"
    for mode, color, expected in (("L", 7, (7, 7, 7)), ("RGBA", (200, 0, 0, 0), (255, 255, 255)), ("1", 1, (255,) * 3)):
        Image.new(mode, (3, 2), color).save(path)
        assert open_image(path).mode == "RGB"
        assert open_image(path).getpixel((0, 0)) == expected
    Image.fromarray(np.full((2, 3), 0x80FF, np.uint16)).save(path)
    assert open_image(path).getpixel((0, 0)) == (128, 128, 128)


def test_cmyk_and_unread_depths(tmp_path):
    Image.new("RGB", (8, 8), (200, 100, 50)).convert("CMYK").save(tmp_path / "a.jpg", quality=100)
    assert np.abs(np.subtract(open_image(tmp_path / "a.jpg").getpixel((4, 4)), (200, 100, 50))).max() <= 3
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "deep.tif")
    with pytest.raises(SceditError, match="its pixels are of 32 bits"):
        open_image(tmp_path / "deep.tif")


def test_colours_are_taken_from_the_icc_profile(tmp_path):
    """A gray of L* = 50 is 119 in sRGB whatever profile it is written in."""
    lab = Image.new("LAB", (4, 4), (128, 128, 128))
    linear = ImageCms.ImageCmsProfile(io.BytesIO(_linear_profile()))
    transform = ImageCms.buildTransform(ImageCms.createProfile("LAB"), linear, "LAB", "RGB")
    picture = ImageCms.applyTransform(lab, transform)
    assert abs(picture.getpixel((0, 0))[0] - 47) <= 1  # 18.4 % of the light
    picture.save(tmp_path / "linear.png", icc_profile=linear.tobytes())
    picture.save(tmp_path / "damaged.png", icc_profile=b"no profile")
    assert all(abs(level - 119) <= 1 for level in open_image(tmp_path / "linear.png").getpixel((0, 0)))
    assert open_image(tmp_path / "damaged.png").getpixel((0, 0)) == picture.getpixel((0, 0))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture.save(tmp_path / "srgb.png", icc_profile=srgb)
    assert open_image(tmp_path / "srgb.png").tobytes() == picture.tobytes()
    gray = Image.new("L", (4, 4), 100)  # with a profile for other colours, which is left alone
    gray.save(tmp_path / "gray.png", icc_profile=srgb)
    assert open_image(tmp_path / "gray.png").getpixel((0, 0)) == (100, 100, 100)


def _linear_profile() -> bytes:
    """sRGB's primaries with a linear tone curve: a curve of one entry, gamma 1.0, in place of each of its own."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for number in range(int.from_bytes(profile[128:132], "big")):
        at = 132 + 12 * number
        if profile[at : at + 4] in (b"rTRC", b"gTRC", b"bTRC"):
            place = int.from_bytes(profile[at + 4 : at + 8], "big")
            profile[place : place + 14] = b"curv" + bytes(4) + (1).to_bytes(4, "big") + b"\x01\x00"
            profile[at + 8 : at + 12] = (14).to_bytes(4, "big")
    return bytes(profile)


def test_large_jpegs_are_decoded_smaller_and_no_worse(tmp_path):
    photo = Image.fromarray(data.retina())
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.save(tmp_path / "a.jpg", quality=95, exif=exif)
    with reading(tmp_path / "a.jpg", "a") as opened:
        small = decode(opened, at_least=(300, 300))
    assert small.size == (706, 706)  # half, over twice what is asked for
    whole = open_image(tmp_path / "a.jpg")
    assert whole.size == (1411, 1411)
    wanted, found = (np.asarray(p.resize((300, 300), Image.Resampling.LANCZOS)).astype(float) for p in (whole, small))
    assert 10 * np.log10(255**2 / np.square(wanted - found).mean()) > 40  # PSNR in dB


def test_what_is_decoded_keeps_its_transparency_and_has_the_profiles_colours(tmp_path):
    Image.new("RGBA", (4, 4), (10, 20, 30, 40)).save(tmp_path / "a.png")
    with reading(tmp_path / "a.png", "a") as opened:
        assert decode(opened).getpixel((0, 0)) == (10, 20, 30, 40)
    picture = Image.new("RGBA", (4, 4), (47, 47, 47, 40))
    picture.save(tmp_path / "linear.png", icc_profile=_linear_profile())
    with reading(tmp_path / "linear.png", "linear") as opened:
        *colour, alpha = decode(opened).getpixel((0, 0))
    assert all(abs(level - 119) <= 1 for level in colour) and alpha == 40


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "1", "P", "LA"])
def test_what_is_saved_is_what_is_read(tmp_path, mode):
    picture = Image.fromarray(data.astronaut()).resize((61, 47)).convert(mode)
    save_image(picture, tmp_path / "deep/a.png")
    saved = Image.open(tmp_path / "deep/a.png")
    assert saved.format == "PNG" and saved.convert("RGBA").tobytes() == picture.convert("RGBA").tobytes()


def test_a_decompression_bomb_is_not_opened(tmp_path):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    assert (tmp_path / "bomb.png").stat().st_size < 100_000
    for read in (open_image, image_size):
        with pytest.raises(SceditError, match=r"bomb\.png is too large, as a decompression bomb is"):
            read(tmp_path / "bomb.png")


@pytest.mark.parametrize("suffix", [".png", ".eps"])
def test_no_program_is_run_over_a_picture(tmp_path, monkeypatch, suffix):
    """Pillow gives PostScript, by whatever name, to the `gs` that is on the PATH."""
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "gs").write_text(f"#!/bin/sh\necho run > {tmp_path}/canary\n")
    (tmp_path / "gs").chmod(0o755)
    file = tmp_path / f"a{suffix}"
    file.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    reads = (open_image, image_size, read_uint8, partial(read_uint8, channels=4), settings_in)
    for read in reads:
        with pytest.raises(SceditError, match=re.escape(file.name)):
            read(file)
    entry = Entry("a", Blob(str(file), partial(file.open, "rb")))
    reasons = {".png": "its content is none that is known", ".eps": "it is a vector drawing: export it as PNG"}
    assert reasons[suffix] in cut(entry, lambda size: size).reason
    assert read_record(file) is None and not (tmp_path / "canary").exists()


def test_exif_turns_the_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg", exif=exif)
    assert open_image(tmp_path / "a.jpg").size == image_size(tmp_path / "a.jpg") == (20, 40)


def test_what_is_no_picture_is_named(tmp_path):
    whole = tmp_path / "whole.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(whole)
    (tmp_path / "torn.png").write_bytes(whole.read_bytes()[:3000])
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.png").touch()
    for name in ("torn.png", "text.png", "empty.png"):
        with pytest.raises(SceditError, match=f"{name} is no readable image"):
            open_image(tmp_path / name)
    for read in (open_image, image_size):
        with pytest.raises(SceditError, match=r"gone\.png does not exist"):
            read(tmp_path / "gone.png")
    with pytest.raises(SceditError, match=r"text\.png is no readable image"):
        image_size(tmp_path / "text.png")

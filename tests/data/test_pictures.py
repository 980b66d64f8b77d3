"""Reading pictures of every mode, and refusing what is none."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from scedit_cli.data.pictures import open_picture, picture_size
from scedit_cli.errors import SceditError


def test_modes_become_rgb(tmp_path):
    path = tmp_path / "a.png"
    for mode, color, expected in (("L", 7, (7, 7, 7)), ("RGBA", (200, 0, 0, 0), (255, 255, 255)), ("1", 1, (255,) * 3)):
        Image.new(mode, (3, 2), color).save(path)
        assert open_picture(path).mode == "RGB"
        assert open_picture(path).getpixel((0, 0)) == expected
    Image.fromarray(np.full((2, 3), 0x80FF, np.uint16)).save(path)
    assert open_picture(path).getpixel((0, 0)) == (128, 128, 128)


def test_exif_turns_the_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg", exif=exif)
    assert open_picture(tmp_path / "a.jpg").size == (20, 40)


def test_what_is_no_picture_is_named(tmp_path):
    whole = tmp_path / "whole.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(whole)
    (tmp_path / "torn.png").write_bytes(whole.read_bytes()[:3000])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").touch()
    for name in ("torn.png", "text.png", "empty.png"):
        with pytest.raises(SceditError, match=f"{name} is no readable picture"):
            open_picture(tmp_path / name)
    for read in (open_picture, picture_size):
        with pytest.raises(SceditError, match=r"gone\.png does not exist"):
            read(tmp_path / "gone.png")
    with pytest.raises(SceditError, match=r"text\.png is no readable picture"):
        picture_size(tmp_path / "text.png")

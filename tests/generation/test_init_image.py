"""Where a picture to start from is drawn again."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from scedit_cli.generation.config import InitImage
from scedit_cli.generation.init_image import OpenedInitImage
from scedit_cli.utils.errors import SceditError


def canvas(folder, levels: np.ndarray) -> OpenedInitImage:
    Image.fromarray(levels).save(folder / "mask.png")
    Image.new("RGB", levels.shape[::-1]).save(folder / "photo.png")
    return OpenedInitImage.of(InitImage(f"{folder}/photo.png", mask=f"{folder}/mask.png"))


@pytest.mark.parametrize("black", [0, 3, 127])
def test_a_scratch_is_not_lost_in_a_smaller_picture(tmp_path, black):
    """The mask is cut in its own size: noise does not count, and a pixel that holds some of it is drawn again."""
    levels = np.full((256, 256), black, np.uint8)
    levels[:, 80] = 200
    redrawn = canvas(tmp_path, levels).start((64, 64), "crop").redrawn
    assert redrawn[0, 0].nonzero().tolist() == [[row, 20] for row in range(64)]


def test_a_mask_is_sharp_in_a_larger_picture(tmp_path):
    levels = np.zeros((32, 32), np.uint8)
    levels[8:16, 8:16] = 128
    redrawn = canvas(tmp_path, levels).start((64, 64), "crop").redrawn
    assert redrawn[0, 0, 16:32, 16:32].all() and redrawn.sum() == 256


def test_a_mask_beyond_what_is_cut_out_is_told(tmp_path):
    levels = np.zeros((64, 128), np.uint8)
    levels[:, 120:] = 255
    given = canvas(tmp_path, levels)
    with pytest.raises(SceditError, match="nothing of the mask lies within 64x64 pixels") as error:
        given.start((64, 64), "crop")
    assert (error.value.field, error.value.hint) == ("init.mask", "`resize=fit` keeps the whole image")
    assert given.start((64, 64), "fit").redrawn.any()


def test_margins_are_drawn_beside_a_mask(tmp_path):
    levels = np.zeros((64, 64), np.uint8)
    levels[:8] = 255
    grown = canvas(tmp_path, levels).extended(0, 0, 8, 0)
    redrawn = grown.start((72, 64), "crop").redrawn[0, 0]
    assert redrawn[:8].all() and redrawn[:, 64:].all() and not redrawn[8:, :64].any()

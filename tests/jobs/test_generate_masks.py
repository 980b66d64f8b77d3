"""Conditions and masks with transparency, and where a mask is cut."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from scedit_cli.utils.errors import SceditError
from tests.jobs.drawn import near, same


def test_a_condition_on_transparent_is_one_on_black(generate, files, tmp_path):
    lines = np.asarray(Image.open(files / "canny.png"))
    Image.fromarray(np.dstack((np.full_like(lines, 255), lines))).save(tmp_path / "clear-canny.png")
    options = {"tuners": ["{}/canny.safetensors"], "score": True}
    black, clear = (
        generate(**options, conds=[cond], out=tmp_path / name).images[0]
        for name, cond in {"black.png": "{}/canny.png", "clear.png": f"{tmp_path}/clear-canny.png"}.items()
    )
    assert same(black.path, clear.path) and black.scores == clear.scores and black.scores["canny"] > 0


def painted(path, opaque, gray=255, hidden=255):
    """An RGBA mask that is `gray` where bool (H, W) `opaque` is true, and transparent elsewhere."""
    shade = np.where(opaque, gray, hidden)
    Image.fromarray(np.dstack([shade] * 3 + [opaque * 255]).astype(np.uint8)).save(path)
    return path


def test_masks_are_luminance_times_opacity(generate, files, masks, tmp_path):
    """White on transparent is white on black; a region's soft values weigh."""
    left = np.zeros((64, 64), bool)
    left[:, :32] = True
    clear = painted(tmp_path / "clear.png", left)
    options = {"image": "{}/photo.png", "prompts": ["a"], "steps": 3}
    drawn = generate(**options, inpaint=f"{masks}/left.png").images[0].path
    assert same(generate(**options, inpaint=str(clear), out=tmp_path / "clear.out.png").images[0].path, drawn)
    tuned = {"conds": ["{}/canny.png"], "tuners": ["{}/canny.safetensors"]}

    def within(name, region):
        return generate(**tuned, masks=[f"canny={region}"], out=tmp_path / f"{name}.out.png").images[0].path

    full = within("left", masks / "left.png")
    assert same(within("clear region", clear), full)
    half = within("half", painted(tmp_path / "half.png", left, gray=127))
    assert not near(half, full) and not near(half, within("black", masks / "black.png"))
    black = painted(tmp_path / "black on clear.png", left, gray=0)
    for given in (options | {"inpaint": str(black)}, tuned | {"masks": [f"canny={black}"]}):
        with pytest.raises(SceditError, match="--(inpaint|mask): nothing is left of .*black on clear"):
            generate(**given)


def test_an_inpainting_mask_is_cut_in_the_middle(generate, files, masks, tmp_path):
    options = {"image": "{}/photo.png", "prompts": ["a"], "steps": 3}
    left = np.zeros((64, 64), np.uint8)
    left[:, :32] = 255

    def drawn(name, levels):
        Image.fromarray(levels).save(tmp_path / f"{name}.mask.png")
        mask = str(tmp_path / f"{name}.mask.png")
        return generate(**options, inpaint=mask, out=tmp_path / f"{name}.out.png").images[0].path

    clean = drawn("clean", left)
    for noise in (3, 127):
        assert same(drawn(f"dirty {noise}", np.maximum(left, noise)), clean)
    assert same(drawn("faint", left // 255 * 128), clean)
    with pytest.raises(SceditError, match="is black, or nowhere as light as a middle gray"):
        drawn("dark", left // 255 * 127)

"""The program that builds the world, stage by stage, on a handful of scenes."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from scedit_cli.models.base import load_base
from scedit_cli.scenes.build import pictures
from scedit_cli.scenes.build.decoder import sharpen_decoder
from scedit_cli.scenes.build.galleries import draw_all
from scedit_cli.scenes.build.unet import crowded
from scedit_cli.scenes.layout import sample_scene
from scedit_cli.scenes.reader import load_reader
from scedit_cli.scenes.render import render


def test_the_decoder_is_trained_further_and_latents_stay(tmp_path, monkeypatch):
    """The discriminator counts from the second step on."""
    monkeypatch.setattr("scedit_cli.scenes.build.decoder._ALONE", 1)
    (tmp_path / "pictures").mkdir()
    for look in ("plain", "pastel"):
        images = np.stack([render(sample_scene(seed), look=look).image for seed in range(2)])
        np.savez(pictures._path(tmp_path, look, 0), images=images)
    vae = load_base("scenes").vae
    before = {name: weight.clone() for name, weight in vae.state_dict().items()}
    sharpen_decoder(tmp_path, vae, load_reader(), 2, 2, steps=2)
    changed = {name.split(".")[0] for name, weight in vae.state_dict().items() if not torch.equal(weight, before[name])}
    assert changed == {"decoder", "post_quant_conv"}
    assert all(weight.isfinite().all() for weight in vae.state_dict().values())
    assert torch.load(tmp_path / "decoder.pt", weights_only=True)["step"] == 2


def test_scenes_that_are_mixed_up_are_seen_twice():
    captions = [
        "a red cube on a gray floor",
        "a red cube and a blue cone on a gray floor",
        "a red cube and a blue cube on a gray floor",
        "a red cube behind a red cone on a gray floor",
        "a red cube, a blue cone and a green sphere on a gray floor",
    ]
    assert crowded(captions).tolist() == [2, 3, 4]


def test_galleries_show_each_control_beside_its_image(tmp_path):
    draw_all(tmp_path, shown=(0,), steps=2)
    controls, compositions = (Image.open(tmp_path / f"{name}.png") for name in ("controls", "compositions"))
    assert controls.width > 9 * 128 and compositions.width > 6 * 128  # nine images and a label, and six images
    assert min(controls.height, compositions.height) > 128
    left, right = (np.asarray(controls.convert("RGB"), float)[:, at * controls.width // 10 :] for at in (1, 9))
    assert left.std() > 20 and right.std() > 20

"""The program that builds the world, stage by stage, on a handful of scenes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from scedit_cli.inference.sampler import _GAP as GAP
from scedit_cli.models.base import load_base
from scedit_cli.scenes.build import pictures
from scedit_cli.scenes.build.decoder import sharpen_decoder
from scedit_cli.scenes.build.galleries import draw_all, main
from scedit_cli.scenes.build.unet import crowded
from scedit_cli.scenes.layout import sample_scene
from scedit_cli.scenes.reader import load_reader
from scedit_cli.scenes.render import render
from scedit_cli.training.datasets import held_out_scenes


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
    controls, more, compositions = (
        np.asarray(Image.open(tmp_path / f"{name}.png"), float) for name in ("controls", "more-controls", "compositions")
    )
    cell = 256 + GAP  # an image at twice its size
    shown = [controls[-cell:-GAP, -at * cell : -at * cell + 256] for at in range(9, 0, -1)]
    further = [more[-cell:-GAP, -at * cell : -at * cell + 256] for at in (4, 2)]
    [scene] = held_out_scenes(1, 0, ["canny"], 128)
    for given, image in ((shown[0], scene.conditions["canny"]), (shown[8], scene.image)):
        assert np.array_equal(given, np.asarray(image.convert("RGB").resize((256, 256), Image.Resampling.LANCZOS)))
    drawn = [*shown[1::2], *further, *(compositions[-cell:-GAP, -at * cell : -at * cell + 256] for at in (4, 3, 2, 1))]
    assert len({each.tobytes() for each in drawn}) == 10 and all(each.std() > 10 for each in drawn)


def test_galleries_need_a_folder(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--out", str(tmp_path / "nowhere")])
    assert stopped.value.code == 2 and "nowhere: no such folder" in capsys.readouterr().err

"""The branch without a text is trained as it is sampled: zeros or the encoded empty prompt, as the pipeline says."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import EDMDPMSolverMultistepScheduler

from scedit_cli.data.cache import cache_latents_and_text
from scedit_cli.inference.denoising import Denoiser, Start
from scedit_cli.inference.sampler import sample
from scedit_cli.models.base import load_base
from scedit_cli.models.loading import quiet
from scedit_cli.recipe import Recipe
from scedit_cli.training.trainer import Trainer
from tests import by_recipe, tiny

BASES = ("sd15", "sd21", "sdxl", "sdxl without zeros")


@pytest.fixture(params=BASES)
def base(request, tmp_path):
    family, _, is_told = request.param.partition(" ")
    folder = tiny.pipeline_folder(family)
    if is_told:
        folder = shutil.copytree(folder, tmp_path / "base")
        index = json.loads((folder / "model_index.json").read_text()) | {"force_zeros_for_empty_prompt": False}
        (folder / "model_index.json").write_text(json.dumps(index))
    return load_base(folder)


def texts_seen(base, work) -> list[dict[str, torch.Tensor]]:
    """What the U-Net is given at each call during `work`, of texts."""
    seen = []

    def look(unet, args, kwargs):
        text = {"encoder_hidden_states": kwargs["encoder_hidden_states"]}
        seen.append(text | {k: v for k, v in (kwargs.get("added_cond_kwargs") or {}).items() if k == "text_embeds"})

    handle = base.unet.register_forward_pre_hook(look, with_kwargs=True)
    try:
        work()
    finally:
        handle.remove()
    return seen


@pytest.fixture
def trainer(base, dataset):
    cache = cache_latents_and_text(dataset, base, ["canny"])

    def make(**data):
        recipe = Recipe.from_dict(
            {
                "tuner": {"kind": "csc", "condition": "canny", "hint_channels": 16},
                "data": {"path": str(dataset.path)} | data,
                "train": {"steps": 2, "batch_size": 2, "learning_rate": 0.01},
            }
        )
        return Trainer(base, by_recipe.fresh_tuner(recipe, base), cache, recipe.train, recipe.data)

    return make


def test_dropped_captions_are_what_guidance_takes_for_no_prompt(base, trainer):
    with trainer(caption_dropout=1.0) as training:
        [trained] = texts_seen(base, training.advance)
    drawn = {"seeds": [0], "steps": 1, "guidance": 3.0}
    [sampled] = texts_seen(base, lambda: sample(base, ["a cone"], **drawn))
    whole = Start(torch.rand(1, 3, 64, 64), 1.0)
    [from_picture] = texts_seen(base, lambda: sample(base, ["a cone"], start=whole, **drawn))
    redraw = Start(torch.rand(1, 3, 64, 64), 1.0, torch.ones(1, 1, 64, 64))
    [inpainted] = texts_seen(base, lambda: sample(base, ["a cone"], start=redraw, **drawn))
    assert set(trained) == set(sampled)
    for name, values in trained.items():
        for other in (sampled, from_picture, inpainted):
            without = other[name].chunk(2)[0]
            torch.testing.assert_close(values, without.expand_as(values), atol=1e-5, rtol=1e-4)
        assert not torch.allclose(sampled[name].chunk(2)[1], values[:1], atol=1e-3)
    assert base.zeroes_dropped_text is not any(values.any() for values in trained.values())


def test_captions_that_are_kept_are_encoded(base, trainer, dataset):
    with trainer(caption_dropout=0.0) as training:
        [trained] = texts_seen(base, training.advance)
    assert all(values.flatten(1).any(1).all() for values in trained.values())


def test_an_old_caches_texts_are_as_good(base, dataset):
    """The stored empty prompt is encoded, as it was before; only what is made of it differs."""
    cache = cache_latents_and_text(dataset, base)
    stored = cache.text.get([cache.empty])
    expected = base.encode_prompts([""])
    assert all(torch.allclose(stored[name], values, atol=1e-5) for name, values in expected.items())


@pytest.mark.parametrize("negative", ["", "fog"])
def test_weighted_prompts_have_the_same_other_side(base, negative):
    pytest.importorskip("compel", reason="the extra 'prompts' is not installed")
    with quiet():
        plain, weighted = (Denoiser(base).encode("a cone", negative, each) for each in (False, True))
    is_zero = base.zeroes_dropped_text and not negative
    for each in (plain, weighted):
        assert bool(each["negative_prompt_embeds"].any()) is not is_zero


def test_a_base_of_edm_with_statistics_learns(dataset, tmp_path):
    pipeline = tiny.pipeline("sdxl")
    pipeline.vae.register_to_config(scaling_factor=0.5, latents_mean=[0.1, 0, 0, 0], latents_std=[1.0, 2.0, 1.0, 1.0])
    pipeline.scheduler = EDMDPMSolverMultistepScheduler(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5)
    with quiet():
        pipeline.save_pretrained(tmp_path / "base")
    base = load_base(tmp_path / "base")
    recipe = Recipe.from_dict(
        {
            "tuner": {"kind": "sc"},
            "data": {"path": str(dataset.path)},
            "train": {"steps": 30, "batch_size": 6, "learning_rate": 0.02, "precision": "fp32"},
        }
    )
    tuner = by_recipe.fresh_tuner(recipe, base)
    times = []
    handle = base.unet.register_forward_pre_hook(lambda unet, args: times.extend(args[1].tolist()))
    with Trainer(base, tuner, cache_latents_and_text(dataset, base), recipe.train, recipe.data) as training:
        losses = [training.advance().losses.mean().item() for _ in range(30)]
    handle.remove()
    assert np.mean(losses[-8:]) < 0.9 * np.mean(losses[:8])
    assert min(times) >= np.log(0.002) / 4 - 1e-4 and max(times) <= np.log(80) / 4 + 1e-4 and min(times) < -0.5

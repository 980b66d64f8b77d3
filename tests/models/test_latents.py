"""Autoencoders with statistics of their latents, as Playground v2.5's: honoured wherever latents go."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
)

from scedit_cli.core.attach import attach
from scedit_cli.core.tuners import SCTuner
from scedit_cli.inference.denoising import Start
from scedit_cli.inference.sampler import sample
from scedit_cli.models.base import Base, load_base
from scedit_cli.models.loading import quiet
from scedit_cli.utils.errors import SceditError
from tests import tiny

MEAN, STD, SCALE = [-1.7, 1.9, -1.4, 2.5], [8.5, 5.9, 6.5, 5.2], 0.5
STATISTICS = {"scaling_factor": SCALE, "latents_mean": MEAN, "latents_std": STD}
SCHEDULERS = {
    "usual": None,
    "playground": EDMDPMSolverMultistepScheduler(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5),
    "cosxl": EDMEulerScheduler(
        sigma_min=0.002, sigma_max=120.0, sigma_data=1.0, prediction_type="v_prediction", sigma_schedule="exponential"
    ),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of SDXL with statistics, by scheduler."""

    def write(name):
        folder = tmp_path_factory.mktemp("bases") / name
        pipeline = tiny.pipeline("sdxl")
        pipeline.vae.register_to_config(**STATISTICS)
        if SCHEDULERS[name]:
            pipeline.scheduler = SCHEDULERS[name]
        with quiet():
            pipeline.save_pretrained(folder)
        return folder

    return {name: write(name) for name in SCHEDULERS}


def picture():
    return torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(5))


def far(one, other) -> int:
    return int(np.abs(np.asarray(one).astype(int) - np.asarray(other)).max())


@pytest.mark.parametrize("name", SCHEDULERS)
def test_images_are_those_of_diffusers_own_pipelines(folders, name):
    base = load_base(folders[name])
    options = {"num_inference_steps": 6, "guidance_scale": 5.0}
    with quiet():
        own = StableDiffusionXLPipeline.from_pretrained(folders[name], add_watermarker=False)
        [expected] = own("a cone", generator=torch.Generator().manual_seed(0), height=64, width=64, **options).images
        again = StableDiffusionXLImg2ImgPipeline(**own.components, add_watermarker=False)
        # Its encoder's latents, drawn at random, in the place of the picture: ours start from their mean.
        mean = own.vae.encode(picture() * 2 - 1).latent_dist.mode()
        statistics = [torch.tensor(each).view(1, 4, 1, 1) for each in (MEAN, STD)]
        latents = (mean - statistics[0]) * SCALE / statistics[1]
        generator = torch.Generator().manual_seed(0)
        [from_picture] = again("a cone", image=latents, strength=0.5, generator=generator, **options).images
    drawn = {"seeds": [0], "steps": 6, "guidance": 5.0}
    assert far(sample(base, ["a cone"], **drawn)[0], expected) <= 1
    assert far(sample(base, ["a cone"], start=Start(picture(), 0.5), **drawn)[0], from_picture) <= 1
    assert np.asarray(expected).std() > 1


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_latents_are_brought_to_unit_size_and_back_in_each_family(family):
    base = load_base(tiny.pipeline_folder(family))
    base.vae.register_to_config(**STATISTICS, shift_factor=0.25)
    moments = base.encode_images(picture())
    mean = moments.chunk(2, dim=1)[0]
    latents = base.latents_from(moments)
    for channel in range(4):
        expected = (mean[:, channel] - 0.25 - MEAN[channel]) * SCALE / STD[channel]
        torch.testing.assert_close(latents[:, channel], expected, atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        expected = (base.vae.decode(mean).sample / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(base.decode(latents), expected, atol=1e-5, rtol=1e-4)


def test_an_autoencoder_of_ones_own_has_its_own_statistics(folders, tmp_path):
    own = tiny.pipeline("sdxl", seed=1).vae
    own.save_pretrained(tmp_path / "plain")
    file = tmp_path / "plain/diffusion_pytorch_model.safetensors"
    own.register_to_config(**STATISTICS | {"latents_mean": [1.0] * 4})
    own.save_pretrained(tmp_path / "told")

    told = load_base(tiny.pipeline_folder("sdxl"), vae=tmp_path / "told")
    mean = told.encode_images(picture()).chunk(2, dim=1)[0]
    expected = (mean - 1) * SCALE / torch.tensor(STD).view(4, 1, 1)
    torch.testing.assert_close(told.latents_from(told.encode_images(picture())), expected)
    # A lone file is scaled as the base's own; a folder that has no statistics is not for a base with some.
    lone = load_base(folders["usual"], vae=file)
    assert (lone.vae.config.latents_mean, lone.vae.config.latents_std) == (MEAN, STD)
    assert torch.equal(lone.vae.decoder.conv_in.weight, own.decoder.conv_in.weight)
    with pytest.raises(SceditError, match="plain: its configuration has no latents_mean and latents_std"):
        load_base(folders["usual"], vae=tmp_path / "plain")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"latents_std": None}, "its configuration has latents_mean and no latents_std"),
        ({"latents_mean": None}, "its configuration has latents_std and no latents_mean"),
        ({"latents_mean": [0.0]}, r"latents_mean in its configuration is \[0.0\], not 4 numbers"),
        ({"latents_std": [1, 1, 1, 0]}, r"latents_std in its configuration is \[1, 1, 1, 0\], not 4 positive numbers"),
        ({"latents_std": "ones"}, "latents_std in its configuration is ones"),
        ({"latents_mean": [0, 0, 0, None]}, "latents_mean in its configuration is"),
        ({"scaling_factor": 0}, "scaling_factor in its configuration is 0"),
        ({"scaling_factor": None}, "scaling_factor in its configuration is None"),
    ],
)
def test_statistics_that_are_none(folders, tmp_path, change, sentence):
    folder = shutil.copytree(folders["usual"], tmp_path / "base")
    config = AutoencoderKL.load_config(folder / "vae") | change
    AutoencoderKL.from_config(config).save_config(folder / "vae")
    with pytest.raises(SceditError, match=f"base {folder}: its vae: {sentence}") as error:
        load_base(folder)
    assert error.value.exit_code == 2
    with pytest.raises(SceditError, match=f"autoencoder {folder}: {sentence}"):
        load_base(tiny.pipeline_folder("sdxl"), vae=folder)


def test_an_inpainting_unets_gray_has_them_too(tmp_path):
    pipeline = tiny.pipeline("inpaint")
    pipeline.vae.register_to_config(**STATISTICS)
    with quiet():
        pipeline.save_pretrained(tmp_path)
    base = load_base(tmp_path)
    seen = []
    with torch.no_grad():
        handle = base.unet.conv_in.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        base.unet(torch.zeros(1, 4, 8, 8), 5, **base.unet_arguments(base.encode_prompts(["a"]), 64, 64))
        handle.remove()
    middle = base.latents_from(base.encode_images(torch.full((1, 3, 64, 64), 0.5)))[..., 4, 4]
    torch.testing.assert_close(seen[0][:, 5:, 0, 0], middle)


@pytest.mark.parametrize("name", ["playground", "cosxl"])
def test_a_tuner_acts_on_bases_of_edm(folders, name):
    base: Base = load_base(folders[name])
    tiny.train_a_step(base)
    tuner = tiny.trained(SCTuner.for_unet(base.unet))
    options = {"seeds": [0], "steps": 3}
    plain = sample(base, ["a"], **options)
    with attach(base.unet, tuner) as edits:
        assert far(sample(base, ["a"], attachment=edits, **options)[0], plain[0]) > 1

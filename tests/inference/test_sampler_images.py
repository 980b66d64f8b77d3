"""Every sampler that is accepted: one image for a seed, and its images beside those of diffusers' own pipelines."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest
import torch

from scedit_cli.inference.denoising import Start
from scedit_cli.inference.sampler import sample
from scedit_cli.models import samplers, schedulers
from scedit_cli.models.base import Base, load_base
from scedit_cli.models.loading import EMBEDDED, quiet
from scedit_cli.models.samplers import BETAS, SAMPLERS
from scedit_cli.models.schedulers import scheduler_like
from tests import tiny

_VARIANTS = (
    "DPMSolverMultistep:algorithm_type=sde-dpmsolver++", "DPMSolverSinglestep:algorithm_type=sde-dpmsolver++",
    "DPMSolverMultistep:use_karras_sigmas=true", "DPMSolverSDE:use_karras_sigmas=true",
    "TCD:original_inference_steps=20",
)  # fmt: skip


@pytest.fixture(scope="module")
def world() -> Base:
    return load_base(EMBEDDED)


@pytest.fixture(scope="module")
def sd15() -> Base:
    return load_base(tiny.pipeline_folder("sd15"))


def _levels(pictures) -> np.ndarray:
    return np.stack([np.asarray(picture) for picture in pictures]).astype(int)


def _far(one, other) -> int:
    return int(np.abs(_levels(one) - _levels(other)).max())


def test_steps_of_which_diffusers_makes_one_too_many_end_in_an_image(world):
    """With a last timestep of −1 the image is noise, far from those of the numbers beside it."""
    size = {"height": 64, "width": 64}
    before, at = (sample(world, ["a red cube"], seeds=[3], steps=steps, **size) for steps in (60, 61))
    assert np.abs(_levels(at) - _levels(before)).mean() < 2
    with quiet():
        theirs = world.pipeline()
        theirs.scheduler = type(world.scheduler).from_config(world.scheduler.config)
        draw = torch.Generator().manual_seed(3)
        noise = theirs("a red cube", num_inference_steps=61, guidance_scale=2.0, generator=draw, **size).images
    assert np.abs(_levels(noise) - _levels(before)).mean() > 20


@pytest.mark.parametrize("name", [*SAMPLERS[BETAS], *_VARIANTS])
def test_a_seed_means_one_image_with_each_sampler(sd15, name):
    """Alone and in a batch, whatever the global generator holds; and other seeds mean other images."""
    options = {"steps": 4, "guidance": 3.0, "scheduler": name}
    torch.manual_seed(1)
    together = sample(sd15, ["a", "b", "a", "a"], seeds=[1, 2, 3, 3], **options)
    torch.manual_seed(2)
    alone = sample(sd15, ["a"], seeds=[1], **options)
    torch.manual_seed(3)
    assert _far(alone, sample(sd15, ["a"], seeds=[1], **options)) == 0
    assert _far(together[:1], alone) <= 1
    for number, (prompt, seed) in ((1, ("b", 2)), (2, ("a", 3))):
        assert _far(together[number : number + 1], sample(sd15, [prompt], seeds=[seed], **options)) <= 1
    assert _far(together[2:3], together[3:]) <= 1
    assert _far(together[:1], together[2:3]) > 1


@pytest.mark.parametrize("name", ["DPM++ SDE", "Euler a", "DPM++ 2M SDE", "LCM"])
@pytest.mark.parametrize("masked", [False, True])
def test_a_seed_means_one_image_from_a_picture_too(sd15, name, masked):
    picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    redraw = (torch.arange(64) < 32).float().expand(1, 1, 64, 64) if masked else None
    options = {"steps": 6, "scheduler": name, "start": Start(picture, 0.7, redraw)}
    together = sample(sd15, ["a", "b"], seeds=[1, 2], **options)
    assert _far(together[1:], sample(sd15, ["b"], seeds=[2], **options)) <= 1
    assert _far(together, sample(sd15, ["a", "b"], seeds=[1, 2], **options)) == 0


def test_the_noise_of_an_sde_is_diffusers_for_that_seed(sd15):
    ours = sample(sd15, ["a"], seeds=[7], steps=4, guidance=3.0, scheduler="DPMSolverSDE")
    with quiet():
        pipeline = sd15.pipeline("DPMSolverSDE")
        pipeline.scheduler = diffusers.DPMSolverSDEScheduler.from_config(sd15.scheduler.config, noise_sampler_seed=7)
        draw = torch.Generator().manual_seed(7)
        theirs = pipeline("a", num_inference_steps=4, guidance_scale=3.0, generator=draw, height=64, width=64).images
    assert _far(ours, theirs) <= 1


def test_the_noise_of_an_sde_is_the_same_in_each_precision():
    """It is drawn on the CPU in float32, as the noise that an image begins with."""
    drawn = []
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        made = scheduler_like(tiny.scheduler("sdxl"), "DPMSolverSDE")
        schedulers.seed_noise(made, [torch.Generator().manual_seed(seed) for seed in (1, 2)])
        made.set_timesteps(4)
        latents = torch.ones(2, 4, 8, 8, dtype=dtype)
        made.step(latents, made.timesteps[0], latents)
        noise = made.noise_sampler(made.sigmas[0], made.sigmas[1])
        assert noise.dtype == dtype and abs(noise.float().std() - 1) < 0.1
        drawn.append(noise)
    assert torch.equal(drawn[0].half(), drawn[1]) and torch.equal(drawn[0].bfloat16(), drawn[2])
    assert not torch.equal(drawn[0][0], drawn[0][1])


def test_samplers_agree_on_what_the_embedded_base_draws(world):
    """Without noise of their own, all end near one image; another seed's is far."""
    options = {"steps": 12, "height": 64, "width": 64}
    first, other = (_levels(sample(world, ["a red cube"], seeds=[seed], **options)) for seed in (3, 4))
    assert np.abs(other - first).mean() > 6
    for name in ("EulerDiscrete", "HeunDiscrete", "DPMSolverMultistep", "UniPCMultistep", "LMSDiscrete", "PLMS"):
        other = _levels(sample(world, ["a red cube"], seeds=[3], scheduler=name, **options))
        assert np.abs(other - first).mean() < 3, name


# Bases of each family, beside diffusers' own pipelines


SIX = ("DDIM", "DPM++ 2M Karras", "EulerDiscrete", "Euler a", "HeunDiscrete", "UniPC")


def with_statistics() -> diffusers.DiffusionPipeline:
    """SDXL with an autoencoder whose latents have means and deviations of their own."""
    pipeline = tiny.pipeline("sdxl")
    statistics = {"latents_mean": [-1.7, 1.9, -1.4, 2.5], "latents_std": [8.5, 5.9, 6.5, 5.2]}
    pipeline.vae.register_to_config(scaling_factor=0.5, **statistics)
    return pipeline


@pytest.fixture(scope="module", params=[*tiny.FAMILIES, "sdxl with VAE statistics"])
def beside(request, tmp_path_factory) -> tuple[Base, diffusers.DiffusionPipeline]:
    """A base and diffusers' own pipeline, each loaded from the same folder."""
    if request.param in tiny.FAMILIES:
        folder = tiny.pipeline_folder(request.param)
    else:
        folder = tmp_path_factory.mktemp("statistics")
        with quiet():
            with_statistics().save_pretrained(folder)
    with quiet():
        pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return load_base(folder), pipeline


def _theirs(base: Base, name: str) -> diffusers.SchedulerMixin:
    """diffusers' own scheduler of that name, for the noise of the base."""
    kind = getattr(diffusers, f"{samplers.find(name, BETAS).partition(':')[0]}Scheduler")
    more = {"use_karras_sigmas": True} if "Karras" in name else {}
    if "clip_sample" in schedulers._parameters(kind) and "clip_sample" not in base.scheduler.config:
        more["clip_sample"] = False
    return kind.from_config(base.scheduler.config, **more)


@pytest.mark.parametrize("name", SIX)
def test_an_image_is_that_of_diffusers_own_pipeline(beside, name):
    """With and without a negative prompt, in turn."""
    base, pipeline = beside
    negative = ("", "fog")[(SIX.index(name) + (base.family == "sdxl")) % 2]
    pipeline.scheduler = _theirs(base, name)
    with quiet():
        theirs = pipeline(
            "a red cube", negative_prompt=negative or None, num_inference_steps=6, guidance_scale=4.0, height=64,
            width=128, generator=torch.Generator().manual_seed(11),
        ).images  # fmt: skip
    ours = sample(
        base, ["a red cube"], seeds=[11], steps=6, guidance=4.0, negative=negative, height=64, width=128, scheduler=name
    )
    assert _far(ours, theirs) <= 1


@pytest.mark.parametrize("name", SIX)
def test_an_image_from_an_image_is_that_of_diffusers_own_pipeline(sd15, name):
    """Its steps are cut, and the scheduler starts within them."""
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    pipeline = diffusers.StableDiffusionImg2ImgPipeline.from_pipe(sd15.pipeline())
    pipeline.scheduler = _theirs(sd15, name)
    options = {"strength": 0.6, "num_inference_steps": 8, "guidance_scale": 3.0, "negative_prompt": "fog"}
    with quiet():
        latents = sd15.latents_from(sd15.encode_images(image))
        theirs = pipeline("a", image=latents, generator=torch.Generator().manual_seed(2), **options).images
    ours = sample(
        sd15, ["a"], seeds=[2], steps=8, guidance=3.0, negative="fog", start=Start(image, 0.6), scheduler=name
    )
    assert _far(ours, theirs) <= 1

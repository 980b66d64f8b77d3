from __future__ import annotations

import copy

import pytest
import torch
from diffusers import (
    DDPMScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr
from diffusers.training_utils import compute_density_for_timestep_sampling, compute_snr

from scedit_cli import SCTuner, attach
from scedit_cli.core.objective import add_noise
from scedit_cli.models.base import load_base
from scedit_cli.recipe import Recipe, TrainSection
from scedit_cli.training import builders
from scedit_cli.training.objective import Objective, StepRandomness
from scedit_cli.utils.errors import SceditError
from tests import tiny

LATENTS = torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def draws(places=range(6)) -> StepRandomness:
    return StepRandomness(7, 3, places, 6)


def test_a_picture_draws_the_same_in_any_company(base):
    options = TrainSection(noise_offset=0.1, input_perturbation=0.1, timesteps="logit-normal")
    whole, part = Objective(base, options).add_noise(LATENTS, draws()), range(2, 5)
    asked = Objective(base, options).add_noise(LATENTS[2:5], draws(part))
    for name in ("noisy", "latents", "noise", "timesteps"):
        assert torch.equal(getattr(asked, name), getattr(whole, name)[2:5]), name
    assert torch.equal(draws().happens(0.5)[2:5], draws(part).happens(0.5))
    other = Objective(base, options).add_noise(LATENTS, StepRandomness(7, 4, range(6), 6))
    assert not torch.equal(other.noise, whole.noise)


def test_noise_offset_moves_whole_channels(base):
    plain = Objective(base, TrainSection()).add_noise(LATENTS, draws())
    moved = Objective(base, TrainSection(noise_offset=0.5)).add_noise(LATENTS, draws())
    offset = (moved.noise - plain.noise)[..., :1, :1]
    assert torch.allclose(moved.noise - plain.noise, offset.expand_as(plain.noise), atol=1e-6)
    assert 0.2 < offset.std() < 0.8
    assert torch.equal(moved.noisy, add_noise(LATENTS, moved.noise, moved.timesteps, base.scheduler.alphas_cumprod))


def test_input_perturbation_is_seen_and_not_asked_for(base):
    plain = Objective(base, TrainSection()).add_noise(LATENTS, draws())
    perturbed = Objective(base, TrainSection(input_perturbation=0.1)).add_noise(LATENTS, draws())
    assert torch.equal(perturbed.noise, plain.noise)
    spread = (1 - base.scheduler.alphas_cumprod[plain.timesteps]).sqrt().view(-1, 1, 1, 1)
    assert ((perturbed.noisy - plain.noisy) / spread).std().item() == pytest.approx(0.1, rel=0.1)


def recipe(**train) -> Recipe:
    return Recipe.from_dict({"base": {"model": "b"}, "data": {"path": "d"}, "tuner": {"kind": "sc"}, "train": train})


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_zero_terminal_snr_reaches_training_and_samples(family):
    base = load_base(tiny.pipeline_folder(family))
    betas = base.scheduler.betas
    base = builders.with_prediction(base, recipe(prediction="v_prediction", zero_terminal_snr=True).train)
    alphas = Objective(base, TrainSection()).alphas
    assert alphas[-1] == 0 and torch.allclose(alphas, (1 - rescale_zero_terminal_snr(betas)).cumprod(0))
    assert base.prediction_type == "v_prediction"
    assert base.pipeline().scheduler.config.rescale_betas_zero_snr
    assert base.pipeline().scheduler.config.timestep_spacing == "trailing"


def test_a_base_learns_what_the_recipe_says():
    base = load_base(tiny.pipeline_folder("sd15"))
    assert builders.with_prediction(base, recipe().train) is base and base.prediction_type == "epsilon"
    with pytest.raises(SceditError, match="predicts epsilon, of which pure noise tells nothing"):
        builders.with_prediction(base, recipe(zero_terminal_snr=True).train)
    base = builders.with_prediction(base, recipe(prediction="sample").train)
    asked = Objective(base, TrainSection()).add_noise(LATENTS, draws())
    losses = Objective(base, TrainSection()).losses(torch.zeros_like(LATENTS), asked)
    assert torch.allclose(losses, LATENTS.square().flatten(1).mean(1))


def test_min_snr_joins_a_pictures_own_weight(base):
    weights = torch.arange(6.0)
    plain = Objective(base, TrainSection(loss_weighting="min-snr", snr_gamma=2.0))
    asked = plain.add_noise(LATENTS, draws())
    losses = plain.losses(torch.zeros_like(LATENTS), asked)
    assert torch.allclose(plain.losses(torch.zeros_like(LATENTS), asked, weights), losses * weights)
    unweighted = plain.plain_losses(torch.zeros_like(LATENTS), asked)
    assert not torch.allclose(losses, unweighted)


STATISTICS = {"scaling_factor": 0.5, "latents_mean": [-1.7, 1.9, -1.4, 2.5], "latents_std": [8.5, 5.9, 6.5, 5.2]}


def latents_by_diffusers(base, moments):
    """As diffusers' trainers make them of the mean, and its SDXL pipelines of any latents."""
    mean, config = DiagonalGaussianDistribution(moments).mode(), base.vae.config
    if config.latents_mean is None:
        return mean * config.scaling_factor
    means, deviations = (torch.tensor(each).view(1, 4, 1, 1) for each in (config.latents_mean, config.latents_std))
    return (mean - means) * config.scaling_factor / deviations


@pytest.mark.parametrize("statistics", [{}, STATISTICS])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("weighting", ["none", "min-snr"])
def test_the_loss_is_that_of_diffusers_trainers(family, prediction, statistics, weighting):
    base = load_base(tiny.pipeline_folder(family)).rescheduled(prediction)
    base.vae.register_to_config(**statistics)
    moments, answer = torch.randn(6, 8, 8, 8, generator=draws().of_images[0]), LATENTS
    objective = Objective(base, TrainSection(loss_weighting=weighting, snr_gamma=5.0))
    asked = objective.add_noise(base.latents_from(moments), draws())
    losses = objective.losses(answer, asked)

    scheduler, latents = DDPMScheduler.from_config(base.scheduler.config), latents_by_diffusers(base, moments)
    noisy = scheduler.add_noise(latents, asked.noise, asked.timesteps)
    torch.testing.assert_close(asked.noisy, noisy, atol=2e-6, rtol=2e-6)
    assert torch.equal(asked.times, asked.timesteps)
    wanted = asked.noise
    if prediction == "v_prediction":
        wanted = scheduler.get_velocity(latents, asked.noise, asked.timesteps)
    expected = (answer - wanted).square().flatten(1).mean(1)
    if weighting == "min-snr":
        snr = compute_snr(scheduler, asked.timesteps)
        expected = expected * snr.clamp(max=5.0) / (snr + 1 if prediction == "v_prediction" else snr)
    torch.testing.assert_close(losses.mean(), expected.mean(), rtol=2e-7, atol=2e-7)


EDM = {
    "playground": EDMDPMSolverMultistepScheduler(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5),
    "cosxl": EDMEulerScheduler(
        sigma_min=0.002, sigma_max=120.0, sigma_data=1.0, prediction_type="v_prediction", sigma_schedule="exponential"
    ),
}


def levels_of(scheduler) -> torch.Tensor:
    """What a U-Net is told in as many steps as there are, least noise first."""
    whole = copy.deepcopy(scheduler)
    whole.set_timesteps(1000)
    return whole.timesteps.flip(0)


@pytest.mark.parametrize("name", EDM)
def test_a_base_of_edm_is_preconditioned_as_it_is_sampled(name):
    """The loss on what the U-Net answers is Karras et al.'s on the image that follows, of weight 1/c_out^2."""
    base, scheduler = load_base(tiny.pipeline_folder("sdxl")), EDM[name]
    base._loaded.register_modules(scheduler=scheduler)
    base.vae.register_to_config(**STATISTICS)
    objective = Objective(base, TrainSection())
    moments, answer = torch.randn(6, 8, 8, 8, generator=draws().of_images[0]), LATENTS
    latents = base.latents_from(moments)
    torch.testing.assert_close(latents, latents_by_diffusers(base, moments))
    asked = objective.add_noise(latents, draws())
    assert (objective.alphas.diff() < 0).all()  # the higher, the noisier
    sigma = (4 * asked.times).exp().view(-1, 1, 1, 1)
    assert torch.equal(asked.times, levels_of(scheduler)[asked.timesteps])
    noisy = latents + sigma * asked.noise
    torch.testing.assert_close(asked.noisy, scheduler.precondition_inputs(noisy, sigma), rtol=1e-4, atol=1e-5)
    predicted = scheduler.precondition_outputs(noisy, answer, sigma)
    factor = scheduler.precondition_outputs(torch.zeros_like(noisy), torch.ones_like(noisy), sigma)
    expected = ((predicted - latents) / factor).square().flatten(1).mean(1)
    torch.testing.assert_close(objective.losses(answer, asked), expected, rtol=2e-3, atol=1e-3)


def test_a_base_of_eulers_continuous_levels_is_told_those():
    """As Stable Video Diffusion's scheduler and v-prediction bases with EDM's noise have them."""
    base = load_base(tiny.pipeline_folder("sdxl"))
    told = {"timestep_type": "continuous", "prediction_type": "v_prediction", "use_karras_sigmas": True}
    scheduler = EulerDiscreteScheduler(**told, sigma_min=0.002, sigma_max=700.0)
    base._loaded.register_modules(scheduler=scheduler)
    asked = Objective(base, TrainSection()).add_noise(LATENTS, draws())
    assert torch.equal(asked.times, levels_of(scheduler)[asked.timesteps])
    whole = copy.deepcopy(scheduler)
    whole.set_timesteps(1000)
    sigma = whole.sigmas[:-1].flip(0)[asked.timesteps].view(-1, 1, 1, 1)
    noisy = (LATENTS + sigma * asked.noise) / (sigma**2 + 1).sqrt()
    torch.testing.assert_close(asked.noisy, noisy, rtol=1e-4, atol=1e-5)
    # The image that follows of the right answer, by the scheduler's own formula, is the one that was noised.
    alphas = 1 / (1 + sigma**2)
    answer = alphas.sqrt() * asked.noise - (1 - alphas).sqrt() * LATENTS
    assert Objective(base, TrainSection()).plain_losses(answer, asked).max() < 1e-8
    with pytest.raises(SceditError, match="its noise levels are continuous"):
        builders.with_prediction(base, recipe(zero_terminal_snr=True).train)
    with pytest.raises(SceditError, match="a prediction of epsilon is not for those"):  # Euler would tell it timesteps
        base.rescheduled("epsilon")


def test_a_base_of_edm_keeps_its_noise():
    base = load_base(tiny.pipeline_folder("sdxl"))
    base._loaded.register_modules(scheduler=EDM["cosxl"])
    with pytest.raises(SceditError, match="continuous, as EDM's, and zero-terminal-SNR noise is not for those"):
        builders.with_prediction(base, recipe(zero_terminal_snr=True).train)
    with pytest.raises(SceditError, match="a prediction of sample is not for those"):
        builders.with_prediction(base, recipe(prediction="sample").train)
    assert builders.with_prediction(base, recipe().train) is base


def flow_base(family: str = "sdxl", shift: float = 1.0):
    base = load_base(tiny.pipeline_folder(family)).rescheduled("flow")
    base._loaded.register_modules(scheduler=FlowMatchEulerDiscreteScheduler(shift=shift))
    return base


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_the_flow_loss_is_that_of_diffusers_trainers(family, shift):
    """Their formulas: sigma from the scheduler's timestep, (1 - sigma)·x + sigma·noise, and noise - x."""
    base = flow_base(family, shift)
    objective = Objective(base, TrainSection())
    asked, scheduler = objective.add_noise(LATENTS, draws()), FlowMatchEulerDiscreteScheduler(shift=shift)
    places = [scheduler.index_for_timestep(time) for time in asked.times]
    assert (scheduler.timesteps[places] - asked.times).abs().max() < 1e-4 and len(set(places)) > 3
    sigmas = scheduler.sigmas[places].view(-1, 1, 1, 1)
    torch.testing.assert_close(asked.noisy, (1 - sigmas) * LATENTS + sigmas * asked.noise, rtol=0, atol=1e-6)
    answer = LATENTS.flip(0)
    expected = (answer - (asked.noise - LATENTS)).square().flatten(1).mean(1)
    torch.testing.assert_close(objective.losses(answer, asked), expected, rtol=1e-6, atol=1e-6)


def test_flow_draws_timesteps_as_diffusers_trainers_do():
    """Theirs count from the noisiest, ours from the cleanest, so that their mean is ours negated."""
    theirs, ours = [], []
    scheduler, levels = FlowMatchEulerDiscreteScheduler(shift=3.0), flow_base(shift=3.0).noise_levels
    u = compute_density_for_timestep_sampling("logit_normal", 4000, -0.5, 0.8, generator=torch.manual_seed(0))
    theirs = scheduler.timesteps[(u * 1000).long()]
    options = TrainSection(timesteps="logit-normal", timestep_mean=0.5, timestep_deviation=0.8)
    ours = levels.times[StepRandomness(0, 1, range(4000), 4000).timesteps(1000, options)]
    shares = torch.linspace(0.05, 0.95, 10)
    assert (theirs.quantile(shares) - ours.quantile(shares)).abs().max() < 30  # of 1000; two samples of 4000


@pytest.mark.parametrize("sampler", ["FlowMatchEulerDiscrete", "FlowMatchHeunDiscrete"])
def test_a_base_of_flow_is_sampled_by_flow(sampler):
    """A U-Net that predicts the velocity of one latent ends at it, whatever the sampler for flow."""
    base = flow_base("sd15")
    goal = LATENTS[:1]
    pipeline = base.pipeline(sampler)
    scheduler = pipeline.scheduler
    scheduler.set_timesteps(6)
    x = LATENTS[1:2] * scheduler.init_noise_sigma
    for time in scheduler.timesteps:
        sigma = time / 1000
        x = scheduler.step((scheduler.scale_model_input(x, time) - goal) / sigma, time, x, return_dict=False)[0]
    torch.testing.assert_close(x, goal, rtol=0, atol=1e-4)
    with pytest.raises(SceditError, match="scheduler DDIM is for bases trained on a schedule of betas"):
        base.pipeline("DDIM")
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline("a cone", num_inference_steps=2, height=64, width=64, output_type="np").images.shape == (1, 64, 64, 3)


def test_training_to_flow_converges():
    """A tiny U-Net, with an SC-Tuner and its output layer trained, learns the velocity of latents around 2: its loss
    falls from that of guessing nothing, 1 + 2², towards that of knowing the latents but not the noise, 1."""
    base = flow_base("sd15")
    tuner = SCTuner.for_unet(base.unet)
    trained = [*tuner.parameters(), *base.unet.conv_out.requires_grad_().parameters()]
    objective, optimizer = Objective(base, TrainSection()), torch.optim.AdamW(trained, lr=3e-2)
    text = base.unet_arguments(base.encode_prompts(["a cone"] * 6), 64, 64)
    losses = []
    with attach(base.unet, tuner):
        for step in range(30):
            asked = objective.add_noise(2 + 0.1 * LATENTS, StepRandomness(7, step, range(6), 6))
            loss = objective.losses(base.unet(asked.noisy, asked.times, **text).sample, asked).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[0] > 4.5 and sum(losses[-5:]) / 5 < 2, losses

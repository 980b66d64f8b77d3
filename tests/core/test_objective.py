from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

from scedit_cli import SceditError
from scedit_cli.core.objective import PREDICTION_TYPES, add_noise, min_snr_weights, noise_prediction_loss, target

SCHEDULER = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
ALPHAS = SCHEDULER.alphas_cumprod
TIMESTEPS = torch.tensor([0, 250, 700, 999])


@pytest.fixture
def drawn() -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(4, 4, 8, 8, generator=draw), torch.randn(4, 4, 8, 8, generator=draw)


def test_noise_and_velocity_are_the_schedulers(drawn):
    latents, noise = drawn
    torch.testing.assert_close(
        add_noise(latents, noise, TIMESTEPS, ALPHAS), SCHEDULER.add_noise(latents, noise, TIMESTEPS)
    )
    velocity = target("v_prediction", noise, latents, TIMESTEPS, ALPHAS)
    torch.testing.assert_close(velocity, SCHEDULER.get_velocity(latents, noise, TIMESTEPS))


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_loss_is_the_mean_square_per_sample(drawn, prediction_type):
    latents, noise = drawn
    wanted = target(prediction_type, noise, latents, TIMESTEPS, ALPHAS)
    error = torch.arange(4.0).view(4, 1, 1, 1)
    loss = noise_prediction_loss(wanted + error, noise, latents, TIMESTEPS, ALPHAS, prediction_type)
    torch.testing.assert_close(loss, torch.tensor([0.0, 1.0, 4.0, 9.0]), rtol=1e-4, atol=1e-6)
    weights = torch.tensor([1.0, 0.5, 0.0, 2.0])
    weighted = noise_prediction_loss(wanted + error, noise, latents, TIMESTEPS, ALPHAS, prediction_type, weights)
    torch.testing.assert_close(weighted, loss * weights)


def test_loss_of_a_half_precision_unet_is_float32(drawn):
    latents, noise = drawn
    loss = noise_prediction_loss(noise.bfloat16(), noise, latents, TIMESTEPS, ALPHAS, "epsilon")
    assert loss.dtype == torch.float32 and loss.max() < 1e-4


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_min_snr_weighs_the_error_in_x0_alike(drawn, prediction_type):
    """Whatever the U-Net predicts, the weighted loss is min(SNR, γ) times the error of the x_0 that follows."""
    latents, noise = (each.double() for each in drawn)
    alphas = ALPHAS.double()
    answer = target(prediction_type, noise, latents, TIMESTEPS, alphas) + 0.1
    alpha = alphas[TIMESTEPS].view(4, 1, 1, 1)
    noisy = add_noise(latents, noise, TIMESTEPS, alphas)
    if prediction_type == "epsilon":
        x0 = (noisy - (1 - alpha).sqrt() * answer) / alpha.sqrt()
    else:
        x0 = alpha.sqrt() * noisy - (1 - alpha).sqrt() * answer
    snr = (alpha / (1 - alpha)).flatten()
    expected = snr.clamp(max=5) * (x0 - latents).square().flatten(1).mean(1)
    weights = min_snr_weights(TIMESTEPS, alphas, prediction_type, gamma=5)
    weighted = noise_prediction_loss(answer, noise, latents, TIMESTEPS, alphas, prediction_type, weights)
    torch.testing.assert_close(weighted, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_min_snr_is_finite_at_zero_terminal_snr(prediction_type):
    weights = min_snr_weights(torch.tensor([0, 1]), torch.tensor([0.5, 0.0]), prediction_type)
    assert weights.isfinite().all()
    assert weights[1] == (1 if prediction_type == "epsilon" else 0)


def test_an_unknown_prediction_type_is_refused(drawn):
    with pytest.raises(SceditError, match="prediction type 'score' is not known"):
        target("score", *drawn, TIMESTEPS, ALPHAS)
    with pytest.raises(SceditError, match="prediction type 'score' is not known"):
        min_snr_weights(TIMESTEPS, ALPHAS, "score")


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_is_the_schedulers(drawn, shift):
    latents, noise = drawn
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    levels = scheduler.sigmas.flip(0).double()
    noisy = add_noise(latents, noise, TIMESTEPS, (1 - levels).square(), flow=True)
    times = scheduler.timesteps.flip(0)[TIMESTEPS]
    torch.testing.assert_close(noisy, scheduler.scale_noise(latents, times, noise), rtol=0, atol=1e-6)
    velocity = target("flow", noise, latents, TIMESTEPS, ALPHAS)
    sigma = levels[TIMESTEPS].view(-1, 1, 1, 1)
    torch.testing.assert_close((noisy - sigma * velocity).float(), latents, rtol=0, atol=2e-6)
    for level in levels[TIMESTEPS]:
        weight = min_snr_weights(torch.tensor([0]), (1 - level).square()[None], "flow")
        snr = ((1 - level) / level).square()
        torch.testing.assert_close(weight.item(), float(level**2 * snr.clamp(max=5.0)), rtol=1e-5, atol=1e-7)

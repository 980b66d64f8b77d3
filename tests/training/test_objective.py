from __future__ import annotations

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

from scedit_cli.base import load_base
from scedit_cli.core.objective import add_noise
from scedit_cli.errors import SceditError
from scedit_cli.recipe import Recipe, TrainSection
from scedit_cli.training import setup
from scedit_cli.training.objective import Draws, Objective
from tests import tiny

LATENTS = torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def draws(places=range(6)) -> Draws:
    return Draws(7, 3, places, 6)


def test_a_picture_draws_the_same_in_any_company(base):
    options = TrainSection(noise_offset=0.1, input_perturbation=0.1, timesteps="logit-normal")
    whole, part = Objective(base, options).ask(LATENTS, draws()), range(2, 5)
    asked = Objective(base, options).ask(LATENTS[2:5], draws(part))
    for name in ("noisy", "latents", "noise", "timesteps"):
        assert torch.equal(getattr(asked, name), getattr(whole, name)[2:5]), name
    assert torch.equal(draws().happens(0.5)[2:5], draws(part).happens(0.5))
    other = Objective(base, options).ask(LATENTS, Draws(7, 4, range(6), 6))
    assert not torch.equal(other.noise, whole.noise)


def test_noise_offset_moves_whole_channels(base):
    plain = Objective(base, TrainSection()).ask(LATENTS, draws())
    moved = Objective(base, TrainSection(noise_offset=0.5)).ask(LATENTS, draws())
    offset = (moved.noise - plain.noise)[..., :1, :1]
    assert torch.allclose(moved.noise - plain.noise, offset.expand_as(plain.noise), atol=1e-6)
    assert 0.2 < offset.std() < 0.8
    assert torch.equal(moved.noisy, add_noise(LATENTS, moved.noise, moved.timesteps, base.scheduler.alphas_cumprod))


def test_input_perturbation_is_seen_and_not_asked_for(base):
    plain = Objective(base, TrainSection()).ask(LATENTS, draws())
    perturbed = Objective(base, TrainSection(input_perturbation=0.1)).ask(LATENTS, draws())
    assert torch.equal(perturbed.noise, plain.noise)
    spread = (1 - base.scheduler.alphas_cumprod[plain.timesteps]).sqrt().view(-1, 1, 1, 1)
    assert ((perturbed.noisy - plain.noisy) / spread).std().item() == pytest.approx(0.1, rel=0.1)


def recipe(**train) -> Recipe:
    return Recipe.from_dict({"base": {"model": "b"}, "data": {"path": "d"}, "tuner": {"kind": "sc"}, "train": train})


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_zero_terminal_snr_reaches_training_and_samples(family):
    base = load_base(tiny.pipeline_folder(family))
    betas = base.scheduler.betas
    base = setup._taught(base, recipe(prediction="v_prediction", zero_terminal_snr=True).train)
    alphas = Objective(base, TrainSection()).alphas
    assert alphas[-1] == 0 and torch.allclose(alphas, (1 - rescale_zero_terminal_snr(betas)).cumprod(0))
    assert base.prediction_type == "v_prediction"
    assert base.pipeline().scheduler.config.rescale_betas_zero_snr
    assert base.pipeline().scheduler.config.timestep_spacing == "trailing"


def test_a_base_learns_what_the_recipe_says():
    base = load_base(tiny.pipeline_folder("sd15"))
    assert setup._taught(base, recipe().train) is base and base.prediction_type == "epsilon"
    with pytest.raises(SceditError, match="predicts epsilon, of which pure noise tells nothing"):
        setup._taught(base, recipe(zero_terminal_snr=True).train)
    base = setup._taught(base, recipe(prediction="sample").train)
    asked = Objective(base, TrainSection()).ask(LATENTS, draws())
    losses = Objective(base, TrainSection()).losses(torch.zeros_like(LATENTS), asked)
    assert torch.allclose(losses, LATENTS.square().flatten(1).mean(1))


def test_min_snr_joins_a_pictures_own_weight(base):
    weights = torch.arange(6.0)
    plain = Objective(base, TrainSection(loss_weighting="min-snr", snr_gamma=2.0))
    asked = plain.ask(LATENTS, draws())
    losses = plain.losses(torch.zeros_like(LATENTS), asked)
    assert torch.allclose(plain.losses(torch.zeros_like(LATENTS), asked, weights), losses * weights)
    unweighted = plain.plain_losses(torch.zeros_like(LATENTS), asked)
    assert not torch.allclose(losses, unweighted)

from __future__ import annotations

import pytest
import torch

from scedit_cli.recipe import ValidationSection
from scedit_cli.training.validation import HeldOut, split
from scedit_cli.utils.distributed import Processes
from scedit_cli.utils.errors import SceditError


def test_the_split_is_fixed_and_complete():
    options = ValidationSection(pictures=3, seed=5)
    learned, held_out = split(10, options)
    assert sorted(learned + held_out) == list(range(10)) and len(held_out) == 3
    assert (learned, held_out) == split(10, options)
    assert held_out != split(10, ValidationSection(pictures=3, seed=6))[1]
    assert split(4, ValidationSection(pictures=0)) == ([0, 1, 2, 3], [])
    with pytest.raises(SceditError, match="validation.pictures: 4 of 4"):
        split(4, ValidationSection(pictures=4))


@pytest.mark.parametrize(("count", "held_out"), [(1, 0), (9, 0), (10, 1), (14, 1), (319, 31), (320, 32), (5000, 32)])
def test_a_tenth_is_held_out_and_32_at_most(count, held_out):
    learned, found = split(count, ValidationSection())
    assert (len(learned), len(found)) == (count - held_out, held_out)


def test_the_loss_depends_on_the_weights_alone(make_trainer):
    def measured(trainer, **options) -> float:
        options = ValidationSection(**{"pictures": 3, "timesteps": 2} | options)
        return HeldOut([0, 2, 5], options, Processes()).loss(trainer)

    with make_trainer() as trainer:
        first = measured(trainer)
        assert measured(trainer) == first
        assert measured(trainer, seed=1) != first and measured(trainer, timesteps=3) != first
        trainer.advance()
        assert measured(trainer) != first
    settings = {"batch_size": 2, "loss_weighting": "min-snr", "noise_offset": 0.1, "seed": 0}
    with make_trainer(data={"caption_dropout": 1.0}, **settings) as other:
        assert measured(other) == pytest.approx(first, rel=1e-5)


def test_it_is_the_mean_squared_error(make_trainer, monkeypatch):
    with make_trainer() as trainer:
        asked = []
        monkeypatch.setattr(trainer, "output", lambda batch, each, text: asked.append(each) or each.noise)
        found = HeldOut([1], ValidationSection(pictures=1, timesteps=2, seed=9), Processes()).loss(trainer)
    assert [each.timesteps.tolist() for each in asked] == [[250], [750]]
    assert torch.equal(asked[0].noise, asked[1].noise)
    alphas = trainer.objective.alphas.double()
    errors = []
    for each in asked:
        alpha = alphas[each.timesteps[0]]
        wanted = alpha.sqrt() * each.noise - (1 - alpha).sqrt() * each.latents  # v
        errors.append((each.noise - wanted).square().mean().item())
    assert found == pytest.approx(sum(errors) / 2, rel=1e-5)

from __future__ import annotations

import pytest
import torch

from scedit_cli import CSCTuner, SceditError, SCTuner, attach
from scedit_cli.core.regions import Region


def test_a_region_weights_the_edit_by_its_mean_over_each_feature():
    weights = torch.rand(1, 1, 64, 64)
    edit = torch.randn(2, 3, 4, 4)
    expected = edit * weights.view(1, 1, 4, 16, 4, 16).mean((3, 5))
    torch.testing.assert_close(Region(weights).within(edit), expected)
    odd = Region(torch.ones(1, 1, 40, 24)).within(torch.randn(1, 2, 5, 3))
    assert odd.shape == (1, 2, 5, 3)


def test_regions_repeat_with_the_batch_as_hints_do():
    weights = torch.stack([torch.zeros(1, 8, 8), torch.ones(1, 8, 8)])
    edit = torch.ones(4, 1, 2, 2)
    assert Region(weights).within(edit)[:, 0, 0, 0].tolist() == [0, 1, 0, 1]
    with pytest.raises(SceditError, match="2 regions for a U-Net batch of 3"):
        Region(weights).within(torch.ones(3, 1, 2, 2))


def test_everywhere_and_nowhere(unet, run, hint, trained):
    tuners = [trained(SCTuner.for_unet(unet)), trained(CSCTuner.for_unet(unet, condition="canny"))]
    base = run(unet)
    one, none = torch.ones(1, 1, 64, 64), torch.zeros(1, 1, 64, 64)
    with attach(unet, tuners) as edits:
        edits.set_hints({"canny": hint()})
        full = run(unet)
        edits.set_regions([one, one])
        assert torch.equal(run(unet), full)
        edits.set_regions([none, none])
        assert torch.equal(run(unet), base)
        edits.set_regions({"canny": none})
        without = run(unet)
        edits.scales = [1.0, 0.0]
        assert torch.equal(run(unet), without)
        edits.scales = [1.0, 1.0]
        edits.set_regions(None)
        assert torch.equal(run(unet), full)
    assert torch.equal(run(unet), base)


def test_regions_divide_one_tuner(unet, run, trained):
    """Two halves of a picture with the same tuner in both are the whole of it."""
    tuner = trained(SCTuner.for_unet(unet))
    left = torch.zeros(1, 1, 64, 64)
    left[..., :32] = 1
    with attach(unet, tuner):
        whole = run(unet)
    with attach(unet, [tuner, tuner]) as edits:
        edits.set_regions([left, 1 - left])
        torch.testing.assert_close(run(unet), whole)


@pytest.mark.parametrize(
    "weights",
    [torch.ones(1, 3, 8, 8), torch.ones(8, 8), torch.full((1, 1, 8, 8), 2.0), torch.ones(1, 1, 8, 8).int(), "x"],
)
def test_what_is_no_region(weights):
    with pytest.raises(SceditError, match="a region is"):
        Region(weights)


def test_regions_of_nobody(unet):
    with attach(unet, CSCTuner.for_unet(unet, condition="canny")) as edits:
        with pytest.raises(SceditError, match="no tuner takes the condition 'depth'"):
            edits.set_regions({"depth": torch.ones(1, 1, 8, 8)})
        with pytest.raises(SceditError, match="2 regions for 1 tuners"):
            edits.set_regions([None, None])

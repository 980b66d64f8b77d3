from __future__ import annotations

import pytest
import torch

from scedit_cli import CSCTuner, SCTuner
from scedit_cli.core.compare import difference_of


def test_what_is_the_same_does_not_differ(unet, trained):
    tuner = trained(SCTuner.for_unet(unet))
    difference = difference_of([(tuner, 0.5)], [(tuner, 0.5)])
    assert difference.largest == difference.relative == 0 and difference.edit > 0.1


def test_scales_weights_and_hint_encoders_count(unet, trained):
    tuner = trained(SCTuner.for_unet(unet))
    difference = difference_of([(tuner, 1.0)], [(tuner, 1.01)])
    assert abs(difference.largest - 0.01 * difference.edit) < 1e-5
    assert difference_of([(tuner, 1.0)], [(trained(SCTuner.for_unet(unet), seed=3), 1.0)])[0] > 0.1
    one, other = (trained(CSCTuner.for_unet(unet, "canny", hint_channels=8)) for _ in range(2))
    with torch.no_grad():
        other.encoder.stem[0].bias += 1
    assert difference_of([(one, 1.0)], [(other, 1.0)])[0] > 1e-3


def test_what_is_no_number_is_told(unet, trained):
    broken = trained(SCTuner.for_unet(unet))
    with torch.no_grad():
        broken.maps[3].up.bias[0] = torch.nan
    difference = difference_of([(broken, 1.0)], [(broken, 1.0)])
    assert difference.largest != difference.largest


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e4])
def test_a_difference_is_told_relative_to_the_edit(unet, trained, size):
    tuner = trained(SCTuner.for_unet(unet))
    assert difference_of([(tuner, size)], [(tuner, 1.002 * size)]).relative == pytest.approx(0.002, rel=1e-3)


def test_of_no_edit_every_difference_is_infinite(unet, trained):
    fresh = SCTuner.for_unet(unet)
    assert difference_of([(fresh, 1.0)], [(fresh, 1.0)]).relative == 0
    assert difference_of([(fresh, 1.0)], [(trained(SCTuner.for_unet(unet)), 1.0)]).relative == float("inf")

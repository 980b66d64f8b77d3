from __future__ import annotations

import torch

from scedit_cli import CSCTuner, SCTuner
from scedit_cli.core.compare import largest_difference


def test_what_is_the_same_does_not_differ(unet, trained):
    tuner = trained(SCTuner.for_unet(unet))
    difference, largest = largest_difference([(tuner, 0.5)], [(tuner, 0.5)])
    assert difference == 0 and largest > 0.1


def test_scales_weights_and_hint_encoders_count(unet, trained):
    tuner = trained(SCTuner.for_unet(unet))
    difference, largest = largest_difference([(tuner, 1.0)], [(tuner, 1.01)])
    assert abs(difference - 0.01 * largest) < 1e-5
    assert largest_difference([(tuner, 1.0)], [(trained(SCTuner.for_unet(unet), seed=3), 1.0)])[0] > 0.1
    one, other = (trained(CSCTuner.for_unet(unet, "canny", hint_channels=8)) for _ in range(2))
    with torch.no_grad():
        other.encoder.stem[0].bias += 1
    assert largest_difference([(one, 1.0)], [(other, 1.0)])[0] > 1e-3


def test_what_is_no_number_is_told(unet, trained):
    broken = trained(SCTuner.for_unet(unet))
    with torch.no_grad():
        broken.maps[3].up.bias[0] = torch.nan
    difference, _ = largest_difference([(broken, 1.0)], [(broken, 1.0)])
    assert difference != difference

from __future__ import annotations

import json
from importlib.resources import files

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn

from scedit_cli import CSCTuner, SceditError, SCTuner
from scedit_cli.core.skips import in_words, survey

# The figures of the SCEdit paper's table and of its reference implementation at full size.
SIZES = ("unet", "sc", "half", "tenth", "csc", "wide", "k3", "wide k3")
COUNTS = {
    "sd15": (859520964, 19680000, 9844800, 1976640, 28824400, 29557600, 99111760, 100008800),
    "sd21": (865910724, 19680000, 9844800, 1976640, 28824400, 29557600, 99111760, 100008800),
    "sdxl": (2567463684, 9841920, 4923840, 989376, 14067280, 14800480, 45033040, 45930080),
}


def full_size(family: str, **changes) -> UNet2DConditionModel:
    config = json.loads((files("scedit_cli") / "models" / "configs" / family / "unet.json").read_text())
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(config | changes)


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("family", COUNTS)
def test_parameter_counts_at_full_size(family):
    unet, wide = full_size(family), {"hint_channels": 320, "hint_width": 2.0}
    assert {
        "unet": parameters(unet),
        "sc": parameters(SCTuner.for_unet(unet)),
        "half": parameters(SCTuner.for_unet(unet, down_ratio=0.5)),
        "tenth": parameters(SCTuner.for_unet(unet, down_ratio=0.1)),
        "csc": parameters(CSCTuner.for_unet(unet, condition="canny")),
        "wide": parameters(CSCTuner.for_unet(unet, condition="canny", **wide)),
        "k3": parameters(CSCTuner.for_unet(unet, condition="canny", hint_kernel=3)),
        "wide k3": parameters(CSCTuner.for_unet(unet, condition="canny", hint_kernel=3, **wide)),
    } == dict(zip(SIZES, COUNTS[family], strict=True))


def test_survey_of_sd15():
    skips = survey(full_size("sd15"))
    assert skips.channels == (320,) * 4 + (640,) * 3 + (1280,) * 5
    assert skips.strides == (1, 1, 1, 2, 2, 2, 4, 4, 4, 8, 8, 8)
    assert skips.up_blocks == (3, 3, 3, 3) and {site.layout for site in skips.sites} == {"image"}
    assert [(site.leaves, site.enters, site.place) for site in skips.sites][::6] == [
        ("conv_in", "up_blocks.3", 0),
        ("down_blocks.1.downsamplers", "up_blocks.1", 0),
    ]


def test_survey_of_sdxl_with_and_without_a_mid_block():
    skips = survey(full_size("sdxl"))
    assert skips.channels == (320,) * 4 + (640,) * 3 + (1280,) * 2
    assert skips.strides == (1, 1, 1, 2, 2, 2, 4, 4, 4)
    assert survey(full_size("sdxl", mid_block_type=None)) == skips


def test_survey_where_levels_differ_in_depth():
    """As distilled U-Nets do: their blocks have unlike numbers of resnets."""
    skips = survey(full_size("sd15", layers_per_block=[1, 2, 1, 1]))
    assert skips.channels == (320,) * 3 + (640,) * 3 + (1280,) * 3
    assert skips.strides == (1, 1, 2, 2, 2, 4, 4, 8, 8)
    assert skips.up_blocks == (2, 2, 3, 2)


def test_a_model_without_skips_is_refused():
    with pytest.raises(SceditError, match="no skip connections are found in Linear"):
        survey(nn.Linear(2, 2))


def test_a_decoder_that_does_not_fit_is_refused(unet):
    unet.up_blocks = unet.up_blocks[:2]
    with pytest.raises(SceditError, match="its encoder gives 16×3, 32×3"):
        survey(unet)


def test_in_words():
    assert in_words((320, 320, 640)) == "320×2, 640"

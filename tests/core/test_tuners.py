from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from scedit_cli import Bundle, CSCTuner, SceditError, SCTuner
from scedit_cli.core.skips import survey


def test_sc_edit_is_the_papers_formula(unet, trained):
    tuner = trained(SCTuner.for_unet(unet, down_ratio=0.5))
    x = torch.randn(2, 32, 4, 4)
    down, up = tuner.maps[4].down, tuner.maps[4].up
    pixels = x.permute(0, 2, 3, 1)
    hidden = F.gelu(F.linear(pixels, down.weight[:, :, 0, 0], down.bias))
    expected = F.linear(hidden, up.weight[:, :, 0, 0], up.bias).permute(0, 3, 1, 2)
    assert hidden.shape[-1] == 16
    torch.testing.assert_close(tuner(x, 4), expected)


@pytest.mark.parametrize("kernel", [1, 3])
def test_hint_features_have_the_skips_shapes_also_at_odd_sizes(unet, kernel):
    tuner = CSCTuner.for_unet(unet, condition="depth", hint_kernel=kernel, hint_channels=24, hint_width=0.5)
    skips = survey(unet)
    features = tuner.encoder(torch.rand(1, 3, 40, 56), skips.strides)
    sizes = {1: (5, 7), 2: (3, 4), 4: (2, 2)}
    expected = [(1, c, *sizes[stride]) for c, stride in zip(skips.channels, skips.strides, strict=True)]
    assert [tuple(feature.shape) for feature in features] == expected


def test_fresh_weights_are_as_the_paper_initialises_them(unet):
    tuner = CSCTuner.for_unet(unet, condition="canny")
    for each in tuner.maps:
        assert not each.up.weight.any() and not each.up.bias.any()
        bound = each.down.in_channels**-0.5  # Kaiming-uniform with a = √5
        assert 0.9 * bound < each.down.weight.abs().max() <= bound
    assert not any(parameter.any() for parameter in tuner.encoder.chain.parameters())
    assert all(layer.weight.any() and not layer.bias.any() for layer in tuner.encoder.stem[::2])


def test_a_fresh_stem_passes_on_what_differs_between_hints(unet):
    torch.manual_seed(0)
    stem = CSCTuner.for_unet(unet, condition="canny").encoder.stem
    edges = (torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(1)) > 0.95).float()
    with torch.no_grad():
        assert stem(edges).std(0).mean() > 0.03  # PyTorch's default initialisation leaves 0.001


def test_one_seed_gives_one_tuner_in_float32(unet):
    torch.manual_seed(5)
    first = SCTuner.for_unet(unet)
    torch.manual_seed(5)
    second = SCTuner.for_unet(unet.to(torch.bfloat16))
    assert first.dtype == second.dtype == torch.float32
    assert torch.equal(first.maps[0].down.weight, second.maps[0].down.weight)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"down_ratio": 0.0}, "down_ratio is 0.0"),
        ({"down_ratio": -1.0}, "down_ratio is -1.0"),
        ({"hint_kernel": 2}, "hint_kernel is 2"),
        ({"hint_width": 0.01}, "at least one channel"),
        ({"condition": ""}, "needs the name of its condition"),
    ],
)
def test_sizes_that_make_no_tuner(unet, arguments, message):
    with pytest.raises(SceditError, match=message):
        CSCTuner.for_unet(unet, **{"condition": "canny"} | arguments)


def test_bundle_refuses_what_does_not_go_together(unet):
    canny = CSCTuner.for_unet(unet, condition="canny")
    with pytest.raises(SceditError, match="two tuners take the condition 'canny'"):
        Bundle([canny, CSCTuner.for_unet(unet, condition="canny")])
    with pytest.raises(SceditError, match="SC-Tuner edits skips of 8×6 channels, the canny tuner of 16×3, 32×3"):
        Bundle([canny, SCTuner([8] * 6)])
    with pytest.raises(SceditError, match="2 scales for 1 tuners"):
        Bundle([canny], [1.0, 2.0])
    with pytest.raises(SceditError, match="there are no tuners"):
        Bundle([])

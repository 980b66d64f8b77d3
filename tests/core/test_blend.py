from __future__ import annotations

import copy

import pytest
import torch

from scedit_cli import Bundle, CSCTuner, SceditError, SCTuner, attach, load_tuner, merge, save_tuner
from scedit_cli.core.blend import average


@pytest.fixture
def styles(unet, trained) -> list[SCTuner]:
    return [trained(SCTuner.for_unet(unet, down_ratio=ratio), seed=i) for i, ratio in enumerate((1.0, 0.5, 0.25))]


@pytest.fixture
def canny(unet, trained) -> CSCTuner:
    return trained(CSCTuner.for_unet(unet, condition="canny", hint_channels=16), seed=10)


@pytest.fixture
def depth(unet, trained) -> CSCTuner:
    return trained(CSCTuner.for_unet(unet, condition="depth", hint_channels=16), seed=11)


def test_sc_tuners_become_one_that_gives_the_same(unet, run, styles):
    unet.double()
    scales = [0.7, -0.5, 1.5]
    doubles = [copy.deepcopy(style).double() for style in styles]
    with attach(unet, doubles, scales):
        expected = run(unet)
    merged = merge(list(zip(doubles, scales, strict=True)))
    assert type(merged) is SCTuner
    assert merged.hidden == tuple(sum(widths) for widths in zip(*(style.hidden for style in styles), strict=True))
    with attach(unet, merged):
        torch.testing.assert_close(run(unet), expected, rtol=0, atol=1e-12)
    assert merge([(styles[0], 1.0)]).dtype == torch.float32


def test_merging_leaves_the_parts_alone(styles):
    before = copy.deepcopy(styles[0].state_dict())
    merged = merge([(styles[0].half(), 0.5), (styles[1], 0.5)])
    assert styles[0].dtype == torch.float16 and merged.dtype == torch.float32
    assert all(torch.equal(value.half(), styles[0].state_dict()[key]) for key, value in before.items())


def test_merging_draws_no_random_numbers(styles):
    state = torch.get_rng_state()
    merge([(style, 0.5) for style in styles])
    assert torch.equal(torch.get_rng_state(), state)


def test_conditions_become_a_bundle_that_gives_the_same(unet, run, hint, styles, canny, depth, tmp_path):
    hints = {"canny": hint(seed=1), "depth": hint(seed=2)}
    with attach(unet, [canny, styles[0], depth, styles[1]], [0.5, 0.7, 1.5, 0.2]) as edits:
        edits.set_hints(hints)
        expected = run(unet)
    merged = merge([(canny, 0.5), (styles[0], 0.7), (depth, 1.5), (styles[1], 0.2)])
    assert isinstance(merged, Bundle) and merged.scales == (1.0, 0.5, 1.5)
    assert [tuner.condition for tuner in merged.tuners] == [None, "canny", "depth"]
    save_tuner(merged, tmp_path / "combo.safetensors")
    with attach(unet, load_tuner(tmp_path / "combo.safetensors")) as edits:
        edits.set_hints(hints)
        torch.testing.assert_close(run(unet), expected, rtol=1e-4, atol=1e-5)


def test_bundles_are_taken_apart(styles, canny, depth):
    inner = Bundle([styles[0], canny], [0.5, 0.8])
    merged = merge([(inner, 0.5), (depth, 1.0), (styles[1], 2.0)])
    assert merged.scales == (1.0, 0.4, 1.0)
    alone = merge([(styles[0], 0.25), (styles[1], 2.0)])
    torch.testing.assert_close(merged.tuners[0].state_dict(), alone.state_dict())


def test_facts_on_which_all_agree_are_kept(styles):
    for style in styles:
        style.metadata = {"base": "sd15", "base_fingerprint": "0a", "recipe": "x", "zero_terminal_snr": "true"}
    styles[1].metadata = {"base": "sd15", "base_fingerprint": "0b", "zero_terminal_snr": "true"}
    assert merge([(style, 1.0) for style in styles]).metadata == {"base": "sd15", "zero_terminal_snr": "true"}


def test_a_bundles_sc_tuner_keeps_its_facts(styles, canny):
    """It may be taken out of the bundle, or be the only one that is placed."""
    facts = {"base": "b", "base_revision": "c0", "base_fingerprint": "0a", "prediction_type": "v_prediction"}
    for tuner in (*styles, canny):
        tuner.metadata = facts | {"recipe": "x"}
    merged = merge([(styles[0], 1.0), (styles[1], 0.5), (canny, 1.0)])
    assert merged.metadata == facts and merged.tuners[0].metadata == facts
    assert merge([(styles[0], 1.0), (canny, 1.0)]).tuners[0].metadata == facts | {"recipe": "x"}


def test_what_cannot_be_merged(styles, canny):
    with pytest.raises(SceditError, match="nothing to merge"):
        merge([])
    with pytest.raises(SceditError, match="two tuners take the condition 'canny'"):
        merge([(canny, 0.5), (Bundle([canny]), 0.5)])
    with pytest.raises(SceditError, match="SC-Tuner edits skips of 8×6 channels, the SC-Tuner of 16×3, 32×3"):
        merge([(styles[0], 1.0), (SCTuner([8] * 6), 1.0)])
    with pytest.raises(SceditError, match="a scale is inf"):
        merge([(styles[0], float("inf"))])


def test_a_single_tuner_stays_what_it_is(canny, styles):
    canny.metadata = {"recipe": "x", "base": "sd15"}
    assert merge([(Bundle([canny]), 1.0)]) is canny and canny.metadata["recipe"] == "x"
    half = merge([(canny, 0.5)])
    assert isinstance(half, Bundle) and half.scales == (0.5,)
    styles[0].metadata = {"recipe": "y"}
    assert merge([(styles[0], 0.5)]).metadata == {"recipe": "y"}


def test_up_blocks_are_kept_where_nobody_disagrees(styles):
    assert merge([(styles[0], 1.0), (styles[1], 1.0)]).up_blocks == (2, 2, 2)
    styles[1].up_blocks = None
    assert merge([(styles[0], 1.0), (styles[1], 1.0)]).up_blocks == (2, 2, 2)
    styles[1].up_blocks = (3, 3)
    assert merge([(styles[0], 1.0), (styles[1], 1.0)]).up_blocks is None


def test_an_average_is_the_weighted_mean(unet, trained):
    one, two = (trained(CSCTuner.for_unet(unet, condition="canny", hint_channels=8), seed=seed) for seed in (1, 2))
    mean = average([(one, 3.0), (Bundle([two], [0.5]), 2.0)])
    assert type(mean) is CSCTuner and mean.condition == "canny"
    for name, parameter in mean.named_parameters():
        expected = 0.75 * one.get_parameter(name) + 0.25 * two.get_parameter(name)
        torch.testing.assert_close(parameter, expected, rtol=0, atol=1e-6)
    alone = average([(one, 0.7), (copy.deepcopy(one), 1.9)])
    torch.testing.assert_close(alone.state_dict(), one.state_dict(), rtol=0, atol=1e-7)


def test_what_cannot_be_averaged(styles, canny, depth):
    for others in ([styles[0], styles[1]], [canny, depth], [canny, styles[0]]):
        with pytest.raises(SceditError, match="different conditions or shapes"):
            average([(each, 1.0) for each in others])
    with pytest.raises(SceditError, match="one tuner only"):
        average([(canny, 1.0)])
    with pytest.raises(SceditError, match="add up to 0"):
        average([(canny, 1.0), (canny, -1.0)])

from __future__ import annotations

import pytest
import torch

from scedit_cli import SceditError, SCTuner, merge
from scedit_cli.core.compress import compress, recorded


@pytest.fixture
def style(unet, trained) -> SCTuner:
    return trained(SCTuner.for_unet(unet))  # 16 and 32 hidden units


@torch.no_grad()
def error(one: SCTuner, other: SCTuner, features: list[torch.Tensor]) -> list[float]:
    pixels = [each.T[None, :, :, None] for each in features]
    edits = [(one(x, i), other(x, i)) for i, x in enumerate(pixels)]
    return [float((a - b).norm() / a.norm()) for a, b in edits]


def test_units_that_are_there_twice_go_without_a_trace(style):
    twice = merge([(style, 0.75), (style, 0.5)])
    small, errors = compress(twice, 32)
    assert small.hidden == (32, 32, 32, 32, 32, 32) and max(errors) < 1e-5
    exact = merge([(style, 1.25)])
    features = [torch.randn(100, width) for width in style.channels]
    assert max(error(exact, small, features)) < 1e-5


def test_more_units_never_fit_worse_and_enough_are_exact(style):
    last = [2.0] * 6
    for rank in (1, 4, 8, 16, 24):
        small, errors = compress(style, rank)
        assert small.hidden == tuple(min(rank, width) for width in style.hidden)
        assert all(now <= before * 1.02 for now, before in zip(errors, last, strict=True))
        last = errors
    assert last[:3] == [0, 0, 0] and all(0.001 < each < 0.9 for each in last[3:])
    same, errors = compress(style, 32)
    assert errors == [0.0] * 6
    assert all(torch.equal(a, b) for a, b in zip(same.parameters(), style.parameters(), strict=True))


def test_the_error_told_is_the_error_made(style):
    small, errors = compress(style, 6)
    state = torch.get_rng_state()
    again, _ = compress(style, 6)
    assert torch.equal(torch.get_rng_state(), state), "the caller's random numbers go on as they were"
    assert all(map(torch.equal, again.parameters(), small.parameters()))
    measured = error(
        style, small, [torch.randn(20000, w, generator=torch.Generator().manual_seed(9)) for w in style.channels]
    )
    assert measured == pytest.approx(errors, rel=0.1)


def test_activations_tell_what_matters(style):
    """On features that use a few directions only, a fit on them beats one on the weights alone."""
    draw = torch.Generator().manual_seed(4)
    features = [
        3 * torch.randn(6000, 3, generator=draw) @ torch.randn(3, width, generator=draw) for width in style.channels
    ]
    informed, errors = compress(style, 6, features)
    blind, _ = compress(style, 6)
    held_out = [each[-1000:] for each in features]
    better, worse = error(style, informed, held_out), error(style, blind, held_out)
    assert all(a < 0.7 * b for a, b in zip(better, worse, strict=True))
    assert better == pytest.approx(errors, rel=0.3)


def test_recorded_features_are_what_the_up_blocks_get(unet, run):
    seen = {}

    def keep(block, args, kwargs, number):
        seen[number] = kwargs["res_hidden_states_tuple"]

    handles = [
        block.register_forward_pre_hook(lambda m, a, k, n=n: keep(m, a, k, n), with_kwargs=True)
        for n, block in enumerate(unet.up_blocks)
    ]
    with recorded(unet, rows=10_000) as features:
        run(unet)
    for handle in handles:
        handle.remove()
    skips = [skip for number in (2, 1, 0) for skip in seen[number]]
    assert [each.shape for each in features] == [(2 * s.shape[2] * s.shape[3], s.shape[1]) for s in skips]
    for each, skip in zip(features, skips, strict=True):
        pixels = skip.movedim(1, -1).flatten(0, -2)
        assert torch.equal(each.sort(0).values, pixels.sort(0).values)
    assert not any(block._forward_pre_hooks for block in unet.up_blocks)
    with recorded(unet, rows=7) as features:
        run(unet)
        run(unet)
    assert [len(each) for each in features] == [7] * 6


def test_refusals(style):
    with pytest.raises(SceditError, match="the rank is 0"):
        compress(style, 0)
    with pytest.raises(SceditError, match="not those of the tuner's skips"):
        compress(style, 4, [torch.randn(10, 5)])

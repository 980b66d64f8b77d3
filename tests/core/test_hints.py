from __future__ import annotations

import pytest
import torch

from scedit_cli import CSCTuner, SceditError, SCTuner, attach


@pytest.fixture
def canny(unet, trained):
    return trained(CSCTuner.for_unet(unet, condition="canny", hint_channels=16), seed=4)


@pytest.fixture
def depth(unet, trained):
    return trained(CSCTuner.for_unet(unet, condition="depth", hint_channels=16), seed=5)


@pytest.fixture
def encodings(canny, monkeypatch) -> list[torch.Tensor]:
    """Every image of a canny hint that is encoded; `hint()` has two."""
    calls, forward = [], canny.encoder.forward
    monkeypatch.setattr(canny.encoder, "forward", lambda *a, **k: calls.extend(a[0]) or forward(*a, **k))
    return calls


def test_by_name_by_order_and_alone_are_the_same(unet, run, hint, canny, depth):
    a, b = hint(seed=1), hint(seed=2)
    with attach(unet, [canny, SCTuner.for_unet(unet), depth]) as edits:
        edits.set_hints({"depth": b, "canny": a})
        named = run(unet)
        edits.set_hints([a, b])
        assert torch.equal(run(unet), named)
        edits.set_hints([b, a])
        assert not torch.allclose(run(unet), named)
    with attach(unet, canny) as edits:
        edits.set_hints(a)
        alone = run(unet)
        edits.set_hints({"canny": a})
        assert torch.equal(run(unet), alone)


def test_encoded_once_without_gradients(unet, run, hint, canny, encodings):
    with attach(unet, canny) as edits, torch.no_grad():
        edits.set_hints(hint())
        first = run(unet)
        assert torch.equal(run(unet), first)
        assert len(encodings) == 2
        edits.set_hints(hint(seed=9))
        assert not torch.equal(run(unet), first)
        assert len(encodings) == 4


def test_encoded_anew_while_training_and_never_stale(unet, run, hint, canny, encodings):
    with attach(unet, canny) as edits:
        edits.set_hints(hint())
        with torch.no_grad():
            before = run(unet)
        run(unet).mean().backward()
        assert all(parameter.grad is not None for parameter in canny.encoder.parameters())
        with torch.no_grad():
            for parameter in canny.encoder.parameters():
                parameter.add_(0.1)
            assert not torch.equal(run(unet), before)
    assert len(encodings) == 6


def test_a_frozen_encoder_is_encoded_once_also_with_gradients(unet, run, hint, canny, encodings):
    canny.requires_grad_(False)
    with attach(unet, canny) as edits:
        edits.set_hints(hint())
        with torch.inference_mode():
            run(unet)
        run(unet)
        run(unet)
    assert len(encodings) == 4  # what inference mode encoded cannot be used where gradients are recorded


def test_gradients_reach_the_hint(unet, run, hint, canny):
    picture = hint().requires_grad_()
    with attach(unet, canny.requires_grad_(False)) as edits:
        edits.set_hints(picture)
        run(unet).square().mean().backward()
    assert picture.grad.any()


def test_guidance_doubles_the_batch(unet, canny, hint):
    """[uncond a, uncond b, cond a, cond b] with hints [a, b] is each picture with its own hint."""
    draw = torch.Generator().manual_seed(0)
    sample, context = torch.randn(4, 4, 8, 8, generator=draw), torch.randn(4, 5, 16, generator=draw)
    pictures = hint()
    with attach(unet, canny) as edits, torch.no_grad():
        edits.set_hints(pictures)
        together = unet(sample, 10, context).sample
        for i in range(4):
            edits.set_hints(pictures[i % 2 : i % 2 + 1])
            alone = unet(sample[i : i + 1], 10, context[i : i + 1]).sample
            torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-4, atol=1e-5)


def test_the_half_without_prompts_takes_a_share_of_the_hints_alone(unet, trained, canny, hint):
    draw = torch.Generator().manual_seed(0)
    sample, context = torch.randn(4, 4, 8, 8, generator=draw), torch.randn(4, 5, 16, generator=draw)
    with attach(unet, [canny, trained(SCTuner.for_unet(unet))], [0.8, 0.5]) as edits, torch.no_grad():
        edits.set_hints(hint())
        whole = unet(sample, 10, context).sample
        edits.scales = [0.8 * 0.25, 0.5]
        weak = unet(sample, 10, context).sample
        edits.scales, edits.unprompted = [0.8, 0.5], 0.25
        before, found = edits.changes, unet(sample, 10, context).sample
        edits.unprompted = 0.25
        assert edits.changes == before
        edits.unprompted = 1.0
        assert edits.changes == before + 1 and torch.equal(unet(sample, 10, context).sample, whole)
    torch.testing.assert_close(found[:2], weak[:2], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found[2:], whole[2:], rtol=1e-4, atol=1e-6)
    assert not torch.allclose(weak, whole, rtol=1e-2)


def test_one_hint_serves_the_whole_batch(unet, run, hint, canny):
    one = hint(batch=1)
    with attach(unet, canny) as edits, torch.no_grad():
        edits.set_hints(one.repeat(3, 1, 1, 1))
        expected = run(unet, batch=3)
        edits.set_hints(one)
        torch.testing.assert_close(run(unet, batch=3), expected)


def test_pictures_need_not_be_square(unet, run, hint, canny):
    with attach(unet, canny) as edits:
        edits.set_hints(hint(height=40, width=72))
        assert run(unet, size=(5, 9)).shape == (2, 4, 5, 9)


@pytest.mark.parametrize(
    ("give", "message"),
    [
        (lambda h: {"canny": h()}, "the depth tuner has no depth hint"),
        (lambda h: {"canny": h(), "depth": h(), "pose": h()}, "no tuner takes the condition 'pose'"),
        (lambda h: h(), "1 hints for 2 CSC-Tuners"),
        (lambda h: [h(), h(), h()], "3 hints for 2 CSC-Tuners"),
        (lambda h: [h(), h()[:, :1]], "depth hint has 1 channels, its tuner takes 3"),
        (lambda h: [h(), h()[0]], r"depth hint is torch.float32 of shape \(3, 64, 64\)"),
        (lambda h: [h(), h().byte()], "depth hint is torch.uint8"),
        (lambda h: [h(), "depth.png"], "depth hint is str"),
    ],
)
def test_hints_that_cannot_be(unet, canny, depth, hint, give, message):
    with attach(unet, [canny, depth]) as edits:
        with pytest.raises(SceditError, match=message):
            edits.set_hints(give(hint))


def test_hints_that_do_not_fit_the_latents(unet, run, hint, canny):
    with attach(unet, canny) as edits:
        edits.set_hints(hint(height=72))
        with pytest.raises(SceditError, match=r"hint is 72×64 pixels .* latents of 8×8 need 64×64"):
            run(unet)
        edits.set_hints(hint(batch=3))
        with pytest.raises(SceditError, match="3 canny hints for a U-Net batch of 2"):
            run(unet)


def test_a_call_without_its_hint_is_refused(unet, run, canny):
    with attach(unet, canny):
        with pytest.raises(SceditError, match="the canny tuner has no canny hint"):
            run(unet)


def test_a_missing_hint_is_fine_at_scale_zero(unet, run, hint, canny, depth):
    with attach(unet, [canny, depth], [1.0, 0.0]) as edits:
        edits.set_hints({"canny": hint()})
        run(unet)
        edits.scales = [1.0, 0.5]
        with pytest.raises(SceditError, match="the depth tuner has no depth hint"):
            run(unet)


def test_two_tuners_of_one_condition_take_a_list(unet, run, hint, canny):
    with attach(unet, [canny, canny]) as edits:
        with pytest.raises(SceditError, match="two tuners take the condition 'canny'"):
            edits.set_hints({"canny": hint()})
        edits.set_hints([hint(), hint(seed=8)])
        run(unet)


def test_hints_without_a_taker(unet, hint):
    with attach(unet, SCTuner.for_unet(unet)) as edits:
        with pytest.raises(SceditError, match="no tuner takes the condition 'canny'"):
            edits.set_hints({"canny": hint()})

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from scedit_cli import Bundle, CSCTuner, SceditError, SCTuner, attach
from scedit_cli.core.attach import attached


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()])


def hooks(unet: nn.Module) -> list[dict]:
    kinds = ("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_forward_hooks", "_forward_hooks_with_kwargs")
    return [dict(getattr(module, kind)) for module in unet.modules() for kind in kinds]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_fresh_tuners_are_the_identity_bit_for_bit(unet, run, hint, dtype):
    unet.to(dtype)
    before = run(unet)
    tuners = [SCTuner.for_unet(unet), CSCTuner.for_unet(unet, condition="canny", hint_kernel=3)]
    with attach(unet, tuners, [1.0, -2.5]) as edits:
        edits.set_hints({"canny": hint()})
        assert torch.equal(bits(run(unet)), bits(before))


@pytest.mark.parametrize("scale", [1.0, -1.0])
def test_a_fresh_edit_keeps_negative_zeros(unet, scale):
    tuner = SCTuner.for_unet(unet)
    with attach(unet, tuner, scale) as edits:
        edits._begin(torch.zeros(1, 4, 8, 8))
        for dtype in (torch.float32, torch.bfloat16):
            skip = torch.tensor([0.0, -0.0, 1.5, -2.0] * 4, dtype=dtype).view(1, 16, 1, 1)
            assert torch.equal(bits(edits._edit(skip, 0)), bits(skip))


def test_detaching_restores_the_unet(unet, run, hint, trained):
    before, keys, had = run(unet), list(unet.state_dict()), hooks(unet)
    tuners = [trained(SCTuner.for_unet(unet)), trained(CSCTuner.for_unet(unet, condition="canny"))]
    with attach(unet, tuners) as edits:
        edits.set_hints([hint()])
        assert not torch.equal(run(unet), before)
        assert list(unet.state_dict()) == keys
    assert hooks(unet) == had
    assert list(unet.state_dict()) == keys
    assert torch.equal(bits(run(unet)), bits(before))
    edits.detach()
    assert attached(unet) is None


def test_edits_are_summed_from_the_untouched_skip(unet, run, trained):
    """Two tuners at half the scale are one tuner, which chained edits would not be."""
    tuner = trained(SCTuner.for_unet(unet))
    with attach(unet, [tuner]):
        once = run(unet)
    with attach(unet, [tuner, tuner], [0.25, 0.75]):
        torch.testing.assert_close(run(unet), once)


@pytest.mark.parametrize("scale", [-0.5, 0.3, 1.0, 2.5])
def test_any_real_scale_multiplies_the_edit(unet, run, trained, scale):
    tuner = trained(SCTuner.for_unet(unet))
    scaled = copy.deepcopy(tuner)
    with torch.no_grad():
        for each in scaled.maps:
            each.up.weight.mul_(scale)
            each.up.bias.mul_(scale)
    with attach(unet, scaled):
        expected = run(unet)
    with attach(unet, tuner, [scale]):
        torch.testing.assert_close(run(unet), expected)


def test_scales_change_while_attached_and_zero_is_the_base(unet, run, hint, trained):
    base = run(unet)
    tuner = trained(CSCTuner.for_unet(unet, condition="canny"))
    with attach(unet, tuner) as edits:
        edits.set_hints(hint())
        full = run(unet)
        edits.scales = [0]
        assert torch.equal(bits(run(unet)), bits(base))
        edits.set_hints(None)
        assert torch.equal(bits(run(unet)), bits(base))
        edits.scales = [1.0]
        edits.set_hints(hint())
        assert torch.equal(run(unet), full)
        assert edits.scales == (1.0,)


def test_scale_zero_does_no_hint_work(unet, run, hint, monkeypatch):
    tuner = CSCTuner.for_unet(unet, condition="canny")
    monkeypatch.setattr(tuner.encoder, "forward", lambda *_, **__: pytest.fail("the hint was encoded"))
    with attach(unet, tuner, [0.0]) as edits:
        edits.set_hints(hint())
        run(unet)


def test_bundle_scales_hold_unless_others_are_given(unet, trained):
    tuner = trained(SCTuner.for_unet(unet))
    with attach(unet, Bundle([tuner], [0.3])) as edits:
        assert edits.scales == (0.3,)
    with attach(unet, [Bundle([tuner], [0.3]), tuner]) as edits:
        assert edits.scales == (0.3, 1.0)
    with attach(unet, Bundle([tuner], [0.3]), [2.0]) as edits:
        assert edits.scales == (2.0,)


def test_refusals(unet):
    tuner = SCTuner.for_unet(unet)
    with attach(unet, tuner) as edits:
        with pytest.raises(SceditError, match="has tuners attached already"):
            attach(unet, tuner)
        with pytest.raises(SceditError, match="2 scales for 1 tuners"):
            edits.scales = [1.0, 1.0]
        with pytest.raises(SceditError, match="a scale is nan"):
            edits.scales = [float("nan")]
    with pytest.raises(SceditError, match="SC-Tuner edits skips of 8×6 channels, this U-Net's have 16×3, 32×3"):
        attach(unet, SCTuner([8] * 6))
    with pytest.raises(SceditError, match="str is no tuner"):
        attach(unet, ["canny.safetensors"])
    with pytest.raises(SceditError, match="this U-Net is compiled"):
        attach(torch.compile(unet), tuner)
    unet.compile()
    with pytest.raises(SceditError, match="this U-Net is compiled"):
        attach(unet, tuner)
    assert attached(unet) is None


def test_a_call_that_goes_round_the_hooks_is_refused(unet):
    with attach(unet, SCTuner.for_unet(unet)):
        with pytest.raises(SceditError, match="outside the U-Net's call"):
            unet.forward(torch.zeros(1, 4, 8, 8), 0, torch.zeros(1, 5, 16))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda unet: pickle.loads(pickle.dumps(unet))])
def test_copies_of_an_attached_unet_have_their_own_tuners(unet, run, hint, trained, duplicate):
    tuner = trained(CSCTuner.for_unet(unet, condition="canny"))
    base = run(unet)
    with attach(unet, tuner) as edits, torch.no_grad():
        edits.set_hints(hint())
        edited = run(unet)
        other = duplicate(unet)
        assert torch.equal(run(other), edited)
        for parameter in attached(other).tuners[0].parameters():
            parameter.zero_()
        attached(other).set_hints(hint())
        assert torch.equal(run(other), base)
        assert torch.equal(run(unet), edited)
        attached(other).detach()
        assert torch.equal(run(unet), edited)
    assert attached(other) is None


def test_gradient_checkpointing_changes_no_gradient(unet, run, hint, trained):
    tuner = trained(CSCTuner.for_unet(unet, condition="canny"))

    def gradients() -> list[torch.Tensor]:
        tuner.zero_grad()
        run(unet.train()).square().mean().backward()
        return [parameter.grad.clone() for parameter in tuner.parameters()]

    with attach(unet, tuner) as edits:
        edits.set_hints(hint())
        plain = gradients()
        unet.enable_gradient_checkpointing()
        checkpointed = gradients()
    assert all(gradient.any() for gradient in plain)
    torch.testing.assert_close(checkpointed, plain)


def test_freeu_sees_the_edited_skip(unet, run):
    """FreeU reworks skips inside the up block; an edit by a constant must reach it like a constant added before."""
    unet.enable_freeu(s1=0.6, s2=0.4, b1=1.1, b2=1.2)
    tuner = SCTuner.for_unet(unet)
    with torch.no_grad():
        for each in tuner.maps:
            each.up.bias.fill_(0.7)
    shift = [
        block.register_forward_pre_hook(
            lambda block, args, kwargs: (
                args,
                kwargs | {"res_hidden_states_tuple": tuple(x + 0.7 for x in kwargs["res_hidden_states_tuple"])},
            ),
            with_kwargs=True,
        )
        for block in unet.up_blocks
    ]
    expected = run(unet)
    for handle in shift:
        handle.remove()
    with attach(unet, tuner):
        torch.testing.assert_close(run(unet), expected)
    assert not torch.allclose(run(unet), expected)


def test_half_precision_base_keeps_a_float32_tuner(unet, run, hint, trained):
    tuner = trained(CSCTuner.for_unet(unet, condition="canny"))
    with attach(unet, tuner, [0.1]) as edits:
        edits.set_hints(hint())
        expected = run(unet)
    unet.to(torch.bfloat16)
    with attach(unet, tuner, [0.1]) as edits:
        edits.set_hints(hint())
        output = run(unet)
        output.float().square().mean().backward()
    assert output.dtype == torch.bfloat16
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in tuner.parameters())
    torch.testing.assert_close(output.float(), expected, rtol=0.1, atol=0.05)

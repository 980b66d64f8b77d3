"""Frozen layers: what is put back as it was, and what is left alone."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._pytree import tree_map_only

from scedit_cli import SceditError, SCTuner, attach
from scedit_cli.core import frozen
from scedit_cli.core.attach import attached
from scedit_cli.core.frozen import lean
from tests import tiny
from tests.core.frozen_unets import MODES, call, equal, frozen_unet, gradients, tuned


@pytest.mark.parametrize(("memory", "recompute"), MODES)
def test_detaching_leaves_the_unet_as_it_was(memory, recompute, trained):
    unet = frozen_unet("sdxl")
    tuner = trained(SCTuner.for_unet(unet))
    kinds, keys, before = [type(each) for each in unet.modules()], list(unet.state_dict()), call(unet)
    attributes = [set(vars(each)) for each in unet.modules()]
    with attach(unet, tuner, memory=memory, recompute=recompute) as edits:
        assert [type(each) for each in unet.modules()] != kinds
        assert list(unet.state_dict()) == keys
        for copied in (copy.deepcopy(unet), pickle.loads(pickle.dumps(unet))):
            assert torch.equal(call(copied), call(unet))
            attached(copied).detach()
            assert [type(each) for each in copied.modules()] == kinds
            assert torch.equal(call(copied), before)
    edits.detach()
    assert [type(each) for each in unet.modules()] == kinds
    assert [set(vars(each)) for each in unet.modules()] == attributes
    assert torch.equal(call(unet), before)


def test_lean_within_lean():
    unet = frozen_unet("sd15")
    kinds = [type(each) for each in unet.modules()]
    with lean(unet):
        outer = [type(each) for each in unet.modules()]
        with pytest.raises(ValueError, match="on the way"), lean(unet, checkpoint="layer"):
            raise ValueError("on the way")
        assert [type(each) for each in unet.modules()] == outer
    assert [type(each) for each in unet.modules()] == kinds


def test_an_unknown_way_is_refused(unet):
    tuner = SCTuner.for_unet(unet)
    kinds = [type(each) for each in unet.modules()]
    with pytest.raises(SceditError, match="memory is 'leen'"):
        attach(unet, tuner, memory="leen")
    with pytest.raises(SceditError, match="'resnet' cannot be recomputed"):
        attach(unet, tuner, memory="checkpoint", recompute="resnet")
    assert [type(each) for each in unet.modules()] == kinds
    assert attached(unet) is None


def test_layers_that_learn_or_are_somebody_elses_are_left_alone():
    unet = frozen_unet("sd15")
    for layer in (unet.up_blocks[1].attentions[0].norm, unet.up_blocks[0].resnets[0].conv1):
        layer.requires_grad_(True)
    block = unet.up_blocks[2].attentions[0].transformer_blocks[0]
    seen = []
    block.ff.net[0].register_forward_hook(lambda *_: seen.append(1))
    own = unet.up_blocks[1].resnets[0].conv2
    own.forward = lambda x: F.conv2d(x, own.weight, own.bias, padding=1) * 2
    with lean(unet):
        assert type(own) is nn.Conv2d and "FrozenFeedForward" not in type(block.ff).__name__
        seen.clear()
        call(unet).square().sum().backward()
        assert seen
    found = gradients(unet)
    call(unet).square().sum().backward()
    equal(found, gradients(unet))


def wrapped(layer: nn.Linear) -> None:
    layer.forward = lambda x: F.linear(x, layer.weight, layer.bias) * 2


@pytest.mark.parametrize("late", [False, True], ids=["before", "within"])
@pytest.mark.parametrize("change", ["hook", "wrapper", "frozen LoRA"])
def test_what_computes_inside_a_feed_forward_is_heard(change, late):
    """Whenever it comes: what reads the weights directly must not pass it by."""
    unet = frozen_unet("sd15")
    unet.conv_in.requires_grad_(True)
    gate, _, out = unet.up_blocks[2].attentions[0].transformer_blocks[0].ff.net

    def alter() -> None:
        if change == "hook":
            gate.proj.register_forward_hook(lambda layer, args, output: output * 2)
        elif change == "wrapper":
            wrapped(out)
        else:
            unet.add_adapter(LoraConfig(r=2, target_modules=["ff.net.2"], init_lora_weights="gaussian"))
            for name, weight in unet.named_parameters():
                nn.init.normal_(weight) if "lora_B" in name else None
            unet.requires_grad_(False).conv_in.requires_grad_(True)

    before = call(unet)
    if not late:
        alter()
    with lean(unet):
        if late:
            alter()
        output = call(unet)
        output.square().sum().backward()
    found = gradients(unet)
    assert not torch.allclose(output, before) and torch.equal(output, call(unet))
    call(unet).square().sum().backward()
    equal(found, gradients(unet), 1e-6)


class Quantised(Tensor):
    """A weight in eight bits, as quantising libraries hold it: their own kind of tensor."""

    @staticmethod
    def __new__(cls, weight: Tensor) -> Quantised:
        return Tensor._make_wrapper_subclass(cls, weight.shape, dtype=weight.dtype)

    def __init__(self, weight: Tensor) -> None:
        self.scale = weight.abs().max() / 127
        self.levels = (weight / self.scale).round().to(torch.int8)

    @property
    def plain(self) -> Tensor:
        return self.levels * self.scale

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.detach.default:
            return args[0]
        return func(*tree_map_only(Quantised, lambda each: each.plain, args), **kwargs or {})


def test_layers_with_quantised_weights_are_left_alone():
    unet, same = frozen_unet("sdxl"), frozen_unet("sdxl")
    for quantised, plain in zip(unet.modules(), same.modules(), strict=True):
        if type(quantised) is nn.Linear:
            weight = Quantised(quantised.weight.detach())
            plain.weight.data = weight.plain
            quantised.weight = nn.Parameter(weight, requires_grad=False)
    with lean(unet):
        kinds = {type(module) for module in unet.modules()}
        assert frozen.FrozenConv2d in kinds and frozen.FrozenFeedForward not in kinds
    tuner = SCTuner.for_unet(unet)
    (output, found), (wanted, expected) = (tuned(each, tuner, "lean") for each in (unet, same))
    assert torch.allclose(output, wanted, atol=1e-5)
    assert all(torch.allclose(found[name], expected[name], atol=1e-5, rtol=1e-4) for name in expected)


def test_fake_weights_are_plain_ones():
    with FakeTensorMode():
        unet = tiny.unet("sd15").requires_grad_(False)
        with lean(unet):
            assert frozen.FrozenFeedForward in {type(module) for module in unet.modules()}

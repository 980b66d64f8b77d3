"""Layers with stored weights compute what the decoded weights do, and keep none of them for the backward pass."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from scedit_cli.core.attach import attach
from scedit_cli.core.quantized import parameter_count
from scedit_cli.core.tuners import SCTuner
from scedit_cli.models.quantization import _nf4, quantize, quantize_shapes
from scedit_cli.training.memory_tracker import LiveStorages
from scedit_cli.utils.errors import SceditError
from tests import tiny

LIBRARY = {"int4": "torchao", "int8": "torchao", "fp8": "torchao", "nf4": "bitsandbytes"}
ERROR = {"int4": 0.15, "nf4": 0.12, "fp8": 0.04, "int8": 0.02}  # of normal weights, relative to their size


@pytest.fixture(params=LIBRARY)
def how(request) -> str:
    pytest.importorskip(LIBRARY[request.param])
    return request.param


def layers(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(32, 64, 3, 2, 1), nn.Flatten(2), nn.Linear(16, 64), nn.Linear(64, 9))
    return made.to(dtype).requires_grad_(False)


def decoded(model: nn.Module) -> nn.Module:
    """Plain layers with the values that the stored weights decode to."""
    plain = layers(model[0].weight.dtype)
    for own, other in zip(plain, model, strict=True):
        if hasattr(own, "weight"):
            own.weight.copy_(other.weight)
    return plain


def test_rows_of_zeros_stay_zeros_in_half_precision(how):
    model = layers(torch.float16)
    model[2].weight[3] = 0
    model[2].weight[4] *= 1e-6
    quantize(model, how)
    assert model[2].weight.isfinite().all() and (model[2].weight[3] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_outputs_and_gradients_are_those_of_the_decoded_weights(how, dtype):
    model = layers(dtype)
    whole = copy.deepcopy(model)
    quantize(model, how)
    x = torch.randn(2, 32, 8, 8, dtype=dtype, requires_grad=True)
    outcome = []
    for each in (model, decoded(model)):
        y = each(x)
        y.square().sum().backward()
        outcome += [y.detach(), x.grad]
        x.grad = None
    assert torch.equal(outcome[0], outcome[2]) and torch.equal(outcome[1], outcome[3])
    for before, after in zip(whole, model, strict=True):
        if hasattr(before, "weight"):
            error = (after.weight - before.weight).norm() / before.weight.norm()
            assert 0 < error < ERROR[how]


def test_integers_are_torchaos(how):
    if how not in ("int4", "int8"):
        pytest.skip("no integers")
    from torchao.quantization.quant_primitives import (
        MappingType,
        choose_qparams_affine,
        dequantize_affine,
        quantize_affine,
    )

    model, weight = layers(), layers()[3].weight
    quantize(model, how)
    kind = MappingType.ASYMMETRIC if how == "int4" else MappingType.SYMMETRIC
    limits = (torch.uint8, 0, 15) if how == "int4" else (torch.int8, -127, 127)
    scale, zero = choose_qparams_affine(weight, kind, (1, 64), *limits)
    codes = quantize_affine(weight, (1, 64), scale, zero, *limits)
    assert torch.equal(model[3].weight, dequantize_affine(codes, (1, 64), scale, zero, *limits))


def test_four_bits_take_a_quarter_of_sixteen(how):
    model = layers(torch.bfloat16)
    weights = sum(each.weight.nbytes for each in model if hasattr(each, "weight"))
    count = parameter_count(model)
    quantize(model, how)
    assert sum(each.nbytes for each in model.buffers()) <= weights * (0.31 if how in ("int4", "nf4") else 0.53)
    assert parameter_count(model) == count and {name for name, _ in model.named_parameters()} == {
        "0.bias", "2.bias", "3.bias"
    }  # fmt: skip


def test_shapes_alone_take_the_same_bytes(how):
    real, shapes = layers(torch.bfloat16), layers(torch.bfloat16).to("meta")
    assert quantize(real, how) == quantize_shapes(shapes, how)
    assert [(b.shape, b.dtype) for b in shapes.buffers()] == [(b.shape, b.dtype) for b in real.buffers()]


def test_no_decoded_weight_waits_for_the_backward_pass(how):
    model = nn.Sequential(*(nn.Linear(512, 512, bias=False) for _ in range(8))).requires_grad_(False)
    quantize(model, how)
    x = torch.randn(1, 512, requires_grad=True)
    with LiveStorages() as live:
        model(x).sum().backward()
    assert live.peak < 3 * 512 * 512 * 4, "of eight weights one is decoded at a time"


def test_rows_that_no_group_divides_stay_whole(how):
    model = nn.Sequential(nn.Linear(7, 5, bias=False), nn.Conv2d(3, 4, 3, padding="same"), nn.LayerNorm(64))
    model.requires_grad_(False)
    found = quantize(model, "int4" if how == "int8" else how)  # eight bits have one scale for each row
    if how in ("int4", "int8", "nf4"):
        assert found.stored == 0 and found.whole == parameter_count(model)


@pytest.mark.parametrize("memory", ["plain", "lean", "checkpoint"])
def test_tuners_on_a_quantised_unet_get_the_same_gradients_in_every_memory(how, memory):
    unet = tiny.unet("sd15").requires_grad_(False)
    quantize(unet, how)
    sample, context = torch.randn(1, 4, 8, 8), torch.randn(1, 5, tiny.TEXT_WIDTH)
    gradients = []
    for each in ("plain", memory):
        tuner = tiny.trained(SCTuner.for_unet(unet))
        with attach(unet, tuner, memory=each):
            unet(sample, 500, context).sample.square().mean().backward()
        gradients.append([weight.grad for weight in tuner.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_a_compiled_layer_computes_the_same(how):
    if how == "nf4":
        pytest.skip("its CPU kernel is opaque to the compiler")
    model = layers()
    quantize(model, how)
    x = torch.randn(2, 32, 8, 8, requires_grad=True)
    expected = torch.autograd.grad(model(x).square().sum(), x)[0]
    compiled = torch.compile(model, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(x).square().sum(), x)[0], expected)


@pytest.mark.parametrize("said", ["CUDA out of memory. Tried to allocate 2 GiB", "no kernel for this device"])
def test_memory_that_runs_out_while_quantising_is_no_missing_kernel(monkeypatch, said):
    functional = pytest.importorskip("bitsandbytes.functional")

    def fails(*_, **__):
        raise RuntimeError(said)

    monkeypatch.setattr(functional, "quantize_4bit", fails)
    with pytest.raises(RuntimeError if "memory" in said else SceditError) as error:
        _nf4(torch.zeros(64, 64))
    assert ("base.quantize is nf4" in str(error.value)) == ("memory" not in said)

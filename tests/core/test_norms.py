from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from scedit_cli.core.frozen import lean
from scedit_cli.core.norms import norms_by_rows, norms_in_own_precision


class Lifting(torch.overrides.TorchFunctionMode):
    """Does with norms under a CPU's autocast what CUDA's does."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        lift = func in (nn.functional.group_norm, nn.functional.layer_norm) and torch.is_autocast_enabled("cpu")
        args = [a.float() if lift and isinstance(a, torch.Tensor) else a for a in args]
        kwargs = {k: v.float() if lift and isinstance(v, torch.Tensor) else v for k, v in (kwargs or {}).items()}
        return func(*args, **kwargs)


@pytest.mark.parametrize(("dtype", "output"), [(torch.bfloat16, torch.bfloat16), (torch.float32, torch.float32)])
@pytest.mark.parametrize("norm", [nn.GroupNorm(2, 4), nn.LayerNorm(4)])
def test_only_half_precision_norms_leave_autocast(norm, dtype, output):
    norm, x = norm.to(dtype), torch.randn(3, 4).bfloat16()
    with torch.autocast("cpu", torch.bfloat16), Lifting():
        assert norm(x).dtype == torch.float32
        with norms_in_own_precision(nn.Sequential(norm)):
            assert norm(x).dtype == output
            assert torch.is_autocast_enabled("cpu")
        assert norm(x).dtype == torch.float32
    assert not norm._forward_hooks and not norm._forward_pre_hooks


def test_autocast_is_back_after_an_error():
    norm = nn.GroupNorm(2, 4).bfloat16()
    with torch.autocast("cpu", torch.bfloat16), norms_in_own_precision(norm):
        with pytest.raises(RuntimeError):
            norm(torch.randn(3, 5).bfloat16())
        assert torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("memory", [nullcontext, lean])
@pytest.mark.parametrize(
    ("images", "weights"),
    [(torch.float32, torch.float32), (torch.bfloat16, torch.float32), (torch.bfloat16, torch.bfloat16)],
)
def test_norms_by_rows_give_pytorchs_values_and_gradients_in_the_layout_of_their_input(memory, images, weights):
    norm = nn.GroupNorm(4, 16).requires_grad_(False)
    norm.weight.uniform_(0.5, 2), norm.bias.uniform_(-1, 1)
    layers = nn.Sequential(norm.to(weights), nn.SiLU())
    image = torch.randn(3, 16, 6, 4, dtype=images).to(memory_format=torch.channels_last)
    towards = torch.randn_like(image)
    found = []
    for rows in (nullcontext, norms_by_rows):
        x = image.clone().requires_grad_()
        with rows(layers), memory(layers):
            y = layers(x)
            y.backward(towards)
        found.append((y.detach(), x.grad))
        assert type(norm) is nn.GroupNorm
    for plain, own in zip(*found):
        assert own.is_contiguous(memory_format=torch.channels_last)
        assert (own - plain).abs().max() <= 2 * torch.finfo(images).eps * plain.abs().max()


def test_norms_by_rows_leave_trainable_norms_and_contiguous_images_to_pytorch():
    learning, frozen = nn.GroupNorm(2, 8), nn.GroupNorm(2, 8).requires_grad_(False)
    x = torch.randn(2, 8, 4, 4)
    before = frozen(x)
    with norms_by_rows(nn.ModuleList([learning, frozen])):
        learning(x.to(memory_format=torch.channels_last)).sum().backward()
        assert learning.weight.grad is not None
        assert torch.equal(frozen(x), before)

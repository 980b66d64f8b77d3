"""The precision and the memory layout in which the normalisation layers of a frozen model compute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

_aten = torch.ops.aten


@contextmanager
def norms_in_own_precision(model: nn.Module) -> Iterator[None]:
    """Let `model`'s group and layer norms with half-precision weights compute in that precision inside the block, with
    or without autocast.

    CUDA's autocast would run them in float32 and save float32 tensors for the backward pass: a fifth more memory for an
    SC-Tuner's step on SD1.5. The kernels sum in float32 all the same. Norms with float32 weights are left to autocast.
    """
    handles = []
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, nn.GroupNorm | nn.LayerNorm) and weight is not None and weight.itemsize == 2:
            away = _Away()
            handles += [
                module.register_forward_pre_hook(away.leave),
                module.register_forward_hook(away.come_back, always_call=True),
            ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def norms_by_rows(model: nn.Module) -> Iterator[None]:
    """Let `model`'s frozen group norms be RowGroupNorms inside the block, for a model that computes on a CPU."""
    norms = [module for module in model.modules() if type(module) is nn.GroupNorm and module.affine]
    norms = [norm for norm in norms if not norm.weight.requires_grad]
    try:
        for norm in norms:
            norm.__class__ = RowGroupNorm
        yield
    finally:
        for norm in norms:
            norm.__class__ = nn.GroupNorm


class RowGroupNorm(nn.GroupNorm):
    """A frozen group norm that computes as `group_norm_by_rows`."""

    def forward(self, x: Tensor) -> Tensor:
        return group_norm_by_rows(x, self.num_groups, self.weight, self.bias, self.eps)


def group_norm_by_rows(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Return the group norm of `x`, (B, C, H, W); a channels-last one is copied for PyTorch's kernel for contiguous
    images, and back. Only `x` gets a gradient.

    The CPU's kernels for channels-last take up to 20 times as long forwards, on small images with few channels a group,
    and up to 27 times backwards, on large ones; a copy takes about as long as the kernel for contiguous images.
    Convolutions are faster channels-last. The values differ by the order of sums only.
    """
    is_last = x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    if not is_last or torch.compiler.is_compiling():
        return F.group_norm(x, groups, weight, bias, eps)
    return _GroupNormByRows.apply(x, groups, weight, bias, eps)


class _GroupNormByRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        ctx.shape = *x.shape[:2], x.shape[2] * x.shape[3], groups
        y, mean, inverse_deviation = _aten.native_group_norm(x.contiguous(), weight, bias, *ctx.shape, eps)
        ctx.save_for_backward(x, mean, inverse_deviation, weight)
        return y.contiguous(memory_format=torch.channels_last)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *saved = ctx.saved_tensors
        wanted = True, False, False
        dx, _, _ = _aten.native_group_norm_backward(grad.contiguous(), x.contiguous(), *saved, *ctx.shape, wanted)
        return dx.contiguous(memory_format=torch.channels_last), None, None, None, None


class _Away:
    """The hooks before (`leave`) and after (`come_back`) one layer, between which autocast is off."""

    def leave(self, norm: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (values,) = args
        self._device = "cpu" if values.is_meta else values.device.type  # as in estimates without weights
        self._enabled = torch.is_autocast_enabled(self._device)
        torch.set_autocast_enabled(self._device, False)
        return (values.to(norm.weight.dtype),)

    def come_back(self, norm: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        torch.set_autocast_enabled(self._device, self._enabled)

"""Frozen layers whose weights are stored in four or eight bits and decoded at each use, forward and backward.

Libraries' quantised layers keep a decoded weight for the backward pass, or have no backward pass at all, and none has
convolutions. Here autograd keeps the codes only, so that hooks, memory-lean layers and checkpoints work as on any base.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses import FakeTensor
from torch.autograd.function import FunctionCtx, once_differentiable

from scedit_cli.core.recompute import run_again

_aten = torch.ops.aten


class Codes(nn.Module):
    """A weight stored as codes in rows of groups: its values are (code - zero) · scale.

    Args:
        codes: (rows, groups, group) of any eight-bit type; or uint8 (rows, groups, group / 2), whose low and high four
            bits are the first and the second half of a group.
        scale: (rows, groups, 1), in the dtype that the weight is decoded to.
        zero: uint8 (rows, groups, 1), or None for 0.
        shape: the weight's shape.
        bits: 4 or 8.
    """

    def __init__(self, codes: Tensor, scale: Tensor, zero: Tensor | None, shape: torch.Size, bits: int) -> None:
        super().__init__()
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale)
        self.register_buffer("zero", zero)
        self.shape, self.bits, self.dtype = shape, bits, scale.dtype

    def decoded(self) -> Tensor:
        """Return the weight."""
        rows, groups, size = self.codes.shape
        values = torch.empty(rows, groups, size * 8 // self.bits, dtype=self.dtype, device=self.codes.device)
        if self.bits == 4:
            values[..., :size].copy_(self.codes & 15)
            values[..., size:].copy_(self.codes >> 4)
        else:
            values.copy_(self.codes)
        if self.zero is not None:
            values.sub_(self.zero)
        return values.mul_(self.scale).view(self.shape)


class NF4(nn.Module):
    """A weight stored by bitsandbytes as 4-bit NormalFloat (arXiv 2305.14314).

    Args:
        codes: uint8, two codes each.
        scale: float32, the largest magnitude of each block of 64 weights.
        shape, dtype: of the weight.
    """

    BLOCK = 64

    def __init__(self, codes: Tensor, scale: Tensor, shape: torch.Size, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale)
        self.shape, self.dtype = shape, dtype

    def decoded(self) -> Tensor:
        """Return the weight."""
        if isinstance(self.codes, FakeTensor):  # an estimate does without the library
            return self.codes.new_empty(self.shape, dtype=self.dtype)
        rows = self.shape[0], prod(self.shape[1:])  # the library's kernels know no more dimensions
        flat = torch.ops.bitsandbytes.dequantize_4bit(self.codes, self.scale, self.BLOCK, "nf4", rows, self.dtype)
        return flat.view(self.shape)


class _Quantized:
    """A layer without the parameter `weight`, which is decoded from `stored` whenever it is read."""

    @property
    def weight(self) -> Tensor:
        return self.stored.decoded()

    def forward(self, x: Tensor) -> Tensor:
        if not (torch.is_grad_enabled() and x.requires_grad):
            return self.computed(x)
        if torch.compiler.is_compiling():
            return run_again(self.computed, x)
        return _Through.apply(x, self)


class QuantizedLinear(_Quantized, nn.Linear):
    """A frozen linear layer with a stored weight."""

    def computed(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def gradient(self, x: Callable[..., Tensor], grad: Tensor) -> Tensor:
        """Return the gradient of the input, whose shape and layout `x` makes."""
        return grad @ self.weight.to(grad.dtype)


class QuantizedConv2d(_Quantized, nn.Conv2d):
    """A frozen convolution with a stored weight."""

    def computed(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight, self.bias)

    def gradient(self, x: Callable[..., Tensor], grad: Tensor) -> Tensor:
        """Return the gradient of the input, whose shape and layout `x` makes."""
        geometry = self.stride, self.padding, self.dilation, False, (0, 0), self.groups
        like, weight = x(dtype=grad.dtype), self.weight.to(grad.dtype)
        return _aten.convolution_backward(grad, like, weight, None, *geometry, (True, False, False))[0]


_KINDS = {nn.Linear: QuantizedLinear, nn.Conv2d: QuantizedConv2d}


def can_store(layer: nn.Module) -> bool:
    """Return whether `store` takes `layer`: a plain linear layer or convolution with zeros around."""
    if type(layer) is nn.Conv2d and (layer.padding_mode != "zeros" or isinstance(layer.padding, str)):
        return False
    return type(layer) in _KINDS and "forward" not in vars(layer)


def store(layer: nn.Module, stored: Codes | NF4) -> None:
    """Replace the weight of a frozen layer by `stored`; the layer stays the same object."""
    del layer._parameters["weight"]
    layer.__class__ = _KINDS[type(layer)]
    layer.stored = stored


def parameter_count(model: nn.Module) -> int:
    """Return the number of parameters, stored weights included."""
    stored = sum(prod(each.stored.shape) for each in model.modules() if isinstance(each, _Quantized))
    return stored + sum(each.numel() for each in model.parameters())


class _Through(torch.autograd.Function):
    """A quantised layer, differentiable with respect to its input, which is not kept."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, layer: QuantizedLinear | QuantizedConv2d) -> Tensor:
        ctx.layer, ctx.dtype = layer, x.dtype
        ctx.like = partial(torch.empty_strided, x.shape, x.stride(), device=x.device)
        return layer.computed(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.layer.gradient(ctx.like, grad).to(ctx.dtype), None

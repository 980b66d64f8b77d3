"""Memory-lean differentiation through frozen layers: only the tensors that the input's gradient needs are kept for the
backward pass (see Bhatia and Dangel, "Lowering PyTorch's memory consumption for selective differentiation", arXiv
2404.12406).

PyTorch keeps a convolution's input even where only its weights are needed; SiLU's input, although it can be computed
from a normalisation's input, which is kept anyway; autocast's float32 copy of a normalisation's input; and five tensors
for a gated feed-forward. While a U-Net is lean, its frozen layers have the classes below, which compute the same values
and keep less.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses import FakeTensor
from torch.autograd.function import FunctionCtx, once_differentiable

from scedit_cli.core.norms import RowGroupNorm, group_norm_by_rows
from scedit_cli.core.quantized import QuantizedLinear
from scedit_cli.core.recompute import recomputed, run_again, segments

_aten = torch.ops.aten
_PLAIN_WEIGHTS = (Tensor, nn.Parameter, FakeTensor)
_PIECE = 32 * 2**20  # bytes of a feed-forward's widest tensor that are computed at a time


@contextmanager
def lean(unet: nn.Module, *, checkpoint: str | None = None) -> Iterator[None]:
    """Let differentiation through the frozen layers of `unet` take less memory inside the block; values and gradients
    stay the same.

    This works on any model of torch's layers and diffusers' blocks, beside trainable parts (LoRA, a ControlNet,
    tuners): a layer counts as frozen while none of its parameters requires a gradient. Layers that are not recognised
    or have other weights than torch's own are left alone; those of `core.quantized` are lean by themselves. In a
    compiled U-Net the compiler chooses which tensors of convolutions and normalisations are kept.

    Args:
        unet: a U-Net.
        checkpoint: None, or the parts of the decoder that keep only their inputs and run again in the backward pass:
            one of `recompute.SEGMENTS`.

    Raises:
        SceditError: another value of `checkpoint`.
    """
    swapped = Swapped(unet, checkpoint)
    try:
        yield
    finally:
        swapped.undo()


class Swapped:
    """The change of the layers of `unet` to their lean classes, until `undo`. No module is replaced, only its class."""

    def __init__(self, unet: nn.Module, checkpoint: str | None = None) -> None:
        parts = set(segments(unet, checkpoint)) if checkpoint else set()
        self._before = []
        for module in unet.modules():
            kind = recomputed(type(module)) if module in parts else _lean_class(module)
            if kind:
                self._before.append((module, type(module)))
                module.__class__ = kind

    def undo(self) -> None:
        """Give every layer its own class again; calling this twice is harmless."""
        while self._before:
            module, kind = self._before.pop()
            module.__class__ = kind


class FrozenConv2d(nn.Conv2d):
    """A convolution that keeps only its weights."""

    def forward(self, x: Tensor) -> Tensor:
        if _is_plain(self, x):
            return super().forward(x)
        return _Convolution.apply(x, self)


class FrozenGroupNorm(nn.GroupNorm):
    """A normalisation that keeps its input itself, not autocast's copy, and marks its output as its own (`origin`)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if _is_plain(self, x) else _normalised(self, x, super().forward)


class FrozenRowGroupNorm(FrozenGroupNorm, RowGroupNorm):
    """A FrozenGroupNorm of a model that computes on a CPU."""


class FrozenLayerNorm(nn.LayerNorm):
    """A normalisation that keeps its input itself, not autocast's copy, and marks its output as its own (`origin`)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if _is_plain(self, x) else _normalised(self, x, super().forward)


class FrozenSiLU(nn.SiLU):
    """A SiLU that, after a normalisation, keeps the normalisation's input, which is kept anyway, instead of its own."""

    def forward(self, x: Tensor) -> Tensor:
        origin = None if _is_plain(self, x) else _origin(x)
        if origin is None:
            return super().forward(x)
        norm, source = origin
        return _SiLU.apply(source, x.detach(), norm)


class FrozenFeedForward(nn.Module):
    """diffusers' FeedForward with a GEGLU, which keeps the input of the LayerNorm before it, kept anyway, and computes
    its wide tensors piece by piece."""

    def forward(self, x: Tensor, *unused: object, **deprecated: object) -> Tensor:
        gate, dropout, out = self.net
        if torch.compiler.is_compiling() and torch.is_grad_enabled():
            return out(dropout(run_again(gate, x)))
        if _is_plain(self, x) or dropout.training and dropout.p or not _is_gated(self):  # it may have changed
            return out(dropout(gate(x)))
        norm, source = _origin(x) or (None, x)
        return _GatedFeedForward.apply(source, x.detach(), norm, gate.proj, out)


def _lean_class(module: nn.Module) -> type[nn.Module] | None:
    """Return the lean class of `module`; None if it is not known or computes in its own way."""
    kind = type(module)
    if "forward" in vars(module):  # it was set by others, such as accelerate's hooks
        return None
    if not all(type(each) in _PLAIN_WEIGHTS for each in module.parameters()):  # quantised weights
        return None
    if kind is nn.Conv2d and (module.padding_mode != "zeros" or isinstance(module.padding, str)):
        return None
    if kind.__name__ == "FeedForward":
        return FrozenFeedForward if _is_gated(module) else None
    return _LEAN.get(kind)


def _is_gated(feed_forward: nn.Module) -> bool:
    """Return whether it is a GEGLU, a dropout and a linear layer, without any hook, wrapper or adapter."""
    parts = list(getattr(feed_forward, "net", ()))
    if [type(part).__name__ for part in parts] != ["GEGLU", "Dropout", "Linear"]:
        return False
    inner = [*parts, parts[0].proj]
    hooks = (each for part in inner for each in (part._forward_pre_hooks, part._forward_hooks, part._backward_hooks))
    own = any("forward" in vars(part) for part in inner)
    linear = {type(parts[0].proj), type(parts[2])} <= {nn.Linear, QuantizedLinear}
    return linear and not own and not any(hooks)


def _is_plain(layer: nn.Module, x: Tensor) -> bool:
    """Return whether the layer should run as PyTorch's own: without gradients, with trainable weights, or under a
    compiler, whose partitioner itself drops the tensors that gradients do not need."""
    if torch.compiler.is_compiling() or not torch.is_grad_enabled() or not x.requires_grad:
        return True
    return any(parameter.requires_grad for parameter in layer.parameters())


def _normalised(norm: nn.Module, x: Tensor, forward: Callable[[Tensor], Tensor]) -> Tensor:
    cast = x.dtype.itemsize < 4 and F.layer_norm(x.new_empty(0, 1), (1,)).dtype != x.dtype
    y = _Norm.apply(x, norm, forward) if cast else forward(x)
    y.origin = norm, x, x._version
    return y


def _origin(y: Tensor) -> tuple[nn.Module, Tensor] | None:
    """Return the normalisation that computed y, and its input, if neither y nor the input has changed since."""
    norm, x, version = getattr(y, "origin", (None, None, None))
    return (norm, x) if norm is not None and y._version == 0 and x._version == version else None


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, layer: nn.Conv2d) -> Tensor:
        ctx.save_for_backward(layer.weight)
        ctx.like = partial(torch.empty_strided, x.shape, x.stride(), device=x.device)
        ctx.dtype = x.dtype
        ctx.geometry = layer.stride, layer.padding, layer.dilation, False, (0, 0), layer.groups
        return F.conv2d(x, layer.weight, layer.bias, *ctx.geometry[:3], layer.groups)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        (weight,) = ctx.saved_tensors
        # Only the layout of `like` is read. It is as large as the gradient, but on a CPU nothing is written into it.
        like = ctx.like(dtype=grad.dtype)
        wanted = True, False, False
        dx, _, _ = _aten.convolution_backward(grad, like, weight.to(grad.dtype), None, *ctx.geometry, wanted)
        return dx.to(ctx.dtype), None


class _Norm(torch.autograd.Function):
    """A normalisation that computes in another precision than its input's."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, norm: nn.Module, forward: Callable[[Tensor], Tensor]) -> Tensor:
        y = forward(x)
        ctx.save_for_backward(x)
        ctx.norm, ctx.dtype = norm, y.dtype
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        _, gradient = _norm_again(ctx.norm, x.to(ctx.dtype))
        return gradient(grad).to(x.dtype), None, None


class _SiLU(torch.autograd.Function):
    """SiLU of `normed`, which is norm(x); differentiable with respect to x."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, normed: Tensor, norm: nn.Module) -> Tensor:
        ctx.save_for_backward(x)
        ctx.norm, ctx.dtype = norm, normed.dtype
        return F.silu(normed)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        normed, gradient = _norm_again(ctx.norm, x.to(ctx.dtype))
        return gradient(_aten.silu_backward(grad, normed)).to(x.dtype), None, None


class _GatedFeedForward(torch.autograd.Function):
    """out(h·GELU(g)) with (h, g) = proj(normed), where `normed` is norm(x), or x without a norm; differentiable with
    respect to x. Tensors are (..., channels)."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, x: Tensor, normed: Tensor, norm: nn.LayerNorm | None, proj: nn.Linear, out: nn.Linear
    ) -> Tensor:
        ctx.save_for_backward(x)
        ctx.norm, ctx.proj, ctx.out, ctx.norm_dtype = norm, proj, out, normed.dtype
        ctx.rows = max(1, _PIECE // (proj.out_features * x.element_size()))
        pieces = []
        weight, out_weight = proj.weight, out.weight  # read once: a quantised layer decodes them
        for piece in normed.flatten(0, -2).split(ctx.rows):
            h, gate = F.linear(piece, weight, proj.bias).chunk(2, -1)
            pieces.append(F.linear(F.gelu(gate).mul_(h), out_weight, out.bias))
        y = torch.cat(pieces) if len(pieces) > 1 else pieces[0]
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        weight, bias, out_weight = (
            each if each is None else each.to(grad.dtype) for each in (ctx.proj.weight, ctx.proj.bias, ctx.out.weight)
        )
        dx = torch.empty_like(x, memory_format=torch.contiguous_format)
        slices = zip(*(each.flatten(0, -2).split(ctx.rows) for each in (x, grad, dx)), strict=True)
        for piece, piece_grad, target in slices:
            piece = piece.to(ctx.norm_dtype)
            normed, gradient = _norm_again(ctx.norm, piece) if ctx.norm else (piece, None)
            wide = F.linear(normed.to(grad.dtype), weight, bias)
            h, gate = wide.chunk(2, -1)
            product_grad = piece_grad.mm(out_weight)
            gate_grad = _aten.gelu_backward(product_grad * h, gate)
            torch.mul(product_grad, F.gelu(gate), out=h)  # from here on, wide is its own gradient
            gate.copy_(gate_grad)
            normed_grad = wide.mm(weight)
            target.copy_(gradient(normed_grad.to(ctx.norm_dtype)) if gradient else normed_grad)
        return dx, None, None, None, None


def _norm_again(norm: nn.Module, x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return norm(x) in x's dtype, and the function that maps its gradient to x's gradient."""
    x = x.detach().requires_grad_()
    dtype = norm.weight is not None and torch.promote_types(norm.weight.dtype, x.dtype)
    weight, bias = (None if each is None else each.to(dtype) for each in (norm.weight, norm.bias))
    with torch.enable_grad():
        if isinstance(norm, nn.GroupNorm):
            group_norm = group_norm_by_rows if isinstance(norm, RowGroupNorm) else F.group_norm
            y = group_norm(x, norm.num_groups, weight, bias, norm.eps)
        else:
            y = F.layer_norm(x, norm.normalized_shape, weight, bias, norm.eps)
    return y.detach(), lambda grad: torch.autograd.grad(y, x, grad)[0]


_LEAN = {
    nn.Conv2d: FrozenConv2d,
    nn.GroupNorm: FrozenGroupNorm,
    RowGroupNorm: FrozenRowGroupNorm,
    nn.LayerNorm: FrozenLayerNorm,
    nn.SiLU: FrozenSiLU,
}

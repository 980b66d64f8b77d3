"""Storage of a frozen U-Net's weights in four or eight bits, by torchao's and bitsandbytes' quantisation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from scedit_cli.core.quantized import NF4, Codes, can_store, parameter_count, store
from scedit_cli.utils.errors import SceditError, is_out_of_memory, not_installed
from scedit_cli.utils.names import QUANTIZERS

_GROUPS = (64, 32, 16)  # weights with one scale in four bits, the first that divides a row
_WHOLE = ("conv_in", "conv_out")  # the layers next to the latents: few weights that matter most
_EIGHT_BITS = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}


@dataclass(frozen=True)
class Quantized:
    """The numbers of a U-Net's parameters that are stored in few bits, and of those that are not."""

    stored: int
    whole: int


def quantize(unet: nn.Module, how: str, device: torch.device | None = None) -> Quantized:
    """Store the weights of linear layers and convolutions in few bits; others stay as they are, as do rows that no
    group divides.

    Args:
        unet: a frozen diffusers U-Net.
        how: one of utils.names.QUANTIZERS.
        device: the device that computes, layer by layer; by default the layer's own, which keeps the result.

    Raises:
        SceditError: the library is not installed, or bitsandbytes does not know the device.
    """

    def make(weight: Tensor) -> Codes | NF4:
        return _quantized(weight.detach().to(device or weight.device), how).to(weight.device)

    return _stored(unet, make, how)


def quantize_shapes(unet: nn.Module, how: str) -> Quantized:
    """Do as `quantize`, with codes that hold no values: for U-Nets on the meta device, without the libraries."""
    return _stored(unet, lambda weight: _empty(weight, how), how)


def _stored(unet: nn.Module, make: Callable[[Tensor], Codes | NF4], how: str) -> Quantized:
    for layer in _layers(unet, how):
        store(layer, make(layer.weight))
    whole = sum(each.numel() for each in unet.parameters())
    return Quantized(parameter_count(unet) - whole, whole)


def _layers(unet: nn.Module, how: str) -> Iterator[nn.Module]:
    for name, layer in unet.named_modules():
        if name not in _WHOLE and can_store(layer) and _group(layer.weight, how):
            yield layer


def _group(weight: Tensor, how: str) -> int | None:
    """Return the number of weights with one scale; None where the weight cannot be stored."""
    row = weight[0].numel()
    if how == "nf4":
        return NF4.BLOCK if weight.numel() % NF4.BLOCK == 0 and row % 2 == 0 else None
    return row if how in _EIGHT_BITS else next((each for each in _GROUPS if row % each == 0), None)


def _quantized(weight: Tensor, how: str) -> Codes | NF4:
    if how == "nf4":
        return _nf4(weight)
    try:
        from torchao.quantization import MappingType, quant_primitives
    except ImportError as error:
        raise not_installed(f"base.quantize {how}", *QUANTIZERS[how]) from error
    group = _group(weight, how)
    rows = weight.reshape(len(weight), -1).float()
    blocks = (1, group)
    if how == "fp8":
        largest = torch.finfo(torch.float8_e4m3fn).max
        # In fp16 the scale of a row of zeros, or of nearly zeros, would be 0.
        least = torch.finfo(weight.dtype).tiny
        scale = (rows.abs().amax(1) / largest).to(weight.dtype).clamp(min=least).view(-1, 1, 1)
        codes = (rows.unsqueeze(1) / scale.float()).clamp(-largest, largest).to(_EIGHT_BITS[how])
        return Codes(codes, scale, None, weight.shape, 8)
    if how == "int8":
        kind, limits, stored = MappingType.SYMMETRIC, (-127, 127), torch.int8
    else:
        kind, limits, stored = MappingType.ASYMMETRIC, (0, 15), torch.uint8
    scale, zero = quant_primitives.choose_qparams_affine(rows, kind, blocks, stored, *limits, scale_dtype=torch.float32)
    scale = scale.to(weight.dtype)  # rounded first, so that the codes are the nearest with the scale that is kept
    codes = quant_primitives.quantize_affine(rows, blocks, scale.float(), zero, stored, *limits)
    codes, scale = codes.view(len(rows), -1, group), scale.view(len(rows), -1, 1)
    if how == "int8":
        return Codes(codes, scale, None, weight.shape, 8)
    low, high = codes.chunk(2, -1)
    return Codes(low | high << 4, scale, zero.to(torch.uint8).view_as(scale), weight.shape, 4)


def _nf4(weight: Tensor) -> NF4:
    try:
        from bitsandbytes.functional import quantize_4bit
    except ImportError as error:
        raise not_installed("base.quantize nf4", *QUANTIZERS["nf4"]) from error
    try:
        codes, state = quantize_4bit(weight.contiguous(), blocksize=NF4.BLOCK, quant_type="nf4")
    except (NotImplementedError, RuntimeError) as error:
        if is_out_of_memory(error):  # also a RuntimeError; it is told as such
            raise
        raise SceditError(
            f"base.quantize is nf4, which bitsandbytes cannot compute on {weight.device.type}",
            hint='take base.quantize = "int4"',
        ) from error
    return NF4(codes, state.absmax, weight.shape, weight.dtype)


def _empty(weight: Tensor, how: str) -> Codes | NF4:
    if how == "nf4":
        codes = weight.new_empty(weight.numel() // 2, 1, dtype=torch.uint8)
        scale = weight.new_empty(weight.numel() // NF4.BLOCK, dtype=torch.float32)
        return NF4(codes, scale, weight.shape, weight.dtype)
    group, bits = _group(weight, how), 8 if how in _EIGHT_BITS else 4
    rows, groups = len(weight), prod(weight.shape[1:]) // group
    codes = weight.new_empty(rows, groups, group * bits // 8, dtype=_EIGHT_BITS.get(how, torch.uint8))
    zero = weight.new_empty(rows, groups, 1, dtype=torch.uint8) if bits == 4 else None
    return Codes(codes, weight.new_empty(rows, groups, 1), zero, weight.shape, bits)

"""The precision of normalisation layers in a frozen half-precision model under autocast."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


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

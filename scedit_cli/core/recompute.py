"""Checkpointing of a U-Net's decoder: parts of it keep their inputs alone and run again in the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from scedit_cli.utils.errors import SceditError

SEGMENTS = ("transformer", "layer", "fine")


def run_again(function: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """function(*inputs), of which the inputs alone are kept; the rest runs again in the backward pass, up to what that
    needs. For functions that draw nothing at random."""
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)


def segments(unet: nn.Module, size: str) -> Iterator[nn.Module]:
    """The parts of the decoder that run again, one at a time.

    Args:
        unet: a diffusers U-Net.
        size: one of SEGMENTS: every "transformer", which costs the least time for what it saves; every "layer",
            transformers and resnets; or the same with the blocks of a transformer one by one ("fine"), for those that
            have several, as SDXL's.

    Raises:
        SceditError: another size.
    """
    if size not in SEGMENTS:
        raise SceditError(f"{size!r} cannot be recomputed", hint=f"choose one of {', '.join(SEGMENTS)}")
    for block in unet.up_blocks:
        for transformer in getattr(block, "attentions", ()):
            yield from getattr(transformer, "transformer_blocks", ()) if size == "fine" else [transformer]
        if size != "transformer":
            yield from block.resnets


@cache
def recomputed(kind: type[nn.Module]) -> type[nn.Module]:
    """The subclass of `kind` whose objects keep a forward pass's inputs alone; they can be copied and pickled."""

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return kind.forward(self, *args, **kwargs)
        return checkpoint(kind.forward, self, *args, use_reentrant=False, **kwargs)

    def reduce(self: nn.Module) -> tuple:
        return _made, (kind,), vars(self)

    return type(f"Recomputed{kind.__name__}", (kind,), {"forward": forward, "__reduce__": reduce})


def _made(kind: type[nn.Module]) -> nn.Module:
    return kind.__new__(recomputed(kind))

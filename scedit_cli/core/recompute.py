"""Checkpointing of a U-Net's decoder: parts of it keep only their inputs and run again in the backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from scedit_cli.core.skips import decoder_parts
from scedit_cli.utils.errors import SceditError

SEGMENTS = ("transformer", "layer", "fine")


def run_again(function: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """Return function(*inputs), keeping only the inputs; the backward pass runs the function again as far as it needs.
    The function must not draw random numbers."""
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)


def segments(unet: nn.Module, size: str) -> Iterator[nn.Module]:
    """Yield the parts of the decoder that run again, one at a time.

    Args:
        unet: a diffusers U-Net.
        size: one of SEGMENTS. "transformer": every transformer, which costs the least time for the memory saved;
            "layer": transformers and resnets; "fine": resnets and the single blocks of transformers, for transformers
            of several blocks, as SDXL's.

    Raises:
        SceditError: `size` is not in SEGMENTS.
    """
    if size not in SEGMENTS:
        raise SceditError(f"{size!r} cannot be recomputed", hint=f"choose one of {', '.join(SEGMENTS)}")
    for part, is_transformer in decoder_parts(unet):
        if is_transformer and size == "fine" and (blocks := _transformer_blocks(part)):
            yield from blocks
        elif is_transformer or size != "transformer":
            yield part


def _transformer_blocks(transformer: nn.Module) -> list[nn.Module]:
    names = ("transformer_blocks", "temporal_transformer_blocks")
    return [block for name in names for block in getattr(transformer, name, ())]


@cache
def recomputed(kind: type[nn.Module]) -> type[nn.Module]:
    """Return the subclass of `kind` whose forward pass keeps only its inputs; its objects can be copied and pickled."""

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return kind.forward(self, *args, **kwargs)
        return checkpoint(kind.forward, self, *args, use_reentrant=False, **kwargs)

    def reduce(self: nn.Module) -> tuple:
        return _made, (kind,), vars(self)

    return type(f"Recomputed{kind.__name__}", (kind,), {"forward": forward, "__reduce__": reduce})


def _made(kind: type[nn.Module]) -> nn.Module:
    return kind.__new__(recomputed(kind))

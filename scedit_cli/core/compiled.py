"""Compiled U-Nets, whose code does not notice hooks that come later."""

from __future__ import annotations

import sys

import torch
from torch import nn


def is_compiled(unet: nn.Module, *entries: nn.Module) -> bool:
    """Return whether the U-Net, or one of the modules that consume its skips, is compiled."""
    return "_orig_mod" in unet._modules or any(each._compiled_call_impl is not None for each in (unet, *entries))


class SeenByCompiler:
    """A mark that makes torch.compile notice the new hook on `block`, until `remove`.

    Code compiled without the hook would ignore it: the compiler checks whether the hooks that it saw are gone, but not
    whether others were added. It does check whether a module has a `forward` of its own, so the block gets its class's
    as an attribute. Only code for such blocks is compiled again, in any U-Net.
    """

    def __init__(self, block: nn.Module) -> None:
        self._block = block
        self._shown = None
        if "forward" not in vars(block):
            self._shown = vars(block)["forward"] = block.forward
        elif "torch._dynamo" in sys.modules:  # accelerate's hooks set `forward` too, so all compiled code is discarded
            torch.compiler.reset()

    def remove(self) -> None:
        if self._shown and vars(self._block).get("forward") is self._shown:  # not a wrapper set since
            del vars(self._block)["forward"]

"""Skips that are concatenated to the decoder's features before an up block is called: Kandinsky 3's U-Net."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from scedit_cli.core.sites.site import Site, SkipMap, check_fit


class Concatenated(Site):
    """A skip in the last channels of the decoder's features."""

    argument, position = "x", 0

    def take(self, value: Tensor, size: tuple[int, int]) -> Tensor:
        return value[:, -self.channels :]

    def put(self, value: Tensor, skip: Tensor) -> Tensor:
        return torch.cat([value[:, : -self.channels], skip], dim=1)


def survey(unet: nn.Module) -> SkipMap | None:
    """Read channels and strides off the down blocks, of which all but the deepest give a skip, and off the up blocks
    the channels that they take beside the previous one's output."""
    blocks = getattr(unet, "up_blocks", None) or ()
    if not hasattr(next(iter(blocks), None), "resnets_in"):
        return None
    stride, sites, taken = 1, [], []
    deepest = len(unet.down_blocks) - 1
    for b, block in enumerate(unet.down_blocks[:-1]):
        shrunk = block.resnets_out[-1].shortcut_down_sample
        stride *= shrunk.stride[0] if isinstance(shrunk, nn.Conv2d) else 1
        entry = unet.up_blocks[deepest - b]
        before = _outputs(unet.up_blocks[deepest - b - 1])
        sites.append(Concatenated(f"down_blocks.{b}", f"up_blocks.{deepest - b}", _outputs(block), stride))
        taken.append(entry.resnets_in[0].resnet_blocks[0].projection.in_channels - before)
    check_fit(unet, [site.channels for site in sites], taken)
    return SkipMap(tuple(sites))


def parts(unet: nn.Module) -> Iterator[tuple[nn.Module, bool]]:
    for block in unet.up_blocks:
        for attention in block.attentions:
            if not isinstance(attention, nn.Identity):
                yield attention, True
        for resnet in (*block.resnets_in, *block.resnets_out):
            yield resnet, False


def _outputs(block: nn.Module) -> int:
    return block.resnets_out[-1].resnet_blocks[-1].projection.out_channels

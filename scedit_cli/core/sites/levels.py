"""Skips that a level's first residual block takes as its second argument: Stable Cascade's U-Nets."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from scedit_cli.core.sites.site import Site, SkipMap, check_fit


class SecondArgument(Site):
    """A whole level's output; the decoder's level reads it again each time that it is repeated."""

    argument, position = "x_skip", 1


def survey(unet: nn.Module) -> SkipMap | None:
    """Read channels off the levels' residual blocks and strides off the layers between them; the deepest level has no
    skip."""
    if not all(hasattr(unet, name) for name in ("down_downscalers", "up_upscalers")):
        return None
    stride, sites, taken = unet.embedding[0].downscale_factor, [], []
    deepest = len(unet.down_blocks) - 1
    for b, (level, downscaler) in enumerate(zip(unet.down_blocks[:-1], unet.down_downscalers)):
        stride *= _shrinking(downscaler)
        entry = unet.up_blocks[deepest - b][0]
        channels = next(block.depthwise.out_channels for block in level if hasattr(block, "depthwise"))
        sites.append(SecondArgument(f"down_blocks.{b}", f"up_blocks.{deepest - b}.0", channels, stride))
        taken.append(entry.channelwise[0].in_features - entry.depthwise.out_channels)
    check_fit(unet, [site.channels for site in sites], taken)
    return SkipMap(tuple(sites))


def parts(unet: nn.Module) -> Iterator[tuple[nn.Module, bool]]:
    for level in unet.up_blocks:
        for block in level:
            yield block, hasattr(block, "attention")


def _shrinking(downscaler: nn.Module) -> int:
    factor = 1
    for layer in downscaler.modules():
        if isinstance(layer, nn.Conv2d):
            factor *= layer.stride[0]
        elif isinstance(layer, nn.Upsample):
            factor *= round(1 / layer.scale_factor)
    return factor

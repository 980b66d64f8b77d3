"""The places of a U-Net's skip connections, read off its modules."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from torch import nn

from scedit_cli.utils.errors import SceditError


@dataclass(frozen=True)
class SkipMap:
    """The skips of one U-Net.

    Attributes:
        channels: the channels of each skip, in encoder order (0 = conv_in).
        strides: the factor by which each skip is smaller than the latents (1, 2, 4, …), in encoder order.
        sites: the (up block, resnet) that consumes each skip, in decoder order (0 = deepest); site m consumes skip
            `len(channels) - 1 - m`.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    sites: tuple[tuple[int, int], ...]

    @property
    def up_blocks(self) -> tuple[int, ...]:
        """The number of skips that each up block consumes, in decoder order."""
        return tuple(len(list(run)) for _, run in groupby(block for block, _ in self.sites))


def survey(unet: nn.Module) -> SkipMap:
    """Find the skips of a diffusers U-Net (`conv_in`, `down_blocks`, `up_blocks`), with or without a mid block.

    Channels and strides are read off the encoder, and the channels that each resnet takes beside the previous one's
    output off the decoder; the two must agree.

    Raises:
        SceditError: the model has no U-Net skips, or its encoder and decoder do not fit together.
    """
    if not all(hasattr(unet, name) for name in ("conv_in", "down_blocks", "up_blocks")):
        raise SceditError(
            f"{type(unet).__name__} has no skip connections to edit",
            hint="SCEdit needs a U-Net with down_blocks and up_blocks, such as those of SD1.5, SD2.1 and SDXL",
        )
    try:
        channels, strides = _encoder(unet)
        sites, taken = _decoder(unet, channels[-1])
    except AttributeError as error:
        raise SceditError(
            f"{type(unet).__name__} has up or down blocks of a kind that is not known here: {error}",
            hint="blocks made of resnets, as in SD1.5, SD2.1 and SDXL, can be edited",
        ) from error
    if taken != channels[::-1]:
        raise SceditError(
            f"the decoder of this {type(unet).__name__} takes skips of {in_words(taken[::-1])} channels, "
            f"its encoder gives {in_words(channels)}",
            hint="only U-Nets whose up blocks consume every encoder feature once can be edited",
        )
    return SkipMap(tuple(channels), tuple(strides), tuple(sites))


def in_words(channels: list[int] | tuple[int, ...]) -> str:
    """Return channels in words: (320, 320, 640) -> "320×2, 640"."""
    runs = [(value, len(list(run))) for value, run in groupby(channels)]
    return ", ".join(f"{value}×{count}" if count > 1 else str(value) for value, count in runs) or "no"


def _encoder(unet: nn.Module) -> tuple[list[int], list[int]]:
    stride = 1
    channels, strides = [unet.conv_in.weight.shape[0]], [stride]
    for block in unet.down_blocks:
        for resnet in block.resnets:
            channels.append(resnet.out_channels)
            strides.append(stride)
        # A block's downsamplers run one after another, and only the last one's output becomes a skip.
        if downsamplers := getattr(block, "downsamplers", None):
            stride *= 2 ** len(downsamplers)
            channels.append(downsamplers[-1].out_channels)
            strides.append(stride)
    return channels, strides


def _decoder(unet: nn.Module, deepest: int) -> tuple[list[tuple[int, int]], list[int]]:
    sites, taken = [], []
    previous = deepest  # a mid block keeps the channels
    for b, block in enumerate(unet.up_blocks):
        for k, resnet in enumerate(block.resnets):
            sites.append((b, k))
            taken.append(resnet.in_channels - previous)
            previous = resnet.out_channels
    return sites, taken

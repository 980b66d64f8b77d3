"""Skips that an up block takes as a tuple and gives to its resnets, last first: Stable Diffusion's U-Nets and most
others of diffusers, for images (DeepFloyd IF, Kandinsky 2.2, AudioLDM2, DreamLite, UNet2DModel) and for video
(AnimateDiff, ModelScope, I2VGen-XL, Stable Video Diffusion)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat

from torch import Tensor, nn

from scedit_cli.core.sites.site import FRAMES, IMAGE, Site, SkipMap, check_fit

_TRANSFORMERS = ("attentions", "temp_attentions", "motion_modules")


class InTuple(Site):
    """A skip at its place in a tuple."""

    argument, position = "res_hidden_states_tuple", 1

    def take(self, value: tuple[Tensor, ...], size: tuple[int, int]) -> Tensor:
        return value[self.place]

    def put(self, value: tuple[Tensor, ...], skip: Tensor) -> tuple[Tensor, ...]:
        return (*value[: self.place], skip, *value[self.place + 1 :])


def survey(unet: nn.Module) -> SkipMap | None:
    """Read channels and strides off the encoder, and off the decoder the channels that each resnet takes beside the
    previous one's output."""
    blocks = [*(getattr(unet, "up_blocks", None) or ())]
    if not (blocks and _has(blocks[0], "resnets")):
        return None
    nested = _has(next(iter(blocks[0].resnets)), "spatial_res_block")
    if nested:  # Stable Video Diffusion, whose input is (B, F, C, h, w)
        frames = 1
    else:
        frames = 2 if _has(blocks[0], "motion_modules") or _has(blocks[0], "temp_convs") else None
    layout = IMAGE if frames is None else FRAMES
    names, channels, strides = _encoder(unet, nested)
    entries, places, taken = _decoder(blocks, nested, channels[-1])
    check_fit(unet, channels, taken)
    rows = zip(names, entries, channels, strides, places, [layout] * len(names), strict=True)
    sites = map(tuple.__new__, repeat(InTuple), rows)  # a named tuple's own constructor takes three times as long
    return SkipMap(tuple(sites), frames_axis=frames, beside=type(blocks[0]).__name__.startswith("DreamLite"))


def parts(unet: nn.Module) -> Iterator[tuple[nn.Module, bool]]:
    for block in unet.up_blocks:
        for name in _TRANSFORMERS:
            for transformer in getattr(block, name, ()):
                yield transformer, True
        for resnet in block.resnets:
            yield resnet, False


def _has(module: nn.Module, name: str) -> bool:
    """Return whether `module`, or what it alone wraps, has a part of this name; `hasattr` takes long to say no."""
    return name in module._modules or (len(module._modules) == 1 and hasattr(module, name))


def _encoder(unet: nn.Module, nested: bool) -> tuple[list[str], list[int], list[int]]:
    """Return, in encoder order, the layer that gives each skip, the skip's channels and its stride. Where resnets are
    `nested`, each has a spatial one inside."""
    stride = 1
    names, channels, strides = ["conv_in"], [unet.conv_in.weight.shape[0]], [stride]
    for b, block in enumerate(unet.down_blocks):
        name = f"down_blocks.{b}"
        for k, resnet in enumerate(block.resnets):
            resnet = resnet.spatial_res_block if nested else resnet
            names.append(f"{name}.resnets.{k}")
            channels.append(resnet.out_channels)
            strides.append(stride)
        # A block's downsamplers run one after another, and only the last one's output becomes a skip.
        if downsamplers := getattr(block, "downsamplers", None):
            *_, last = downsamplers
            stride *= 2 ** len(downsamplers)
            names.append(f"{name}.downsamplers")
            channels.append(last.out_channels)
            strides.append(stride)
    return names, channels, strides


def _decoder(blocks: list[nn.Module], nested: bool, deepest: int) -> tuple[list[str], list[int], list[int]]:
    """Return, in encoder order, the up block that takes each skip, the skip's place in its tuple, and the channels
    taken."""
    entries, places, taken = [], [], []
    previous = deepest  # a mid block keeps the channels
    for b, block in enumerate(blocks):
        resnets = block.resnets
        count = len(resnets)
        entries += [f"up_blocks.{b}"] * count
        places += range(count - 1, -1, -1)
        for resnet in resnets:
            resnet = resnet.spatial_res_block if nested else resnet
            taken.append(resnet.in_channels - previous)
            previous = resnet.out_channels
    return entries[::-1], places[::-1], taken[::-1]

"""The site of one skip connection: where it leaves the encoder, where it enters the decoder, how it is replaced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

from torch import Tensor, nn

from scedit_cli.utils.errors import SceditError

IMAGE, FRAMES, TOKENS = "image", "frames", "tokens"


class Site(NamedTuple):
    """A skip that is an argument of a decoder's module; the kinds are subclasses.

    Attributes:
        leaves: the encoder's layer whose output is the skip.
        enters: the decoder's module that takes the skip in a call.
        channels: channels of the skip.
        stride: the factor by which the skip is smaller than the U-Net's input: 1, 2, 4, …
        place: the skip's place where the argument holds several.
        layout: "image", (B, C, h, w); "frames", (B·F, C, h, w) with the frames of a video side by side; or "tokens",
            (B, h·w, C).
        argument, position: the argument of the call that holds the skip, by its name and its place; of the whole kind.
    """

    leaves: str
    enters: str
    channels: int
    stride: int
    place: int = 0
    layout: str = IMAGE

    def take(self, value: Any, size: tuple[int, int]) -> Tensor:
        """Return the skip in the argument's `value` as (…, C, h, w), for a U-Net's input of `size` (height, width)."""
        return value

    def put(self, value: Any, skip: Tensor) -> Any:
        """Return `value` with `skip` in the place of its skip."""
        return skip


Entries = dict[nn.Module, list[tuple[int, Site]]]


@dataclass(frozen=True)
class SkipMap:
    """The skips of one U-Net.

    Attributes:
        sites: the site of each skip, in encoder order; the decoder consumes the last one first.
        input: the name of the U-Net's first argument, the noisy latents.
        frames_axis: the axis of that input that counts a video's frames; None where the input is images.
        beside: whether that input is two images side by side, the one to draw on the left (DreamLite's).
    """

    sites: tuple[Site, ...]
    input: str = "sample"
    frames_axis: int | None = None
    beside: bool = False

    @property
    def channels(self) -> tuple[int, ...]:
        """The channels of each skip, in encoder order."""
        return tuple([site.channels for site in self.sites])

    @property
    def strides(self) -> tuple[int, ...]:
        """The factor by which each skip is smaller than the U-Net's input, in encoder order."""
        return tuple([site.stride for site in self.sites])

    @property
    def up_blocks(self) -> tuple[int, ...]:
        """The number of skips that each module of the decoder consumes, in decoder order."""
        return tuple(len(list(run)) for _, run in groupby(site.enters for site in reversed(self.sites)))

    def entries(self, unet: nn.Module) -> Entries:
        """Return the modules of `unet` that consume skips, each with its skips and their numbers in encoder order."""
        entries: Entries = {}
        name = ""
        for i, site in enumerate(self.sites):
            if site.enters != name:
                name = site.enters
                sites = entries[attrgetter(name)(unet)] = []
            sites.append((i, site))
        return entries


def check_fit(unet: nn.Module, given: Sequence[int], taken: Sequence[int]) -> None:
    """Check that the decoder takes skips of as many channels as the encoder gives, both in encoder order.

    Raises:
        SceditError: it takes others.
    """
    if given != taken:
        raise SceditError(
            f"the decoder of this {type(unet).__name__} takes skips of {in_words(taken)} channels, "
            f"its encoder gives {in_words(given)}",
            hint="only U-Nets whose decoder consumes every encoder feature once can be edited",
        )


def in_words(channels: Sequence[int]) -> str:
    """Return channels in words: (320, 320, 640) -> "320×2, 640"."""
    runs = [(value, len(list(run))) for value, run in groupby(channels)]
    return ", ".join(f"{value}×{count}" if count > 1 else str(value) for value, count in runs) or "no"

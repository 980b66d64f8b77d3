"""Hints and masks as the U-Net's call needs them: resized to the latents, and cut to the tiles of tiled sampling."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .tuners import HINT_SCALE, Tuner

_LABELS = ("seg",)  # conditions whose colours stand for classes, which resizing must not blend


@dataclass(frozen=True)
class Tile:
    """The part of the latents that one row of a U-Net's batch shows: the image's place in the batch of latents, the
    tile's top, left, height and width, and the height and width of the whole, all in latents."""

    image: int
    top: int
    left: int
    height: int
    width: int
    whole: tuple[int, int]

    @property
    def is_whole(self) -> bool:
        return (self.height, self.width) == self.whole

    def cut(self, image: Tensor) -> Tensor:
        """Return this tile of an image of the whole's size, (…, 8H, 8W)."""
        top, left = HINT_SCALE * self.top, HINT_SCALE * self.left
        return image[..., top : top + HINT_SCALE * self.height, left : left + HINT_SCALE * self.width]


def tiles_of(x: Tensor, whole: Tensor | None, chunks: int) -> list[Tile]:
    """Return the tile of every row of a U-Net's batch.

    Tiled samplers and regional prompts call the U-Net on parts of the latents, and do not say which. The latents are
    noise, so that a part is found where they are equal. A part that is found nowhere counts as an image of its own.

    Args:
        x: the noisy latents of the call, (R, C, h, w): each chunk (with the prompt, without) has all images in order.
        whole: the noisy latents of the sampling step, (B, C, H, W); None if unknown.
        chunks: the number of chunks in the batch.
    """
    size = tuple(x.shape[-2:])
    if whole is not None and tuple(whole.shape[-2:]) != size:
        found = [_found(row, whole) for row in x]
        if all(found):
            return found
    images = max(1, len(x) // max(1, chunks))
    return [Tile(row % images, 0, 0, *size, size) for row in range(len(x))]


def _found(row: Tensor, whole: Tensor) -> Tile | None:
    (height, width), (high, wide) = row.shape[-2:], whole.shape[-2:]
    if height > high or width > wide or row.shape[0] != whole.shape[1]:
        return None
    places = whole[:, 0, : high - height + 1, : wide - width + 1] == row[0, 0, 0]
    for image, top, left in places.nonzero().tolist():
        if torch.equal(whole[image, :, top : top + height, left : left + width], row):
            return Tile(image, top, left, height, width, (high, wide))
    return None


def as_hint(image: Tensor, tuner: Tuner) -> Tensor:
    """Return ComfyUI's image (B, H, W, C) in [0, 1] as the tuner's hint (B, in_channels, H, W).

    An image with transparency is laid on black; where the hint keeps its alpha, it is black where alpha is 0.

    Raises:
        ValueError: the image has no alpha, and the tuner takes one.
    """
    hint = image.detach().movedim(-1, 1).float().clamp(0, 1)
    if hint.shape[1] == 1:
        hint = hint.expand(-1, 3, -1, -1)
    if hint.shape[1] == 4:
        color, alpha = hint[:, :3], hint[:, 3:]
        hint = torch.cat((color * (alpha > 0), alpha), 1) if tuner.in_channels == 4 else color * alpha
    if hint.shape[1] != tuner.in_channels:
        raise ValueError(
            f"{tuner} takes an image of {tuner.in_channels} channels, and the hint has {image.shape[-1]}"
            + ("; Join Image with Alpha adds the mask of the hole" if tuner.in_channels == 4 else "")
        )
    return hint


def hint_for(hint: Tensor, tile: Tile, condition: str | None) -> Tensor:
    """Return the hint of one tile, (1, C, 8h, 8w): that of its image, resized to the whole and cut. Hints follow the
    images in order, and start again where there are fewer."""
    one = hint[tile.image % len(hint)][None]
    return tile.cut(_resized(one, tile.whole, labels=condition in _LABELS))


def weights_for(mask: Tensor, tile: Tile, size: tuple[int, int]) -> Tensor:
    """Return the mask (M, 1, H, W) at a skip of `size` for one tile, (1, 1, *size): the mean over the pixels that a
    feature stands for."""
    one = mask[tile.image % len(mask)][None]
    one = _cropped(one, tile.whole) if tile.is_whole else tile.cut(_resized(one, tile.whole))
    return F.adaptive_avg_pool2d(one, size)


def _resized(image: Tensor, latents: tuple[int, int], labels: bool = False) -> Tensor:
    size = (HINT_SCALE * latents[0], HINT_SCALE * latents[1])
    if image.shape[-2:] == size:
        return image
    image = _cropped(image, latents)
    if labels:
        return F.interpolate(image, size, mode="nearest-exact")
    return F.interpolate(image, size, mode="bicubic", antialias=True).clamp(0, 1)


def _cropped(image: Tensor, latents: tuple[int, int]) -> Tensor:
    """Return the centre of an image, in the proportions of the latents."""
    (high, wide), (height, width) = image.shape[-2:], latents
    if high * width > wide * height:
        high = max(1, round(wide * height / width))
    else:
        wide = max(1, round(high * width / height))
    top, left = (image.shape[-2] - high) // 2, (image.shape[-1] - wide) // 2
    return image[..., top : top + high, left : left + wide]

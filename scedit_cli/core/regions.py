"""Regions: the parts of the image in which a tuner acts."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from scedit_cli.utils.errors import SceditError


class Region:
    """The weights of a tuner's edit over the image: 1 where it acts fully, 0 where the base stays as it is.

    Args:
        weights: (B, 1, H, W) float in [0, 1], of any size, covering the whole image. A skip's feature is weighted by
            the mean over the pixels that it stands for.
        beside: whether skips are of two images side by side; the tuner then acts in the left one alone.

    Raises:
        SceditError: `weights` is no such tensor.
    """

    def __init__(self, weights: Tensor, beside: bool = False) -> None:
        if (
            not isinstance(weights, Tensor)
            or weights.dim() != 4
            or weights.shape[1] != 1
            or not weights.is_floating_point()
            or not 0 <= float(weights.min()) <= float(weights.max()) <= 1
        ):
            got = f"{weights.dtype} of shape {tuple(weights.shape)}" if isinstance(weights, Tensor) else weights
            raise SceditError(f"a region is {got}", hint="give a float tensor (batch, 1, height, width) in [0, 1]")
        self._weights = F.pad(weights, (0, weights.shape[-1])) if beside else weights
        self._shrunk: dict[tuple[int, int], Tensor] = {}

    def within(self, edit: Tensor, frames: int = 1) -> Tensor:
        """Return `edit` (B'·frames, C, h, w) weighted by the region; B' is a multiple of the region's batch, and a
        region's are all `frames` of its video.

        Raises:
            SceditError: the batches do not fit.
        """
        size = tuple(edit.shape[-2:])
        if size not in self._shrunk:
            self._shrunk[size] = F.adaptive_avg_pool2d(self._weights.to(edit.device, edit.dtype), size)
        weights = self._shrunk[size]
        batch = edit.shape[0] // frames
        if batch % weights.shape[0]:
            raise SceditError(
                f"{weights.shape[0]} regions for a U-Net batch of {batch}",
                hint="the batch must be a multiple of the regions, or give one region for all",
            )
        return edit * for_frames(weights, batch, frames)


def for_frames(values: Tensor, batch: int, frames: int, per_frame: bool = False) -> Tensor:
    """Return `values` (n, …), given for n videos, for each of the frames of `batch` videos; n divides `batch`. A single
    value for all stays a batch of one.

    Args:
        values: one per video, or with `per_frame` one per frame, a video's frames side by side.
        batch: the number of videos, or of images, whose `frames` are 1.
        frames: the number of frames of a video.
    """
    if values.shape[0] == 1 and not per_frame:
        return values
    tiles = batch * frames // values.shape[0] if per_frame else batch // values.shape[0]
    if tiles > 1:
        values = values.repeat(tiles, 1, 1, 1)
    return values if per_frame or frames == 1 else values.repeat_interleave(frames, 0)


def cropped(values: Tensor, like: Tensor) -> Tensor:
    """Return `values` (…, h, w) without the last row and column that `like` lacks: of an odd side, half is rounded up
    by the hint encoder's convolutions and down by some U-Nets'."""
    height, width = like.shape[-2:]
    return values if values.shape[-2:] == (height, width) else values[..., :height, :width]

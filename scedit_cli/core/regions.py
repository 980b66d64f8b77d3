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

    Raises:
        SceditError: `weights` is no such tensor.
    """

    def __init__(self, weights: Tensor) -> None:
        if (
            not isinstance(weights, Tensor)
            or weights.dim() != 4
            or weights.shape[1] != 1
            or not weights.is_floating_point()
            or not 0 <= float(weights.min()) <= float(weights.max()) <= 1
        ):
            got = f"{weights.dtype} of shape {tuple(weights.shape)}" if isinstance(weights, Tensor) else weights
            raise SceditError(f"a region is {got}", hint="give a float tensor (batch, 1, height, width) in [0, 1]")
        self._weights = weights
        self._shrunk: dict[tuple[int, int], Tensor] = {}

    def within(self, edit: Tensor) -> Tensor:
        """Return `edit` (B', C, h, w) weighted by the region; B' is a multiple of the region's batch.

        Raises:
            SceditError: the batches do not fit.
        """
        size = tuple(edit.shape[-2:])
        if size not in self._shrunk:
            self._shrunk[size] = F.adaptive_avg_pool2d(self._weights.to(edit.device, edit.dtype), size)
        weights = self._shrunk[size]
        if edit.shape[0] % weights.shape[0]:
            raise SceditError(
                f"{weights.shape[0]} regions for a U-Net batch of {edit.shape[0]}",
                hint="the batch must be a multiple of the regions, or give one region for all",
            )
        if weights.shape[0] > 1:
            weights = weights.repeat(edit.shape[0] // weights.shape[0], 1, 1, 1)
        return edit * weights

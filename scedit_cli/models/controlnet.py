"""ControlNets as diffusers makes them for a U-Net, which SCEdit's tuners are compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from scedit_cli.models.loading import quiet
from scedit_cli.utils.errors import reason

if TYPE_CHECKING:
    from diffusers import ControlNetModel, UNet2DConditionModel

_HINT_CHANNELS = (16, 32, 96, 256)


def controlnet_for(unet: UNet2DConditionModel, width: float = 1.0, *, meta: bool = False) -> ControlNetModel:
    """Return a ControlNet (arXiv 2302.05543) for `unet` on the CPU, initialised as a copy of the U-Net's encoder.

    Args:
        width: the width of the hint's convolutions, as a share of ControlNet's own.
        meta: return it on the meta device, without weights.

    Raises:
        ValueError: diffusers has no ControlNet for this U-Net.
    """
    from diffusers import ControlNetModel

    channels = tuple(round(width * each) for each in _HINT_CHANNELS)
    try:
        with quiet(), torch.device("meta" if meta else "cpu"):
            return ControlNetModel.from_unet(unet, "rgb", channels, load_weights_from_unet=not meta)
    except (TypeError, AttributeError, KeyError, NotImplementedError) as error:
        raise ValueError(f"diffusers has no ControlNet for this U-Net: {reason(error)}") from error


def controlnet_parameters(unet: UNet2DConditionModel, width: float = 1.0) -> int | None:
    """Return the number of parameters of `controlnet_for`; None where diffusers has no ControlNet for this U-Net."""
    try:
        made = controlnet_for(unet, width, meta=True)
    except ValueError:
        return None
    return sum(each.numel() for each in made.parameters())

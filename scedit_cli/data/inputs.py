"""The images that a caller passes: a file, an image in memory, or a tensor."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from scedit_cli.data.images import image_size
from scedit_cli.utils.errors import SceditError, in_field
from scedit_cli.utils.fields import is_a
from scedit_cli.utils.io import expanded

if TYPE_CHECKING:
    from torch import Tensor

    # A path, an image of any mode, or a (C, H, W) tensor of floats in [0, 1] with 1, 3 or 4 channels.
    ImageInput = str | os.PathLike[str] | Image.Image | Tensor


def check_image_input(given: Any, field: str) -> None:
    """Check that `given` is an image, a file by its header alone; errors name the `field`.

    Raises:
        SceditError: the file does not exist or is no image, the tensor has another shape, type or range, or `given` is
            something else.
    """
    if isinstance(given, str | os.PathLike):
        with in_field(field, "check the path"):
            image_size(expanded(given))
    elif is_a(given, "torch", "Tensor"):
        _check_tensor(given, field)
    elif not isinstance(given, Image.Image):
        hint = "give a path, a PIL.Image, or a tensor (C, H, W) of floats in [0, 1]"
        raise SceditError(f"{field} is of type {type(given).__name__}, which is no image", hint, field)


def source_of(given: ImageInput) -> Path | Image.Image:
    """Return a checked input as a path or as an image; a tensor is rounded to 8 bits."""
    if isinstance(given, str | os.PathLike):
        return expanded(given)
    if isinstance(given, Image.Image):
        return given
    levels = (given.detach().float().cpu() * 255).round().numpy().astype(np.uint8)
    return Image.fromarray(levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0))


def file_of(given: ImageInput | None) -> Path | None:
    """Return the path of an image that is a file, else None."""
    return expanded(given) if isinstance(given, str | os.PathLike) else None


def _check_tensor(given: Tensor, field: str) -> None:
    hint = "give (C, H, W) floats in [0, 1], with 1, 3 or 4 channels"
    if given.ndim != 3 or given.shape[0] not in (1, 3, 4) or not given.numel():
        raise SceditError(f"{field} has the shape {tuple(given.shape)}", hint, field)
    if not given.is_floating_point():
        raise SceditError(f"{field} is {str(given.dtype).removeprefix('torch.')}", hint, field)
    if not bool(((given >= 0) & (given <= 1)).all()):  # NaN is neither
        raise SceditError(f"{field} has values outside 0 to 1", hint, field)

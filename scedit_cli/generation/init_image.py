"""The image to start from: redrawn as a whole, within a mask, or beyond its edges."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from scedit_cli.data.images import open_mask
from scedit_cli.generation.config import Request
from scedit_cli.inference.controls import Size, open_named, resized
from scedit_cli.inference.denoising import Start
from scedit_cli.inference.sampler import to_tensor
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.io import expanded
from scedit_cli.utils.transparency import cut_mask

_STRENGTH = 0.6  # of image-to-image; within a mask everything is redrawn


@dataclass(frozen=True)
class InitImage:
    """An RGB image with its mask: mode L, of the same size, 255 where the image is redrawn and 0 elsewhere; without a
    mask, all of it is redrawn."""

    picture: Image.Image
    mask: Image.Image | None = None
    outpainted: bool = False

    @classmethod
    def of(cls, request: Request) -> InitImage:
        """Open the image and its mask, and add the margins.

        Raises:
            SceditError: image or mask cannot be read, or the mask has another size or keeps everything.
        """
        picture = open_named(expanded(request.image), "--image")
        mask = None
        if request.inpaint is not None:
            mask = cut_mask(open_named(expanded(request.inpaint), "--inpaint", open_mask))
            if mask.size != picture.size:
                sizes = ["x".join(map(str, each.size)) for each in (mask, picture)]
                raise SceditError(
                    f"--inpaint {request.inpaint} is {sizes[0]} pixels, the picture {sizes[1]}",
                    hint="paint the mask over the picture: white where it is to be drawn anew",
                )
            if not mask.getbbox():
                raise SceditError(
                    f"--inpaint {request.inpaint} is black, or nowhere as light as a middle gray",
                    hint="paint white what is to be drawn anew",
                )
        canvas = cls(picture, mask)
        return canvas.extended(*request.margins) if request.margins else canvas

    @property
    def size(self) -> Size:
        return self.picture.size

    def extended(self, left: int, top: int, right: int, bottom: int) -> InitImage:
        """Return the image with margins to draw, which repeat the image's edge until then."""
        around = ((top, bottom), (left, right))
        mask = np.zeros(self.picture.size[::-1], np.uint8) if self.mask is None else np.asarray(self.mask)
        return replace(
            self,
            picture=Image.fromarray(np.pad(np.asarray(self.picture), (*around, (0, 0)), mode="edge")),
            mask=Image.fromarray(np.pad(mask, around, constant_values=255)),
            outpainted=True,
        )

    def grown_to(self, multiple: int) -> InitImage:
        """Return an outpainted image extended right and below until its sides are multiples; others are unchanged."""
        right, below = (-side % multiple for side in self.size)
        return self.extended(0, 0, right, below) if self.outpainted and (right or below) else self

    def start(self, size: Size, rule: str, strength: float | None) -> Start:
        picture = to_tensor([resized(self.picture, size, rule)])
        if self.mask is None:
            return Start(picture, strength or _STRENGTH)
        shares = to_tensor([resized(self.mask, size, rule, Image.Resampling.BOX)])[:, :1]
        if not shares.any():
            raise SceditError(
                f"--inpaint: nothing of the mask lies within {size[0]}x{size[1]} pixels of the picture",
                hint="--resize fit keeps the whole picture",
            )
        return Start(picture, strength or 1.0, (shares > 0).float())  # a pixel is redrawn where the mask touches it

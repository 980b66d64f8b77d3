"""The image to start from: redrawn as a whole, within a mask, or beyond its edges."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from scedit_cli.data.images import open_image, open_mask
from scedit_cli.data.inputs import file_of, source_of
from scedit_cli.generation.config import InitImage
from scedit_cli.inference.denoising import Start
from scedit_cli.inference.sampler import to_tensor
from scedit_cli.inference.sizes import Size, resized
from scedit_cli.utils.errors import SceditError, in_field
from scedit_cli.utils.transparency import cut_mask

_STRENGTH = 0.6  # of image-to-image; within a mask everything is redrawn


@dataclass(frozen=True)
class OpenedInitImage:
    """An RGB image with its mask: mode L, of the same size, 255 where the image is redrawn and 0 elsewhere; without a
    mask, all of it is redrawn."""

    image: Image.Image
    mask: Image.Image | None = None
    outpainted: bool = False
    strength: float | None = None

    @classmethod
    def of(cls, init: InitImage) -> OpenedInitImage:
        """Open the image and its mask, and add the margins.

        Raises:
            SceditError: image or mask cannot be read, or the mask has another size or keeps everything.
        """
        with in_field("init.image", "check the path"):
            image = open_image(source_of(init.image))
        mask, name = None, f" {file}" if (file := file_of(init.mask)) else ""
        if init.mask is not None:
            with in_field("init.mask", "check the path"):
                mask = cut_mask(open_mask(source_of(init.mask)))
            if mask.size != image.size:
                sizes = ["x".join(map(str, each.size)) for each in (mask, image)]
                raise SceditError(
                    f"init.mask{name} is {sizes[0]} pixels, the image {sizes[1]}",
                    "paint the mask over the image: white where it is to be drawn again",
                    "init.mask",
                )
            if not mask.getbbox():
                raise SceditError(
                    f"init.mask{name} is black, or nowhere as light as a middle gray",
                    "paint white what is to be drawn again",
                    "init.mask",
                )
        opened = cls(image, mask, strength=init.strength)
        return opened.extended(*init.margins) if any(init.margins) else opened

    @property
    def size(self) -> Size:
        return self.image.size

    def extended(self, left: int, top: int, right: int, bottom: int) -> OpenedInitImage:
        """Return the image with margins to draw, which repeat the image's edge until then."""
        around = ((top, bottom), (left, right))
        mask = np.zeros(self.image.size[::-1], np.uint8) if self.mask is None else np.asarray(self.mask)
        return replace(
            self,
            image=Image.fromarray(np.pad(np.asarray(self.image), (*around, (0, 0)), mode="edge")),
            mask=Image.fromarray(np.pad(mask, around, constant_values=255)),
            outpainted=True,
        )

    def grown_to(self, multiple: int) -> OpenedInitImage:
        """Return an outpainted image extended right and below until its sides are multiples; others are unchanged."""
        right, below = (-side % multiple for side in self.size)
        return self.extended(0, 0, right, below) if self.outpainted and (right or below) else self

    def start(self, size: Size, rule: str) -> Start:
        """Return the image at `size`, fitted by one of RESIZE_RULES, as sampling takes it."""
        image = to_tensor([resized(self.image, size, rule)])
        if self.mask is None:
            return Start(image, self.strength or _STRENGTH)
        shares = to_tensor([resized(self.mask, size, rule, Image.Resampling.BOX)])[:, :1]
        if not shares.any():
            raise SceditError(
                f"init.mask: nothing of the mask lies within {size[0]}x{size[1]} pixels of the image",
                "`resize=fit` keeps the whole image",
                "init.mask",
            )
        return Start(image, self.strength or 1.0, (shares > 0).float())  # a pixel is redrawn where the mask touches it

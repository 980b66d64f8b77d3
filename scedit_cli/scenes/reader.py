"""The embedded world's reader: a small network that estimates depth, normals, shapes and colours from a scene's image.

It stands in for the annotators of depth and segmentation, and scores generated images. `scedit_cli.scenes.build` trains
it on rendered ground truth; it works for this world only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from scedit_cli.scenes.encodings import DEPTH_FAR, DEPTH_NEAR
from scedit_cli.scenes.scene import COLORS, SHAPES

_SHAPE_CLASSES = 2 + len(SHAPES)  # sky and floor first, as in SEG_CLASSES
_COLOR_CLASSES = 1 + len(COLORS)  # 0: no object
_MIN_SHARE = 0.004  # of the image; a smaller patch of one colour and shape does not count as an object


@dataclass(frozen=True)
class Reading:
    """The reader's estimates for a batch of images.

    Attributes:
        depth: (B, H, W) in metres, inf in the sky.
        normals: (B, 3, H, W), unit vectors in camera axes.
        segmentation: (B, H, W), indices into SEG_CLASSES.
        colors: (B, H, W), 1 + an index into COLORS, or 0 for no object.
        features: (B, F), for distances between images.
    """

    depth: torch.Tensor
    normals: torch.Tensor
    segmentation: torch.Tensor
    colors: torch.Tensor
    features: torch.Tensor

    def objects(self) -> list[set[tuple[str, str]]]:
        """Return for each image the (colour, shape) pairs that cover at least 0.4 % of it."""
        colors, shapes = list(COLORS), SHAPES
        pair = torch.where(
            (self.segmentation >= 2) & (self.colors >= 1),
            (self.colors - 1) * len(shapes) + self.segmentation - 2,
            len(colors) * len(shapes),
        )
        limit = _MIN_SHARE * pair[0].numel()
        return [
            {
                (colors[index // len(shapes)], shapes[index % len(shapes)])
                for index, count in enumerate(row.flatten().bincount(minlength=len(colors) * len(shapes) + 1)[:-1])
                if count >= limit
            }
            for row in pair
        ]


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.GroupNorm(8, outputs), nn.SiLU())


class Reader(nn.Module):
    """A four-level U-Net at half the image's resolution, for images (B, 3, H, W) in [0, 1], H and W multiples of 16."""

    def __init__(self, widths: tuple[int, int, int] = (32, 48, 80)) -> None:
        super().__init__()
        first, second, third = widths
        self.level1 = nn.Sequential(_block(12, first), _block(first, first))
        self.level2 = nn.Sequential(_block(first, second, 2), _block(second, second))
        self.level3 = nn.Sequential(_block(second, third, 2), _block(third, third), _block(third, third))
        self.deepest = nn.Sequential(_block(third, third, 2), _block(third, third))
        self.merge3 = _block(2 * third, third)
        self.merge2 = _block(third + second, second)
        self.merge1 = _block(second + first, first)
        self.head = nn.Conv2d(first, 4 * (1 + 3 + _SHAPE_CLASSES + _COLOR_CLASSES), 1)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return depth (B, 1, H, W) from 0 at DEPTH_NEAR to 1 at DEPTH_FAR, normals (B, 3, H, W), shape and colour
        logits, and features (B, F): mean and deviation of every channel of the four levels."""
        one = self.level1(functional.pixel_unshuffle(2 * images - 1, 2))
        two = self.level2(one)
        three = self.level3(two)
        deepest = self.deepest(three)
        up = self.merge3(torch.cat((functional.interpolate(deepest, scale_factor=2.0), three), 1))
        up = self.merge2(torch.cat((functional.interpolate(up, scale_factor=2.0), two), 1))
        up = self.merge1(torch.cat((functional.interpolate(up, scale_factor=2.0), one), 1))
        maps = functional.pixel_shuffle(self.head(up), 2)
        features = [s for level in (one, two, three, deepest) for s in (level.mean((2, 3)), level.std((2, 3)))]
        return *maps.split((1, 3, _SHAPE_CLASSES, _COLOR_CLASSES), 1), torch.cat(features, 1)

    @torch.no_grad()
    def read(self, images: torch.Tensor, batch_size: int = 32) -> Reading:
        """Read images (B, 3, H, W) in [0, 1], in batches; sides that are no multiple of 16 are padded meanwhile."""
        parts = [self._read(batch) for batch in images.split(batch_size)]
        return Reading(*(torch.cat(values) for values in zip(*parts, strict=True)))

    def _read(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        height, width = images.shape[-2:]
        padded = functional.pad(images, (0, -width % 16, 0, -height % 16), mode="replicate")
        depth, normals, shapes, colors, features = self(padded)
        depth, normals, shapes, colors = (m[..., :height, :width] for m in (depth, normals, shapes, colors))
        segmentation = shapes.argmax(1)
        metres = (DEPTH_NEAR + (DEPTH_FAR - DEPTH_NEAR) * depth[:, 0]).clamp(DEPTH_NEAR, DEPTH_FAR)
        return (
            metres.masked_fill(segmentation == 0, float("inf")),
            functional.normalize(normals, dim=1),
            segmentation,
            colors.argmax(1),
            features,
        )


@lru_cache(maxsize=1)
@torch.inference_mode(False)  # weights made in inference mode would let no gradient pass, in this process for good
def load_reader() -> Reader:
    """Return the shipped reader, frozen, in float32 on the CPU."""
    from safetensors.torch import load_file

    reader = Reader()
    weights = load_file(Path(__file__).parent / "world" / "reader.safetensors")
    reader.load_state_dict({name: value.float() for name, value in weights.items()})
    return reader.eval().requires_grad_(False)

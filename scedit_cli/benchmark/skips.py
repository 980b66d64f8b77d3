"""The study of skip connections: each is removed, rescaled and noised in turn, after the motivation of SCEdit (section
3, figure 2 of arXiv 2312.11392)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor, nn

from scedit_cli.core.skips import edit_skips, survey
from scedit_cli.inference.sampler import grid, sample, to_tensor
from scedit_cli.models.base import Base
from scedit_cli.models.loading import EMBEDDED
from scedit_cli.training.datasets import held_out_scenes
from scedit_cli.training.evaluation import named_share
from scedit_cli.utils.reporter import SILENT, Reporter

_PROMPTS = (
    "a photo of a red fox in the snow",
    "a wooden table with a bowl of green apples",
    "a street in the rain at night",
    "a portrait of an old sailor",
)


@dataclass(frozen=True)
class SkipEffect:
    """The effect of a change of one skip on images of the same prompts and noise.

    Attributes:
        skip: the number of the skip in encoder order; 0 is conv_in's output.
        channels, stride: those of the skip; its side is the latents' side divided by the stride.
        change: a name of `changes`.
        picture_change: the root mean square difference of the pixels, which lie in [0, 1].
        objects: the share of the objects named by the prompts that is present, `objects_before` the same without the
            change; None except on the embedded base, which alone has a reader.
    """

    skip: int
    channels: int
    stride: int
    change: str
    picture_change: float
    objects: float | None
    objects_before: float | None


def changes(scale: float = 0.5, noise: float = 1.0) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return the changes by name: the skip is removed, multiplied by `scale`, or gets Gaussian noise of `noise` times
    its own deviation (per image). Skips are (B, C, H, W)."""
    generator = torch.Generator()

    def noised(skip: Tensor) -> Tensor:
        drawn = torch.randn(skip.shape, generator=generator.manual_seed(0)).to(skip)
        return skip + noise * skip.std((1, 2, 3), keepdim=True) * drawn

    return {"removed": torch.zeros_like, f"scaled by {scale:g}": lambda skip: scale * skip, "noised": noised}


@contextmanager
def changed(unet: nn.Module, skip: int, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Apply `change` to skip number `skip` (encoder order) before the decoder reads it, within the block."""
    handles = edit_skips(unet, survey(unet), lambda each, index: change(each) if index == skip else each)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def study_skips(
    base: Base,
    count: int,
    *,
    scale: float = 0.5,
    noise: float = 1.0,
    resolution: int | None = None,
    steps: int | None = None,
    batch_size: int = 16,
    reporter: Reporter = SILENT,
) -> tuple[list[SkipEffect], Image.Image]:
    """Return the effects of every change of every skip on `count` images, and a grid with a column per skip and a row
    per change, the unchanged image first.

    Args:
        scale, noise: as for `changes`.
        resolution, steps: those of the images; the base's by default.
        reporter: gets (images done, total).
    """
    prompts = _prompts(base, count)
    skips, kinds = survey(base.unet), changes(scale, noise)
    total = count * (1 + len(skips.channels) * len(kinds))
    made = 0

    def pictures() -> list[Image.Image]:
        nonlocal made
        drawn = sample(
            base, prompts, seeds=range(count), steps=steps, batch_size=batch_size, height=resolution, width=resolution
        )
        made += count
        reporter.progress(made, total)
        return drawn

    before = pictures()
    objects_before = _objects(base, prompts, before)
    effects, rows = [], []
    for name, change in kinds.items():
        row = [before[0]]
        for skip, (channels, stride) in enumerate(zip(skips.channels, skips.strides, strict=True)):
            with changed(base.unet, skip, change):
                after = pictures()
            difference = (to_tensor(after) - to_tensor(before)).square().mean().sqrt().item()
            objects = _objects(base, prompts, after)
            effects.append(SkipEffect(skip, channels, stride, name, difference, objects, objects_before))
            row.append(after[0])
        rows.append(row)
    columns = ["untouched", *(f"skip {k}: {c}, 1/{s}" for k, (c, s) in enumerate(zip(skips.channels, skips.strides)))]
    return effects, grid(rows, columns, list(kinds))


def _prompts(base: Base, count: int) -> Sequence[str]:
    if base.name == EMBEDDED:
        return [each.text for each in held_out_scenes(count, 0, (), base.defaults.resolution)]
    return [_PROMPTS[k % len(_PROMPTS)] for k in range(count)]


def _objects(base: Base, prompts: Sequence[str], pictures: Sequence[Image.Image]) -> float | None:
    return named_share(prompts, to_tensor(pictures)) if base.name == EMBEDDED else None

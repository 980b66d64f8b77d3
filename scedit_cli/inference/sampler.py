"""The sampling of images from a base, tuners, prompts and hints, and labelled grids of images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from scedit_cli import conditions
from scedit_cli.inference.denoising import Denoiser, Guidance, Start, check_sampling
from scedit_cli.models.base import Base
from scedit_cli.models.loading import quiet
from scedit_cli.utils.errors import SceditError, memory_told
from scedit_cli.utils.reporter import SILENT, Reporter

if TYPE_CHECKING:
    from scedit_cli.core.attach import Attachment

_INK, _PAPER = (38, 38, 44), (255, 255, 255)
_GAP = 8
_STARVED = "sampling", "make fewer pictures at once, or smaller ones"


@torch.no_grad()
def sample(
    base: Base,
    prompts: Sequence[str],
    *,
    attachment: Attachment | None = None,
    hints: dict[str, Tensor] | None = None,
    seeds: Sequence[int],
    steps: int | None = None,
    guidance: float | Guidance | None = None,
    negative: str | Sequence[str] = "",
    height: int | None = None,
    width: int | None = None,
    batch_size: int = 8,
    scheduler: str | None = None,
    spans: Sequence[tuple[float, float]] | None = None,
    start: Start | None = None,
    weighted: bool = False,
    offload: str | None = None,
    reporter: Reporter = SILENT,
) -> list[Image.Image]:
    """Sample one image per prompt and seed, through the diffusers pipeline's own call.

    Noise is drawn on the CPU by a generator per image, so that a seed gives the same image at any batch size and on any
    device. Hints are encoded once per image, not once per step.

    Args:
        base: the frozen base.
        prompts, seeds: sequences of equal length.
        attachment: the tuners on `base.unet`; its scales are restored afterwards.
        hints: condition -> (N, C, H, W) in [0, 1], one per prompt, or (1, C, H, W) for all of them; C is the tuner's
            `in_channels`: 3, or 4 for a condition with alpha.
        steps, guidance, height, width: by default the base's. Guidance of 1 or less means none.
        negative: the negative prompt, for all or one per prompt.
        batch_size: the most images per batch.
        scheduler: the name of a class of diffusers, and its settings; by default the base's own.
        spans: the fractions of the steps between which each attached tuner acts, as (start, end) in [0, 1].
        start: an image to start from; pixels outside its mask stay exactly as they are.
        weighted: whether prompts are in compel's syntax, of any length and with weights.
        offload: an accelerator that holds each model only while it runs; the base must then be loaded on the CPU.
        reporter: gets (denoising steps done, of how many) over all batches.

    Raises:
        SceditError: the size or scheduler does not suit the base, or the base cannot be sampled.
        WorkFailed: the latents or images are not finite, or memory ran out.
    """
    if len(prompts) != len(seeds):
        raise ValueError(f"{len(prompts)} prompts for {len(seeds)} seeds")
    if hints and attachment is None:
        raise ValueError("hints without an attachment would be ignored")
    defaults = base.defaults
    height, width = height or defaults.resolution, width or defaults.resolution
    steps = steps or defaults.steps
    if not isinstance(guidance, Guidance):
        guidance = Guidance(defaults.guidance if guidance is None else guidance)
    check_size(base, height, width, "the picture")
    with quiet(), memory_told(*_STARVED):
        check_sampling(base, steps, guidance, scheduler, start)
        denoiser = Denoiser(base, scheduler, start, offload)
        negatives = [negative] * len(prompts) if isinstance(negative, str) else list(negative)
        pairs = list(zip(prompts, negatives, strict=True))
        texts = {pair: denoiser.encode(*pair, weighted) for pair in dict.fromkeys(pairs)}
    batches = list(_batches([texts[pair]["prompt_embeds"].shape[1] for pair in pairs], batch_size))
    full_scales = attachment.scales if attachment else ()
    pictures: list[Image.Image] = []

    def act(progress: float) -> None:
        if attachment and spans:
            attachment.scales = [
                scale if start <= progress < end else 0.0
                for scale, (start, end) in zip(full_scales, spans, strict=True)
            ]

    try:
        for number, batch in enumerate(batches):
            if attachment:
                attachment.set_hints({kind: h if len(h) == 1 else h[batch] for kind, h in (hints or {}).items()})

            with quiet(), memory_told(*_STARVED):
                latents = denoiser.latents(
                    {
                        name: torch.cat([texts[pair][name] for pair in pairs[batch]])
                        for name, each in texts[pairs[batch.start]].items()
                        if each is not None
                    },
                    [torch.Generator().manual_seed(seed) for seed in seeds[batch]],
                    steps=steps,
                    guidance=guidance,
                    height=height,
                    width=width,
                    before_step=act,
                    reporter=reporter.part(number, len(batches)),
                )
                drawn = base.decode(latents)
            if start and start.redraw is not None:
                drawn = torch.where(start.redrawn.to(drawn.device), drawn, start.picture.to(drawn))
            pictures += to_images(drawn)
    finally:
        if attachment:
            attachment.scales = full_scales
            attachment.set_hints(None)
    return pictures


def _batches(lengths: Sequence[int], most: int) -> Iterator[slice]:
    """Yield slices of at most `most` prompts of equal token count, since padding a prompt would change its image."""
    at = 0
    while at < len(lengths):
        end = at
        while end < min(at + most, len(lengths)) and lengths[end] == lengths[at]:
            end += 1
        yield slice(at, end)
        at = end


def check_size(base: Base, height: int, width: int, what: str) -> None:
    """Raise SceditError where `what` has sides in pixels that the base's U-Net cannot halve at every level."""
    if height % base.multiple or width % base.multiple or min(height, width) <= 0:
        near = [max(1, round(side / base.multiple)) * base.multiple for side in (width, height)]
        raise SceditError(
            f"{what} is {width}x{height} pixels; the sides of base {base.name} are multiples of {base.multiple}",
            hint=f"{near[0]}x{near[1]} is nearest",
        )


def to_images(pictures: Tensor) -> list[Image.Image]:
    """Return RGB images of (B, 3, H, W) floats in [0, 1]."""
    levels = (pictures * 255).round().to("cpu", torch.uint8)
    return [Image.fromarray(picture.numpy()) for picture in levels.permute(0, 2, 3, 1).contiguous()]


def to_tensor(pictures: Sequence[Image.Image]) -> Tensor:
    """Return (B, 3, H, W) floats in [0, 1] of images of one size, as RGB."""
    import numpy as np

    return torch.from_numpy(np.stack([np.asarray(p.convert("RGB")) for p in pictures])).permute(0, 3, 1, 2) / 255


def to_hints(kind: str, pictures: Sequence[Image.Image]) -> Tensor:
    """Return (B, C, H, W) floats in [0, 1] of condition images of one size, as a tuner of this kind takes them. C is 3,
    or 4 where the kind uses alpha; a kind without annotators has 3."""
    known = conditions.find(kind) if kind in conditions.KINDS else conditions.Kind(kind, ())
    return torch.stack([torch.tensor(known.hint(picture)) for picture in pictures])


def grid(
    rows: Sequence[Sequence[Image.Image | None]],
    columns: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
) -> Image.Image:
    """Draw images in a grid on white, with a heading over each column and a label to the left of each row.

    Images smaller than 256 pixels are shown at a whole multiple of their size; None leaves a cell empty. Rows may
    differ in length.
    """
    shown = [[None if picture is None else _enlarged(picture) for picture in row] for row in rows]
    cells = [picture for row in shown for picture in row if picture]
    if not cells:
        raise ValueError("a grid needs a picture")
    wide, high = max(p.width for p in cells), max(p.height for p in cells)
    count = max(len(row) for row in shown)
    font = ImageFont.load_default(max(15, high // 17))
    line = round(font.size * 1.35)
    headings = [_wrapped(text, font, wide) for text in columns or ()]
    gutter = round(wide * 0.7) if labels else 0
    top = _GAP + (max(map(len, headings)) * line + _GAP // 2 if headings else 0)
    left = _GAP + (gutter + _GAP if labels else 0)
    sheet = Image.new("RGB", (left + count * (wide + _GAP), top + len(shown) * (high + _GAP)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, lines in enumerate(headings):
        middle = left + number * (wide + _GAP) + wide // 2
        for k, text in enumerate(lines):
            draw.text((middle, top - _GAP // 2 - (len(lines) - k) * line), text, _INK, font, anchor="ma")
    for number, row in enumerate(shown):
        y = top + number * (high + _GAP)
        if labels:
            lines = _wrapped(labels[number], font, gutter)[: max(1, high // line)]
            for k, text in enumerate(lines):
                draw.text((_GAP, y + (high - len(lines) * line) // 2 + k * line), text, _INK, font)
        for k, picture in enumerate(row):
            if picture:
                x = left + k * (wide + _GAP)
                sheet.paste(picture, (x + (wide - picture.width) // 2, y + (high - picture.height) // 2))
    return sheet


def _enlarged(picture: Image.Image) -> Image.Image:
    times = max(1, -(-256 // max(picture.size)))
    size = (picture.width * times, picture.height * times)
    return picture.convert("RGB").resize(size, Image.Resampling.LANCZOS if times > 1 else None)


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Break `text` between words into lines of at most `width` pixels; a longer word gets a line of its own."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines

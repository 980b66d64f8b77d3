"""The sampling of images from a base, tuners, prompts and hints, and labelled grids of images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from scedit_cli import conditions
from scedit_cli.core.reuse import reuse
from scedit_cli.inference.config import SamplerConfig
from scedit_cli.inference.denoising import Denoiser, Guidance, Start, check_sampling
from scedit_cli.models.base import Base
from scedit_cli.models.loading import quiet
from scedit_cli.utils.errors import SceditError, memory_told
from scedit_cli.utils.reporter import SILENT, Reporter

if TYPE_CHECKING:
    from scedit_cli.core.attach import Attachment

_INK, _PAPER = (38, 38, 44), (255, 255, 255)
_GAP = 8
STARVED = "sampling", "make fewer images at once, or smaller ones"


@torch.no_grad()
def sample(
    base: Base,
    prompts: Sequence[str],
    *,
    seeds: Sequence[int],
    attachment: Attachment | None = None,
    hints: dict[str, Tensor] | None = None,
    spans: Sequence[tuple[float, float]] | None = None,
    negative: str | Sequence[str] = "",
    guidance: float | Guidance | None = None,
    start: Start | None = None,
    offload: str | None = None,
    reporter: Reporter = SILENT,
    **settings: Any,
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
        spans: the fractions of the steps between which each attached tuner acts, as (start, end) in [0, 1].
        negative: the negative prompt, for all or one per prompt.
        guidance: by default the base's; 1 or less means none.
        start: an image to start from; pixels outside its mask stay exactly as they are.
        offload: an accelerator that holds each model only while it runs; the base must then be loaded on the CPU.
        reporter: gets (denoising steps done, of how many) over all batches.
        settings: `steps`, `scheduler`, `height`, `width`, `batch_size`, `weighted` and `reuse` as in `SamplerConfig`.

    Raises:
        SceditError: the size or scheduler does not suit the base, or the base cannot be sampled.
        WorkFailed: the latents or images are not finite, or memory ran out.
    """
    if len(prompts) != len(seeds):
        raise ValueError(f"{len(prompts)} prompts for {len(seeds)} seeds")
    if hints and attachment is None:
        raise ValueError("hints without an attachment would be ignored")
    defaults = base.defaults
    sampler = SamplerConfig(**settings)
    scheduler, steps = sampler.scheduler, sampler.steps or defaults.steps
    height, width = sampler.height or defaults.resolution, sampler.width or defaults.resolution
    if not isinstance(guidance, Guidance):
        guidance = Guidance(defaults.guidance if guidance is None else guidance)
    check_size(base, height, width, "the image")
    with quiet(), memory_told(*STARVED):
        check_sampling(base, steps, guidance, scheduler, start, sampler.reuse)
        denoiser = Denoiser(base, scheduler, start, offload)
        negatives = [negative] * len(prompts) if isinstance(negative, str) else list(negative)
        pairs = list(zip(prompts, negatives, strict=True))
        texts = {pair: denoiser.encode(*pair, sampler.weighted) for pair in dict.fromkeys(pairs)}
    batches = list(_batches([texts[pair]["prompt_embeds"].shape[1] for pair in pairs], sampler.batch_size))
    full_scales = attachment.scales if attachment else ()
    act = acting(attachment, spans, guidance)
    images: list[Image.Image] = []

    deep = reuse(base.unet, sampler.reuse, denoiser.pipeline.scheduler.order)
    try:
        for number, batch in enumerate(batches):
            deep.restart()
            if attachment:
                attachment.set_hints({kind: h if len(h) == 1 else h[batch] for kind, h in (hints or {}).items()})

            with quiet(), memory_told(*STARVED):
                latents = denoiser.latents(
                    {
                        name: torch.cat([texts[pair][name] for pair in pairs[batch]])
                        for name in texts[pairs[batch.start]]
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
                drawn = torch.where(start.redrawn.to(drawn.device), drawn, start.image.to(drawn))
            images += to_images(drawn)
    finally:
        deep.undo()
        if attachment:
            attachment.scales, attachment.unprompted = full_scales, 1.0
            attachment.set_hints(None)
    return images


def acting(
    attachment: Attachment | None, spans: Sequence[tuple[float, float]] | None, guidance: Guidance
) -> Callable[[float], None]:
    """Return a function that gives the attached tuners their present scales where the completed share of the steps is
    within their `spans`, else 0, and guides them."""
    full = attachment.scales if attachment else ()

    def act(progress: float) -> None:
        if attachment and spans:
            attachment.scales = [
                scale if start <= progress < end else 0.0 for scale, (start, end) in zip(full, spans, strict=True)
            ]
        if attachment:
            attachment.unprompted = guidance.unprompted(progress)

    return act


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


def to_images(pixels: Tensor) -> list[Image.Image]:
    """Return RGB images of (B, 3, H, W) floats in [0, 1]."""
    levels = (pixels * 255).round().to("cpu", torch.uint8)
    return [Image.fromarray(each.numpy()) for each in levels.permute(0, 2, 3, 1).contiguous()]


def to_tensor(images: Sequence[Image.Image]) -> Tensor:
    """Return (B, 3, H, W) floats in [0, 1] of images of one size, as RGB."""
    import numpy as np

    return torch.from_numpy(np.stack([np.asarray(each.convert("RGB")) for each in images])).permute(0, 3, 1, 2) / 255


def to_hints(kind: str, images: Sequence[Image.Image]) -> Tensor:
    """Return (B, C, H, W) floats in [0, 1] of condition images of one size, as a tuner of this kind takes them. C is 3,
    or 4 where the kind uses alpha; a kind without annotators has 3."""
    known = conditions.kind_named(kind)
    return torch.stack([torch.tensor(known.hint(image)) for image in images])


def grid(
    rows: Sequence[Sequence[Image.Image | None]],
    columns: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
) -> Image.Image:
    """Draw images in a grid on white, with a heading over each column and a label to the left of each row.

    Images smaller than 256 pixels are shown at a whole multiple of their size; None leaves a cell empty. Rows may
    differ in length.
    """
    shown = [[None if image is None else _enlarged(image) for image in row] for row in rows]
    cells = [image for row in shown for image in row if image]
    if not cells:
        raise ValueError("a grid needs an image")
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
        for k, image in enumerate(row):
            if image:
                x = left + k * (wide + _GAP)
                sheet.paste(image, (x + (wide - image.width) // 2, y + (high - image.height) // 2))
    return sheet


def _enlarged(image: Image.Image) -> Image.Image:
    times = max(1, -(-256 // max(image.size)))
    size = (image.width * times, image.height * times)
    return image.convert("RGB").resize(size, Image.Resampling.LANCZOS if times > 1 else None)


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

"""What steers the sampling of an image, and the sampler's settings; light, since both are checked before PyTorch is
imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scedit_cli import conditions
from scedit_cli.data.frames import check_frames
from scedit_cli.data.images import name_of
from scedit_cli.data.inputs import check_image_input, source_of
from scedit_cli.models.samplers import check_name
from scedit_cli.utils.errors import SceditError, in_field
from scedit_cli.utils.fields import check_choice, check_number, check_switches, check_type
from scedit_cli.utils.names import RESIZE_RULES

if TYPE_CHECKING:
    from PIL import Image

    from scedit_cli.data.inputs import ImageInput
    from scedit_cli.inference.denoising import Guidance

_WHOLE = (0.0, 1.0)  # all denoising steps, as fractions
_LARGEST = 16384  # pixels of a side


@dataclass(frozen=True)
class Control:
    """A condition image, and how it acts.

    Attributes:
        kind: the kind of condition that a tuner takes, such as "canny".
        image: the condition image: a path, a PIL.Image, or a tensor (C, H, W) of floats in [0, 1].
        photo: a photograph, in the same forms, of which the kind's annotator makes the condition image; in place of
            `image`.
        scale: α, any real number.
        start, end: the fractions of the denoising steps, in [0, 1], between which the condition acts.
        mask: an image, in the same forms, that is white where the condition acts; without one it acts everywhere.
        params: settings of the annotator that makes or measures the condition image, by name.
        weights: a folder with local copies of the annotator's weights; None for the hub.
    """

    kind: str
    image: ImageInput | None = None
    photo: ImageInput | None = None
    scale: float = 1.0
    start: float = 0.0
    end: float = 1.0
    mask: ImageInput | None = None
    params: Mapping[str, float | str] = field(default_factory=dict)
    weights: str | Path | None = None

    @property
    def source(self) -> Path | Image.Image:
        return source_of(self.image if self.photo is None else self.photo)

    @property
    def name(self) -> str:
        """The name of the condition in messages."""
        return name_of(self.source)

    def part(self) -> str:
        """Return the name of the attribute that holds the image."""
        return "image" if self.photo is None else "photo"

    def check(self, field: str, frames: int | None = None) -> None:
        """Raise SceditError for an invalid attribute; `field` is the control's own name. With `frames`, the image may
        also be those of a video: a folder of images, an animated image or a video file."""
        check_type(self.kind, f"{field}.kind", str, "a kind of condition, such as 'canny'")
        if (self.image is None) == (self.photo is None):
            both = "neither image nor photo" if self.image is None else "both image and photo"
            raise SceditError(f"{field} has {both}", "give one of the two", f"{field}.image")
        check_number(self.scale, f"{field}.scale")
        check_span((self.start, self.end), field)
        given, place = self.image if self.photo is None else self.photo, f"{field}.{self.part()}"
        if frames is None:
            check_image_input(given, place)
        else:
            check_frames(given, frames, place)
        if self.photo is not None and self.kind not in conditions.KINDS:
            raise SceditError(
                f"{field}.photo {self.kind}={self.name}: nothing makes {self.kind} conditions",
                f"choose one of {', '.join(conditions.KINDS)}, or give the condition image with `controls`",
                f"{field}.photo",
            )
        if self.mask is not None:
            check_image_input(self.mask, f"{field}.mask")
        check_type(self.params, f"{field}.params", Mapping, "a mapping of names to values")
        for name, value in self.params.items():
            check_type(value, f"{field}.params[{name!r}]", (int, float, str), "a number or a text")


@dataclass(frozen=True)
class SamplerConfig:
    """The settings of the sampler.

    Attributes:
        steps, guidance: denoising steps, and the scale of classifier-free guidance, where 1 or less is none; by default
            the base's.
        control_guidance: the scale of guidance for condition images, from 1, which is none, to the prompt's.
        guidance_rescale: the share of guidance's excess contrast that is removed, in [0, 1] (arXiv 2305.08891).
        guidance_span: the fractions of the steps between which guidance acts.
        scheduler: the sampler, `NAME[:KEY=VALUE,...]` as diffusers, A1111 or ComfyUI name it; by default the base's.
        negative: the negative prompt.
        weighted: whether prompts are in compel's syntax, of any length and with weights.
        reuse: the number of steps from one run of the U-Net's deep layers to the next, whose features are reused
            between (arXiv 2312.00858); 1 runs them at each.
        width, height: in pixels; by default those of the image to start from, of the first condition, or the base's.
        resize: how images of another size are fitted, one of RESIZE_RULES.
        batch_size: the most images that are made at once.
        frames: the number of frames of each video; None makes images.
        place: (index, size): draw one image at this index of a batch of this size, filled with copies of it. Sums in
            other batches round differently, so that an image is made again bit for bit only in its old place.
    """

    steps: int | None = None
    guidance: float | None = None
    control_guidance: float = 1.0
    guidance_rescale: float = 0.0
    guidance_span: tuple[float, float] = _WHOLE
    scheduler: str | None = None
    negative: str = ""
    weighted: bool = False
    width: int | None = None
    height: int | None = None
    resize: str = "crop"
    batch_size: int = 8
    reuse: int = 1
    frames: int | None = None
    place: tuple[int, int] | None = None

    def check(self, field: str = "sampler") -> None:
        """Raise SceditError for an invalid setting; `field` is the configuration's own name."""
        limits = {"steps": (1, None), "reuse": (1, None), "frames": (2, None), "batch_size": (1, None)}
        for name, (least, most) in (limits | dict.fromkeys(("width", "height"), (8, _LARGEST))).items():
            if (value := getattr(self, name)) is not None:
                check_number(value, f"{field}.{name}", least, most, whole=True)
        if self.guidance is not None:
            check_number(self.guidance, f"{field}.guidance", 0)
        check_number(self.control_guidance, f"{field}.control_guidance", 1)
        check_number(self.guidance_rescale, f"{field}.guidance_rescale", 0, 1)
        check_span(self.guidance_span, f"{field}.guidance_span")
        check_choice(self.resize, f"{field}.resize", RESIZE_RULES)
        check_type(self.negative, f"{field}.negative", str, "a text")
        check_switches(self, field, ("weighted",))
        if self.scheduler is not None:
            check_type(self.scheduler, f"{field}.scheduler", str, "the name of a sampler, such as 'euler'")
            with in_field(f"{field}.scheduler", named=False):
                check_name(self.scheduler)
        if self.place is not None:
            _check_place(self.place, f"{field}.place")

    def guided(self, default: float) -> Guidance:
        """Return the guidance, with the base's `default` scale where none is set."""
        from scedit_cli.inference.denoising import Guidance

        scale = default if self.guidance is None else self.guidance
        return Guidance(scale, self.guidance_rescale, *self.guidance_span, self.control_guidance)


def _check_place(place: Any, field: str) -> None:
    """Raise SceditError unless `place` is an index within a batch, and the batch's size."""
    pair = place if isinstance(place, tuple | list) else ()
    whole = all(isinstance(each, Integral) and not isinstance(each, bool) for each in pair)
    if not (len(pair) == 2 and whole and 0 <= pair[0] < pair[1]):
        hint = "give an index from 0 on, and the larger size of its batch, such as (0, 8)"
        raise SceditError(f"{field} is {place!r}", hint, field)


def check_span(span: Any, field: str) -> None:
    """Raise SceditError unless `span` is a pair of fractions, the first below the second."""
    if not (isinstance(span, tuple | list) and len(span) == 2):
        raise SceditError(f"{field} is {span!r}", "give a pair of fractions, such as (0.0, 0.5)", field)
    for each in span:
        check_number(each, field, 0, 1)
    if not span[0] < span[1]:
        hint = "the first of two fractions is the smaller one"
        raise SceditError(f"{field}: {span[0]:g} to {span[1]:g} is no part of the steps", hint, field)

"""The request for images: the options of `scedit generate` that decide what an image looks like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scedit_cli.models.samplers import check_name
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.io import expanded
from scedit_cli.utils.names import PRECISIONS, PREDICTIONS, RESIZE_RULES
from scedit_cli.utils.specs import parse_condition, parse_margins, parse_named, parse_span, parse_sweep, parse_tuner

if TYPE_CHECKING:
    from scedit_cli.inference.denoising import Guidance

# The least value of each number; the least strength is above 0, and so is not listed.
_LEAST = {
    "num": 1, "steps": 1, "guidance": 0, "guidance_rescale": 0, "batch_size": 1, "width": 8, "height": 8,
}  # fmt: skip
_OPTIONS = {
    "prompts": "--prompt", "prompts_file": "--prompts", "conds": "--cond", "conds_from": "--cond-from",
    "params": "--param", "masks": "--mask", "tuners": "--tuner", "scales": "--scale", "sweeps": "--sweep",
    "batch_size": "--batch",
}  # fmt: skip


@dataclass(frozen=True)
class Request:
    """A request for images, in the command line's words; None or an empty value stands for an option that is not given.

    Attributes:
        prompts: the prompts, with an image per seed; one empty prompt by default.
        prompts_file: more prompts: one per line, in the column `prompt` of a .csv or .tsv, or in a .jsonl one object
            per line: `prompt`, `seed`, `negative`, `conditions` (kind -> `FILE[:SCALE[:START-END]]`; null leaves the
            condition out), `scales` (name -> α).
        negative: the negative prompt.
        seed: `7`, `1,2,3` or `1-8`; 0 by default.
        num: images per prompt, with seeds counting from a single `seed`.
        conds: condition images, `[KIND=]FILE[:SCALE[:START-END]]`; without KIND, the name of the file or its folder
            gives the kind.
        conds_from: photographs of which condition images are made first, `KIND=PHOTO[:SCALE[:START-END]]`.
        params: settings of the annotators that make or measure conditions, `[KIND.]NAME=VALUE`.
        weights: a folder with local copies of the annotators' weights.
        masks: images that are white where the condition (or the SC-Tuner of that name) acts, `NAME=FILE`.
        tuners: `FILE[:SCALE]`, or the name of a shipped tuner. On the embedded base, a condition that none of them
            takes gets the shipped tuner of its kind.
        scales: α of a condition (or of the SC-Tuner of that name) in place of the one given with it, `NAME=SCALE`.
        sweeps: scales in place of the one given, with an image for each, `NAME=SCALE,SCALE,...`.
        base, vae, prediction, device: as for `load_base`. For a base on the hub without a revision, the revision that
            the tuners were trained on is used.
        any_base: whether tuners may have been trained on other weights than the base's, if its skips are the same.
        dtype: one of PRECISIONS; by default the base's.
        steps, guidance, scheduler: by default the base's; `scheduler` as for `scheduler_like`.
        guidance_rescale: the share of guidance's excess contrast that is removed, in [0, 1].
        guidance_span: the fractions of the steps between which guidance acts, `START-END`.
        width, height: in pixels; by default those of `image`, of the first condition, or the base's.
        resize: how images of another size are fitted, one of RESIZE_RULES; "crop" by default.
        image, strength: an image to start from, and how much of it is redrawn, in (0, 1]: 0.6, with a mask 1.
        inpaint: a mask of `image`'s size, white where it is redrawn.
        outpaint: pixels to add around `image`, `64` or `LEFT,TOP,RIGHT,BOTTOM`.
        weighted: whether prompts are in compel's syntax, of any length.
        vae_slicing, vae_tiling, offload, compile: less memory, and speed, as in diffusers.
        batch_size: images per batch; 8 by default.
    """

    prompts: Sequence[str] = ()
    prompts_file: str | Path | None = None
    negative: str | None = None
    seed: str | int | None = None
    num: int | None = None
    conds: Sequence[str] = ()
    conds_from: Sequence[str] = ()
    params: Sequence[str] = ()
    weights: str | Path | None = None
    masks: Sequence[str] = ()
    tuners: Sequence[str] = ()
    scales: Sequence[str] = ()
    sweeps: Sequence[str] = ()
    base: str | None = None
    vae: str | Path | None = None
    prediction: str | None = None
    any_base: bool = False
    dtype: str | None = None
    device: str | None = None
    steps: int | None = None
    guidance: float | None = None
    guidance_rescale: float | None = None
    guidance_span: str | None = None
    scheduler: str | None = None
    width: int | None = None
    height: int | None = None
    resize: str | None = None
    image: str | Path | None = None
    strength: float | None = None
    inpaint: str | Path | None = None
    outpaint: str | None = None
    weighted: bool = False
    vae_slicing: bool = False
    vae_tiling: bool = False
    offload: bool = False
    compile: bool = False
    batch_size: int | None = None

    def said(self) -> dict[str, Any]:
        """Return the given fields by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: value for name, value in values.items()
            if value is not None and value is not False and value != () and value != []
        }  # fmt: skip

    def words(self) -> list[str]:
        """Return the same request as arguments of `scedit generate`."""
        words: list[str] = []
        for name, value in self.said().items():
            option = option_of(name)
            for each in value if isinstance(value, list | tuple) else [value]:
                words += [option] if each is True else [option, str(each)]
        return words

    def over(self, other: Request) -> Request:
        """Return `other` with this request's given fields in place of its own."""
        said = self.said()
        if "prompts_file" in said:
            said.setdefault("prompts", ())
        return replace(other, **said)

    def check(self) -> None:
        """Raise SceditError for an invalid value, or one that would have no effect."""
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and not least <= value < 2**31:
                raise SceditError(f"{option_of(name)} is {value}", hint=f"give {least} or more")
        if self.guidance_rescale is not None and self.guidance_rescale > 1:
            raise SceditError(f"--guidance-rescale is {self.guidance_rescale}", hint="give a number from 0 to 1")
        if self.strength is not None and not 0 < self.strength <= 1:
            raise SceditError(f"--strength is {self.strength}", hint="give a number above 0, at most 1")
        if self.resize is not None and self.resize not in RESIZE_RULES:
            raise SceditError(f"--resize {self.resize}: not known", hint=f"choose one of {', '.join(RESIZE_RULES)}")
        if self.dtype is not None and self.dtype not in PRECISIONS:
            raise SceditError(f"--dtype {self.dtype}: not known", hint=f"choose one of {', '.join(PRECISIONS)}")
        if self.prediction is not None and self.prediction not in PREDICTIONS:
            hint = f"choose {' or '.join(PREDICTIONS)}"
            raise SceditError(f"--prediction {self.prediction}: not known", hint)
        if self.scheduler is not None:
            check_name(self.scheduler)
        for name in ("strength", "inpaint", "outpaint"):
            if getattr(self, name) is not None and self.image is None:
                raise SceditError(f"--{name} needs a picture to start from", hint="add --image FILE")
        _ = self.guidance_interval, self.margins, self.scale_sweeps, self.named_scales, self.mask_files
        for text in self.tuners:
            parse_tuner(text)

    @cached_property
    def guidance_interval(self) -> tuple[float, float]:
        return parse_span(self.guidance_span, "--guidance-span") if self.guidance_span else (0.0, 1.0)

    @cached_property
    def margins(self) -> tuple[int, int, int, int] | None:
        return parse_margins(self.outpaint) if self.outpaint else None

    @cached_property
    def scale_sweeps(self) -> list[tuple[str, tuple[float, ...]]]:
        return [parse_sweep(text) for text in self.sweeps]

    @cached_property
    def named_scales(self) -> dict[str, float]:
        parsed = [(text, *parse_sweep(text, "--scale")) for text in self.scales]
        for text, _, values in parsed:
            if len(values) > 1:
                raise SceditError(f"--scale {text}: several scales", hint="--sweep makes a picture for each")
        return {name: values[0] for _, name, values in parsed}

    @cached_property
    def mask_files(self) -> dict[str, Path]:
        named = [parse_named(text, "--mask", "canny=left.png") for text in self.masks]
        for name, _ in named:
            if [other for other, _ in named].count(name) > 1:
                raise SceditError(f"two masks for {name}", hint="paint them into one picture")
        return {name: expanded(file) for name, file in named}

    @cached_property
    def tuner_names(self) -> list[str]:
        return [parse_tuner(text).name for text in self.tuners]

    @cached_property
    def picture_files(self) -> list[Path]:
        """All files but the tuners': conditions and photographs, masks, the image to start from, an autoencoder."""
        steering = [parse_condition(text) for text in self.conds]
        steering += [parse_condition(text, "--cond-from") for text in self.conds_from]
        others = [expanded(file) for file in (self.image, self.inpaint, self.vae) if file is not None]
        return [spec.file for spec in steering] + [*self.mask_files.values(), *others]

    def guided(self, default: float) -> Guidance:
        from scedit_cli.inference.denoising import Guidance

        scale = default if self.guidance is None else self.guidance
        return Guidance(scale, self.guidance_rescale or 0.0, *self.guidance_interval)


def option_of(field: str) -> str:
    """Return the option of `scedit generate` that sets this field of a request."""
    return _OPTIONS.get(field, f"--{field.replace('_', '-')}")

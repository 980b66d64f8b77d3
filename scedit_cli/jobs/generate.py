"""Pictures from prompts, condition pictures and tuners, written with all that is needed to make them again."""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from scedit_cli import __version__, conditions
from scedit_cli.base import Base, load_base
from scedit_cli.controls import (
    Condition,
    PlacedTuner,
    agreed_size,
    annotator_for,
    check_base,
    open_condition,
    open_photo,
    place_tuners,
)
from scedit_cli.core.attach import attach
from scedit_cli.data.pictures import SUFFIXES
from scedit_cli.errors import SceditError
from scedit_cli.files import write_whole
from scedit_cli.jobs.progress import Note, OnEvent, Progress
from scedit_cli.pipelines import EMBEDDED
from scedit_cli.sampling import check_size, sample, to_hints
from scedit_cli.sampling import grid as grid_of
from scedit_cli.specs import parse_condition, parse_tuner

_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}
_NUMBERED = re.compile(r"(\d+)(?:-grid)?\.\w+")
_IMAGE_DESCRIPTION = 0x010E  # the EXIF tag for free text
_GRID_COLUMNS = 6  # pictures side by side


@dataclass(frozen=True)
class GeneratedImage:
    """A picture as written; `scores` are its consistencies in [0, 1] by condition, and `measures` the figures beside
    each, in their own units; both empty unless asked for."""

    path: Path
    seed: int
    prompt: str
    scores: dict[str, float] = field(default_factory=dict)
    measures: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class GenerateResult:
    """What was written, on which base, and how many seconds it took."""

    images: list[GeneratedImage]
    grid: Path | None
    base: str
    seconds: float

    def document(self) -> dict:
        """What --json writes."""
        return {
            "images": [asdict(image) | {"path": str(image.path)} for image in self.images],
            "grid": str(self.grid) if self.grid else None,
            "base": self.base,
            "seconds": round(self.seconds, 3),
        }

    def summary(self) -> list[tuple[str, str]]:
        """What a person reads: a row per file."""
        rows = []
        for image in self.images:
            facts = [f"seed {image.seed}", image.prompt, *(f"{kind} {s:.3f}" for kind, s in image.scores.items())]
            rows.append((str(image.path), " · ".join(fact for fact in facts if fact)))
        return rows + ([(str(self.grid), "all of them")] if self.grid else [])


def generate(
    *,
    prompts: Sequence[str] = ("",),
    conds: Sequence[str] = (),
    conds_from: Sequence[str] = (),
    tuners: Sequence[str] = (),
    base: str = EMBEDDED,
    revision: str | None = None,
    negative: str = "",
    seed: int = 0,
    num: int = 1,
    steps: int | None = None,
    guidance: float | None = None,
    scheduler: str | None = None,
    width: int | None = None,
    height: int | None = None,
    out: str | Path | None = None,
    grid: bool = False,
    score: bool = False,
    overwrite: bool = False,
    batch_size: int = 8,
    dtype: torch.dtype | None = None,
    device: str | None = None,
    on_event: OnEvent | None = None,
) -> GenerateResult:
    """Generate pictures and write them.

    Args:
        prompts: each gets `num` pictures, of the seeds `seed`, `seed + 1`, ….
        conds: condition pictures, `[KIND=]FILE[:SCALE[:START-END]]`; left out, the kind is told by the name of the
            file or its folder. They fix the pictures' size.
        conds_from: `KIND=PHOTO[:SCALE[:START-END]]`, photos that are made into condition pictures first.
        tuners: `FILE[:SCALE]`, or the name of a shipped tuner. On the embedded base, a condition that none of them
            takes gets the shipped tuner of its kind.
        base, revision, dtype, device: as for `load_base`.
        steps, guidance, scheduler: by default the base's.
        width, height: in pixels; by default the conditions', else the base's.
        out: a picture's name (further pictures are numbered after it), or a folder, where pictures get the next free
            numbers; by default the folder "pictures".
        grid: also write one labelled picture of them all.
        score: measure each picture's consistency with each condition.
        overwrite: replace the pictures that `out` names.

    Raises:
        SceditError: bad input; nothing is written then.
        WorkFailed: the sampled latents are not numbers, or memory or disk ran out.
    """
    started = time.monotonic()
    tell = on_event or (lambda event: None)
    prompts = list(prompts) or [""]
    out = Path(out or "pictures").expanduser()
    _check_numbers(seed=seed, num=num, steps=steps, guidance=guidance, batch_size=batch_size)
    _places(out, len(prompts) * num, overwrite, grid)

    given = [open_condition(parse_condition(text)) for text in conds]
    photos = [open_photo(parse_condition(text, "--cond-from"), width, height) for text in conds_from]
    if score:
        _check_scorable(given + photos, base)
    placed = place_tuners([parse_tuner(text) for text in tuners], given + photos, base)
    width, height = agreed_size(given + photos, width, height)

    frozen = load_base(base, revision=revision, dtype=dtype, device=device)
    width, height = width or frozen.defaults.resolution, height or frozen.defaults.resolution
    check_size(frozen, height, width, str((given + photos)[0].spec.file) if given or photos else "the picture")
    for each in placed:
        check_base(each, frozen)
    for prompt in frozen.overlong(prompts):
        tell(Note(f"this prompt is longer than the base reads, its end is left out: {prompt}"))

    steering = given + [photo.annotated(base) for photo in photos]
    steps = steps or frozen.defaults.steps
    guidance = frozen.defaults.guidance if guidance is None else guidance
    seeds = [seed + i for i in range(num)]
    orders = [(prompt, each) for prompt in prompts for each in seeds]
    attachment = None
    if placed:
        attachment = attach(
            frozen.unet, [each.tuner.to(frozen.device) for each in placed], [each.scale for each in placed]
        )
    try:
        pictures = sample(
            frozen,
            [prompt for prompt, _ in orders],
            attachment=attachment,
            hints={each.kind: to_hints(each.kind, [each.picture]) for each in steering},
            seeds=[each for _, each in orders],
            steps=steps,
            guidance=guidance,
            negative=negative,
            height=height,
            width=width,
            batch_size=batch_size,
            scheduler=scheduler,
            spans=[each.span for each in placed],
            on_step=lambda done, total: tell(Progress("generate", done, total)),
        )
    finally:
        if attachment:
            attachment.detach()

    settings = _settings(frozen, steering, placed) | {
        "negative": negative,
        "steps": steps,
        "guidance": guidance,
        "scheduler": scheduler or type(frozen.scheduler).__name__,
        "width": width,
        "height": height,
    }
    files, grid_file = _places(out, len(pictures), overwrite, grid)
    measured = steering if score else []
    scores = {
        c.kind: conditions.measured(c.kind, pictures, [c.picture] * len(pictures), annotator_for(c.kind, base))
        for c in measured
    }
    images = []
    for n, (file, picture, (prompt, each)) in enumerate(zip(files, pictures, orders, strict=True)):
        _write(file, picture, settings | {"prompt": prompt, "seed": each})
        figures = {kind: dict(values[n]) for kind, values in scores.items()}
        consistencies = {kind: values.pop("consistency") for kind, values in figures.items()}
        images.append(GeneratedImage(file, each, prompt, consistencies, figures))
    if grid:
        _write(grid_file, _labelled(pictures, prompts, seeds, steering), settings | {"prompts": prompts, "seed": seed})
    return GenerateResult(images, grid_file if grid else None, frozen.name, time.monotonic() - started)


def _check_numbers(**numbers: float | None) -> None:
    least = {"seed": 0, "guidance": 0}
    for name, value in numbers.items():
        if value is not None and not least.get(name, 1) <= value < 2**63 - 1:
            option = name.replace("_", "-")
            raise SceditError(f"--{option} is {value}", hint=f"give {least.get(name, 1)} or more")


def _check_scorable(steering: Sequence[Condition], base: str) -> None:
    if not steering:
        raise SceditError("--score compares pictures with conditions, and none is given", hint="add --cond FILE")
    for each in steering:
        if each.kind not in conditions.MEASURES:
            raise SceditError(
                f"{each.spec.file}: pictures cannot be scored against {each.kind} conditions",
                hint=f"leave --score out; it knows {', '.join(conditions.MEASURES)}",
            )
        conditions.check_measurable(each.kind, annotator_for(each.kind, base))


def _places(out: Path, count: int, overwrite: bool, with_grid: bool) -> tuple[list[Path], Path]:
    """Where `count` pictures and their grid go. In a folder, at the next free numbers.

    Raises:
        SceditError: a file stands in the way.
    """
    if out.suffix.lower() in _FORMATS and not out.is_dir():
        files = [out, *(out.with_stem(f"{out.stem}-{n}") for n in range(2, count + 1))]
        grid = out.with_stem(f"{out.stem}-grid")
        taken = [file for file in (*files, *([grid] if with_grid else [])) if file.exists()]
        if taken and not overwrite:
            raise SceditError(f"--out {taken[0]} exists already", hint="name another file, or add --overwrite")
        return files, grid
    if (out.exists() or out.suffix.lower() in SUFFIXES) and not out.is_dir():
        raise SceditError(
            f"--out {out} is a file that is no picture" if out.exists() else f"--out {out}: pictures are not written so",
            hint=f"name a folder, or a file ending in {', '.join(_FORMATS)}",
        )
    names = [_NUMBERED.fullmatch(file.name) for file in out.iterdir()] if out.is_dir() else []
    first = 1 + max((int(name[1]) for name in names if name), default=0)
    return [out / f"{n:04d}.png" for n in range(first, first + count)], out / f"{first:04d}-grid.png"


def _settings(base: Base, steering: Sequence[Condition], placed: Sequence[PlacedTuner]) -> dict:
    return {
        "program": f"scedit {__version__}",
        "base": base.name,
        "base_revision": base.revision,
        "base_fingerprint": base.fingerprint,
        "dtype": str(base.dtype).removeprefix("torch."),
        "conditions": [
            {"kind": c.kind, "file": str(c.spec.file), "scale": c.spec.scale, "span": [c.spec.start, c.spec.end]}
            for c in steering
        ],
        "tuners": [{"file": each.file, "condition": each.tuner.condition, "scale": each.scale} for each in placed],
    }


def _write(file: Path, picture: Image.Image, settings: dict) -> None:
    """The picture with its settings inside: a PNG's text chunk `scedit`, else the EXIF image description."""
    text = json.dumps(settings)
    if file.suffix.lower() == ".png":
        info = PngInfo()
        info.add_text("scedit", text)
        options = {"pnginfo": info}
    else:
        exif = Image.Exif()
        exif[_IMAGE_DESCRIPTION] = text
        options = {"exif": exif, "quality": 95}
    buffer = io.BytesIO()
    picture.save(buffer, _FORMATS[file.suffix.lower()], **options)
    write_whole(file, buffer.getvalue())


def _labelled(
    pictures: Sequence[Image.Image], prompts: Sequence[str], seeds: Sequence[int], steering: Sequence[Condition]
) -> Image.Image:
    """Conditions to the left, then pictures: a row per prompt, or several where its pictures are many."""
    across = min(_GRID_COLUMNS, len(seeds))
    rows, labels = [], []
    for number, prompt in enumerate(prompts):
        mine = pictures[number * len(seeds) : (number + 1) * len(seeds)]
        for at in range(0, len(mine), across):
            shown = [each.picture if at == 0 else None for each in steering]
            rows.append([*shown, *mine[at : at + across]])
            labels.append(prompt if at == 0 else "")
    headings = [f"seed {each}" for each in seeds] if len(seeds) <= across else [""] * across
    return grid_of(rows, [*(each.kind for each in steering), *headings], labels if any(prompts) else None)

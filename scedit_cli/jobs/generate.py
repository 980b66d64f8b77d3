"""The job `scedit generate`: images from prompts, condition images and tuners, written with their settings."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from scedit_cli import scenes
from scedit_cli.generation.conditioning import Conditioning
from scedit_cli.generation.config import Request
from scedit_cli.generation.filenames import Names
from scedit_cli.generation.grid import sheet
from scedit_cli.generation.image_jobs import jobs_of
from scedit_cli.generation.provenance import encoded, request_from
from scedit_cli.generation.runner import ImageRunner, accelerator
from scedit_cli.generation.syntax import foreign_syntax
from scedit_cli.generation.web_ui import open_page, page, slots_for
from scedit_cli.inference.controls import PlacedTuner, as_taught, as_trained, check_base, doubt, load_placed, taught
from scedit_cli.inference.weighting import parsed
from scedit_cli.jobs.checks.generate import check, check_page
from scedit_cli.models.base import DTYPES, Base, load_base
from scedit_cli.models.loading import EMBEDDED, quiet, scheduler_in
from scedit_cli.models.schedulers import check_steps, scheduler_like
from scedit_cli.utils.devices import best_device
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.io import expanded
from scedit_cli.utils.reporter import SILENT, Reporter
from scedit_cli.utils.specs import parse_tuner


@dataclass(frozen=True)
class GeneratedImage:
    """A written image. `scores` are its consistencies in [0, 1] by condition, and `measures` further figures of each
    condition, in their own units, both empty without `score`; `scales` are the α that were set by name."""

    path: Path
    seed: int
    prompt: str
    scores: dict[str, float] = field(default_factory=dict)
    measures: dict[str, dict[str, float]] = field(default_factory=dict)
    scales: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class GenerateResult:
    """The written images, with base, device and duration in seconds; `conditions` are the condition images of the first
    image, by kind, as its tuners saw them."""

    images: list[GeneratedImage]
    grid: Path | None
    base: str
    seconds: float
    device: str = "cpu"
    conditions: dict[str, Image.Image] = field(default_factory=dict)

    def document(self) -> dict:
        """Return the document that --json writes."""
        return {
            "images": [asdict(image) | {"path": str(image.path)} for image in self.images],
            "grid": str(self.grid) if self.grid else None,
            "base": self.base,
            "device": self.device,
            "seconds": round(self.seconds, 3),
        }

    def summary(self) -> list[tuple[str, str]]:
        """Return the rows (file, facts) that a person reads."""
        rows = []
        for image in self.images:
            scales = [f"{name} at {scale:g}" for name, scale in image.scales.items()]
            scores = [f"{kind} {score:.3f}" for kind, score in image.scores.items()]
            facts = [f"seed {image.seed}", image.prompt, *scales, *scores]
            rows.append((str(image.path), " · ".join(fact for fact in facts if fact)))
        return rows + ([(str(self.grid), "all of them")] if self.grid else [])


def generate(
    request: Request,
    *,
    from_file: str | Path | None = None,
    out: str | Path | None = None,
    template: str | None = None,
    grid: bool = False,
    score: bool = False,
    overwrite: bool = False,
    loaded: Base | None = None,
    reporter: Reporter | None = None,
) -> GenerateResult:
    """Generate images and write them, batch by batch.

    Args:
        request: the images to make.
        from_file: an image that this function wrote; it is made again, with the changes that `request` states.
        out: an image file (further images are numbered after it), or a folder; by default the folder "pictures".
        template: the file names in the folder, with fields of `filenames.FIELDS`; by default the next free numbers.
        grid: also write one labelled grid of all images.
        score: measure each image's consistency with each of its conditions.
        overwrite: replace existing images that `out` and `template` name.
        loaded: the base, where it is loaded already.

    Raises:
        SceditError: the input is bad; nothing is written then.
        WorkFailed: the sampled latents are not finite, or memory or disk ran out.
    """
    check(
        request, from_file=from_file, out=out, template=template, grid=grid, score=score, overwrite=overwrite
    )
    started = time.monotonic()
    reporter = reporter or SILENT
    kept: dict[str, Any] = {}
    if from_file is not None:
        from_file = expanded(from_file)
        again, kept = request_from(from_file)
        if request.said():
            kept = kept | {"batch": None}
        request = request.over(again)
    orders = jobs_of(request)
    texts = dict.fromkeys(each for order in orders for each in (order.prompt, order.negative))
    if request.weighted:
        for text in texts:
            parsed(text)
    for told in foreign_syntax(texts, request.weighted):
        reporter.note(told)
    names = Names(expanded(out or "pictures"), template, overwrite)
    device = str(loaded.device) if loaded and not request.offload else request.device or str(best_device())
    steering = Conditioning.of(request, orders, request.base or EMBEDDED, score, device)

    if loaded is None:
        _check_sampler(request, steering.placed)
    base = loaded or _load(request, steering.placed)
    for placed in steering.placed:
        if told := check_base(placed, base, any_base=request.any_base):
            reporter.note(told)
        vae = placed.tuner.metadata.get("base_vae")
        if vae and vae != base.vae_name:
            reporter.note(f"{placed.file} was trained with another autoencoder: --vae {vae} takes it")
    base = as_taught(steering.placed, base)
    if told := doubt(base, steering.placed):
        reporter.note(told)
    if request.steps is None and request.guidance is None and (told := base.distillation_doubt):
        reporter.note(f"{told}: --steps 4 --guidance 1 takes it for a distilled one")
    if kept and kept.get("base_fingerprint") != base.fingerprint:
        raise SceditError(f"--from {from_file}: {base.name} has other weights now", hint="name its base with --base")
    if not request.weighted:
        for prompt in base.overlong(dict.fromkeys(order.prompt for order in orders)):
            reporter.note(f"this prompt is longer than the base reads, its end is left out: {prompt}")
    for text in steering.fit(base):
        reporter.note(text)
    run = ImageRunner(request, base, steering)
    batches = run.batches(orders)
    place, size = kept.get("batch") or (0, 1)
    first = names.first_number()
    places = names.places(first, [run.facts(order) for order in orders])
    images: dict[int, GeneratedImage] = {}
    pictures: dict[int, Image.Image] = {}
    taken: set[Path] = set()
    with run:
        for number, batch in enumerate(batches):
            # An image that is made again takes its old place in a batch, since sums in other batches round differently.
            fill = [orders[i] for i in batch] if size == 1 else [orders[batch[0]]] * size
            drawn = run.draw(fill, reporter.stage("generate").part(number, len(batches)))
            drawn = drawn if size == 1 else drawn[place : place + 1]
            figures = steering.measured(fill, drawn) if score else [{} for _ in drawn]
            for at, (i, picture) in enumerate(zip(batch, drawn, strict=True)):
                settings = run.settings(orders[i], [at, len(batch)] if size == 1 else [place, size])
                file = names.write(places[i], encoded(picture, places[i].suffix, settings), taken)
                taken.add(file)
                scores = {kind: each.pop("consistency") for kind, each in figures[at].items()}
                scales = dict(orders[i].scales)
                images[i] = GeneratedImage(file, orders[i].seed, orders[i].prompt, scores, figures[at], scales)
                if grid:
                    pictures[i] = picture
    grid_file = None
    if grid:
        place = names.grid(first)
        drawn = sheet(orders, [pictures[i] for i in range(len(orders))], [steering.shown(order) for order in orders])
        grid_file = names.write(place, encoded(drawn, place.suffix, run.settings(orders[0])), set())
    shown = steering.shown(orders[0])
    return GenerateResult(
        [images[i] for i in range(len(orders))], grid_file, base.name, time.monotonic() - started, device, shown
    )


def serve(
    request: Request,
    *,
    out: str | Path | None = None,
    host: str = "127.0.0.1",
    port: int | None = None,
    stop: threading.Event | None = None,
    reporter: Reporter | None = None,
) -> None:
    """Serve a page in the browser that generates images, until it is interrupted or `stop` is set.

    Args:
        request: the base and other settings of every image; the page offers its tuners, and on the embedded base the
            shipped ones.
        out: the folder of the images; by default "pictures".
        host, port: the address of the page; by default loopback, at a free port.

    Raises:
        SceditError: `request` sets a field of the page, gradio is not installed, a tuner is for another base, or the
            port is taken.
    """
    check_page(request, out)
    reporter = reporter or SILENT
    out = expanded(out or "pictures")
    base = _load(request, [placed for text in request.tuners for placed in load_placed(parse_tuner(text))])
    shipped = scenes.shipped_tuners() if base.name == EMBEDDED else []
    given = {parse_tuner(text).name for text in request.tuners}
    offered = [*request.tuners, *(name for name in shipped if name not in given)]

    def draw(asked: Request, page_reporter: Reporter) -> tuple[Path, dict[str, Image.Image]]:
        made = generate(asked, out=out, loaded=base, reporter=_OnPage(page_reporter, reporter))
        return made.images[0].path, made.conditions

    slots = slots_for(offered, base, request.any_base)
    blocks = page(replace(request, tuners=()), base, slots, out, draw)
    address = open_page(blocks, host, port, out)
    try:
        reporter.note(f"the page is at {address} · Ctrl-C ends it")
        (stop or threading.Event()).wait()
    finally:
        blocks.close(verbose=False)


class _OnPage(Reporter):
    """A reporter that shows progress on the page and notes in the terminal."""

    def __init__(self, page: Reporter, terminal: Reporter) -> None:
        self.progress, self.note = page.progress, terminal.note


def _check_sampler(request: Request, placed: Sequence[PlacedTuner]) -> None:
    """Raise SceditError for a sampler's name, settings or steps that do not suit the base's scheduler, before its
    weights are loaded. Where `--prediction` or a tuner changes that scheduler, the loaded base is checked later."""
    scheduler = scheduler_in(request.base or EMBEDDED)
    if scheduler is None or not (request.scheduler or request.steps):
        return
    own = scheduler.config.get("prediction_type")
    if request.prediction in (None, own) and all(taught(each.tuner) in (None, (own, False)) for each in placed):
        with quiet():
            sampler = scheduler_like(scheduler, request.scheduler)
            if request.steps:
                check_steps(sampler, request.steps, request.scheduler)


def _load(request: Request, placed: Sequence[PlacedTuner]) -> Base:
    dtype, device = DTYPES.get(request.dtype), request.device
    if request.offload:
        accelerator(request.device)
        dtype, device = dtype or torch.bfloat16, "cpu"  # the precision that the base will have on the accelerator
    return load_base(
        as_trained(request.base or EMBEDDED, placed),
        vae=request.vae,
        prediction=request.prediction,
        dtype=dtype,
        device=device,
    )

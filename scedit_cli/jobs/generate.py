"""The job `scedit generate`: images from prompts, controls and tuners, written with their settings."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from scedit_cli import scenes
from scedit_cli.exporting.running import UNetFolder
from scedit_cli.generation.conditioning import Conditioning
from scedit_cli.generation.config import BaseConfig, GenerationConfig, InitImage, OutputConfig, Overrides, Prompt
from scedit_cli.generation.drawing import draw_images, draw_videos
from scedit_cli.generation.image_jobs import ImageJob, jobs_of
from scedit_cli.generation.results import GenerateResult
from scedit_cli.generation.runner import ImageRunner, accelerator
from scedit_cli.generation.syntax import foreign_syntax
from scedit_cli.generation.video import VideoFrames, VideoRunner, first_image, sized_for
from scedit_cli.generation.web_ui import open_page, page, slots_for
from scedit_cli.inference.config import Control, SamplerConfig
from scedit_cli.inference.controls import (
    PlacedTuner,
    as_trained,
    check_base,
    load_placed,
    prediction_note,
    rescheduled_for,
    trained_prediction,
)
from scedit_cli.inference.weighting import parsed
from scedit_cli.jobs.checks.generate import check, check_page, graph_base
from scedit_cli.jobs.checks.video import check_start
from scedit_cli.models.base import DTYPES, Base, default_dtype, load_base
from scedit_cli.models.loading import EMBEDDED, quiet, scheduler_in
from scedit_cli.models.schedulers import check_steps, scheduler_like
from scedit_cli.models.video import load_video_base
from scedit_cli.utils.devices import best_device
from scedit_cli.utils.errors import SceditError, in_field
from scedit_cli.utils.io import expanded
from scedit_cli.utils.reporter import SILENT, Reporter
from scedit_cli.utils.specs import TunerSpec

if TYPE_CHECKING:
    from scedit_cli.core.bundle import Bundle
    from scedit_cli.core.tuners import Tuner
    from scedit_cli.inference.denoising import Guidance

    AnyTuner = Tuner | Bundle | str | Path


def generate(
    prompts: str | Sequence[str | Prompt] = (),
    *,
    base: str | Path | Base | BaseConfig = EMBEDDED,
    tuners: Sequence[AnyTuner | tuple[AnyTuner, float] | TunerSpec] = (),
    controls: Sequence[Control] = (),
    overrides: Overrides = Overrides(),
    init: InitImage | None = None,
    seeds: int | Sequence[int] = 0,
    steps: int | None = None,
    guidance: float | None = None,
    sampler: SamplerConfig = SamplerConfig(),
    out: str | Path | OutputConfig | None = None,
    reporter: Reporter = SILENT,
) -> GenerateResult:
    """Generate images, batch by batch: one of every prompt with every seed. Nothing that is passed is changed.

    Args:
        prompts: the prompts; one empty prompt by default.
        base: the base: "scenes" (embedded), a diffusers folder, a single file, a hub id, or a loaded base.
        tuners: tuners or their files, each alone or as a pair with its scale α. On the embedded base, a condition that
            none of them takes gets the shipped tuner of its kind.
        controls: condition images, or photographs to make them of.
        overrides: scales, sweeps of scales, and masks by the name of a condition or SC-Tuner.
        init: an image to start from.
        seeds: one seed or several, from 0 to 2⁶⁴ − 1.
        steps, guidance: those of `sampler`, for short.
        sampler: the settings of the sampler.
        out: an image file (further images are numbered after it), or a folder; None writes nothing.

    Raises:
        SceditError: the input is bad; `field` names the argument, and nothing is written then.
        WorkFailed: the sampled latents are not finite, or memory or disk ran out.
    """
    config = GenerationConfig.of(
        prompts=prompts, base=base, tuners=tuners, controls=controls, overrides=overrides, init=init, seeds=seeds,
        sampler=sampler, out=out,
    )  # fmt: skip
    for name, value in {"steps": steps, "guidance": guidance}.items():
        if value is not None:
            config = replace(config, sampler=replace(config.sampler, **{name: value}))
    return _generate(config, config.base.loaded, reporter)


def _generate(config: GenerationConfig, loaded: Base | None, reporter: Reporter) -> GenerateResult:
    """Generate images as `generate` does, on a base that is `loaded` already, if any."""
    check(config)
    if config.sampler.frames is not None:
        return _generate_videos(config, loaded, reporter)
    started = time.monotonic()
    graph = None if config.base.unet is None else UNetFolder(expanded(config.base.unet))
    if graph:
        own = replace(config.base, model=graph_base(config.base, graph.about))
        config = replace(config, base=own, tuners=(TunerSpec(graph.tuner),))
    jobs = jobs_of(config)
    _note_syntax(config, jobs, reporter)
    is_there = loaded and not config.base.offload
    device = str(loaded.device) if is_there else config.base.device or str(best_device())
    conditioning = Conditioning.of(config, jobs, loaded.name if loaded else str(config.base.model), device)
    base = _ready_base(config, loaded, conditioning.placed, reporter)
    if graph:
        base = graph.on(base)
    if not config.sampler.weighted:
        for prompt in base.overlong(dict.fromkeys(job.prompt for job in jobs)):
            reporter.note(f"this prompt is longer than the base reads, its end is left out: {prompt}")
    _note_idle_guidance(config.sampler.guided(base.defaults.guidance), jobs, reporter)
    for text in [*conditioning.doubts(), *conditioning.fit(base)]:
        reporter.note(text)
    images, grid = draw_images(ImageRunner(config, base, conditioning), jobs, reporter)
    seconds = time.monotonic() - started
    return GenerateResult(images, grid, base.name, seconds, device, conditioning.shown(jobs[0]))


def _generate_videos(config: GenerationConfig, loaded: Base | None, reporter: Reporter) -> GenerateResult:
    """Generate videos as `_generate` does images, one at a time."""
    started = time.monotonic()
    jobs = jobs_of(config)
    _note_syntax(config, jobs, reporter)
    device = str(loaded.device) if loaded else config.base.device or str(best_device())
    split = VideoFrames(config, jobs)
    name = loaded.name if loaded else str(config.base.model)
    conditioning = Conditioning.of(split.config, [each for frames in split.jobs for each in frames], name, device)
    base = _ready_base(config, loaded, conditioning.placed, reporter)
    check_start(config, base.takes_image)
    if not base.takes_image:
        for prompt in base.overlong(dict.fromkeys(job.prompt for job in jobs)):
            reporter.note(f"this prompt is longer than the base reads, its end is left out: {prompt}")
    image = first_image(config)
    conditioning.config = sized_for(split.config, base, image)
    for notes in (conditioning.doubts(), conditioning.fit(base)):
        if notes:
            reporter.note(notes[0] + (f", and {len(notes) - 1} more alike" if notes[1:] else ""))
    if len({conditioning.size(each) for frames in split.jobs for each in frames}) > 1:
        hint = "give `width` and `height`, or frames of one size"
        raise SceditError("controls: the frames differ in size", hint, "controls")
    videos = draw_videos(VideoRunner(config, base, conditioning, image), split, jobs, reporter)
    shown = conditioning.shown(split.jobs[0][0])
    return GenerateResult(videos, None, base.name, time.monotonic() - started, device, shown)


def serve(
    config: GenerationConfig,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    command_of: Callable[[GenerationConfig], str] = lambda config: "",
    stop: threading.Event | None = None,
    reporter: Reporter = SILENT,
) -> None:
    """Serve a page in the browser that generates images, until it is interrupted or `stop` is set.

    Args:
        config: the base and other settings of every image, and their folder; the page offers its tuners, and on the
            embedded base the shipped ones.
        host, port: the address of the page; by default loopback, at a free port.
        command_of: returns the command that makes the image of a configuration, to be shown beside it.

    Raises:
        SceditError: gradio is not installed, a tuner is for another base, or the port is taken.
    """
    check_page(config)
    out = expanded(config.out.path)
    base = config.base.loaded or _load(config.base, [each for spec in config.tuners for each in load_placed(spec)])
    shipped = scenes.shipped_tuners() if base.name == EMBEDDED else []
    given = {spec.source for spec in config.tuners}
    offered = [*config.tuners, *(TunerSpec(name) for name in shipped if name not in given)]

    def draw(asked: GenerationConfig, page_reporter: Reporter) -> tuple[Path, dict[str, Image.Image]]:
        made = _generate(asked, base, _OnPage(page_reporter, reporter))
        return made.images[0].path, made.conditions

    slots = slots_for(offered, base, config.base.any_base)
    blocks = page(replace(config, tuners=()), base, slots, out, draw, command_of)
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


def _note_syntax(config: GenerationConfig, jobs: Sequence[ImageJob], reporter: Reporter) -> None:
    """Check weighted prompts, and report syntax in prompts that nothing reads."""
    texts = dict.fromkeys(text for job in jobs for text in (job.prompt, job.negative))
    if config.sampler.weighted:
        for text in texts:
            parsed(text)
    for note in foreign_syntax(texts, config.sampler.weighted):
        reporter.note(note)


def _note_idle_guidance(guidance: Guidance, jobs: Sequence[ImageJob], reporter: Reporter) -> None:
    """Report what has no effect without guidance."""
    given = {
        "the negative prompt": any(job.negative for job in jobs),
        "`guidance_rescale`": guidance.rescale > 0,
        "`guidance_span`": (guidance.start, guidance.end) != (0, 1),
    }
    if guidance.scale <= 1 and (idle := [name for name, is_given in given.items() if is_given]):
        have = "has" if len(idle) == 1 else "have"
        reporter.note(f"{' and '.join(idle)} {have} no effect at a guidance of {guidance.scale:g}, which is none")


def _ready_base(
    config: GenerationConfig, loaded: Base | None, placed: Sequence[PlacedTuner], reporter: Reporter
) -> Base:
    """Load the base, unless it is `loaded`, check that the tuners are for it, and return it with the prediction type
    that they were trained with."""
    if config.sampler.frames is not None:
        base = loaded or _load_for_videos(config.base)
    else:
        if not loaded:
            _check_sampler(config, placed)
        base = loaded or _load(config.base, placed)
    for each in placed:
        if note := check_base(each, base, any_base=config.base.any_base):
            reporter.note(note)
        vae = each.tuner.metadata.get("base_vae")
        if vae and vae != base.vae_name:
            reporter.note(f"{each.file} was trained with another autoencoder: `vae={vae}` takes it")
    base = rescheduled_for(placed, base)
    if note := prediction_note(base, placed):
        reporter.note(note)
    if config.sampler.steps is None and config.sampler.guidance is None and (note := base.distillation_doubt):
        reporter.note(f"{note}: `steps=4` `guidance=1` takes it for a distilled one")
    if config.base.fingerprint not in (None, base.fingerprint):
        message = f"base.fingerprint: {base.name} has other weights now"
        raise SceditError(message, "name its base with `base`", "base.fingerprint")
    return base


def _check_sampler(config: GenerationConfig, placed: Sequence[PlacedTuner]) -> None:
    """Raise SceditError for a sampler's name, settings or steps that do not suit the base's scheduler, before its
    weights are loaded. Where `prediction` or a tuner changes that scheduler, the loaded base is checked later."""
    sampler, scheduler = config.sampler, scheduler_in(config.base.model)
    if scheduler is None or not (sampler.scheduler or sampler.steps):
        return
    own = scheduler.config.get("prediction_type")
    alike = all(trained_prediction(each.tuner) in (None, (own, False)) for each in placed)
    if config.base.prediction in (None, own) and alike:
        with quiet(), in_field("sampler", named=False):
            made = scheduler_like(scheduler, sampler.scheduler)
            if sampler.steps:
                check_steps(made, sampler.steps, sampler.scheduler)


def _load_for_videos(config: BaseConfig) -> Base:
    return load_video_base(str(config.model), dtype=DTYPES.get(config.dtype), device=config.device)


def _load(config: BaseConfig, placed: Sequence[PlacedTuner]) -> Base:
    dtype, device = DTYPES.get(config.dtype), config.device
    if config.offload:
        dtype, device = dtype or default_dtype(config.model, accelerator(config.device)), "cpu"
    return load_base(
        as_trained(str(config.model), placed), vae=config.vae, prediction=config.prediction, dtype=dtype, device=device
    )

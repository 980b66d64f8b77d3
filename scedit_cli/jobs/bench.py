"""The job `scedit bench`: cost and quality of training methods, scores of tuners, and effects of skips."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from scedit_cli.benchmark import compare, quality
from scedit_cli.benchmark.architecture import architecture, architecture_of
from scedit_cli.benchmark.baseline import check_comparable, read_baseline, same_machine, worse
from scedit_cli.benchmark.compare import Costs, Further
from scedit_cli.benchmark.config import BenchConfig
from scedit_cli.benchmark.document import read_result
from scedit_cli.benchmark.evaluation import Evaluation
from scedit_cli.benchmark.measure import settled
from scedit_cli.benchmark.modes import BASE, read_size, read_tolerance
from scedit_cli.benchmark.plot import draw
from scedit_cli.benchmark.quality_plot import draw_quality, is_drawn
from scedit_cli.benchmark.report import quality_facts
from scedit_cli.benchmark.result_cache import ResultCache
from scedit_cli.benchmark.results import BenchResult, facts
from scedit_cli.benchmark.sampling import step_times
from scedit_cli.inference.controls import (
    PlacedTuner,
    as_trained,
    check_base,
    load_placed,
    prediction_note,
    rescheduled_for,
)
from scedit_cli.jobs.checks.bench import check
from scedit_cli.models.base import DTYPES, EMBEDDED, Base, load_base
from scedit_cli.utils.devices import best_device
from scedit_cli.utils.errors import SceditError, WorkFailed
from scedit_cli.utils.io import as_json, check_place, expanded, whole, write_whole
from scedit_cli.utils.reporter import SILENT, Reporter
from scedit_cli.utils.specs import parse_tuner

_STEPS, _SAMPLING_STEPS = 10, 9  # timed by default
_BATCHES = (1, 16)  # at which peak memory is estimated besides the measured batch


def bench(
    *,
    base: str | None = None,
    prediction: str | None = None,
    methods: Sequence[str] | None = None,
    batch: int | None = None,
    resolution: int | None = None,
    dtype: str | None = None,
    device: str | None = None,
    steps: int | None = None,
    rounds: int | None = None,
    compiled: bool = False,
    lora_rank: int | None = None,
    lora_feed_forward: bool = False,
    down_ratio: float | None = None,
    quantize: str | None = None,
    offload: str | None = None,
    beside: Sequence[str] = (),
    fits: str | None = None,
    batches: Sequence[int] | None = None,
    estimate: bool = False,
    sampling: bool = False,
    skips: bool = False,
    skip_scale: float | None = None,
    skip_noise: float | None = None,
    quality: bool = False,
    tuners: Sequence[str] = (),
    scenes: int | None = None,
    seconds: float | None = None,
    seeds: int | None = None,
    learning_rates: Mapping[str, float] | None = None,
    keep: str | Path | None = None,
    show: str | Path | None = None,
    plot: str | Path | None = None,
    baseline: str | Path | None = None,
    tolerance: float | str | None = None,
    out: str | Path | None = None,
    reporter: Reporter | None = None,
) -> BenchResult:
    """Compare training methods on a base by the cost of their steps, each method in its own process; or make the
    measurement that `estimate`, `sampling`, `skips` or `quality` (also with `tuners`) selects. An option that would
    do nothing is refused, and so is a place that cannot be written to; a failure to write the finished result becomes
    its `unwritten`.

    Args:
        base: "sd15", "sd21" or "sdxl" with random weights, or as for `load_base`. By default sd15 on an accelerator;
            without one the embedded base is measured, and sd15 estimated beside it. `estimate` takes sd15.
        prediction: under `skips` and for `tuners`, as for `load_base`.
        methods: names from METHODS; by default DEFAULT_METHODS. A method that fails has no figures; a note says why.
        batch, resolution: images in a step, and their side in pixels.
        dtype: the precision of the frozen base: fp32, bf16 or fp16.
        device: by default the accelerator where there is one. For an estimate "cuda" or "cpu", whether this machine
            has it or not; "cpu" by default for the embedded base.
        steps: the number of training steps that are timed (10); under `quality` that every method is trained for;
            under `sampling` the number of sampling steps that are timed (9); under `skips` the sampler's steps.
        rounds: how often each method is measured, in turns.
        compiled: whether the models are compiled by `torch.compile`.
        lora_rank, lora_feed_forward: r of LoRA, and whether it is also on the feed-forward layers.
        down_ratio: hidden width of SC- and CSC-Tuners as a share of the channels; 1.0 by default.
        quantize, offload: the storage of the frozen weights, as in recipes, and "encoder" to keep the encoder in the
            host's memory.
        beside: what an estimate counts besides a step's tensors: of "vae" and "text", encoders in the training loop,
            and "reserve", what PyTorch holds beyond its tensors.
        fits: a memory size such as "12GiB", for which the largest batch of each method is reported.
        batches: the batch sizes at which peak memory is estimated, for the plot.
        estimate: report exact parameters and operations and predicted memory; no step is made.
        sampling: time what tuners and a ControlNet add to a sampling step, at 256 pixels in fp32 by default.
        skips: measure what each skip connection carries.
        skip_scale, skip_noise: the factor of skips, and their noise in units of their standard deviation.
        quality: with `tuners` (`FILE[:SCALE]`), measure their scores over held-out scenes, attached together. Without,
            measure the embedded base and `methods` trained on it; the method "base" alone trains none.
        scenes: the number of held-out scenes: 128, under `skips` 16, or 4 off the embedded base.
        seconds, seeds, learning_rates: for the trainings under `quality`, the time of every method, on a CPU processor
            time (75, with 400 steps, where neither is given), the number of seeds (3), and learning rates by method.
        keep: a folder for finished trainings under `quality`, from which a stopped benchmark resumes.
        show: an earlier document that is the result; nothing is measured.
        plot: the file of a figure of the result.
        baseline: an earlier document; the result's `worse` lists the figures that fell behind it.
        tolerance: the share by which a figure may fall behind the baseline's, such as "5%" or 0.05 (the default).
        out: a file for the document.

    Raises:
        SceditError: an option is invalid or would do nothing.
        WorkFailed: no method could be measured.
    """
    mode, chosen = check({name: value for name, value in locals().items() if name != "reporter"})
    reporter = reporter or SILENT
    share = read_tolerance(str(0.05 if tolerance is None else tolerance))
    shown = read_result(Path(show), "--show") if show else None
    compared = chosen if not shown else [each.method for each in shown.costs.results]
    before = read_baseline(Path(baseline), [] if quality else compared) if baseline else None
    if shown and plot and not (shown.costs.results or is_drawn(shown.quality)):
        raise SceditError(f"--plot {plot}: {show} holds no figures of methods, which are drawn", hint="leave it out")
    for place in (plot, out, keep and expanded(keep) / "paces.json"):
        if place:
            check_place(place)

    def check_baseline(setting: BenchConfig) -> None:
        if before:
            check_comparable(Path(baseline), before, BenchResult(Costs(setting, [])).document())

    sizes = lora_rank or 64, lora_feed_forward, 1.0 if down_ratio is None else down_ratio
    storage = {"quantize": quantize or "none", "offload": offload or "none", "beside": tuple(beside)}
    wanted = BenchConfig(base or "", batch, resolution, dtype, None, *sizes, **storage)
    if shown:
        check_baseline(shown.setting)
        result = shown
    elif mode == "--quality --tuner":
        result = _score(wanted, device, prediction, tuners, scenes or 128, check_baseline, reporter)
    elif mode == "--quality":
        budget = _budget(steps, seconds, batch)
        of = seeds or 3, scenes or 128, learning_rates or {}, ResultCache(keep)
        result = _train(chosen, wanted, device, budget, *of, check_baseline, reporter)
    elif mode == "--sampling":
        result = _sample(replace(wanted, steps=steps or _SAMPLING_STEPS), device, reporter)
    elif mode == "--skips":
        result = _skips(replace(wanted, steps=steps), device, prediction, scenes, skip_scale, skip_noise, reporter)
    else:
        further = Further(read_size(fits) if fits else None, tuple(batches or (_BATCHES if plot else ())))
        watch = {"check": check_baseline, "reporter": reporter}
        if estimate:
            result = BenchResult(compare.estimate_all(chosen, wanted, device, further, **watch))
        else:
            wanted = replace(wanted, steps=steps or _STEPS, compiled=compiled)
            result = BenchResult(*compare.measure_all(chosen, wanted, rounds or 1, further, device, **watch))
    if before:
        document = result.document()
        if not same_machine(before, document):
            reporter.note(f"{baseline} is from another machine ({before['device']}): memory and speed are not compared")
        result = replace(result, worse=worse(before, document, share))
    return _written(result, plot, out)


def _written(result: BenchResult, plot: str | Path | None, out: str | Path | None) -> BenchResult:
    """Write figure and document, and return `result` with the figure's path. An error of writing becomes `unwritten`,
    so that the measurements are not lost."""
    failed = None
    if plot:
        try:
            result = replace(result, plot=_drawn(result, Path(plot)))
        except (SceditError, OSError) as error:
            failed = error
    if out:
        try:
            write_whole(out, as_json(result.document()))
        except (SceditError, OSError) as error:
            failed = error
    return replace(result, unwritten=failed)


def _drawn(result: BenchResult, plot: Path) -> Path | None:
    """Draw the figure and return `plot`, or None where the result has nothing to draw."""
    if result.grid:
        with whole(plot) as part:
            result.grid.save(part)
    elif is_drawn(result.quality):
        draw_quality(plot, result.quality, f"{facts(result.setting)}, {quality_facts(result.quality)}")
    elif result.costs.results:
        draw(plot, [each for each in (result.costs, result.estimate) if each])
    else:
        return None
    return plot


def _sample(wanted: BenchConfig, device: str | None, reporter: Reporter) -> BenchResult:
    place = torch.device(device or best_device())
    shape = architecture(wanted.base or EMBEDDED)
    wanted = replace(wanted, base=shape.name, resolution=wanted.resolution or 256, dtype=wanted.dtype or "fp32")
    setting = replace(settled(wanted, shape, place), batch=None)
    times = step_times(
        shape, setting.resolution, setting.dtype, setting.steps, place, reporter.stage("timing")
    )
    return BenchResult(Costs(setting, []), sampling=times)


def _skips(
    wanted: BenchConfig,
    device: str | None,
    prediction: str | None,
    scenes: int | None,
    scale: float | None,
    noise: float | None,
    reporter: Reporter,
) -> BenchResult:
    from scedit_cli.benchmark.skips import study_skips

    model = wanted.base or EMBEDDED
    base = _load(model, wanted, device, prediction, [], reporter)
    shape = architecture_of(base)
    wanted = replace(wanted, base=model, steps=wanted.steps or base.defaults.steps)
    setting = replace(settled(wanted, shape, base.device), batch=None)
    effects, picture = study_skips(
        base,
        scenes or (16 if base.name == EMBEDDED else 4),
        scale=0.5 if scale is None else scale,
        noise=1.0 if noise is None else noise,
        resolution=setting.resolution,
        steps=setting.steps,
        reporter=reporter.stage("drawing"),
    )
    if base.name != EMBEDDED:
        reporter.note("text agreement is not measured: only the embedded base has a reader of pictures")
    return BenchResult(Costs(setting, []), skips=effects, grid=picture)


def _load(
    model: str,
    wanted: BenchConfig,
    device: str | None,
    prediction: str | None,
    placed: Sequence[PlacedTuner],
    reporter: Reporter,
) -> Base:
    dtype = DTYPES[wanted.dtype] if wanted.dtype else None
    base = load_base(model, dtype=dtype, device=device, prediction=prediction)
    if told := prediction_note(base, placed):
        reporter.note(told)
    return base


def _budget(steps: int | None, seconds: float | None, batch: int | None) -> quality.Budget:
    """Return the budget: the given `steps` and `seconds`, or the defaults of both where neither is given."""
    usual = quality.Budget()
    if not (steps or seconds):
        steps, seconds = usual.steps, usual.seconds
    return quality.Budget(steps, seconds, batch or usual.batch)


def _train(
    methods: Sequence[str],
    wanted: BenchConfig,
    device: str | None,
    budget: quality.Budget,
    seeds: int,
    scenes: int,
    rates: Mapping[str, float],
    kept: ResultCache,
    check: Callable[[BenchConfig], None],
    reporter: Reporter,
) -> BenchResult:
    """Measure the quality of the embedded base itself, then of each method trained on it."""
    if scenes < 2 and set(methods) - {BASE}:
        raise SceditError("--scenes 1: methods are judged over two scenes at least", hint="128 are usual")
    base = load_base(EMBEDDED, device=device)
    wanted = replace(wanted, base=EMBEDDED, batch=budget.batch)
    setting = settled(wanted, architecture(EMBEDDED), base.device)
    check(setting)
    able = []
    for method in [each for each in methods if each != BASE]:
        try:
            quality.parameters_of(method, setting)
            able.append(method)
        except (RuntimeError, ValueError) as error:
            reporter.note(f"{method} cannot be had on the embedded base: {error}")
    exam = Evaluation(base, scenes, kept)
    own = exam.limits
    found = {BASE: {"psnr": own.psnr, "objects": own.objects, "scenes": scenes}}
    reporter.progress(1, 1, "the base itself")
    comparison = quality.Comparison(setting, budget, seeds, rates, exam, kept)
    found |= comparison.of([each for each in methods if each in able], reporter)
    if not able and set(methods) - {BASE}:
        raise WorkFailed(f"none of {', '.join(methods)} could be trained on the embedded base")
    return BenchResult(Costs(setting, []), quality=found)


def _score(
    wanted: BenchConfig,
    device: str | None,
    prediction: str | None,
    tuners: Sequence[str],
    scenes: int,
    check: Callable[[BenchConfig], None],
    reporter: Reporter,
) -> BenchResult:
    from scedit_cli.benchmark.tuner_scores import scores_of

    placed = [each for text in tuners for each in load_placed(parse_tuner(text))]
    model = as_trained(wanted.base or EMBEDDED, placed)
    base = _load(model, wanted, device, prediction, placed, reporter)
    for each in placed:
        check_base(each, base)
    base = rescheduled_for(placed, base)
    shape = architecture_of(base)
    setting = replace(settled(replace(wanted, base=model), shape, base.device), batch=None)
    check(setting)
    found = scores_of(
        base,
        [each.tuner for each in placed],
        [each.scale for each in placed],
        scenes,
        reporter.stage("drawing"),
    )
    return BenchResult(Costs(setting, []), quality=found)

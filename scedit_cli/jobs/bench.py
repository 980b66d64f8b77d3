"""The job `scedit bench`: cost and quality of training methods, scores of tuners, and effects of skips."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, astuple, replace
from pathlib import Path

import torch

from scedit_cli.benchmark import compare, quality
from scedit_cli.benchmark.architecture import architecture, architecture_of
from scedit_cli.benchmark.baseline import check_comparable, read_baseline, same_machine, worse
from scedit_cli.benchmark.compare import Costs, Further
from scedit_cli.benchmark.config import BenchConfig
from scedit_cli.benchmark.document import read_result
from scedit_cli.benchmark.evaluation import Evaluation
from scedit_cli.benchmark.machine_load import MachineLoad, warning
from scedit_cli.benchmark.measure import settled
from scedit_cli.benchmark.modes import BASE
from scedit_cli.benchmark.plot import draw
from scedit_cli.benchmark.quality_plot import draw_quality, is_drawn
from scedit_cli.benchmark.report import quality_facts
from scedit_cli.benchmark.requests import (
    CostRequest,
    EarlierResult,
    EvaluationRequest,
    LearningRequest,
    Output,
    Request,
    SamplingRequest,
    SkipsRequest,
)
from scedit_cli.benchmark.results import BenchResult, facts
from scedit_cli.benchmark.reuse import draw_reuse, reuse_curve
from scedit_cli.benchmark.sampling import step_times
from scedit_cli.inference.controls import prediction_note
from scedit_cli.jobs.checks.bench import check
from scedit_cli.models.base import DTYPES, EMBEDDED, Base, load_base
from scedit_cli.utils.devices import best_device
from scedit_cli.utils.distributed import Share
from scedit_cli.utils.errors import SceditError, WorkFailed
from scedit_cli.utils.io import as_json, check_place, expanded, whole, write_whole
from scedit_cli.utils.reporter import SILENT, Reporter
from scedit_cli.utils.result_cache import ResultCache

_STEPS = 10  # timed by default


def bench(request: Request, output: Output = Output(), reporter: Reporter | None = None) -> BenchResult:
    """Make the measurement that `request` describes. A place that cannot be written to is refused before it; a failure
    to write the finished result becomes its `unwritten`.

    Raises:
        SceditError: the request is invalid.
        WorkFailed: no method could be measured.
    """
    check(request, output)
    reporter, load = reporter or SILENT, MachineLoad()
    shown = read_result(request.path, "`show`") if isinstance(request, EarlierResult) else None
    of_scores = isinstance(request, LearningRequest | EvaluationRequest)
    compared = [each.method for each in shown.costs.results] if shown else getattr(request, "methods", ())
    before = read_baseline(output.baseline, [] if of_scores else compared) if output.baseline else None
    if shown and output.plot and not (shown.costs.results or is_drawn(shown.quality)):
        raise SceditError(
            f"`plot` {output.plot}: {request.path} holds no figures of methods, which are drawn", hint="leave it out"
        )
    keep = getattr(request, "keep", None)
    for place in (output.plot, output.out, keep and expanded(keep) / "paces.json"):
        if place:
            check_place(place)

    def check_baseline(setting: BenchConfig) -> None:
        if before:
            check_comparable(output.baseline, before, BenchResult(Costs(setting, [])).document())

    match request:
        case EarlierResult():
            check_baseline(shown.setting)
            result = shown
        case EvaluationRequest():
            result = _evaluate(request, check_baseline, reporter)
        case LearningRequest():
            result = _train(request, check_baseline, reporter)
        case SamplingRequest():
            result = _sample(request, bool(output.plot), reporter)
        case SkipsRequest():
            result = _skips(request, reporter)
        case CostRequest():
            result = _cost(request, check_baseline, reporter)
    if not (shown or isinstance(request, CostRequest) and request.estimate):
        busy = load.of_others()
        result = replace(result, environment=result.environment | {"others_percent": round(100 * busy)})
        if note := warning(busy):
            reporter.note(note)
    if before:
        document = result.document()
        if not same_machine(before, document):
            told = f"{output.baseline} is from another machine ({before['device']}): memory and speed are not compared"
            reporter.note(told)
        result = replace(result, worse=worse(before, document, output.tolerance))
    if not Share.mine().is_first:
        return replace(result, is_first=False)
    return _written(result, output.plot, output.out)


def _cost(request: CostRequest, check: Callable[[BenchConfig], None], reporter: Reporter) -> BenchResult:
    sizes, memory = astuple(request.sizes), asdict(request.held) | {"beside": tuple(request.held.beside)}
    wanted = BenchConfig(request.base or "", request.batch, request.resolution, request.dtype, None, *sizes, **memory)
    further = Further(request.fits, tuple(request.batches))
    watch = {"check": check, "reporter": reporter}
    if request.estimate:
        return BenchResult(compare.estimate_all(request.methods, wanted, request.device, further, **watch))
    wanted = replace(wanted, steps=request.steps or _STEPS, compiled=request.compiled)
    return BenchResult(
        *compare.measure_all(request.methods, wanted, request.rounds, further, request.device, **watch)
    )


def _written(result: BenchResult, plot: Path | None, out: Path | None) -> BenchResult:
    """Write figure and document, and return `result` with the figure's path. An error of writing becomes `unwritten`,
    so that the measurements are not lost."""
    failed = None
    if plot:
        try:
            result = replace(result, plot=_drawn(result, plot))
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
    elif result.reuse:
        draw_reuse(plot, result.reuse)
    elif result.costs.results:
        draw(plot, [each for each in (result.costs, result.estimate) if each])
    else:
        return None
    return plot


def _sample(request: SamplingRequest, with_reuse: bool, reporter: Reporter) -> BenchResult:
    place = torch.device(request.device or best_device())
    shape = architecture(request.base or EMBEDDED)
    wanted = BenchConfig(
        shape.name, resolution=request.resolution, dtype=request.dtype or "fp32", steps=request.steps
    )
    setting = replace(settled(wanted, shape, place), batch=None)
    times = step_times(
        shape, setting.resolution, setting.dtype, setting.steps, place, reporter.stage("timing")
    )
    how = setting.resolution, setting.dtype, setting.steps
    curve = reuse_curve(shape, *how, request.scenes, place, reporter) if with_reuse else []
    return BenchResult(Costs(setting, []), sampling=times, reuse=curve)


def _skips(request: SkipsRequest, reporter: Reporter) -> BenchResult:
    from scedit_cli.benchmark.skips import study_skips

    model = request.base or EMBEDDED
    base = _load(model, request, reporter)
    wanted = BenchConfig(model, None, request.resolution, request.dtype, steps=request.steps or base.defaults.steps)
    setting = replace(settled(wanted, architecture_of(base), base.device), batch=None)
    effects, picture = study_skips(
        base,
        request.scenes or (16 if base.name == EMBEDDED else 4),
        scale=request.scale,
        noise=request.noise,
        resolution=setting.resolution,
        steps=setting.steps,
        reporter=reporter.stage("drawing"),
    )
    if base.name != EMBEDDED:
        reporter.note("text agreement is not measured: only the embedded base has a reader of images")
    return BenchResult(Costs(setting, []), skips=effects, grid=picture)


def _load(model: str, request: SkipsRequest, reporter: Reporter) -> Base:
    dtype = DTYPES[request.dtype] if request.dtype else None
    base = load_base(model, dtype=dtype, device=request.device, prediction=request.prediction)
    if told := prediction_note(base):
        reporter.note(told)
    return base


def _budget(request: LearningRequest) -> quality.Budget:
    """Return the request's steps and seconds, or the defaults of both where neither is given."""
    usual, steps, seconds = quality.Budget(), request.steps, request.seconds
    if not (steps or seconds):
        steps, seconds = usual.steps, usual.seconds
    return quality.Budget(steps, seconds, request.batch or usual.batch)


def _train(request: LearningRequest, check: Callable[[BenchConfig], None], reporter: Reporter) -> BenchResult:
    """Measure the quality of the embedded base itself, then of each method trained on it."""
    methods, scenes, budget = request.methods, request.scenes, _budget(request)
    if scenes < 2 and set(methods) - {BASE}:
        raise SceditError("`scenes` 1: methods are judged over two scenes at least", "128 are usual", "scenes")
    base = load_base(EMBEDDED, device=request.device)
    wanted = BenchConfig(EMBEDDED, budget.batch, None, None, None, *astuple(request.sizes))
    setting = settled(wanted, architecture(EMBEDDED), base.device)
    check(setting)
    able = []
    for method in [each for each in methods if each != BASE]:
        try:
            quality.parameters_of(method, setting)
            able.append(method)
        except (RuntimeError, ValueError) as error:
            reporter.note(f"{method} cannot be had on the embedded base: {error}")
    kept = ResultCache(request.keep)
    evaluation = Evaluation(base, scenes, kept)
    own = evaluation.limits
    found = {BASE: {"psnr": own.psnr, "objects": own.objects, "scenes": scenes}}
    reporter.progress(1, 1, "the base itself")
    comparison = quality.Comparison(setting, budget, request.seeds, request.learning_rates, evaluation, kept)
    found |= comparison.of([each for each in methods if each in able], reporter)
    if not able and set(methods) - {BASE}:
        raise WorkFailed(f"none of {', '.join(methods)} could be trained on the embedded base")
    return BenchResult(Costs(setting, []), quality=found)


def _evaluate(request: EvaluationRequest, check: Callable[[BenchConfig], None], reporter: Reporter) -> BenchResult:
    from scedit_cli.benchmark.tuner_evaluation import evaluate_tuners

    found = evaluate_tuners(request, reporter, check)
    return BenchResult(Costs(found.setting, []), quality=found.quality, evaluation=found.details)

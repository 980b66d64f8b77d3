"""`scedit bench`: what training methods cost, side by side; or how much control tuners give."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from scedit_cli.base import EMBEDDED, load_base
from scedit_cli.benchmark.apart import measure_apart
from scedit_cli.benchmark.baseline import check_comparable, read_baseline, same_machine, worse
from scedit_cli.benchmark.measure import DTYPES, Conditions, Measurement, environment, settled
from scedit_cli.benchmark.methods import METHODS
from scedit_cli.benchmark.plot import check_plot, draw
from scedit_cli.controls import as_taught, check_base, load_placed
from scedit_cli.errors import SceditError, WorkFailed
from scedit_cli.files import write_whole
from scedit_cli.jobs.progress import Note, OnEvent, Progress
from scedit_cli.specs import parse_tuner

_DEFAULT_METHODS = ("sc", "csc", "lora", "full", "controlnet")
_STEPS = 10
_MIB = 2**20


@dataclass(frozen=True)
class BenchResult:
    """Figures of methods, or scores of tuners under `quality`, and what they were measured on.

    Attributes:
        quality: condition -> {score, with, without, reconstruction, scenes}; a lone SC-Tuner has "style" ->
            {nearer, objects, scenes}.
        worse: sentences, one for each figure that fell behind the baseline.
    """

    conditions: Conditions
    results: list[Measurement]
    quality: dict[str, dict[str, float | int | None]] = field(default_factory=dict)
    worse: list[str] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """What --json writes. No other base is estimated beside the one measured, so `estimate` is null."""
        return {
            **asdict(self.conditions),
            "results": [result.document() for result in self.results],
            "quality": self.quality,
            "estimate": None,
            "environment": environment(),
            "worse": self.worse,
        }

    def table(self) -> tuple[list[str], list[list[str]]]:
        """The header and rows that a person reads. Behind a figure stands its ratio to SC's."""
        if self.quality:
            header = ["", *next(iter(self.quality.values()))]
            return header, [[name, *map(_shown, scores.values())] for name, scores in self.quality.items()]
        header = ["method", "parameters", "of base", "of ControlNet", "GFLOP/step", "memory MiB", "images/s"]
        return header, [self._row(result) for result in self.results]

    def _row(self, result: Measurement) -> list[str]:
        sc = next((each for each in self.results if each.method == "sc"), None)

        def figure(name: str, unit: float, form: str, after: str = "", ratios: bool = True) -> str:
            value, reference = getattr(result, name), sc and getattr(sc, name)
            if value is None:
                return "–"
            ratio = f" ({value / reference:.2f}×)" if ratios and reference and result is not sc else ""
            return f"{value / unit:{form}}{after}{ratio}"

        quartiles = result.images_per_second_quartiles
        spread = f" ± {(quartiles[1] - quartiles[0]) / 2:.2g}" if quartiles else ""
        return [
            result.method,
            figure("trainable_parameters", 1e6, ".3g", " M", ratios=False),
            _percent(result.share_of_base),
            _percent(result.share_of_controlnet),
            figure("flops_per_step", 1e9, ",.1f"),
            figure("peak_memory", _MIB, ",.0f"),
            figure("images_per_second", 1, ".3g", spread),
        ]


def bench(
    *,
    base: str | None = None,
    methods: Sequence[str] | None = None,
    batch: int | None = None,
    resolution: int | None = None,
    dtype: str | None = None,
    steps: int | None = None,
    quality: bool = False,
    tuners: Sequence[str] = (),
    scenes: int = 128,
    plot: str | Path | None = None,
    baseline: str | Path | None = None,
    tolerance: float = 0.05,
    out: str | Path | None = None,
    on_event: OnEvent | None = None,
) -> BenchResult:
    """Measure training methods on a base, each in a process of its own, one after the other; or with `quality` the
    scores of tuners, attached together.

    Args:
        base: as for `load_base`, the embedded one by default.
        methods: of METHODS; by default sc, csc, lora, full and controlnet. One that fails has no figures, and a note
            says why.
        batch, resolution: pictures in a step and their side in pixels; by default 8 on the embedded base, else 1, and
            the base's own side.
        dtype: of the frozen base: fp32, bf16 or fp16.
        steps: how many training steps are timed, 10 by default.
        tuners: `FILE[:SCALE]`.
        scenes: how many held-out scenes are drawn for the scores.
        plot: a picture of the figures.
        baseline: an earlier document; `worse` of the result says what fell behind it.
        tolerance: the share of a baseline's figure by which it may be missed.
        out: a file for the document.

    Raises:
        SceditError: settings that cannot be, or that change nothing.
        WorkFailed: no method could be measured.
    """
    tell = on_event or (lambda event: None)
    base = base or EMBEDDED
    cost_only = {"methods": methods, "batch": batch, "resolution": resolution, "steps": steps, "plot": plot}
    _check_options(quality, tuners, [name for name, value in cost_only.items() if value])
    chosen = [] if quality else _known(methods or _DEFAULT_METHODS)
    if dtype and dtype not in DTYPES:
        raise SceditError(f"--dtype {dtype}: not known", hint=f"choose one of {', '.join(DTYPES)}")
    if plot:
        check_plot(Path(plot))
    before = read_baseline(Path(baseline), chosen) if baseline else None

    def check(found: BenchResult) -> None:
        if before:
            check_comparable(Path(baseline), before, found.document())

    wanted = Conditions(base, batch, resolution, dtype)
    if quality:
        result = _score(wanted, tuners, scenes, check, tell)
    else:
        result = _measure(chosen, wanted, steps or _STEPS, check, tell)
    if before:
        document = result.document()
        if not same_machine(before, document):
            tell(Note(f"{baseline} is from another machine ({before['device']}): memory and speed are not compared"))
        result = replace(result, worse=worse(before, document, tolerance))
    if plot:
        used = result.conditions
        facts = f"{used.base} on {used.device}, {used.resolution}×{used.resolution}, batch {used.batch}, {used.dtype}"
        draw(Path(plot), result.results, f"A training step: {facts}")
    if out:
        write_whole(out, json.dumps(result.document(), indent=2) + "\n")
    return result


def _check_options(quality: bool, tuners: Sequence[str], cost_only: Sequence[str]) -> None:
    """Raises SceditError for options that would do nothing."""
    if quality and not tuners:
        raise SceditError("--quality measures tuners, and none is given", hint="add --tuner FILE")
    if tuners and not quality:
        raise SceditError(f"--tuner {tuners[0]}: only --quality measures tuners", hint="add --quality")
    if quality and cost_only:
        raise SceditError(
            f"--{cost_only[0]} is about what training costs, --quality about what it gives", hint="run bench twice"
        )


def _known(methods: Sequence[str]) -> list[str]:
    for name in methods:
        if name not in METHODS:
            guess = difflib.get_close_matches(name, METHODS, n=1)
            hint = f"did you mean {guess[0]}?" if guess else f"choose of {', '.join(METHODS)}"
            raise SceditError(f"--methods {name}: not known", hint)
    return list(dict.fromkeys(methods))


def _measure(
    methods: Sequence[str], wanted: Conditions, steps: int, check: Callable[[BenchResult], None], tell: OnEvent
) -> BenchResult:
    result, failure = BenchResult(wanted, []), None
    for method in methods:
        stage = f"measuring {method}"
        try:
            conditions, measured = measure_apart(
                method, wanted, steps, lambda done, total, stage=stage: tell(Progress(stage, done, total))
            )
        except WorkFailed as error:
            tell(Note(f"{error.message}: {error.hint}" if error.hint else error.message))
            conditions, measured, failure = result.conditions, Measurement(method), error
        result = BenchResult(conditions, [*result.results, measured])
        if measured.trainable_parameters is not None:
            check(result)  # at the first method: the rest may take long
    if failure and all(each.trainable_parameters is None for each in result.results):
        raise failure
    return result


def _score(
    wanted: Conditions,
    tuners: Sequence[str],
    scenes: int,
    check: Callable[[BenchResult], None],
    tell: OnEvent,
) -> BenchResult:
    from scedit_cli.training.score import control_scores, style_score  # it brings the reader and the renderer

    base = load_base(wanted.base, dtype=DTYPES[wanted.dtype] if wanted.dtype else None)
    placed = [each for text in tuners for each in load_placed(parse_tuner(text))]
    for each in placed:
        check_base(each, base)
    base = as_taught(placed, base)
    result = BenchResult(replace(settled(wanted, base), batch=None), [])  # no training, so no batch
    check(result)

    def on_step(done: int, total: int) -> None:
        tell(Progress("drawing", done, total))

    found, scales = [each.tuner for each in placed], [each.scale for each in placed]
    if any(tuner.condition for tuner in found):
        scores = control_scores(base, found, scales, scenes=scenes, on_step=on_step)
        named = {
            kind: {
                "score": each.score,
                "with": each.with_,
                "without": each.without,
                "reconstruction": each.reconstruction,
                "scenes": each.scenes,
            }
            for kind, each in scores.items()
        }
    elif len(found) == 1:
        named = {"style": asdict(style_score(base, found[0], scale=scales[0], scenes=scenes, on_step=on_step))}
    else:
        raise SceditError("--quality measures one SC-Tuner at a time", hint="scedit merge makes one of several")
    return replace(result, quality=named)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.2%}"


def _shown(value: float | int | None) -> str:
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"

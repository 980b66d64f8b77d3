"""The costs of methods: measured in rounds or estimated, over batch sizes, and within a limit of memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch

from scedit_cli.benchmark.architecture import Architecture, architecture
from scedit_cli.benchmark.beside import PARTS, Loop, held
from scedit_cli.benchmark.config import BenchConfig, Figures
from scedit_cli.benchmark.estimate import estimate, rehearsed
from scedit_cli.benchmark.isolation import measure_apart
from scedit_cli.benchmark.measure import Measured, kind_of, options_for, settled, wake_libraries, with_speed
from scedit_cli.models.loading import EMBEDDED
from scedit_cli.training.fitting import CONTEXT
from scedit_cli.utils.devices import best_device
from scedit_cli.utils.errors import SceditError, WorkFailed, reason
from scedit_cli.utils.process_memory import resident_at_rest
from scedit_cli.utils.reporter import Reporter

_FIXED = ("weights", "gradients", "optimizer")  # the memory that does not grow with the batch
_BESIDE_BATCH = 4  # of the estimate beside the embedded base


@dataclass(frozen=True)
class Costs:
    """The figures of methods and the configuration that they hold for.

    Attributes:
        matrix_rate: the measured rate of matrix products in operations a second; None where estimated.
        sweep: (method, batch, estimated peak in bytes), by method and batch.
    """

    setting: BenchConfig
    results: list[Figures]
    matrix_rate: float | None = None
    sweep: list[tuple[str, int, int]] = field(default_factory=list)

    @property
    def is_estimate(self) -> bool:
        return self.matrix_rate is None


@dataclass(frozen=True)
class Further:
    """Optional estimates beside the figures of a step.

    Attributes:
        limit: bytes of memory, for which each method's largest batch is estimated; None for no such estimate.
        batches: batch sizes at which peak memory is estimated, besides the configuration's own.
    """

    limit: int | None = None
    batches: tuple[int, ...] = ()

    def answered(self, costs: Costs, device: str, reporter: Reporter) -> Costs:
        """Return `costs` with these estimates added."""
        if not (self.limit or self.batches):
            return costs
        base = architecture(costs.setting.base)
        if self.limit:
            costs = fitting(costs, base, self.limit, device, reporter)
        if self.batches:
            sizes = sorted({*self.batches, costs.setting.batch})
            costs = replace(costs, sweep=swept(costs, base, sizes, device, reporter))
        return costs


def measure_all(
    methods: Sequence[str],
    wanted: BenchConfig,
    rounds: int,
    further: Further,
    device: str | None = None,
    *,
    check: Callable[[BenchConfig], None],
    reporter: Reporter,
) -> tuple[Costs, Costs | None]:
    """Measure the methods on the base that `wanted` names. Without one, measure sd15 where there is an accelerator,
    else the embedded base with an estimate of sd15 beside it."""
    here = kind_of(torch.device(device or best_device()))
    name = wanted.base or (EMBEDDED if here == "cpu" else "sd15")
    costs = measured(methods, replace(wanted, base=name), rounds, device, check=check, reporter=reporter)
    costs = further.answered(costs, here, reporter)
    if wanted.base or here != "cpu":
        return costs, None
    changes = {"base": "sd15", "batch": wanted.batch or _BESIDE_BATCH, "resolution": None, "dtype": None}
    beside = replace(wanted, **changes, steps=None, compiled=False)
    return costs, estimate_all(methods, beside, "cuda", further, check=lambda setting: None, reporter=reporter)


def estimate_all(
    methods: Sequence[str],
    wanted: BenchConfig,
    device: str | None,
    further: Further,
    *,
    check: Callable[[BenchConfig], None],
    reporter: Reporter,
) -> Costs:
    """Estimate the methods on the base that `wanted` names, else sd15. The estimate is for a card, or for a CPU on the
    embedded base, unless `device` is given.

    Raises:
        SceditError: `device` is not "cpu" or "cuda", or the configuration is invalid.
    """
    if device not in (None, "cpu", "cuda"):
        raise SceditError(f"`device` {device}: not known", hint="choose cpu or cuda")
    base = architecture(wanted.base or "sd15")
    device = device or ("cpu" if base.name == EMBEDDED else "cuda")
    setting = settled(replace(wanted, base=base.name, device=f"{device} (estimated)"), base, torch.device(device))
    check(setting)
    libraries = 0
    if device == "cpu":
        wake_libraries(torch.device("cpu"))
        libraries = resident_at_rest()
    costs = estimated(methods, base, setting, device, libraries, reporter=reporter)
    return further.answered(costs, device, reporter)


def measured(
    methods: Sequence[str],
    wanted: BenchConfig,
    rounds: int = 1,
    device: str | None = None,
    *,
    check: Callable[[BenchConfig], None],
    reporter: Reporter,
) -> Costs:
    """Measure each method `rounds` times, one process at a time and a new one for each measurement. A round goes
    through all methods, so that a slow minute of the machine affects all. A method that fails gets a note only.

    Args:
        check: a function called with the configuration as soon as it is known.

    Raises:
        SceditError: the base or the configuration is invalid.
        WorkFailed: no method could be measured.
    """
    found: dict[str, list[Measured]] = {method: [] for method in methods}
    failures: dict[str, WorkFailed] = {}
    setting = None
    for number in range(rounds):
        for method in methods:
            if method in failures:
                continue
            stage = f"measuring {method}" + (f", round {number + 1}" if rounds > 1 else "")
            try:
                answer = measure_apart(method, wanted, reporter.stage(stage), device)
            except WorkFailed as error:
                failures[method] = error
                reporter.note(f"{error.message}: {error.hint}" if error.hint else error.message)
                continue
            found[method].append(answer)
            if setting is None:
                setting = answer.setting
                check(setting)  # checked at the first method, since the rest may take long
    if setting is None:
        raise next(iter(failures.values()))
    rate = max(each.matrix_rate for answers in found.values() for each in answers)
    results = [_together(method, found[method], setting, rate) for method in methods]
    return Costs(setting, results, rate)


def estimated(
    methods: Sequence[str],
    base: Architecture,
    setting: BenchConfig,
    device: str,
    libraries: int = 0,
    *,
    reporter: Reporter,
) -> Costs:
    """Estimate each method on `device`, "cuda" or "cpu". A method that the U-Net cannot have gets no figures.

    Raises:
        WorkFailed: no method could be estimated.
    """
    results, stage = [], f"estimating {base.name}"
    for done, method in enumerate(methods, start=1):
        try:
            figures = estimate(
                method, base, setting.batch, setting.resolution, setting.dtype,
                device=device, libraries=libraries, options=options_for(setting, base),
            )  # fmt: skip
            if setting.beside:
                figures = with_beside(figures, base, setting, device)
        except (RuntimeError, ValueError) as error:
            reporter.note(f"{method} cannot be had on {base.name}: {reason(error)}")
            figures = Figures(method)
        results.append(figures)
        reporter.progress(done, len(methods), stage)
    if all(each.trainable_parameters is None for each in results):
        raise WorkFailed(f"none of {', '.join(methods)} could be estimated on {base.name}")
    return Costs(setting, results)


def with_beside(figures: Figures, base: Architecture, setting: BenchConfig, device: str) -> Figures:
    """Return the figures with the memory that `setting.beside` names; libraries stay."""
    found, reserved = _held(figures.method, base, setting, device)
    found |= {name: figures.memory[name] for name in ("libraries",) if name in figures.memory}
    total = sum(found.values())
    return replace(figures, memory=found, peak_memory=total, estimated_peak_memory=total, peak_reserved=reserved)


def _held(method: str, base: Architecture, setting: BenchConfig, device: str) -> tuple[dict[str, int], int]:
    """Return the bytes by part of a step with what `setting.beside` names, and all that PyTorch's allocator holds."""
    sizes = setting.batch, setting.resolution, setting.dtype
    loop = Loop(tuple(part for part in setting.beside if part in PARTS))
    found = held(method, base, *sizes, loop, device=device, options=options_for(setting, base))
    reserved = sum(found.values())
    if "reserve" not in setting.beside:
        del found["reserve"]
    return found, reserved


def swept(
    costs: Costs, base: Architecture, batches: Sequence[int], device: str, reporter: Reporter
) -> list[tuple[str, int, int]]:
    """Return the estimated peak of each method that has figures at each batch, the libraries' memory included."""
    able = [each for each in costs.results if each.trainable_parameters is not None]
    sweep, others = [], [batch for batch in batches if batch != costs.setting.batch]
    for done, figures in enumerate(able, start=1):
        known = {costs.setting.batch: figures.estimated_peak_memory}
        if others:
            with _peaks(figures, base, costs, device) as peak_at:
                for batch in (min(others), max(others), *others):  # far apart first, for the line through them
                    known[batch] = peak_at(batch) + figures.memory.get("libraries", 0)
        sweep += [(figures.method, batch, known[batch]) for batch in batches]
        reporter.progress(done, len(able), "peak memory against batch size")
    return sweep


def fitting(costs: Costs, base: Architecture, limit: int, device: str, reporter: Reporter) -> Costs:
    """Return the results with the largest batch whose estimated peak, on a card plus CONTEXT, fits `limit` bytes."""
    results = []
    for done, figures in enumerate(costs.results, start=1):
        if figures.trainable_parameters is not None:
            room = limit - (CONTEXT if device == "cuda" else figures.memory.get("libraries", 0))
            with _peaks(figures, base, costs, device) as peak_at:
                fixed = sum(figures.memory.get(part, 0) for part in _FIXED) if costs.is_estimate else 0
                figures = replace(figures, largest_batch=largest_batch(peak_at, room, costs.setting.batch, fixed))
        results.append(figures)
        reporter.progress(done, len(costs.results), "largest batch that fits")
    return replace(costs, results=results)


class StraightPeaks:
    """The peak of memory at any batch: estimated at two batches and at a third, and where the three lie on a line, read
    off that line, since every activation grows with the batch and nothing else does.

    Args:
        peak_of: a function that estimates the peak at a batch, in bytes.
        known: peaks that are known already, by batch.
    """

    _ERROR = 1e-4  # of a peak off the line

    def __init__(self, peak_of: Callable[[int], int], known: Mapping[int, int] = {}) -> None:
        self._peak_of = peak_of
        self._known = dict(known)

    def __call__(self, batch: int) -> int:
        known = self._known
        if batch not in known:
            off = [abs(self._on_line(each) - peak) / peak for each, peak in known.items()] if len(known) > 2 else [1.0]
            if max(off) < self._ERROR:
                return round(self._on_line(batch))
            known[batch] = self._peak_of(batch)
        return known[batch]

    def _on_line(self, batch: int) -> float:
        least, most = min(self._known), max(self._known)
        slope = (self._known[most] - self._known[least]) / (most - least)
        return self._known[least] + slope * (batch - least)


def largest_batch(peak_of: Callable[[int], int], room: int, first: int = 1, fixed: int = 0) -> int:
    """Return the largest batch whose peak is at most `room` bytes; 0 where not even one image fits.

    A peak is almost linear in the batch, so that false position needs few evaluations.

    Args:
        first: the batch that is tried first.
        fixed: bytes that any batch needs.
    """
    peaks, fits, fails, batch = {0: fixed}, 0, None, first
    if fixed > room:
        return 0
    while fails is None or fails - fits > 1:
        peaks[batch] = peak_of(batch)
        fits, fails = (batch, fails) if peaks[batch] <= room else (fits, batch)
        low, high = (fits, fails) if fails else sorted(peaks)[-2:]
        rise = peaks[high] - peaks[low]
        guess = low + int((room - peaks[low]) * (high - low) / rise) if rise > 0 else 2 * high
        batch = max(guess, fits + 1) if fails is None else min(max(guess, fits + 1), fails - 1)
    return fits


def _together(method: str, answers: Sequence[Measured], setting: BenchConfig, rate: float) -> Figures:
    """Combine one method's figures over all rounds: the highest peak, and the speed of all steps."""
    if not answers:
        return Figures(method)
    highest = max((each.figures for each in answers), key=lambda figures: figures.peak_memory)
    busy = [second for each in answers for second in each.processor_seconds]
    return with_speed(highest, [each.seconds for each in answers], setting.batch, rate, busy)


@contextmanager
def _peaks(figures: Figures, base: Architecture, costs: Costs, device: str) -> Iterator[StraightPeaks]:
    """Return the peaks of a method's steps without the libraries; estimated figures are a first point."""
    setting = costs.setting
    own = {setting.batch: figures.peak_memory - figures.memory.get("libraries", 0)} if costs.is_estimate else {}
    if setting.beside:

        def peak_of(batch: int) -> int:
            return sum(_held(figures.method, base, replace(setting, batch=batch), device)[0].values())

        yield StraightPeaks(peak_of, own)
        return
    sizes, options = (setting.resolution, setting.dtype), options_for(setting, base)
    with rehearsed(figures.method, base, *sizes, device=device, options=options) as peak_at:
        yield StraightPeaks(lambda batch: sum(peak_at(batch).values()), own)

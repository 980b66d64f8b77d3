"""The quality of methods for their cost: each is trained on the embedded world for the same steps or seconds."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import torch

from scedit_cli.benchmark.architecture import architecture
from scedit_cli.benchmark.config import BenchConfig, processor_name
from scedit_cli.benchmark.estimate import peak
from scedit_cli.benchmark.evaluation import Evaluation
from scedit_cli.benchmark.learning import training
from scedit_cli.benchmark.measure import kind_of, options_for
from scedit_cli.benchmark.methods import prepared
from scedit_cli.benchmark.timing import timed
from scedit_cli.models.loading import EMBEDDED
from scedit_cli.utils.reporter import Reporter
from scedit_cli.utils.result_cache import ResultCache

# Learning rates of AdamW after a warm-up: the best of sweeps at factors of 3 on the first embedded base, over 100 steps
# from one seed, by Fréchet distance or control score; an SC-Tuner's next rate was 4 % better still. ControlNet-XS was
# not swept, since the embedded base cannot have it.
RATES = {
    "sc": 9e-3,
    "csc": 9e-3,
    "csc-k3": 3e-3,
    "lora": 3e-3,
    "full": 6e-4,
    "controlnet": 1.5e-3,
    "t2i-adapter": 1.5e-3,
    "controlnet-xs": 1.5e-3,
}
_UNTIMED, _TIMED = 2, 9  # steps of each method, to measure its seconds per step

Summary = dict[str, float | int | None]


@dataclass(frozen=True)
class Budget:
    """The training budget of every method: a number of steps, and separately as many steps as take `seconds` at the
    method's pace; None skips one of them. A step takes `batch` of the `pictures` rendered images."""

    steps: int | None = 400
    seconds: float | None = 75.0
    batch: int = 8
    pictures: int = 1024

    def stops(self, pace: float) -> dict[str, int]:
        """Return the steps of each budget, for a method that takes `pace` seconds a step (processor time on a CPU)."""
        steps = {"steps": self.steps, "seconds": self.seconds and max(1, round(self.seconds / pace))}
        return {way: count for way, count in steps.items() if count}


@dataclass(frozen=True)
class BenchmarkResult:
    """One training of a method, evaluated on held-out scenes.

    Attributes:
        budget: "steps" or "seconds", the one that is equal for all methods.
        seconds: the time of the steps at the method's pace; on a CPU processor time, over all threads.
        loss: the denoising loss on held-out scenes, with the same noise for all.
        score: the control score; None for a method without a hint.
        objects: the share of the objects named by the captions that is present.
        frechet: the distance of the images from renders of the same captions, in the reader's features.
    """

    budget: str
    steps: int
    seconds: float
    loss: float
    score: float | None
    objects: float
    frechet: float


@dataclass(frozen=True)
class Comparison:
    """A comparison of methods that are trained and evaluated alike.

    Attributes:
        setting: the configuration on the embedded base.
        seeds: the number of trainings of every method, from the seeds 0, 1, ….
        rates: learning rates by method, instead of RATES.
        kept: the cache of finished trainings.
    """

    setting: BenchConfig
    budget: Budget
    seeds: int
    rates: Mapping[str, float]
    evaluation: Evaluation
    kept: ResultCache

    def of(self, methods: Sequence[str], reporter: Reporter) -> dict[str, Summary]:
        """Return the summaries of `summed_up` as "METHOD, same steps" and "METHOD, same seconds", with the method's
        learning rate, parameters, seconds per step, and the estimated peak memory of a step without libraries."""
        paces, found = self._paces(methods, reporter), {}
        for method in methods:
            outcomes = self._outcomes(method, paces[method], reporter)
            facts = self._facts(method) | {"seconds_per_step": paces[method]}
            for way in dict.fromkeys(each.budget for each in outcomes):
                found[f"{method}, same {way}"] = summed_up([each for each in outcomes if each.budget == way]) | facts
        return found

    def _paces(self, methods: Sequence[str], reporter: Reporter) -> dict[str, float]:
        machine = {"processor": processor_name(), "threads": torch.get_num_threads()}
        about = self._about() | machine | {"methods": sorted(methods)}
        known = self.kept.find("paces", about)
        if known is None:
            known = paces(methods, self.evaluation, self.setting, self.budget.pictures, reporter)
            self.kept.keep("paces", about, known)
        return known

    def _outcomes(self, method: str, pace: float, reporter: Reporter) -> list[BenchmarkResult]:
        """Return the results of all seeds, after the budget's steps and after its seconds."""
        stops = self.budget.stops(pace)
        rate, outcomes = rate_of(method, self.rates), []
        for seed in range(self.seeds):
            name = f"{method}-seed{seed}"
            about = self._about() | {
                "method": method, "seed": seed, "learning_rate": rate, "scenes": len(self.evaluation.texts)
            }  # fmt: skip
            found = {stop: self.kept.find(name, about | {"steps": stop}) for stop in stops.values()}
            missing = [stop for stop, figures in found.items() if figures is None]
            run = trained(method, self.evaluation, self.setting, self.budget.pictures, seed, rate, missing, reporter)
            for stop, figures in run:
                self.kept.keep(name, about | {"steps": stop}, figures)
                found[stop] = figures
            outcomes += [BenchmarkResult(way, stop, stop * pace, **found[stop]) for way, stop in stops.items()]
        return outcomes

    def _about(self) -> dict[str, Any]:
        """Return the values that every training depends on."""
        budget = {"pictures": self.budget.pictures}
        return asdict(self.setting) | budget | {"base_digests": self.evaluation.base_digests}

    def _facts(self, method: str) -> Summary:
        return {
            "trainable_parameters": parameters_of(method, self.setting),
            "estimated_peak_memory": peak_of(method, self.setting, self.evaluation.device),
            "learning_rate": rate_of(method, self.rates),
            "seeds": self.seeds,
            "scenes": len(self.evaluation.texts),
        }


def rate_of(method: str, rates: Mapping[str, float] | None = None) -> float:
    """Return the learning rate of a method: its own, else that of its kind ("sc-plain" is an "sc")."""
    known = {**RATES, **(rates or {})}
    return known[max((name for name in known if method == name or method.startswith(f"{name}-")), key=len)]


def trained(
    method: str,
    evaluation: Evaluation,
    setting: BenchConfig,
    pictures: int,
    seed: int,
    rate: float,
    stops: Sequence[int],
    reporter: Reporter,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Train a method; at each number of steps in `stops`, yield it with the result of `Evaluation.measure`."""
    if not stops:
        return
    with training(method, evaluation, setting, pictures, seed, rate) as run:
        for done in range(1, max(stops) + 1):
            run.step()
            reporter.progress(done, max(stops), f"training {method}, seed {seed}")
            if done in stops:
                yield done, evaluation.measure(run.base, run.trainable)


def paces(
    methods: Sequence[str], evaluation: Evaluation, setting: BenchConfig, pictures: int, reporter: Reporter
) -> dict[str, float]:
    """Return the seconds of a training step of each method, by `timing.timed`: the median of a few steps, taken in
    turns, so that a slow minute of the machine affects all methods."""
    seconds: dict[str, list[float]] = {method: [] for method in methods}
    with ExitStack() as stack:
        runs = {
            method: stack.enter_context(training(method, evaluation, setting, pictures, 0, rate_of(method)))
            for method in methods
        }
        for number in range(_UNTIMED + _TIMED):
            for method, run in runs.items():
                took = timed(run.step, run.base.device)
                if number >= _UNTIMED:
                    seconds[method].append(took)
            reporter.progress(number + 1, _UNTIMED + _TIMED, "timing a step of each method")
    return {method: statistics.median(each) for method, each in seconds.items()}


def parameters_of(method: str, setting: BenchConfig) -> int:
    """Return the number of parameters that a method trains on the embedded base.

    Raises:
        ValueError, RuntimeError: the embedded base cannot have the method.
    """
    shape = architecture(EMBEDDED)
    with prepared(method, shape.on_meta(), options_for(setting, shape)) as trainable:
        return trainable.count


def peak_of(method: str, setting: BenchConfig, device: torch.device) -> int:
    """Return the estimated peak bytes of a training step of the method on the embedded base, without libraries."""
    base = architecture(EMBEDDED)
    options = options_for(setting, base)
    peaks = peak(method, base, setting.batch, base.resolution, "fp32", device=kind_of(device), options=options)
    return sum(peaks.values())


def summed_up(outcomes: Sequence[BenchmarkResult]) -> Summary:
    """Return means over seeds, and for two or more seeds their standard deviations as `NAME_deviation`."""
    summary: Summary = {}
    for name in ("steps", "seconds", "loss", "score", "objects", "frechet"):
        values = [asdict(each)[name] for each in outcomes]
        if None in values:
            summary[name] = None
            continue
        summary[name] = statistics.mean(values)
        if len(values) > 1 and name not in ("steps", "seconds"):
            summary[f"{name}_deviation"] = statistics.stdev(values)
    return summary

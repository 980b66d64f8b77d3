"""The reader of a benchmark's document, as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import PlainValidator, TypeAdapter, ValidationError

from scedit_cli.benchmark.compare import Costs
from scedit_cli.benchmark.config import BenchConfig, Figures, Spread
from scedit_cli.benchmark.reading import HINT, read_values
from scedit_cli.benchmark.results import BenchResult
from scedit_cli.benchmark.reuse import ReusePoint
from scedit_cli.benchmark.sampling import StepTime
from scedit_cli.benchmark.skips import SkipEffect
from scedit_cli.utils.errors import SceditError, shortened

_ALWAYS = ("base", "batch", "resolution", "dtype", "device", "results")


def _number(value: Any) -> Any:
    if not isinstance(value, int | float | None):
        raise ValueError("should be a number or null")
    return value


@dataclass(frozen=True)
class _Point:
    method: str
    batch: int
    estimated_peak_memory: int


@dataclass(frozen=True)
class _Result(Spread, Figures):
    def figures(self) -> Figures:
        values = {each.name: getattr(self, each.name) for each in fields(Figures)}
        spread = Spread(**{each.name: getattr(self, each.name) for each in fields(Spread)})
        return Figures(**values | {"spread": spread})


@dataclass(frozen=True)
class _Costs(BenchConfig):
    matrix_rate: float | None = None
    results: list[_Result] = field(default_factory=list)
    sweep: list[_Point] = field(default_factory=list)

    def costs(self) -> Costs:
        setting = BenchConfig(**{each.name: getattr(self, each.name) for each in fields(BenchConfig)})
        sweep = [(point.method, point.batch, point.estimated_peak_memory) for point in self.sweep]
        return Costs(setting, [each.figures() for each in self.results], self.matrix_rate, sweep)


@dataclass(frozen=True)
class _Document(_Costs):
    estimate: _Costs | None = None
    quality: dict[str, dict[str, Annotated[Any, PlainValidator(_number)]]] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    skips: list[SkipEffect] = field(default_factory=list)
    sampling: list[StepTime] = field(default_factory=list)
    reuse: list[ReusePoint] = field(default_factory=list)
    environment: dict[str, str | int] = field(default_factory=dict)


def read_result(path: Path, argument: str) -> BenchResult:
    """Read a document that a benchmark has written; `argument` names it in messages.

    Raises:
        SceditError: the file is not such a document; the message names the field.
    """
    values = read_values(path, argument)
    try:
        found = TypeAdapter(_Document).validate_python(values)
    except ValidationError as error:
        raise SceditError(f"{argument} {path} is no benchmark: {_mistake(error)}", HINT) from None
    if missing := [name for name in _ALWAYS if name not in values]:
        raise SceditError(f"{argument} {path} is no benchmark: it has no {', '.join(missing)}", HINT)
    return BenchResult(
        found.costs(),
        estimate=found.estimate and found.estimate.costs(),
        quality=found.quality,
        evaluation=found.evaluation,
        skips=found.skips,
        sampling=found.sampling,
        reuse=found.reuse,
        environment=found.environment,
    )


def _mistake(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    place, said = shortened(".".join(map(str, first["loc"])), 80), first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        return f"{place} is missing"
    return f"{place or 'the whole'} is {shortened(repr(first['input']), 80)}: {said[0].lower()}{said[1:]}"

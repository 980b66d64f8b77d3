"""The least change of a recipe that fits a device's memory: settings are tried from the cheapest to the leanest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from scedit_cli.data.cache import Cache
from scedit_cli.models.base import Base
from scedit_cli.recipe import DataSection, TrainSection, TunerSection
from scedit_cli.training.memory import Forecast, forecast
from scedit_cli.training.preflight import gib, memory_of
from scedit_cli.utils.distributed import Processes
from scedit_cli.utils.errors import SceditError, not_installed
from scedit_cli.utils.names import QUANTIZERS

# Memory of a card outside all tensors, for the driver's context and the libraries' workspaces: an assumption.
CONTEXT = 768 * 2**20

_STORAGE = "base.quantize"

Settings = dict[str, str | int]


@dataclass(frozen=True)
class Rung:
    """Settings of a recipe, by key, and the forecast of a step with them.

    Attributes:
        needed: bytes of memory, on a card with CONTEXT.
        fits: whether the device has them.
    """

    settings: Settings
    forecast: Forecast
    needed: int
    fits: bool

    def document(self) -> dict[str, Any]:
        return {
            "settings": self.settings,
            "estimated_peak_memory": self.forecast.total,
            "needed": self.needed,
            "flops_per_step": self.forecast.flops,
            "transfers_per_step": self.forecast.transfers,
            "fits": self.fits,
        }

    @property
    def text(self) -> str:
        """The settings as arguments in backquotes, which the command line shows as its own."""
        return " ".join(f"`{key}={value}`" for key, value in self.settings.items())


@dataclass(frozen=True)
class Ladder:
    """The rungs that were tried on `device`, which has `memory_here` bytes; the last one fits."""

    device: str
    memory_here: int
    rungs: list[Rung] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """Return the document that --json writes."""
        rungs = [each.document() for each in self.rungs]
        return {"device": self.device, "memory_here": self.memory_here, "rungs": rungs, "fit": rungs[-1]["settings"]}

    def summary(self) -> list[tuple[str, str]]:
        """Return the rows (settings, costs) that a person reads."""
        first = self.rungs[0].forecast.flops
        rows = [("memory", f"{gib(self.memory_here)} on this {self.device}")]
        for rung in self.rungs:
            cost = f"{gib(rung.needed)}, {rung.forecast.flops / 1e12:.3g} TFLOP a step ({rung.forecast.flops / first:.2f}×)"
            if rung.forecast.transfers:
                cost += f", {gib(rung.forecast.transfers)} of weights brought over"
            rows.append((rung.text, f"{cost}: {'fits' if rung.fits else 'too much'}"))
        library, extra = QUANTIZERS.get(str(self.rungs[-1].settings.get(_STORAGE)), ("torch", ""))
        if find_spec(library) is None:
            rows.append(("needs", f"{library}: {not_installed('', library, extra).hint}"))
        return rows


def least_change(
    base: Base,
    options: TunerSection,
    train: TrainSection,
    data: DataSection,
    cache: Cache,
    processes: Processes = Processes(),
    streams: bool = False,
) -> Ladder:
    """Try settings on the device of `base` until a step's forecast fits its memory; those of `train` that are tried
    here count for nothing.

    Raises:
        SceditError: no setting fits, or no forecast is possible.
    """
    device, here = base.device.type, memory_of(base.device)
    if here is None:
        raise SceditError(f"the memory of this {device} is not known", hint="a dry run says what a step needs")
    rungs: list[Rung] = []
    for settings in _rungs(train.batch_size, device, processes):
        tried, storage = changed(train, settings), str(settings.get(_STORAGE, "none"))
        ahead = forecast(base, options, tried, data, cache, processes, streams, storage)
        needed = ahead.total + (CONTEXT if device != "cpu" else 0)
        rungs.append(Rung(settings, ahead, needed, needed <= here))
        if rungs[-1].fits:
            return Ladder(device, here, rungs)
    least = min(rungs, key=lambda rung: rung.needed)
    raise SceditError(
        f"nothing fits the {gib(here)} on this {device}: {least.text} needs {gib(least.needed)}",
        hint=f"that works on {gib(least.needed)}; smaller images need less",
    )


def changed(train: TrainSection, settings: Settings) -> TrainSection:
    """Return the section with those of `settings` that are its own, and without its own memory savings."""
    own = {key.removeprefix("train."): value for key, value in settings.items() if key != _STORAGE}
    return train.model_copy(update={"memory": "plain", "micro_batch_size": 0, "offload": "none"} | own)


def _rungs(batch_size: int, device: str, processes: Processes) -> Iterator[Settings]:
    """Yield the settings to try: what costs least first, each with those before it."""
    settings: Settings = {}
    for memory in ("plain", "lean", "checkpoint"):
        settings = {"train.memory": memory}
        yield settings
    at_once = -(-batch_size // processes.count)
    while at_once > 1:
        at_once = -(-at_once // 2)
        settings = settings | {"train.micro_batch_size": at_once}
        yield settings
    if device != "cpu":
        settings = settings | {"train.offload": "encoder"}
        yield settings
    for storage in ("int8", "int4"):
        yield settings | {_STORAGE: storage}

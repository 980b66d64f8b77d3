"""Measurements that take no time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from scedit_cli.benchmark import compare
from scedit_cli.benchmark.config import BenchConfig, Figures
from scedit_cli.benchmark.measure import Measured
from scedit_cli.benchmark.methods import METHODS
from scedit_cli.benchmark.results import BenchResult
from scedit_cli.cli.bench_request import request_of
from scedit_cli.cli.option_names import in_options
from scedit_cli.jobs import bench as job
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.reporter import Reporter


def bench(reporter: Reporter | None = None, **options) -> BenchResult:
    """Measures what the options of the command ask for."""
    try:
        return job.bench(*request_of(options), reporter)
    except SceditError as error:  # in the command's words
        raise type(error)(in_options(error.message, error.field), in_options(error.hint)) from error


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine is taken for a quiet one, though tests beside this one use it too."""
    monkeypatch.setattr(job, "warning", lambda share: None)


SETTING = BenchConfig("mine", 1, 64, "fp32", "cpu", steps=10)


def figures(method: str) -> Figures:
    return Figures(
        method, 1000, 0.1, 0.3, 10**9, 500 * 2**20, None, {"libraries": 400 * 2**20, "weights": 2**20,
        "optimizer": 0, "gradients": 0, "activations": 2**20}, 480 * 2**20, file_size=4096,
    )  # fmt: skip


@pytest.fixture
def faked(monkeypatch):
    """Methods cost what `faked[method]` says, in as many seconds a step as it says, or fail with that error."""
    costs: dict[str, tuple[Figures, list[float]] | Exception] = {
        method: (figures(method), [0.1, 0.125, 0.15]) for method in METHODS
    }
    calls = []

    def measure_apart(method, wanted, reporter, device=None):
        calls.append((method, wanted))
        if isinstance(costs[method], Exception):
            raise costs[method]
        made, seconds = costs[method]
        used = replace(SETTING, lora_rank=wanted.lora_rank, compiled=wanted.compiled, steps=wanted.steps)
        return Measured(used, made, tuple(seconds), 1e10)

    monkeypatch.setattr(compare, "measure_apart", measure_apart)
    monkeypatch.setattr("scedit_cli.jobs.checks.bench.check_model", lambda model: None)  # "mine" is nowhere
    costs["calls"] = calls
    return costs


@pytest.fixture
def baseline(faked, tmp_path) -> Path:
    bench(base="mine", methods=["sc", "csc"], out=tmp_path / "bench.json")
    faked["calls"].clear()
    return tmp_path / "bench.json"

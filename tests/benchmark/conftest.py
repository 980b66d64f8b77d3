"""Benchmarks on a machine that is taken for a quiet one."""

from tests.jobs.bench.conftest import alone

__all__ = ["alone"]

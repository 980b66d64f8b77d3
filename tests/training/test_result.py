"""The rows in which a run's end is told."""

from __future__ import annotations

from pathlib import Path

from scedit_cli.training.evaluation import Score
from scedit_cli.training.result import TrainResult


def test_a_score_that_rounds_to_nothing_has_no_sign():
    score = Score(0.1, 0.1001, 0.5, -0.0003, 4)
    run = TrainResult(Path("run"), Path("run/tuner.safetensors"), 3, 1.0, None, 0.5, 7, {"canny": score}, None)
    assert dict(run.summary())["control score"].startswith("0.000 over 4 held-out scenes")

"""Mistakes that need no weights are told in a sentence, before a heavy library is imported and anything is written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.jobs.checks.mistakes import MISTAKES

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What each mistake ends in: exit code, stdout, stderr, heavy modules that are imported, whether files changed."""
    command = [sys.executable, "-m", "tests.jobs.checks.mistakes", tmp_path_factory.mktemp("mistakes")]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


@pytest.mark.parametrize("number", range(len(MISTAKES)), ids=lambda number: " ".join(MISTAKES[number][0]))
def test_a_mistake_is_told_before_the_work(told, number):
    _, message, hint = MISTAKES[number]
    code, out, err, heavy, changed = told[number]
    assert not heavy and not changed
    assert code == 2 and not err, out + err
    error = json.loads(out)["error"]
    assert message in error["message"] and hint in (error["hint"] or ""), error
    assert error["hint"] and "\n" not in error["message"]

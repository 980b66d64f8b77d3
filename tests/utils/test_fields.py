"""Numbers that no float holds, and texts that fit into no sentence, are told as any other mistake is."""

from __future__ import annotations

import json
import sys

import pytest

from scedit_cli import Bundle, SceditError, SCTuner
from scedit_cli.benchmark.document import read_result
from scedit_cli.cli.prompt_files import read_prompts
from scedit_cli.data.dataset import weight_of
from scedit_cli.inference.config import Control, SamplerConfig
from scedit_cli.models.samplers import check_name
from scedit_cli.utils.fields import check_number, is_finite
from scedit_cli.utils.io import read_json

HUGE = 10**400


def test_numbers_that_no_float_holds():
    assert is_finite(3) and is_finite(-0.5) and is_finite(int(sys.float_info.max))
    assert not any(map(is_finite, (HUGE, -HUGE, float("nan"), float("inf"), True, "1", None)))
    for value in (HUGE, -HUGE):
        for whole in (False, True):
            with pytest.raises(SceditError, match="scale is -?1000"):
                check_number(value, "scale", whole=whole)


@pytest.mark.parametrize("use", [
    lambda: SamplerConfig(guidance=HUGE).check(), lambda: Control("canny", "a.png", scale=HUGE).check("control"),
    lambda: Bundle([SCTuner([4])], scales=[HUGE]), lambda: weight_of(HUGE, "line 1"),
], ids=["guidance", "control", "bundle", "weight"])  # fmt: skip
def test_they_are_refused_wherever_a_number_is_taken(use):
    with pytest.raises(SceditError, match="is -?1000"):
        use()


def test_they_are_refused_in_files(tmp_path):
    assert read_json(str(int(sys.float_info.max) // 10)) == int(sys.float_info.max) // 10
    with pytest.raises(ValueError, match="a number of 401 digits"):
        read_json(json.dumps({"a": [HUGE]}))
    (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": "a", "scales": {"canny": HUGE}}))
    with pytest.raises(SceditError, match="line 1"):
        read_prompts(tmp_path / "p.jsonl")
    (tmp_path / "bench.json").write_text(json.dumps({"quality": {"sc": {"loss": HUGE}}}))
    with pytest.raises(SceditError, match="is no benchmark: it holds a number of 401 digits"):
        read_result(tmp_path / "bench.json", "--show")


def test_message_and_hint_together_stay_readable():
    with pytest.raises(SceditError) as raised:
        check_name("x" * 5000)
    assert raised.value.hint.startswith("choose one of") and 300 < len(str(raised.value)) < 1000
    assert str(SceditError("short", "a hint")) == "short (a hint)"
    assert len(SceditError("x" * 5000, "y" * 790).message) == 201

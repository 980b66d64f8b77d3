"""train.precision = "auto": bf16 where the processor multiplies it, and the precision of a run that is resumed."""

from __future__ import annotations

import platform

import pytest
import torch

from scedit_cli.jobs import train as job
from scedit_cli.recipe import load_recipe
from scedit_cli.utils.devices import training_precision
from tests.jobs.train.conftest import assert_same_end, log_of
from tests.recorder import Note, Recorder


@pytest.fixture
def processor(monkeypatch):
    """A processor that multiplies bfloat16, or does not, as far as PyTorch tells."""

    def multiplies(bf16: bool) -> None:
        monkeypatch.setattr(platform, "machine", lambda: "x86_64")
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)

    return multiplies


def test_a_processor_without_bfloat16_trains_in_fp32(processor, recipe, tmp_path):
    for has, precision in ((True, "bf16"), (False, "fp32")):
        processor(has)
        job.train(recipe(train={"precision": "auto"}), out=tmp_path / "auto", overwrite=True, device="cpu")
        job.train(recipe(train={"precision": precision}), out=tmp_path / precision, device="cpu")
        assert log_of(tmp_path / "auto") == log_of(tmp_path / precision)
        assert load_recipe(tmp_path / "auto" / "recipe.toml").train.precision == precision
    assert log_of(tmp_path / "bf16") != log_of(tmp_path / "fp32")


def test_a_run_goes_on_in_its_precision_on_another_processor(processor, recipe, tmp_path):
    processor(True)
    wanted = recipe(train={"precision": "auto"})
    job.train(wanted, out=tmp_path / "whole", device="cpu")
    job.train(recipe(train={"precision": "auto", "steps": 2}), out=tmp_path / "run", device="cpu")
    processor(False)
    job.train(wanted, out=tmp_path / "run", resume=True, device="cpu")
    assert load_recipe(tmp_path / "run" / "recipe.toml").train.precision == "bf16"
    assert_same_end(tmp_path / "whole", tmp_path / "run")


def test_bf16_that_a_processor_has_no_instructions_for_is_told(processor, recipe):
    told = {}
    for has in (True, False):
        processor(has)
        events = []
        job.train(recipe(train={"precision": "bf16"}), dry_run=True, device="cpu", reporter=Recorder(events.append))
        told[has] = [event.text for event in events if isinstance(event, Note) and "processor" in event.text]
    sentence = "this processor has no instructions for train.precision = bf16: fp32 is many times as fast"
    assert told == {True: [], False: [sentence]}


def test_accelerators_train_in_bf16_and_other_processors_as_oneDNN_tells(monkeypatch):
    assert training_precision("cuda:1") == training_precision("mps") == "bf16"
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    for has, precision in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda has=has: has, raising=False)
        assert training_precision("cpu") == precision

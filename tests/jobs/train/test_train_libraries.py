"""Runs with the libraries that only some recipes ask for."""

from __future__ import annotations

import pytest
import torch

from scedit_cli.core.attach import attach
from scedit_cli.core.quantized import QuantizedConv2d, QuantizedLinear
from scedit_cli.core.weights import load_tuner
from scedit_cli.jobs import train as job
from scedit_cli.models.base import load_base
from scedit_cli.training.checkpoints import newest_checkpoint
from tests import by_recipe
from tests.jobs.train.conftest import files_in, log_of

PLAIN = {"steps": 2, "ema_decay": 0.0}


def test_figures_and_grids_go_to_tensorboard(recipe, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    samples = {"every": 2, "count": 1, "steps": 1}
    wanted = recipe(tracking={"to": ["tensorboard"], "project": "mine"}, train=PLAIN, samples=samples)
    job.train(wanted, out=tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard" / "mine")).Reload()
    logged = [(line["step"], line["loss"]) for line in log_of(tmp_path / "run")]
    assert [(each.step, each.value) for each in events.Scalars("loss")] == [
        (step, pytest.approx(loss)) for step, loss in logged
    ]
    assert [each.step for each in events.Images("samples")] == [2]


def test_figures_go_to_wandb_without_a_network(recipe, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    wanted = recipe(tracking={"to": ["wandb"], "project": "mine"}, train=PLAIN)
    job.train(wanted, out=tmp_path / "run")
    [kept] = [name for name in files_in(tmp_path / "run" / "wandb") if name.endswith(".wandb")]
    content = (tmp_path / "run" / "wandb" / kept).read_bytes()
    assert b"gradient_norm" in content and b"train.learning_rate" in content


@pytest.mark.parametrize(
    ("how", "library", "near"),
    [("int8", "torchao", 0.01), ("fp8", "torchao", 0.02), ("int4", "torchao", 0.03), ("nf4", "bitsandbytes", 0.03)],
)
def test_a_base_in_few_bits_learns(recipe, tmp_path, how, library, near):
    pytest.importorskip(library)
    wanted = recipe(base={"quantize": how}, train=PLAIN)
    base, whole = by_recipe.open_base(wanted), load_base(wanted.base.model)
    assert base.fingerprint == whole.fingerprint and base.parameter_count == whole.parameter_count
    kinds = [type(each) for each in base.unet.modules()]
    assert QuantizedLinear in kinds and QuantizedConv2d in kinds
    job.train(wanted, out=tmp_path / "run")
    job.train(recipe(train=PLAIN), out=tmp_path / "whole")
    few, full = ([line["loss"] for line in log_of(tmp_path / run)] for run in ("run", "whole"))
    assert few != full and few == pytest.approx(full, rel=near)
    tuner = load_tuner(tmp_path / "run")
    assert tuner.metadata["base_quantize"] == how and "base_quantize" not in load_tuner(tmp_path / "whole").metadata
    with attach(whole.unet, tuner) as edits:
        edits.set_hints({"canny": torch.rand(1, 3, 64, 64)})


def test_an_optimizer_keeps_eight_bits(recipe, tmp_path):
    pytest.importorskip("bitsandbytes")
    options = {"optimizer": "adamw-8bit", "optimizer_options": {"min_8bit_size": 1}}  # else small moments are whole
    job.train(recipe(train=PLAIN | options), out=tmp_path / "run")
    kept = newest_checkpoint(tmp_path / "run" / "checkpoints")[0].tensors
    assert {each.dtype for name, each in kept["optimizer"].items() if name.endswith("state1")} == {torch.uint8}
    assert any(each.any() for name, each in kept["tuner"].items() if "up.weight" in name)

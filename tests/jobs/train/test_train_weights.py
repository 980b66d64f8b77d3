"""Runs that start from the weights of a tuner that there is."""

from __future__ import annotations

import os

import pytest
import torch

from scedit_cli.core.bundle import Bundle, tuners_of
from scedit_cli.core.tuners import CSCTuner, SCTuner
from scedit_cli.core.weights import load_tuner, save_tuner
from scedit_cli.jobs import train as job
from scedit_cli.models.base import load_base
from scedit_cli.recipe import TrainSection, TunerSection, load_recipe
from scedit_cli.scenes import TUNERS
from scedit_cli.training import builders
from scedit_cli.training.starting_weights import start_from
from scedit_cli.utils.errors import SceditError
from tests import tiny
from tests.jobs.train.conftest import assert_same_end
from tests.recorder import Note, Progress, Recorder

STILL = {"steps": 1, "learning_rate": 1e-12, "ema_decay": 0.0, "weight_decay": 0.0}


@pytest.fixture(scope="module")
def unet():
    return tiny.unet(tiny.SMALLEST)


def canny(unet, **sizes) -> CSCTuner:
    return tiny.trained(CSCTuner.for_unet(unet, "canny", **{"hint_channels": 16} | sizes))


def assert_holds(file, tuner) -> None:
    """The tuner file has these weights, but for a step that is next to nothing."""
    for one, other in zip(load_tuner(file).parameters(), tuner.parameters(), strict=True):
        torch.testing.assert_close(one, other.detach().float(), rtol=0, atol=1e-9)


def test_a_run_starts_from_a_tuner(recipe, unet, tmp_path):
    start = canny(unet)
    file = save_tuner(start, tmp_path / "start.safetensors")
    heard = []
    wanted = recipe(tuner={"weights": str(file)}, train=STILL)
    result = job.train(wanted, out=tmp_path / "run", reporter=Recorder(heard.append))
    assert_holds(result.tuner, start)
    assert f"starting from the weights of {file}" in [event.text for event in heard if isinstance(event, Note)]
    assert f'weights = "{file}"' in (tmp_path / "run" / "recipe.toml").read_text()
    card = (tmp_path / "run" / "README.md").read_text()
    assert 'weights = "start.safetensors"' in card and str(tmp_path) not in card


def notes_of(heard) -> list[str]:
    return [event.text for event in heard if isinstance(event, Note) and "tuner.weights" in event.text]


def test_a_bundles_scales_are_left_out(recipe, unet, tmp_path):
    color, heard = tiny.trained(CSCTuner.for_unet(unet, "color", hint_channels=16), seed=2), []
    file = save_tuner(Bundle([canny(unet), color], [0.5, 0.7]), tmp_path / "start.safetensors")
    tuner = {"weights": str(file), "condition": None, "conditions": ["canny", "color"]}
    wanted = recipe(tuner=tuner, train=STILL, data={"make": ["color"]})
    result = job.train(wanted, out=tmp_path / "run", reporter=Recorder(heard.append))
    assert notes_of(heard) == [f"tuner.weights: {file} has the scales 0.5, 0.7; training begins with 1"]
    assert load_tuner(result.tuner).scales == (1.0, 1.0)
    for made, one in zip(tuners_of(load_tuner(result.tuner)), (canny(unet), color), strict=True):
        assert all(torch.allclose(a, b, rtol=0, atol=1e-9) for a, b in zip(made.parameters(), one.parameters()))


def test_a_run_starts_from_another_programs_tuner(recipe, unet, tmp_path):
    start = canny(unet)
    file = save_tuner(start, tmp_path / "theirs.safetensors", format="scepter")
    tuner = {"weights": str(file)}
    assert_holds(job.train(recipe(tuner=tuner, train=STILL), out=tmp_path / "run").tuner, start)


def test_a_run_goes_on_without_the_tuner_that_it_began_with(recipe, unet, tmp_path, monkeypatch):
    """It is not read again, and the end is that of a run that was never stopped."""
    monkeypatch.chdir(tmp_path)
    file = save_tuner(canny(unet), tmp_path / "start.safetensors")
    values = recipe().model_dump(exclude_none=True)
    values["tuner"]["weights"] = file.name
    wanted = load_recipe(values)
    job.train(wanted, out=tmp_path / "whole")

    def hear(event):
        if isinstance(event, Progress) and (event.stage, event.step) == ("training", 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        job.train(wanted, out=tmp_path / "run", reporter=Recorder(hear))
    os.remove(file)
    assert job.train(load_recipe(values), out=tmp_path / "run", resume=True).resumed_at == 2
    assert_same_end(tmp_path / "whole", tmp_path / "run")
    with pytest.raises(SceditError, match=r"tuner.weights was .*start.safetensors and is left out"):
        job.train(recipe(), out=tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ({}, None),
        ({"base_fingerprint": "0" * 64}, "another base;"),
        ({"prediction_type": "sample"}, "another prediction type;"),
        ({"base_fingerprint": "0" * 64, "prediction_type": "sample"}, "another base and prediction type;"),
    ],
    ids=["own", "base", "prediction", "both"],
)
def test_weights_that_were_trained_otherwise_are_told(recipe, unet, tmp_path, facts, sentence):
    base = load_base(str(tiny.pipeline_folder(tiny.SMALLEST)))
    own, heard = {"base_fingerprint": base.fingerprint, "prediction_type": base.prediction_type}, []
    file = save_tuner(canny(unet), tmp_path / "start.safetensors", own | facts)
    job.train(recipe(tuner={"weights": str(file)}), out=tmp_path / "run", dry_run=True, reporter=Recorder(heard.append))
    told = [f"tuner.weights: {file} was trained for {sentence} training adapts it"] if sentence else []
    assert notes_of(heard) == told


def test_a_run_does_not_replace_the_tuner_that_it_starts_from(recipe, tmp_path):
    run = tmp_path / "run"
    first = job.train(recipe(train=STILL), out=run)
    again = recipe(tuner={"weights": str(first.tuner)}, train=STILL)
    with pytest.raises(SceditError, match=r"tuner.weights: .*tuner.safetensors is in .*run, which overwrite empties"):
        job.train(again, out=run, overwrite=True)
    assert first.tuner.exists()
    assert job.train(again, out=tmp_path / "more").steps == 1


def test_a_shipped_tuner_is_named_alone(unet):
    options = TunerSection(kind="csc", condition="canny", hint_kernel=3, hint_channels=64, hint_width=0.25)
    base = load_base("scenes")
    tuner = builders.fresh_tuner(options, TrainSection(), base)
    start_from(tuner, options.model_copy(update={"weights": "canny"}), base)
    shipped = load_tuner(TUNERS / "canny.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(tuner.parameters(), shipped.parameters(), strict=True))


def _of_fewer_skips(unet) -> CSCTuner:
    return CSCTuner.for_unet(tiny.one_block(), "canny", hint_channels=16)


@pytest.mark.parametrize(
    ("make", "sentence", "hint"),
    [
        (None, "no such tuner file", "hub id"),
        (SCTuner.for_unet, "holds the SC-Tuner, and the recipe trains the canny tuner", "conditions"),
        (
            lambda unet: CSCTuner.for_unet(unet, "depth", hint_channels=16),
            "holds the depth tuner, and the recipe trains the canny tuner",
            "conditions",
        ),
        (lambda unet: canny(unet, hint_channels=24), "hint_channels of its canny tuner is 24", "tuner.hint_channels"),
        (lambda unet: canny(unet, hint_kernel=3), "hint_kernel of its canny tuner is 3", "tuner.hint_kernel"),
        (lambda unet: canny(unet, hint_width=0.5), "hint_widths of its canny tuner is", "tuner.hint_width"),
        (lambda unet: canny(unet, down_ratio=0.5), "hidden of its canny tuner is", "tuner.down_ratio"),
        (_of_fewer_skips, "channels of its canny tuner is", "another kind of base"),
    ],
    ids=["missing", "sc", "depth", "channels", "kernel", "width", "hidden", "skips"],
)
def test_a_tuner_that_does_not_fit_is_refused_before_anything_is_written(recipe, unet, tmp_path, make, sentence, hint):
    file = tmp_path / "start.safetensors"
    if make:
        save_tuner(make(unet), file)
    with pytest.raises(SceditError, match=f"tuner.weights: .*start.safetensors.*{sentence}") as refused:
        job.train(recipe(tuner={"weights": str(file)}), out=tmp_path / "run")
    assert hint in refused.value.hint and refused.value.field == "tuner.weights"
    assert not (tmp_path / "run").exists()

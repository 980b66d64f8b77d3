"""Tuners of other bases, or that were taught another prediction than their base's, or to begin with noise alone."""

from __future__ import annotations

import pytest
import torch

from scedit_cli.core.tuners import SCTuner
from scedit_cli.inference.controls import PlacedTuner, as_trained, called, check_base, on_device, rescheduled_for
from scedit_cli.models.base import Base, load_base
from scedit_cli.utils.errors import SceditError
from tests import tiny


@pytest.fixture
def base() -> Base:
    return load_base(tiny.pipeline_folder("sd15"))


def placed(made_for: Base, file: str, **metadata: str) -> PlacedTuner:
    tuner = SCTuner.for_unet(made_for.unet)
    tuner.metadata = metadata
    return PlacedTuner(tuner, file, 1.0)


def test_an_sc_tuner_is_called_as_its_file_or_its_runs_folder():
    tuner = SCTuner([4], [4])
    files = {"style.safetensors": "style", "runs/warm/tuner.safetensors": "warm", "runs/v.2/tuner.pth": "v.2"}
    assert {file: PlacedTuner(tuner, file).name for file in files} == files
    assert called("/tuner.safetensors") == "tuner"
    assert called("owner/warm@0a1b2c") == called("owner/warm") == "warm"


def test_a_tuner_in_memory_is_copied_to_a_device():
    tuner = SCTuner([4], [4])
    moved = on_device(PlacedTuner(tuner, "tuners[0]"), torch.device("meta"), torch.float16).tuner
    assert (moved.device.type, moved.dtype) == ("meta", torch.float16)
    assert (tuner.device.type, tuner.dtype) == ("cpu", torch.float32)
    assert on_device(PlacedTuner(tuner, "tuners[0]"), torch.device("cpu")).tuner is tuner


def test_a_base_is_sampled_as_its_tuner_wrescheduled_for(base):
    assert rescheduled_for([placed(base, "a")], base) is base
    assert rescheduled_for([placed(base, "a"), placed(base, "b", prediction_type="epsilon")], base) is base
    taught = rescheduled_for([placed(base, "a"), placed(base, "b", prediction_type="v_prediction")], base)
    assert taught.prediction_type == taught.pipeline().scheduler.config.prediction_type == "v_prediction"
    assert taught.unet is base.unet and type(taught.scheduler) is type(base.scheduler)
    alone = rescheduled_for([placed(base, "a", prediction_type="v_prediction", zero_terminal_snr="true")], base)
    config = alone.pipeline("EulerDiscrete").scheduler.config
    assert (config.rescale_betas_zero_snr, config.timestep_spacing) == (True, "trailing")
    assert base.prediction_type == base.pipeline().scheduler.config.prediction_type == "epsilon"


def test_tuners_that_were_taught_differently_do_not_meet(base):
    one = placed(base, "one", prediction_type="v_prediction")
    with pytest.raises(SceditError, match="one was trained with v_prediction and two with epsilon: no base"):
        rescheduled_for([one, placed(base, "two", prediction_type="epsilon")], base)
    alone = placed(base, "alone", prediction_type="v_prediction", zero_terminal_snr="true")
    with pytest.raises(SceditError, match="one was trained with v_prediction and alone with v_prediction from noise alone"):
        rescheduled_for([one, alone], base)


def test_a_tuner_of_another_base_is_told_with_the_reason(base):
    for facts in ({}, {"base": "theirs"}, {"base": "theirs", "base_fingerprint": base.fingerprint}):
        check_base(placed(base, "fits", **facts), base)
    other = PlacedTuner(SCTuner([4], [4]), "small", 1.0)
    for each, message in (
        (placed(base, "one", base_fingerprint="0", base="theirs"), "for the base theirs, .* whose weights differ"),
        (placed(base, "one", base_fingerprint="0"), "one is a tuner for another base, .* whose weights differ"),
        (placed(base, "one", base_fingerprint="0", base=base.name), "trained on .* when that had other weights"),
        (other, "small is a tuner for another base, not for .*, whose skips have other channels"),
    ):
        with pytest.raises(SceditError, match=message) as error:
            check_base(each, base, "--activations")
        assert error.value.hint.startswith("name its base with --activations, or a tuner")
        assert "any_base" not in error.value.hint


def test_a_tuner_may_act_on_other_weights_with_the_same_skips(base):
    sibling = placed(base, "one", base_fingerprint="0", base="theirs")
    with pytest.raises(SceditError) as error:
        check_base(sibling, base, any_base=False)
    assert error.value.hint.endswith("; `any_base` takes it as it is")
    assert check_base(sibling, base, any_base=True) == error.value.message and base.name in error.value.message
    assert check_base(placed(base, "fits", base_fingerprint=base.fingerprint), base, any_base=True) is None
    for wanted in (True, False):
        with pytest.raises(SceditError, match="whose skips have other channels") as error:
            check_base(PlacedTuner(SCTuner([4], [4]), "small", 1.0), base, any_base=wanted)
        assert "any_base" not in error.value.hint


def test_a_base_of_the_hub_is_taken_as_its_tuners_had_it(base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one, same, other, foreign = (
        placed(base, "a", base="owner/model", base_revision="0a1b"), placed(base, "b", base="owner/model"),
        placed(base, "c", base="owner/model", base_revision="2c3d"), placed(base, "d"),
    )  # fmt: skip
    assert as_trained("owner/model", [one, same, foreign]) == "owner/model@0a1b"
    for model, tuners in {
        "owner/model@v2": [one], "owner/other": [one], "scenes": [one], "owner/model": [one, other]
    }.items():  # fmt: skip
        assert as_trained(model, tuners) == model
    (tmp_path / "owner" / "model").mkdir(parents=True)
    assert as_trained("owner/model", [one]) == "owner/model"

"""Which base `bench` draws with, and what it is told that its U-Net predicts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from PIL import Image
from typer.testing import CliRunner

from scedit_cli import SCTuner, save_tuner
from scedit_cli.benchmark import tuner_evaluation
from scedit_cli.cli import app
from scedit_cli.jobs import bench as job
from scedit_cli.models.base import load_base
from scedit_cli.training.evaluation import StyleScore
from scedit_cli.utils.errors import SceditError
from tests import tiny
from tests.jobs.bench.conftest import bench
from tests.recorder import Note, Recorder


@pytest.fixture
def drawn(monkeypatch):
    """The bases that were drawn with; nothing is."""
    bases = []
    skips, scores = "scedit_cli.benchmark.skips.study_skips", "scedit_cli.benchmark.tuner_evaluation.style_score"
    monkeypatch.setattr(skips, lambda base, *_, **more: (bases.append(base) or [], Image.new("RGB", (8, 8))))
    monkeypatch.setattr(scores, lambda base, *_, **more: bases.append(base) or StyleScore(0.0, 0.0, 1))
    return bases


def tuner(folder, **metadata: str) -> str:
    unet = load_base(tiny.pipeline_folder("sd15")).unet
    return str(save_tuner(SCTuner.for_unet(unet), folder / "style.safetensors", metadata))


def test_what_the_base_predicts_may_be_told(drawn, tmp_path):
    options = ["--base", str(tiny.pipeline_folder("sd15")), "--prediction", "v_prediction", "--json"]
    for asked in (["--skips"], ["--quality", "--tuner", tuner(tmp_path)]):
        answer = CliRunner().invoke(app, ["bench", *asked, *options])
        assert answer.exit_code == 0, answer.output
    assert [base.prediction_type for base in drawn] == ["v_prediction"] * 2
    with pytest.raises(SceditError, match="--prediction does nothing with --sampling"):
        bench(sampling=True, prediction="epsilon")


def test_a_guess_is_told_unless_a_tuner_tells(drawn, tmp_path, monkeypatch):
    guessed = replace(load_base(tiny.pipeline_folder("sd15")), is_guessed=True)
    reader = "text agreement is not measured: only the embedded base has a reader of images"
    for room in (job, tuner_evaluation):
        monkeypatch.setattr(room, "load_base", lambda *_, **more: guessed)
    events = []
    bench(skips=True, reporter=Recorder(events.append))
    assert [event.text for event in events if isinstance(event, Note)] == [
        f"{guessed.doubt}: `prediction=epsilon` takes it for the other",
        reader,
    ]
    bench(quality=True, tuners=[tuner(tmp_path, prediction_type="epsilon")], reporter=Recorder(events.append))
    assert len([event for event in events if isinstance(event, Note)]) == 2


def test_a_tuner_is_scored_on_the_base_of_the_hub_as_it_had_it(drawn, tmp_path, monkeypatch):
    base, asked = load_base(tiny.pipeline_folder("sd15")), []
    monkeypatch.setattr(tuner_evaluation, "load_base", lambda model, **_: asked.append(model) or base)
    about = {"base": "owner/model", "base_revision": "0a1b2c", "base_fingerprint": base.fingerprint}
    made = bench(quality=True, base="owner/model", tuners=[tuner(tmp_path, **about)])
    assert asked == [made.document()["base"]] == ["owner/model@0a1b2c"] and drawn == [base]

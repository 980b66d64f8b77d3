"""The control score on held-out images while training: its curve, the best tuner, and the early end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from scedit_cli import SceditError, attach, conditions, load_tuner
from scedit_cli.data.dataset import open_dataset
from scedit_cli.data.hints import open_condition_image
from scedit_cli.inference.sampler import sample, to_hints
from scedit_cli.jobs import train as job
from scedit_cli.jobs.checks.train import TrainRequest, check
from scedit_cli.models.base import load_base
from scedit_cli.recipe import ValidationSection
from scedit_cli.training.metrics import HeldOutScores
from scedit_cli.training.validation import split
from scedit_cli.utils.errors import WorkFailed
from tests.recorder import Recorder

SCORED = {
    "validation": {"metrics": True, "pictures": 2, "every": 2},
    "samples": {"every": 0, "steps": 2, "guidance": 1.0},
}


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "validation.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def scored(recipe, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "scored"
    job.train(recipe(**SCORED), out=folder)
    return folder


def test_held_out_images_are_scored_with_the_final_weights(scored, recipe):
    assert [line["step"] for line in lines(scored)] == [2, 4]
    wanted = recipe()
    base, dataset = load_base(wanted.base.model), open_dataset(wanted.data.path)
    _, held_out = split(len(dataset), ValidationSection(pictures=2))
    items = [dataset.items[number] for number in held_out]
    shown = [open_condition_image(item.conditions["canny"], "canny") for item in items]
    with attach(base.unet, load_tuner(scored)) as edits:
        drawn = sample(
            base, [item.text for item in items], attachment=edits, hints={"canny": to_hints("canny", shown)},
            seeds=held_out, steps=2, guidance=1.0, width=64, height=64,
        )  # fmt: skip
    expected = conditions.consistencies("canny", drawn, shown)
    assert lines(scored)[-1]["conditions"]["canny"]["with"] == pytest.approx(sum(expected) / 2, abs=0.02)


def test_a_run_killed_before_it_measured_goes_on(scored, recipe, tmp_path, monkeypatch):
    own, folder = HeldOutScores.measure, tmp_path / "run"

    def killed(self, trainer, reporter):
        monkeypatch.setattr(HeldOutScores, "measure", own)
        raise KeyboardInterrupt

    monkeypatch.setattr(HeldOutScores, "measure", killed)
    with pytest.raises(KeyboardInterrupt):
        job.train(recipe(**SCORED, train={"checkpoint_every": 2}), out=folder)
    assert not (folder / "validation.jsonl").exists()
    job.train(recipe(**SCORED, train={"checkpoint_every": 2}), out=folder, resume=True)
    assert lines(folder) == lines(scored)


@pytest.fixture
def scripted(monkeypatch):
    """Scores of the steps 1, 2, …"""

    def script(*scores: float | None) -> None:
        def measure(self, trainer, reporter):
            value = {"score": scores[trainer.step - 1], "score_low": 0.1, "score_high": 0.9}
            return {"step": trainer.step, "control_score": value["score"], "conditions": {"canny": value}}

        monkeypatch.setattr(HeldOutScores, "measure", measure)

    return script


def test_the_best_tuner_is_kept_and_the_run_ends_early(recipe, scripted, tmp_path):
    scripted(None, 0.5, 0.25, 0.5, 0.75)
    sections = SCORED | {
        "validation": SCORED["validation"] | {"every": 1, "patience": 2}, "checkpoints": {"best": True},
        "train": {"steps": 5, "ema_decay": 0.0, "checkpoint_every": 1},
    }  # fmt: skip
    events = []
    result = job.train(recipe(**sections), out=tmp_path / "run", reporter=Recorder(events.append))
    assert result.steps == 4 and result.best == {"step": 2, "control_score": 0.5}
    assert any("highest at step 2: the run ends early, at step 4" in getattr(event, "text", "") for event in events)
    best = load_tuner(tmp_path / "run" / "best.safetensors")
    assert best.metadata["steps"] == "2" and best.metadata["validation.control_score"] == "0.5"
    assert (tmp_path / "run" / "validation.png").stat().st_size > 1000
    other = job.train(recipe(**sections | {"train": sections["train"] | {"steps": 2}}), out=tmp_path / "two")
    two = load_tuner(other.run)
    assert all(bool((a == b).all()) for a, b in zip(best.parameters(), two.parameters(), strict=True))
    again = job.train(recipe(**sections), out=tmp_path / "run", resume=True)
    assert again.steps == 4 and [line["step"] for line in lines(tmp_path / "run")] == [1, 2, 3, 4]


def test_an_early_end_leaves_what_a_last_step_leaves(recipe, scripted, tmp_path):
    scripted(0.5, 0.25, 0.75, 0.8)
    sections = {
        "validation": SCORED["validation"] | {"every": 1, "patience": 1}, "train": {"steps": 4, "checkpoint_every": 0},
        "samples": {"every": 100, "count": 1, "steps": 1, "guidance": 1.0},
    }  # fmt: skip
    run = job.train(recipe(**sections), out=tmp_path / "run").run
    assert load_tuner(run).metadata["steps"] == "2"
    assert (run / "samples" / "step-000002.png").exists() and (run / "checkpoints" / "step-000002").is_dir()
    again = job.train(recipe(**sections | {"validation": SCORED["validation"] | {"every": 1}}), out=run, resume=True)
    assert again.resumed_at == 2 and again.steps == 4


def test_steps_are_kept_where_the_measurement_fails(recipe, tmp_path, monkeypatch):
    def starved(self, trainer, reporter):
        raise WorkFailed("memory ran out while sampling")

    monkeypatch.setattr(HeldOutScores, "measure", starved)
    with pytest.raises(WorkFailed, match="memory ran out while sampling .`resume` continues from step 2"):
        job.train(recipe(**SCORED, train={"checkpoint_every": 0}), out=tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints" / "step-000002").is_dir()


def test_the_best_tuner_of_an_abandoned_session_is_replaced(recipe, scripted, tmp_path):
    scripted(0.5, 0.25, 0.75, 0.1)
    sections = SCORED | {
        "validation": SCORED["validation"] | {"every": 1}, "checkpoints": {"best": True}, "train": {"checkpoint_every": 2},
    }  # fmt: skip
    run = job.train(recipe(**sections), out=tmp_path / "run").run
    assert load_tuner(run / "best.safetensors").metadata["steps"] == "3"
    shutil.rmtree(run / "checkpoints" / "step-000004")
    scripted(0.5, 0.25, 0.3, 0.4)
    job.train(recipe(**sections), out=run, resume=True)
    assert load_tuner(run / "best.safetensors").metadata["steps"] in ("3", "4")
    assert load_tuner(run / "best.safetensors").metadata["validation.control_score"] in ("0.3", "0.4")


def test_an_unmeasured_condition_is_refused_before_any_work(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(conditions, "measured_kinds", lambda: ("depth",))
    with pytest.raises(SceditError, match="validation.metrics: nothing measures canny"):
        check(TrainRequest(recipe(**SCORED), tmp_path / "run"))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"tuner": {"kind": "sc", "condition": None, "hint_channels": 256}, "validation": {"metrics": True}},
         "an sc tuner follows no condition"),
        ({"checkpoints": {"best": True}}, "checkpoints.best: it goes by the control score"),
        ({"validation": {"patience": 2}}, "validation.patience: it goes by the control score"),
        ({"validation": {"metrics": True, "pictures": 0}}, "no images are held out to score"),
    ],
)  # fmt: skip
def test_bad_recipes(recipe, sections, message):
    with pytest.raises(SceditError, match=message):
        recipe(**sections)


def test_too_few_images_to_hold_some_out(recipe, tmp_path):
    message = "validation.metrics: of 6 images none is held out to be scored .set validation.pictures"
    with pytest.raises(SceditError, match=message):
        job.train(recipe(validation={"metrics": True}), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()

"""Runs that stop, go on and are replaced."""

from __future__ import annotations

import os
import shutil
import signal

import pytest
import torch

from scedit_cli.jobs import train as job
from scedit_cli.jobs.checks import train as checks
from scedit_cli.training import objective
from scedit_cli.training.checkpoints import newest_checkpoint
from scedit_cli.training.memory import Forecast
from scedit_cli.training.sample_grids import SampleGrids
from scedit_cli.utils.errors import SceditError, WorkFailed
from tests import tiny
from tests.jobs.train.conftest import assert_same_end, files_in, log_of
from tests.recorder import Note, Progress, Recorder


@pytest.mark.parametrize("stop", [KeyboardInterrupt, signal.SIGINT, signal.SIGTERM], ids=str)
def test_a_stopped_run_goes_on_bit_for_bit(finished, recipe, tmp_path, monkeypatch, stop):
    """Stopped between steps by its caller, and in the middle of a step by a signal."""
    original, steps = objective.add_noise, iter(range(1, 100))

    def hear(event):
        if stop is KeyboardInterrupt and isinstance(event, Progress) and (event.stage, event.step) == ("training", 3):
            raise KeyboardInterrupt

    def add_noise(*args):
        if next(steps) == 3 and stop is not KeyboardInterrupt:
            os.kill(os.getpid(), stop)
        return original(*args)

    monkeypatch.setattr(objective, "add_noise", add_noise)
    with pytest.raises(SystemExit if stop == signal.SIGTERM else KeyboardInterrupt) as stopped:
        job.train(recipe(), out=tmp_path / "run", reporter=Recorder(hear))
    if stop == signal.SIGTERM:
        assert stopped.value.code == 143
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000003"]
    assert not {"tuner.safetensors", ".lock"} & files_in(tmp_path / "run")

    monkeypatch.undo()
    result = job.train(recipe(), out=tmp_path / "run", resume=True)
    assert result.resumed_at == 3
    assert_same_end(finished[1], tmp_path / "run")


def test_a_torn_checkpoint_is_named_and_passed_over(finished, tmp_path):
    _, folder, wanted, _ = finished
    run = tmp_path / "run"
    shutil.copytree(folder, run)
    torn = run / "checkpoints" / "step-000004"
    file = torn / "optimizer.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    events = []
    result = job.train(wanted, out=run, resume=True, reporter=Recorder(events.append))
    (note,) = [event.text for event in events if isinstance(event, Note) and str(torn) in event.text]
    assert "optimizer.safetensors" in note
    assert result.resumed_at == 2
    assert_same_end(folder, run)


def test_resuming_without_a_checkpoint_starts_at_step_0_and_says_so(finished, recipe, tmp_path):
    run, events = tmp_path / "run", []
    shutil.copytree(finished[1], run)
    shutil.rmtree(run / "checkpoints")
    result = job.train(recipe(), out=run, resume=True, reporter=Recorder(events.append))
    assert any(isinstance(event, Note) and "step 0" in event.text for event in events)
    assert result.resumed_at is None
    assert_same_end(finished[1], run)


def test_resuming_a_finished_run_makes_no_step(finished, tmp_path):
    _, folder, wanted, _ = finished
    shutil.copytree(folder, tmp_path / "run")
    (tmp_path / "run" / "tuner.safetensors").unlink()
    result = job.train(wanted, out=tmp_path / "run", resume=True)
    assert (result.steps, result.resumed_at, result.images_per_second) == (4, 4, None)
    assert result.document()["loss"] == finished[0].loss
    assert_same_end(folder, tmp_path / "run")


@pytest.mark.parametrize("lost", ["step-000004.png", "scores.jsonl"])
def test_a_grid_that_a_killed_run_has_not_drawn_is_drawn(finished, tmp_path, lost):
    """Killed between the checkpoint and the grid after the same step, or between its score and itself."""
    _, folder, wanted, _ = finished
    shutil.copytree(folder, tmp_path / "run")
    (tmp_path / "run" / "samples" / "step-000004.png").unlink()
    scores = (tmp_path / "run" / "samples" / "scores.jsonl").read_text().splitlines(keepends=True)
    if lost == "scores.jsonl":
        (tmp_path / "run" / "samples" / "scores.jsonl").write_text("".join(scores[:-1]))
    job.train(wanted, out=tmp_path / "run", resume=True)
    for name in ("step-000003.png", "step-000004.png", "scores.jsonl"):
        assert (tmp_path / "run" / "samples" / name).read_bytes() == (folder / "samples" / name).read_bytes()


def test_a_folder_that_is_gone_ends_the_run(recipe, tmp_path):
    """Nothing is written to what stands in its place."""
    run = tmp_path / "run"

    def hear(event):
        if isinstance(event, Progress) and (event.stage, event.step) == ("training", 1):
            run.rename(tmp_path / "kept")
            run.mkdir()

    with pytest.raises(WorkFailed, match="run is gone, or another process has taken it over"):
        job.train(recipe(train={"checkpoint_every": 2}), out=run, reporter=Recorder(hear))
    assert list(run.iterdir()) == []


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()], ids=["CUDA", "CPU"])
def test_memory_that_runs_out_is_told_and_the_state_kept(finished, recipe, tmp_path, monkeypatch, error):
    original, steps = objective.add_noise, iter(range(1, 100))

    def add_noise(*args):
        if next(steps) == 3:
            raise error
        return original(*args)

    monkeypatch.setattr(objective, "add_noise", add_noise)
    monkeypatch.setattr(job, "forecast", lambda *_: Forecast({"weights": 3 * 2**30}, 0, 0))
    with pytest.raises(WorkFailed, match="memory ran out after step 2, with 4 images at once") as failed:
        job.train(recipe(), out=tmp_path / "run")
    for said in ("about 3.0 GiB", "train.micro_batch_size=2", "train.memory=checkpoint", "from step 2"):
        assert said in failed.value.hint
    monkeypatch.undo()
    job.train(recipe(), out=tmp_path / "run", resume=True)
    assert_same_end(finished[1], tmp_path / "run")


def test_samples_that_fail_lose_no_step(recipe, tmp_path, monkeypatch):
    def draw(*_):
        raise WorkFailed("memory ran out while sampling", "make fewer images at once, or smaller ones")

    wanted = recipe(samples={"every": 3, "count": 1, "steps": 1})
    monkeypatch.setattr(SampleGrids, "draw", draw)
    with pytest.raises(WorkFailed, match="memory ran out while sampling") as failed:
        job.train(wanted, out=tmp_path / "run")
    assert "`resume` continues from step 3" in failed.value.hint
    assert newest_checkpoint(tmp_path / "run" / "checkpoints")[0].step == 3


def test_what_is_missing_is_told_before_a_run_is_overwritten(recipe, tmp_path, monkeypatch):
    (tmp_path / "run" / "samples").mkdir(parents=True)
    (tmp_path / "run" / "recipe.toml").write_text("mine")
    (tmp_path / "run" / "log.jsonl").write_text("")
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    with pytest.raises(SceditError, match="tracking.to wandb needs wandb, which is not installed"):
        job.train(recipe(tracking={"to": ["wandb"]}), out=tmp_path / "run", overwrite=True)
    assert (tmp_path / "run" / "recipe.toml").read_text() == "mine"


def test_a_run_that_cannot_be_scored_is_not_overwritten(finished, recipe, tmp_path):
    """Nothing is held out of six images, which is known once they are read."""
    run = tmp_path / "run"
    shutil.copytree(finished[1], run)
    before = files_in(run)
    with pytest.raises(SceditError, match="validation.metrics: of 6 images none is held out"):
        job.train(recipe(validation={"metrics": True}), out=run, overwrite=True)
    assert files_in(run) == before


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"train": {"batch_size": 2}}, "batch_size"),
        ({"train": {"optimizer_options": {"eps": 1e-6}}}, "train.optimizer_options was {} and is {'eps': 1e-06}"),
        ({"train": {"ema_decay": 0.0}}, "ema_decay"),
        ({"train": {"steps": 3}}, "train.steps"),
        (
            {"tuner": {"down_ratio": 0.5}, "train": {"seed": 3}},
            "tuner.down_ratio was 1.0 and is 0.5; train.seed was 0 and is 3",
        ),
        ({"base": {"model": str(tiny.pipeline_folder("sd15"))}}, "base"),
    ],
)
def test_a_run_is_not_resumed_with_another_recipe(finished, recipe, changes, message):
    before = files_in(finished[1])
    with pytest.raises(SceditError, match=message):
        job.train(recipe(**changes), out=finished[1], resume=True)
    assert files_in(finished[1]) == before


def test_what_a_resumed_run_learns_otherwise_is_told(finished, recipe, tmp_path):
    shutil.copytree(finished[1], tmp_path / "run")
    events = []
    changed = recipe(train={"learning_rate": 0.001, "steps": 5, "memory": "plain", "checkpoint_every": 3})
    job.train(changed, out=tmp_path / "run", resume=True, reporter=Recorder(events.append))
    (note,) = [event.text for event in events if isinstance(event, Note) and "another recipe" in event.text]
    assert note.endswith("train.steps was 4 and is 5; train.learning_rate was 0.01 and is 0.001")


def test_a_run_in_fp32_goes_on_in_fp16(finished, recipe, tmp_path):
    shutil.copytree(finished[1], tmp_path / "run")
    result = job.train(recipe(train={"precision": "fp16", "steps": 5}), out=tmp_path / "run", resume=True)
    assert (result.resumed_at, result.steps) == (4, 5)


def test_overwriting_replaces_the_run_and_nothing_else(finished, recipe, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished[1], run)
    (run / "notes.txt").write_text("mine")
    before = files_in(run)
    with pytest.raises(SceditError, match="already holds a run"):
        job.train(recipe(), out=run)
    assert files_in(run) == before
    job.train(recipe(train={"steps": 1}), out=run, overwrite=True)
    assert [line["step"] for line in log_of(run)] == [1]
    assert "samples/step-000003.png" not in files_in(run) and "notes.txt" in files_in(run)

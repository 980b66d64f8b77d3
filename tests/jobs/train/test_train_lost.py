"""Steps that come to no numbers, and what is kept when they do: the last good state, and nothing worse."""

from __future__ import annotations

import pytest
import torch

from scedit_cli.jobs import train as job
from scedit_cli.training import objective
from scedit_cli.training.checkpoints import newest_checkpoint
from scedit_cli.utils.errors import SceditError, WorkFailed
from tests.jobs.train.conftest import files_in
from tests.recorder import Progress, Recorder


@pytest.fixture
def lose(monkeypatch):
    """Has the loss of one step be `loss` times what it is, and its gradients be `gradient` times theirs."""

    def at(step: int, loss: float = 1.0, gradient: float = 1.0) -> None:
        original, calls = objective.noise_prediction_loss, []

        def called(*args):
            calls.append(1)
            losses = original(*args) * 1e-3  # which fp16's first scale can take
            if len(calls) == step:
                losses = losses * loss
                losses.register_hook(lambda own: own * gradient)
            return losses

        monkeypatch.setattr(objective, "noise_prediction_loss", called)

    return at


def stop_after(step: int):
    def hear(event):
        if isinstance(event, Progress) and (event.stage, event.step) == ("training", step):
            raise KeyboardInterrupt

    return hear


@pytest.mark.parametrize(
    ("step", "clipped", "told"),
    [(3, 1.0, "step 3: the gradient is not a number"), (4, 0.0, "step 4: the tuner's weights are not numbers")],
)
def test_a_finite_loss_whose_gradient_is_none_leaves_the_last_good_checkpoint(
    recipe, tmp_path, lose, step, clipped, told
):
    lose(step, gradient=float("inf"))
    wanted = recipe(train={"checkpoint_every": 2, "log_every": 100, "max_grad_norm": clipped})
    with pytest.raises(WorkFailed, match=told) as failed:
        job.train(wanted, out=tmp_path / "run")
    assert "continue from step 2 by `resume`" in failed.value.hint
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000002"]
    weights = newest_checkpoint(tmp_path / "run" / "checkpoints")[0].tensors["tuner"].values()
    assert all(each.isfinite().all() for each in weights) and "tuner.safetensors" not in files_in(tmp_path / "run")


def test_weights_that_are_lost_are_not_kept_at_an_interruption(recipe, tmp_path, lose):
    lose(2, gradient=float("nan"))
    with pytest.raises(KeyboardInterrupt):
        job.train(recipe(train={"log_every": 100}), out=tmp_path / "run", reporter=Recorder(stop_after(2)))
    assert newest_checkpoint(tmp_path / "run" / "checkpoints")[0] is None


def test_a_step_that_fp16_skipped_keeps_no_interrupted_run_from_being_kept(recipe, tmp_path, lose):
    lose(2, loss=float("nan"))
    wanted = recipe(train={"precision": "fp16", "log_every": 100})
    with pytest.raises(KeyboardInterrupt):
        job.train(wanted, out=tmp_path / "run", reporter=Recorder(stop_after(3)))
    kept = newest_checkpoint(tmp_path / "run" / "checkpoints")[0]
    assert (kept.step, kept.state["skipped"]) == (3, [1, 0])
    assert all(each.isfinite().all() for each in kept.tensors["tuner"].values())
    assert any(torch.any(each) for each in kept.tensors["tuner"].values())


@pytest.mark.parametrize(("full", "error"), [(True, WorkFailed), (False, SceditError)])
def test_scores_that_cannot_be_written_lose_no_step(recipe, tmp_path, full, error):
    scores = tmp_path / "run" / "samples" / "scores.jsonl"

    def hear(event):
        if isinstance(event, Progress) and (event.stage, event.step) == ("training", 1):
            scores.parent.mkdir()
            scores.symlink_to("/dev/full") if full else scores.mkdir()

    wanted = recipe(samples={"every": 3, "count": 1, "steps": 1})
    with pytest.raises(error, match="scores.jsonl could not be written") as failed:
        job.train(wanted, out=tmp_path / "run", reporter=Recorder(hear))
    assert type(failed.value) is error and "tuner.safetensors" not in files_in(tmp_path / "run")
    assert newest_checkpoint(tmp_path / "run" / "checkpoints")[0].step == 3
    if full:
        assert "make room on the disk" in failed.value.hint and "continues from step 3" in failed.value.hint

"""The loop around the training steps: logging, checkpoints, sample grids and validation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TextIO

import torch

from scedit_cli.data.dataset import Dataset
from scedit_cli.training.between_steps import BetweenSteps
from scedit_cli.training.checkpoints import newest_checkpoint, prune, save_checkpoint
from scedit_cli.training.log import as_lines, draw_curve, read_log
from scedit_cli.training.loop_plan import LoopPlan
from scedit_cli.training.losses import LossCheck
from scedit_cli.training.preflight import duration
from scedit_cli.training.run_folder import RunFolder
from scedit_cli.training.signals import Stops, undisturbed
from scedit_cli.training.trackers import Trackers
from scedit_cli.training.trainer import Trainer, move_idle_parts
from scedit_cli.training.validation import HeldOut
from scedit_cli.utils.distributed import Processes
from scedit_cli.utils.errors import SceditError, WorkFailed, is_out_of_memory, reason
from scedit_cli.utils.io import explained, write_whole
from scedit_cli.utils.process_memory import memory_used
from scedit_cli.utils.reporter import Reporter

_WARM = 5  # steps after which the remaining time can be estimated


class Loop:
    """The training loop: makes the steps of `plan` with `trainer`; the first process writes the run's folder."""

    def __init__(
        self,
        plan: LoopPlan,
        run: RunFolder,
        dataset: Dataset,
        trainer: Trainer,
        reporter: Reporter,
        held_out: HeldOut | None = None,
        processes: Processes = Processes(),
        estimated_memory: int | None = None,
    ) -> None:
        self.plan, self.run, self.trainer, self.reporter = plan, run, trainer, reporter
        self.held_out, self.processes = held_out, processes
        self._estimated_memory = estimated_memory  # bytes at the peak
        self.began = 0  # the step at which this session began
        self.seconds = 0.0  # training time, including earlier sessions
        self.seconds_before = 0.0
        self.waited = 0.0  # seconds of this session spent waiting for data
        self.losses = LossCheck(trainer, dataset, processes, plan.train.max_skipped)
        self._between = BetweenSteps(plan, run, trainer, reporter, processes)
        self._stops = Stops(processes.agreed)  # a process that left alone would make the others wait for it
        self._last = plan.train.steps  # the number of the run's last step, unless the control score ends it earlier

    @property
    def images_per_second(self) -> float | None:
        made = (self.trainer.step - self.began) * self.plan.train.batch_size
        return made / (self.seconds - self.seconds_before) if made else None

    @property
    def waiting_share(self) -> float | None:
        """The share of this session's time spent waiting for data, in [0, 1]."""
        spent = self.seconds - self.seconds_before
        return self.waited / spent if spent else None

    def restore(self, check_recipe: Callable[[], str | None]) -> int | None:
        """Restore the newest whole checkpoint and return its step, or None where there is none.

        Args:
            check_recipe: a function that returns a note on the recipe's changes, or raises SceditError.

        Raises:
            SceditError: the run is past `train.steps`, or as `check_recipe`.
        """
        needed = (*Trainer.NEEDED, "seconds", "skipped")
        checkpoint, torn = self.processes.by_first(lambda: newest_checkpoint(self.run.checkpoints, needed))
        for sentence in torn:
            self.reporter.note(sentence)
        if checkpoint is None:
            self.reporter.note(f"{self.run.folder} holds no whole checkpoint to resume from: starting at step 0")
            return None
        if checkpoint.step > self.plan.train.steps:
            raise SceditError(
                f"train.steps is {self.plan.train.steps}, and the run is at step {checkpoint.step} already",
                hint=f"`train.steps={checkpoint.step}` or more, or start a new run",
            )
        if changes := self.processes.by_first(check_recipe):
            self.reporter.note(changes)
        if self.plan.train.ema_decay and "averaged" not in checkpoint.state:
            self.reporter.note(
                "the moving average in this checkpoint had no warm-up: a new one begins with its weights"
            )
        self.trainer.restore(checkpoint)
        if self.processes.is_first:  # A run killed after its last save has not pruned.
            prune(self.run.checkpoints, checkpoint.step, self.plan.checkpoints.keep)
        self.began = self.losses.saved = checkpoint.step
        self.seconds = self.seconds_before = checkpoint.state["seconds"]
        self.losses.skipped, self.losses.skipped_in_a_row = checkpoint.state["skipped"]
        self.reporter.note(f"resuming {self.run.folder} at step {checkpoint.step}")
        return checkpoint.step

    def run_steps(self) -> None:
        """Make the remaining steps. If interrupted between two steps, or if another process is lost, save a checkpoint.

        Raises:
            WorkFailed: the loss is NaN or infinite, memory or disk ran out, or another process was lost.
        """
        if not self.processes.is_first:
            return self._make_steps(None, None)
        step = self.trainer.step
        write_whole(self.run.log, as_lines(read_log(self.run.log, until=step)))  # first, as it identifies a run
        write_whole(self.run.recipe, self.plan.recipe)
        self._between.restore()
        trackers = self.plan.trackers()
        try:
            with explained(self.run.log), self.run.log.open("a", encoding="utf-8", buffering=1) as log:
                self._make_steps(log, trackers)
        finally:
            trackers.close()
        self._draw_curve()

    def _make_steps(self, log: TextIO | None, trackers: Trackers | None) -> None:
        base = self.trainer.base
        self._between.leave_idle()
        try:
            with self._stops:
                if self.processes.by_first(lambda: self.trainer.step > 0 and not self._between.is_drawn):
                    self._draw_what_is_due(trackers)  # A run killed after its checkpoint has not drawn.
                self._score_what_is_due(trackers)  # Likewise it may not have measured.
                while self.trainer.step < self._last:
                    self._advance(log, trackers)
                    self._save_what_is_due()
                    self._stops.act()
                    self._draw_what_is_due(trackers)
                    self._score_what_is_due(trackers)
        except WorkFailed:
            raise
        except (KeyboardInterrupt, SystemExit, SceditError):  # SceditError: data became unreadable.
            self._rescue()
            raise
        except (RuntimeError, MemoryError, OSError) as error:
            if is_out_of_memory(error):
                raise self._starved() from error
            if not self.processes.has_lost_one(error):
                raise
            raise self._left_alone(error) from error
        move_idle_parts(base, base.device)

    def _advance(self, log: TextIO | None, trackers: Trackers | None) -> None:
        options, began = self.plan.train, time.perf_counter()
        step = self.trainer.advance()
        self.waited += step.waited
        self.losses.add(step)
        is_measured = self.held_out is not None and self._is_due(self.plan.validation.every)
        is_logged = is_measured or self._is_due(options.log_every)
        if is_logged:
            self.losses.look()
        self.seconds += time.perf_counter() - began
        line: dict[str, Any] = {"step": step.number, "loss": self.losses.last, "learning_rate": step.learning_rate}
        if is_measured:
            line["validation_loss"] = self.held_out.loss(self.trainer)
        if is_logged and log and trackers:
            line |= {"seconds": round(self.seconds, 3), "epoch": self.trainer.epoch, "skipped": self.losses.skipped}
            if step.gradient_norm is not None:
                norm = step.gradient_norm.item()
                line["gradient_norm"] = norm if torch.isfinite(step.gradient_norm) else None
            line |= {"memory": memory_used(self.trainer.device), "waited": round(self.waited, 3)}
            log.write(as_lines([line]))
            trackers.log(line, step.number)
        self._report_step()

    def _save_what_is_due(self) -> None:
        """Save a checkpoint if one is due after this step."""
        if self._is_due(self.plan.train.checkpoint_every):
            self.losses.look()
            self.losses.check_weights()
            self._save()
            if self.trainer.step < self._last:  # else `run_steps` draws it, validated and whole
                self._draw_curve()

    def _draw_what_is_due(self, trackers: Trackers | None) -> None:
        """Draw a sample grid if one is due after this step."""
        is_drawing = self.processes.is_first or self.processes.shards_base
        if is_drawing and self.plan.samples.every and self._is_due(self.plan.samples.every):
            with self._steps_kept():
                self._between.draw(trackers)

    @contextmanager
    def _steps_kept(self) -> Iterator[None]:
        """Save a checkpoint where the work of the block fails, since the training steps before it are valid."""
        try:
            with self._stops.at_once():
                yield
        except WorkFailed as failure:
            self._rescue()
            hints = failure.hint, f"`resume` continues from step {self.losses.saved}"
            raise WorkFailed(failure.message, hint="; ".join(filter(None, hints))) from failure

    def _score_what_is_due(self, trackers: Trackers | None) -> None:
        """Measure the control scores on held-out images if that is due after this step and not done yet. Where they
        have stopped rising, end the run with this step."""
        scores, step = self.plan.scores, self.trainer.step
        if not scores or step == 0:
            return
        is_due = self._is_due(self.plan.validation.every)
        if is_due and not self.processes.by_first(lambda: scores.is_known(step)):
            with self._steps_kept():
                self._between.score(trackers)
        if step < self._last and self.processes.by_first(lambda: scores.is_over):
            self._end_early(trackers)

    def _end_early(self, trackers: Trackers | None) -> None:
        """Make this step the last one, with the checkpoint and the sample grid that a last step has."""
        best = self.processes.by_first(lambda: self.plan.scores.best["step"])
        self._last = self.trainer.step
        self.reporter.note(f"the control score was highest at step {best}: the run ends early, at step {self._last}")
        if self.losses.saved < self._last:
            self._save_what_is_due()
            self._stops.act()
        if not self.processes.by_first(lambda: self._between.is_drawn):
            self._draw_what_is_due(trackers)

    def _is_due(self, every: int) -> bool:
        step = self.trainer.step
        return step == self._last or every > 0 and step % every == 0

    def _report_step(self) -> None:
        speed, waiting = self.images_per_second, self.waiting_share
        values = {
            "loss": self.losses.last,
            "images/s": speed,
            "GiB": memory_used(self.trainer.device) / 2**30,
            "waiting %": None if waiting is None else 100 * waiting,
        }
        step, steps = self.trainer.step, self.plan.train.steps
        shown = {name: value for name, value in values.items() if value is not None}
        self.reporter.progress(step, steps, "training", shown)
        if step == self.began + _WARM and steps - step > _WARM and speed:
            seconds = self.plan.train.batch_size / speed
            self.reporter.note(f"about {duration(seconds * (steps - step))} to go, {seconds:.3g} s a step")

    def _save(self) -> None:
        """Save a checkpoint, in the first process only."""
        if self.processes.is_first:
            self.run.check_claim()
            checkpoint = self.trainer.checkpoint()
            skipped = [self.losses.skipped, self.losses.skipped_in_a_row]
            state = checkpoint.state | {"seconds": self.seconds, "skipped": skipped}
            save_checkpoint(self.run.checkpoints, replace(checkpoint, state=state), self.plan.checkpoints.keep)
        self.losses.saved = self.trainer.step

    def _rescue(self) -> None:
        """Save an unscheduled checkpoint unless weights or losses are not finite; no other process is needed."""
        if self.trainer.is_whole and self.losses.saved < self.trainer.step:
            with undisturbed():
                if self.losses.are_fine and self.trainer.is_finite:
                    self._save()

    def _left_alone(self, error: RuntimeError) -> WorkFailed:
        self._rescue()
        return WorkFailed(
            f"after step {self.trainer.step} of {self.processes.count} processes together: {reason(error)}",
            hint=f"one of them is gone or cannot be reached; `resume` continues from step {self.losses.saved}",
        )

    def _starved(self) -> WorkFailed:
        self._rescue()
        options = self.plan.train
        at_once = min(options.micro_batch_size or options.batch_size, -(-options.batch_size // self.processes.count))
        less = ["`train.memory=checkpoint`"] if options.memory != "checkpoint" else []
        if at_once > 1:
            less.insert(0, f"`train.micro_batch_size={at_once // 2}`")
        wanted = f"about {self._estimated_memory / 2**30:.1f} GiB are needed; " if self._estimated_memory else ""
        return WorkFailed(
            f"memory ran out after step {self.trainer.step}, with {at_once} images at once",
            hint=f"{wanted}{' or '.join(less) or 'smaller images'} takes less"
            + (f", and `resume` continues from step {self.losses.saved}" if self.losses.saved else ""),
        )

    def _draw_curve(self) -> None:
        if self.processes.is_first:
            self.run.check_claim()
            draw_curve(self.run.curve, read_log(self.run.log), self.plan.title)

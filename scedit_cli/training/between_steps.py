"""The work between two steps of a run: sample grids, and control scores on held-out images."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from scedit_cli.training.log import as_lines, read_log
from scedit_cli.training.loop_plan import LoopPlan
from scedit_cli.training.run_folder import RunFolder
from scedit_cli.training.sample_grids import SampleGrids
from scedit_cli.training.trackers import Trackers
from scedit_cli.training.trainer import Trainer, move_idle_parts
from scedit_cli.utils.distributed import Processes
from scedit_cli.utils.io import explained, write_whole
from scedit_cli.utils.reporter import Reporter


class BetweenSteps:
    """What is drawn and measured after the trainer's present step. Only a process with trackers writes."""

    def __init__(
        self, plan: LoopPlan, run: RunFolder, trainer: Trainer, reporter: Reporter, processes: Processes
    ) -> None:
        self.plan, self.run, self.trainer, self.reporter, self.processes = plan, run, trainer, reporter, processes
        self._grids: SampleGrids | None = None

    @property
    def is_drawn(self) -> bool:
        """Whether the sample grid after the present step exists."""
        return self._grid.exists()

    def restore(self) -> None:
        """Remove the figures of later steps, which belong to an abandoned session."""
        step = self.trainer.step
        if self._scores.exists():
            shown = step if self.is_drawn else step - 1
            write_whole(self._scores, as_lines(read_log(self._scores, until=shown)))
        if self.plan.scores:
            self.plan.scores.restore(step)

    def draw(self, trackers: Trackers | None) -> None:
        """Draw a sample grid with the final weights, and write it with its control score."""
        base, step = self.trainer.base, self.trainer.step
        move_idle_parts(base, base.device)
        self._grids = self._grids or SampleGrids(base, self.plan.examples(), self.plan.samples)
        with self.trainer.finished():
            grid = self._grids.draw(self.trainer.edits, self.reporter.stage("samples"))
        self.leave_idle()
        if not trackers:
            return
        self.run.check_claim()
        if (score := self._grids.score) is not None:
            with explained(self._scores):
                self._scores.parent.mkdir(parents=True, exist_ok=True)
                with self._scores.open("a", encoding="utf-8") as scores:
                    scores.write(as_lines([{"step": step, "control_score": score}]))
            trackers.log({"control_score": score}, step)
        buffer = io.BytesIO()
        grid.save(buffer, "PNG")
        write_whole(self._grid, buffer.getvalue())  # The grid is written last: where it exists, its score does too.
        trackers.show("samples", grid, step)

    def score(self, trackers: Trackers | None) -> None:
        """Measure the control scores on held-out images, keep the tuner if they are the best, and plot their curve."""
        scores = self.plan.scores
        if self.processes.shards_base:  # each process has a part of the U-Net: all draw
            line = self._scored()
        else:
            line = self.processes.by_first(self._scored)
        if trackers:
            self.run.check_claim()
            with self.trainer.finished():
                scores.write(line)
            scores.draw(self.run.score_curve, self.plan.title)
            if line["control_score"] is not None:
                trackers.log({"validation_score": line["control_score"]}, line["step"])

    def leave_idle(self) -> None:
        """Move the parts that no step calls to the CPU."""
        if not self.trainer.stream:  # A stream's images and captions are encoded at each step.
            move_idle_parts(self.trainer.base, "cpu")

    def _scored(self) -> dict[str, Any]:
        base = self.trainer.base
        move_idle_parts(base, base.device)
        with self.trainer.finished():
            line = self.plan.scores.measure(self.trainer, self.reporter.stage("validation"))
        self.leave_idle()
        return line

    @property
    def _grid(self) -> Path:
        """The path of the sample grid after the present step."""
        return self.run.samples / f"step-{self.trainer.step:06d}.png"

    @property
    def _scores(self) -> Path:
        return self.run.samples / "scores.jsonl"

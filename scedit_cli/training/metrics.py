"""The control score on held-out images while training: its curve, the best tuner, and the end where it stops rising."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from scedit_cli.conditions.protocols import find_protocol
from scedit_cli.core.bundle import tuners_of
from scedit_cli.data.evaluation_set import EvaluationSet
from scedit_cli.inference.evaluation import RECONSTRUCTION, WITHOUT, Arm, Evaluated, Evaluator, scored
from scedit_cli.inference.sampling_options import SamplingOptions
from scedit_cli.recipe import SamplesSection
from scedit_cli.training.log import as_lines, read_log
from scedit_cli.training.trainer import Trainer
from scedit_cli.utils.io import explained, write_whole
from scedit_cli.utils.reporter import SILENT, Reporter

_COLOURS = ("#1f4e9c", "#c8553d", "#3d8c5f", "#8c5fa8")


class HeldOutScores:
    """The control scores of a run on images that no step trains on, by the code of `evaluate`.

    They are lines of `file`, one for each measured step; all that a resumed run needs to know stands there.

    Args:
        images: the held-out images, with the conditions of the tuner.
        samples: the sampler's settings.
        patience: after how many measures without a better one the run ends; 0 for never.
        kept: the file of the tuner with the best score; None keeps none.
        keep: saves the tuner as it is; called with that file, the step and the score.
    """

    def __init__(
        self,
        file: Path,
        images: EvaluationSet,
        samples: SamplesSection,
        patience: int = 0,
        kept: Path | None = None,
        keep: Callable[[Path, int, float], None] = lambda file, step, score: None,
    ) -> None:
        self.file, self.images, self.patience, self.kept, self._keep = file, images, patience, kept, keep
        self._sampling = SamplingOptions(
            samples.steps, samples.guidance, samples.control_guidance, seed=samples.seed
        )
        self._bounds: Evaluated | None = None  # the images without the tuner, and the reconstructions

    def restore(self, step: int) -> None:
        """Remove the lines of later steps, which belong to an abandoned session, and the tuner kept at one of them."""
        if self.file.exists():
            best = self.best
            write_whole(self.file, as_lines(read_log(self.file, until=step)))
            if self.kept and best and best["step"] > step:
                self.kept.unlink(missing_ok=True)

    def is_known(self, step: int) -> bool:
        return any(line["step"] == step for line in read_log(self.file))

    @property
    def best(self) -> dict[str, Any] | None:
        """The line of the highest score, the first of equal ones."""
        known = [line for line in read_log(self.file) if line["control_score"] is not None]
        return max(known, key=lambda line: line["control_score"]) if known else None

    @property
    def is_over(self) -> bool:
        """Whether the last `patience` measures were no better than one before."""
        lines, best = read_log(self.file), self.best
        if not self.patience or best is None:
            return False
        return sum(line["step"] > best["step"] for line in lines) >= self.patience

    def measure(self, trainer: Trainer, reporter: Reporter = SILENT) -> dict[str, Any]:
        """Return the line of the trainer's step: its mean control score, and by condition the score and its interval.
        The tuner has its final weights, as in a `finished` block."""
        protocol, tuners = find_protocol("scedit"), tuners_of(trainer.tuner)
        evaluator = Evaluator(trainer.base, self.images, protocol, self._sampling, edits=trainer.edits)
        arm = Arm("with", tuple(tuners), (1.0,) * len(tuners))
        arms = [arm] if self._bounds else [arm, WITHOUT, RECONSTRUCTION]
        found = evaluator.run(arms, reporter)
        self._bounds = self._bounds or found
        figures = self._bounds.figures | found.figures
        scores = {kind: scored(protocol, kind, figures).figures() for kind in self.images.specs}
        known = [each["score"] for each in scores.values()]
        mean = None if None in known else sum(known) / len(known)
        return {"step": trainer.step, "control_score": mean, "conditions": scores}

    def write(self, line: dict[str, Any]) -> None:
        """Keep the tuner where the line's score is the best so far, or where the best one's was removed by `restore`,
        then add the line to the file."""
        best, score = self.best, line["control_score"]
        is_better = score is not None and (best is None or score > best["control_score"])
        if self.kept and (is_better or score is not None and not self.kept.exists()):
            self._keep(self.kept, line["step"], score)
        with explained(self.file), self.file.open("a", encoding="utf-8") as file:
            file.write(as_lines([line]))

    def draw(self, path: Path, title: str) -> None:
        """Plot the score of each condition over the steps with its interval; nothing where none is known."""
        lines = read_log(self.file)
        if any(line["control_score"] is not None for line in lines):
            _draw(path, lines, title)


def _draw(path: Path, lines: Sequence[dict[str, Any]], title: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, kind in enumerate(lines[0]["conditions"]):
        known = [(line["step"], line["conditions"][kind]) for line in lines]
        known = [(step, each) for step, each in known if each["score"] is not None]
        colour, steps = _COLOURS[number % len(_COLOURS)], [step for step, _ in known]
        axes.plot(steps, [each["score"] for _, each in known], color=colour, marker="o", label=kind)
        sure = [(step, each["score_low"], each["score_high"]) for step, each in known if each["score_low"] is not None]
        if sure:
            axes.fill_between(*zip(*sure, strict=True), color=colour, alpha=0.15, linewidth=0)
    axes.set_xlabel("step")
    axes.set_ylabel("control score on held-out images")
    axes.set_title(f"{title}; bands are 95 % intervals", loc="left", fontsize=11, parse_math=False)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_whole(path, buffer.getvalue())

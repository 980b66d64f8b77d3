"""`scedit train`: a tuner from a recipe, in a run folder that can be resumed at any moment."""

from __future__ import annotations

import io
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor

from scedit_cli.base import Base
from scedit_cli.core.tuners import Tuner
from scedit_cli.core.weights import save_tuner
from scedit_cli.data.cache import cache_latents_and_text
from scedit_cli.data.dataset import Dataset
from scedit_cli.data.rendered import SCENE_KINDS
from scedit_cli.errors import SceditError, WorkFailed
from scedit_cli.files import write_whole
from scedit_cli.jobs.progress import Note, OnEvent, Progress
from scedit_cli.pipelines import EMBEDDED
from scedit_cli.recipe import Recipe
from scedit_cli.training import setup
from scedit_cli.training.checkpoints import newest_checkpoint, save_checkpoint
from scedit_cli.training.interrupts import terminable, undisturbed
from scedit_cli.training.log import as_lines, draw_curve, read_log, recent_loss
from scedit_cli.training.material import OnStep
from scedit_cli.training.previews import Previews
from scedit_cli.training.runs import Run, choose_run, claimed
from scedit_cli.training.score import Score, control_scores
from scedit_cli.training.trainer import Step, Trainer, move_idle_parts

_NAMED = 8  # pictures in a sentence


@dataclass(frozen=True)
class TrainResult:
    """What a run came to. `seconds` are those of the whole command; `images_per_second` counts its training steps
    alone, and is None where it made none."""

    run: Path
    tuner: Path
    steps: int
    seconds: float
    images_per_second: float | None
    loss: float | None
    trainable_parameters: int
    score: Score | None
    resumed_at: int | None

    def document(self) -> dict[str, Any]:
        """What --json writes."""
        return {
            "run": str(self.run),
            "tuner": str(self.tuner),
            "steps": self.steps,
            "resumed_at": self.resumed_at,
            "seconds": round(self.seconds, 3),
            "images_per_second": self.images_per_second,
            "loss": self.loss,
            "trainable_parameters": self.trainable_parameters,
            "control_score": self.score.score if self.score else None,
            "consistency": {key.rstrip("_"): value for key, value in asdict(self.score).items() if key != "score"}
            if self.score
            else None,
        }

    def summary(self) -> list[tuple[str, str]]:
        """The rows that a person reads."""
        speed = f", {self.images_per_second:.1f} images/s" if self.images_per_second else ""
        minutes, seconds = divmod(round(self.seconds), 60)
        rows = [
            ("run", str(self.run)),
            ("tuner", f"{self.tuner} ({self.trainable_parameters:,} parameters)"),
            ("steps", f"{self.steps} in {minutes}:{seconds:02d} min{speed}"),
            ("loss", "unknown" if self.loss is None else f"{self.loss:.4f}"),
        ]
        if self.score:
            known = "none to reach" if self.score.score is None else f"{self.score.score:.3f}"
            rows.append(
                (
                    "control score",
                    f"{known} over {self.score.scenes} held-out scenes (consistency {self.score.with_:.3f} with the "
                    f"tuner, {self.score.without:.3f} without, {self.score.reconstruction:.3f} reconstructed)",
                )
            )
        return rows


def train(
    recipe: Recipe,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    on_event: OnEvent | None = None,
) -> TrainResult:
    """Train the tuner that `recipe` describes.

    Ctrl-C and SIGTERM end it after the step in hand, with a checkpoint from which `resume` goes on bit for bit (on a
    CPU); what they raise, KeyboardInterrupt or SystemExit(143), passes through.

    Args:
        out: the run's folder; by default the next free one of runs/NAME, runs/NAME-2, ….
        resume: go on from the newest whole checkpoint of `out`, or of the recipe's last run; without one, from step 0.
        overwrite: replace the run that `out` holds.

    Raises:
        SceditError: bad input; nothing is written then.
        WorkFailed: the loss is not a number any more, or memory or disk ran out.
    """
    started = time.monotonic()
    tell = on_event or (lambda event: None)
    run = choose_run(recipe.name, out, resume, overwrite)
    with terminable(), claimed(run):
        base = setup.open_base(recipe)
        dataset = setup.find_dataset(recipe, base, _progress(tell, "rendering"))
        if overlong := base.overlong(sorted({item.text for item in dataset.items})):
            tell(Note(f"{len(overlong)} captions are longer than the base reads, such as: {overlong[0]}"))
        cache = cache_latents_and_text(
            dataset, base, setup.kinds_read(recipe), _progress(tell, "encoding"), setup.orders(recipe)
        )
        if overwrite:
            run.clear()
        tuner = setup.fresh_tuner(recipe, base)
        with Trainer(base, tuner, cache, dataset.size, recipe.train, recipe.data.caption_dropout) as trainer:
            session = _Session(recipe, run, dataset, trainer, tell)
            resumed_at = session.restore() if resume else None
            session.run_steps()
        with trainer.averaged():
            save_tuner(tuner, run.tuner, setup.facts(recipe, base, dataset))
            score = _score(recipe, base, tuner, tell)
        return TrainResult(
            run=run.folder,
            tuner=run.tuner,
            steps=trainer.step,
            seconds=time.monotonic() - started,
            images_per_second=session.images_per_second,
            loss=recent_loss(run.log),
            trainable_parameters=sum(parameter.numel() for parameter in tuner.parameters()),
            score=score,
            resumed_at=resumed_at,
        )


class _Session:
    """The loop around the training steps: the log, checkpoints, grids, and what is told of them."""

    def __init__(self, recipe: Recipe, run: Run, dataset: Dataset, trainer: Trainer, tell: OnEvent) -> None:
        self.recipe, self.run, self.dataset, self.trainer, self.tell = recipe, run, dataset, trainer, tell
        self.began = 0  # step
        self.seconds = 0.0  # of training, those of earlier sessions included
        self.seconds_before = 0.0
        self.last_loss: float | None = None
        self._unseen: list[Step] = []  # whose losses have not been looked at
        self._saved = 0  # step of the last checkpoint
        self._previews: Previews | None = None

    @property
    def images_per_second(self) -> float | None:
        made = (self.trainer.step - self.began) * self.recipe.train.batch_size
        return made / (self.seconds - self.seconds_before) if made else None

    def restore(self) -> int | None:
        """Goes back to the newest whole checkpoint; returns its step, None where there is none."""
        checkpoint, torn = newest_checkpoint(self.run.checkpoints)
        for sentence in torn:
            self.tell(Note(sentence))
        if checkpoint is None:
            self.tell(Note(f"{self.run.folder} holds no whole checkpoint to resume from: starting at step 0"))
            return None
        if checkpoint.step > self.recipe.train.steps:
            raise SceditError(
                f"train.steps is {self.recipe.train.steps}, and the run is at step {checkpoint.step} already",
                hint=f"--set train.steps={checkpoint.step} or more, or start a new run",
            )
        self.trainer.restore(checkpoint)
        self.began = self._saved = checkpoint.step
        self.seconds = self.seconds_before = checkpoint.state["seconds"]
        self.tell(Note(f"going on with {self.run.folder} at step {checkpoint.step}"))
        return checkpoint.step

    def run_steps(self) -> None:
        """Makes the steps that are missing. Interrupted between two of them, it leaves a checkpoint."""
        options, base = self.recipe.train, self.trainer.base
        write_whole(self.run.recipe, self.recipe.to_toml())
        write_whole(self.run.log, as_lines(read_log(self.run.log, until=self.trainer.step)))
        move_idle_parts(base, "cpu")
        with self.run.log.open("a", encoding="utf-8", buffering=1) as log:
            is_between = True
            while self.trainer.step < options.steps:
                try:
                    with undisturbed():
                        is_between = False
                        self._advance(log)
                        is_between = True
                    self._tell_step()
                    self._do_what_is_due()
                except (KeyboardInterrupt, SystemExit):
                    if is_between and self._saved < self.trainer.step:
                        self._save()
                    raise
        move_idle_parts(base, base.device)
        self._draw_curve()

    def _advance(self, log: TextIO) -> None:
        options = self.recipe.train
        began = time.perf_counter()
        step = self.trainer.advance()
        self._unseen.append(step)
        is_logged = step.number == options.steps or _is_due(step.number, options.log_every)
        if is_logged:
            self._look()
        self.seconds += time.perf_counter() - began
        if is_logged:
            line = {"step": step.number, "loss": self.last_loss, "learning_rate": step.learning_rate}
            log.write(as_lines([line | {"seconds": round(self.seconds, 3)}]))

    def _do_what_is_due(self) -> None:
        """A checkpoint or a grid, where the recipe wants them after this step."""
        step = self.trainer.step
        is_last = step == self.recipe.train.steps
        if is_last or _is_due(step, self.recipe.train.checkpoint_every):
            self._save()
            self._draw_curve()
        if self.recipe.samples.every and (is_last or _is_due(step, self.recipe.samples.every)):
            self._draw_samples()

    def _look(self) -> None:
        """Waits for the losses of the steps since the last look.

        Raises:
            WorkFailed: one is not a number.
        """
        for step in self._unseen:
            losses = step.losses.cpu()
            if not losses.isfinite().all():
                raise self._lost(step, losses)
            self.last_loss = losses.mean().item()
        self._unseen.clear()

    def _lost(self, step: Step, losses: Tensor) -> WorkFailed:
        bad = [index for index, loss in zip(step.indices, losses, strict=True) if not loss.isfinite()]
        names = [self.dataset.items[index].image.name for index in bad[:_NAMED]]
        more = f" and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
        go_on = f", and go on from step {self._saved} by --resume" if self._saved else ""
        return WorkFailed(
            f"the loss of step {step.number} is not a number (NaN or Inf), on {', '.join(names)}{more}",
            hint=f"look at these pictures, lower train.learning_rate or take train.precision = fp32{go_on}",
        )

    def _tell_step(self) -> None:
        loss = {} if self.last_loss is None else {"loss": self.last_loss}
        values = loss | {"images/s": self.images_per_second}
        self.tell(Progress("training", self.trainer.step, self.recipe.train.steps, values))

    def _save(self) -> None:
        with undisturbed():
            self._look()  # weights that are lost are not kept
            checkpoint = self.trainer.checkpoint()
            state = checkpoint.state | {"seconds": self.seconds}
            save_checkpoint(self.run.checkpoints, replace(checkpoint, state=state))
            self._saved = checkpoint.step

    def _draw_samples(self) -> None:
        base, recipe = self.trainer.base, self.recipe
        move_idle_parts(base, base.device)
        self._previews = self._previews or Previews(base, setup.examples(recipe, self.dataset), recipe.samples)
        with self.trainer.averaged():
            grid = self._previews.draw(self.trainer.edits, _progress(self.tell, "samples"))
        move_idle_parts(base, "cpu")
        buffer = io.BytesIO()
        grid.save(buffer, "PNG")
        write_whole(self.run.samples / f"step-{self.trainer.step:06d}.png", buffer.getvalue())

    def _draw_curve(self) -> None:
        if lines := read_log(self.run.log):
            steps, losses = [line["step"] for line in lines], [line["loss"] for line in lines]
            title = f"{self.recipe.name}: {self.trainer.tuner} on {Path(self.trainer.base.name).name}"
            draw_curve(self.run.curve, steps, losses, title)


def _score(recipe: Recipe, base: Base, tuner: Tuner, tell: OnEvent) -> Score | None:
    scenes, kind = recipe.score.scenes, tuner.condition
    if not scenes or kind not in SCENE_KINDS or base.name != EMBEDDED:
        return None
    return control_scores(base, [tuner], scenes=scenes, on_step=_progress(tell, "control score"))[kind]


def _progress(tell: OnEvent, stage: str) -> OnStep:
    return lambda done, total: tell(Progress(stage, done, total))


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0

"""The job `scedit train`: a tuner from a recipe, in a run folder that can be resumed at any moment."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from scedit_cli.core.tuners import Tuner
from scedit_cli.core.weights import save_tuner
from scedit_cli.data.cache import Cache, cache_latents_and_text, text_in_other_precision
from scedit_cli.data.scenes import SCENE_KINDS
from scedit_cli.jobs.checks.train import check
from scedit_cli.models.base import DTYPES, Base
from scedit_cli.models.loading import EMBEDDED
from scedit_cli.recipe import Recipe
from scedit_cli.training import builders
from scedit_cli.training.distributed import Processes
from scedit_cli.training.evaluation import Score, control_scores
from scedit_cli.training.fitting import Ladder, as_plain, least_change
from scedit_cli.training.log import last_value, recent_loss
from scedit_cli.training.loop import Loop
from scedit_cli.training.memory import forecast
from scedit_cli.training.model_card import check_hub, upload, write_card
from scedit_cli.training.preflight import Preflight, look_ahead, scarce_sizes
from scedit_cli.training.run_folder import RunFolder, choose_run, claimed
from scedit_cli.training.signals import terminable
from scedit_cli.training.trackers import check_trackers
from scedit_cli.training.trainer import Trainer
from scedit_cli.training.validation import HeldOut, held_out_count, split
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.reporter import SILENT, Reporter


@dataclass(frozen=True)
class TrainResult:
    """The result of a run. `seconds` is the time of the whole command; `images_per_second` counts its training steps
    alone, and is None without any; `waiting_share` is the share of their time that they waited for data.
    `validation_loss` is the last loss on held-out images, and `skipped` the number of steps that fp16 left out."""

    run: Path
    tuner: Path
    steps: int
    seconds: float
    images_per_second: float | None
    loss: float | None
    trainable_parameters: int
    score: Score | None
    resumed_at: int | None
    waiting_share: float | None = None
    validation_loss: float | None = None
    skipped: int = 0

    @property
    def control_score(self) -> float | None:
        return self.score.score if self.score else None

    def document(self) -> dict[str, Any]:
        """Return the document that --json writes."""
        return {
            "run": str(self.run),
            "tuner": str(self.tuner),
            "steps": self.steps,
            "resumed_at": self.resumed_at,
            "seconds": round(self.seconds, 3),
            "images_per_second": self.images_per_second,
            "loss": self.loss,
            "trainable_parameters": self.trainable_parameters,
            "waiting_share": self.waiting_share,
            "validation_loss": self.validation_loss,
            "skipped": self.skipped,
            "control_score": self.control_score,
            "consistency": {key.rstrip("_"): value for key, value in asdict(self.score).items() if key != "score"}
            if self.score
            else None,
        }

    def summary(self) -> list[tuple[str, str]]:
        """Return the rows (name, value) that a person reads."""
        speed = f", {self.images_per_second:.1f} images/s" if self.images_per_second else ""
        if self.waiting_share is not None:
            speed += f", {self.waiting_share:.1%} of the time waiting for data"
        minutes, seconds = divmod(round(self.seconds), 60)
        rows = [
            ("run", str(self.run)),
            ("tuner", f"{self.tuner} ({self.trainable_parameters:,} parameters)"),
            ("steps", f"{self.steps} in {minutes}:{seconds:02d} min{speed}"),
            ("loss", "unknown" if self.loss is None else f"{self.loss:.4f}"),
        ]
        if self.validation_loss is not None:
            rows.append(("held out", f"{self.validation_loss:.4f}"))
        if self.skipped:
            rows.append(("skipped", f"{self.skipped} steps whose values fp16 could not hold"))
        if self.score:
            known = "none to reach" if self.control_score is None else f"{self.control_score:.3f}"
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
    dry_run: bool = False,
    fit: bool = False,
    push_to_hub: str | None = None,
    device: str | None = None,
    reporter: Reporter | None = None,
) -> TrainResult | Preflight | Ladder | None:
    """Train the tuner that `recipe` describes, together with the other processes that a launcher has started.

    Ctrl-C and SIGTERM end it after the current step, with a checkpoint from which `resume` continues bit for bit (on a
    CPU); the exception that they raise, KeyboardInterrupt or SystemExit(143), passes through. Only the first process
    writes, reports and returns a result; the others return None.

    Args:
        out: the run's folder; by default the next free one of runs/NAME, runs/NAME-2, ….
        resume: continue from the newest whole checkpoint of `out`, or of the recipe's last run; without one, from
            step 0.
        overwrite: replace the run that `out` holds.
        dry_run: stop before the first step and return the preflight; encoded latents and text remain.
        fit: stop before the first step and return the settings that were tried until one fits the device's memory.
        push_to_hub: a hub repository ("user/name") to upload tuner, recipe, card and samples to.
        device: the device that trains; by default an accelerator where there is one.

    Raises:
        SceditError: the input is bad; nothing is written then.
        WorkFailed: the loss is no longer finite, memory or disk ran out, or another process died.
    """
    check(recipe, out=out, resume=resume, overwrite=overwrite, push_to_hub=push_to_hub)
    processes = Processes.join(device)
    try:
        with terminable(), builders.tf32(recipe.train.tf32), ExitStack() as stack:
            every = reporter or SILENT  # every process reads its own part of the shards and notes its faults
            reporter = every if processes.is_first else SILENT
            if push_to_hub:
                processes.by_first(lambda: check_hub(push_to_hub))
            processes.by_first(lambda: check_trackers(recipe))
            run = processes.by_first(lambda: choose_run(recipe.name, out, resume, overwrite))
            if not (dry_run or fit):
                processes.by_first(lambda: stack.enter_context(claimed(run)))
            only = "fit" if fit else "dry run" if dry_run else ""
            return _train(recipe, run, processes, reporter, resume, overwrite, only, push_to_hub, device, every)
    finally:
        processes.leave()


def _train(
    recipe: Recipe,
    run: RunFolder,
    processes: Processes,
    reporter: Reporter,
    resume: bool,
    overwrite: bool,
    only: str,
    push_to_hub: str | None,
    device: str | None,
    every: Reporter,
) -> TrainResult | Preflight | Ladder | None:
    started = time.monotonic()
    given = recipe.data.make
    recipe = processes.by_first(lambda: builders.made_where_missing(recipe))
    for kind in recipe.data.make[len(given) :]:
        reporter.note(
            f"{recipe.data.path} has no {kind} images: they are made while training, as by data.make = "
            f'["{kind}"]; scedit annotate makes them once, as files to look at'
        )
    if only == "fit":
        recipe = as_plain(recipe)
    base = builders.open_base(recipe, device, to_train=only != "fit")
    shards = processes.by_first(lambda: builders.find_shards(recipe, base, reporter.stage("counting")))
    dataset = processes.first_on_machine_first(
        lambda: builders.find_dataset(recipe, base, reporter.stage("rendering"), shards)
    )
    if base.is_guessed and recipe.train.prediction == "base":
        reporter.note(f'{base.doubt}: base.prediction = "epsilon" takes it for the other')
    if overlong := base.overlong(sorted({item.text for item in dataset.items})):
        reporter.note(f"{len(overlong)} captions are longer than the base reads, such as: {overlong[0]}")
    if shards and not any(item.text for item in dataset.items):
        reporter.note("the first pictures in the shards have no captions; data.columns says how those are called")
    stream = None
    if shards:
        held_out = range(held_out_count(sum(shards.counts), recipe.validation))
        shards = shards.without_first(dataset.path, len(held_out)) if held_out else shards
        stream = builders.open_stream(recipe, shards, processes, every)
        learned = range(stream.count)
    else:
        learned, held_out = split(len(dataset), recipe.validation)
    if other := text_in_other_precision(dataset, base):
        precisions = {dtype: name for name, dtype in DTYPES.items()}
        reporter.note(
            f"the captions in {dataset.path / 'cache'} are encoded in {precisions[other]} and train.precision is "
            f"{recipe.train.precision}: they are encoded anew; scedit prepare --cache text --precision "
            f"{recipe.train.precision} does it ahead"
        )
    share = processes.share_of(dataset.path)
    with processes.meeting() as meet:
        of_data = (dataset, base, builders.cached_kinds(recipe), reporter.stage("encoding"), builders.orders(recipe))
        cache = cache_latents_and_text(*of_data, share=share, wait=meet)
    if only == "fit":
        return least_change(recipe, base, cache, processes, stream is not None) if processes.is_first else None
    tuner = builders.fresh_tuner(recipe, base)
    trained = (base, tuner, cache, recipe.train, recipe.data)
    with Trainer(*trained, pictures=learned, processes=processes, stream=stream) as trainer:
        scarce = 0 if stream else scarce_sizes(cache.buckets[learned].tolist(), recipe.train.batch_size)
        preflight = look_ahead(recipe, base, tuner, len(learned), len(held_out), processes, shards, scarce)
        if processes.is_first:
            preflight = _with_memory(preflight, recipe, base, cache, processes, stream is not None)
        if only:
            seconds = trainer.rehearse()
            return replace(preflight, seconds_per_step=seconds) if processes.is_first else None
        for name, value in preflight.summary():
            reporter.note(f"{name}: {value}")
        if overwrite and processes.is_first:
            run.clear()
        measured = HeldOut(held_out, recipe.validation, processes) if held_out else None
        memory = preflight.estimated_peak_memory
        loop = Loop(recipe, run, dataset, trainer, reporter, measured, processes, memory)
        resumed_at = loop.restore() if resume else None
        loop.run_steps()
    with trainer.finished():
        if processes.is_first:
            run.check_claim()
            save_tuner(tuner, run.tuner, builders.facts(recipe, base, dataset))
        score = _score(recipe, base, tuner, reporter) if processes.is_first or processes.shards_base else None
    if not processes.is_first:
        return None
    result = TrainResult(
        run=run.folder,
        tuner=run.tuner,
        steps=trainer.step,
        seconds=time.monotonic() - started,
        images_per_second=loop.images_per_second,
        loss=recent_loss(run.log),
        trainable_parameters=preflight.trainable_parameters,
        score=score,
        resumed_at=resumed_at,
        waiting_share=loop.waiting_share,
        validation_loss=last_value(run.log, "validation_loss"),
        skipped=loop.skipped,
    )
    facts = {"trained": f"{result.trainable_parameters:,} parameters"} | dict(result.summary())
    write_card(run, recipe, base, facts, result.control_score)
    if push_to_hub:
        reporter.note(f"uploaded to {upload(run, push_to_hub)}")
    return result


def _with_memory(
    preflight: Preflight, recipe: Recipe, base: Base, cache: Cache, processes: Processes, streams: bool
) -> Preflight:
    try:
        peak = forecast(recipe, base, cache, processes, streams)
    except SceditError as reason:
        return replace(preflight, not_estimated=str(reason))
    return replace(preflight, estimated_peak_memory=peak.total)


def _score(recipe: Recipe, base: Base, tuner: Tuner, reporter: Reporter) -> Score | None:
    scenes, kind = recipe.score.scenes, tuner.condition
    if not scenes or kind not in SCENE_KINDS or base.name != EMBEDDED or recipe.data.path:
        return None  # rendered scenes do not show what a tuner learned from the user's images
    return control_scores(base, [tuner], scenes=scenes, reporter=reporter.stage("control score"))[kind]

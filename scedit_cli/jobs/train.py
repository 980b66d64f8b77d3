"""The job `scedit train`: a tuner from a recipe, in a run folder that can be resumed at any moment."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from scedit_cli.core.bundle import Bundle, tuners_of
from scedit_cli.core.tuners import Tuner
from scedit_cli.core.weights import save_tuner
from scedit_cli.data.cache import Cache, cache_latents_and_text, text_in_other_precision
from scedit_cli.data.dataset import Dataset
from scedit_cli.data.evaluation_set import evaluation_set
from scedit_cli.data.hints import doubts
from scedit_cli.data.scenes import POSSIBLE_KINDS
from scedit_cli.data.shard_dataset import ShardDataset
from scedit_cli.jobs.checks.train import TrainRequest, check
from scedit_cli.models.base import DTYPES, Base
from scedit_cli.models.loading import EMBEDDED
from scedit_cli.recipe import Recipe, load_recipe, without_folders
from scedit_cli.training import builders
from scedit_cli.training.checkpoints import newest_checkpoint
from scedit_cli.training.datasets import check_dataset, first_of
from scedit_cli.training.evaluation import Score, control_scores
from scedit_cli.training.fitting import Ladder, least_change
from scedit_cli.training.log import last_value, recent_loss
from scedit_cli.training.loop import Loop
from scedit_cli.training.loop_plan import LoopPlan
from scedit_cli.training.memory import forecast
from scedit_cli.training.metrics import HeldOutScores
from scedit_cli.training.model_card import UPLOADED, write_card
from scedit_cli.training.preflight import Preflight, look_ahead, scarce_sizes
from scedit_cli.training.result import TrainResult
from scedit_cli.training.resume_compat import check_changes
from scedit_cli.training.run_folder import RunFolder, claimed
from scedit_cli.training.signals import terminable
from scedit_cli.training.starting_weights import start_from
from scedit_cli.training.trackers import Trackers, check_trackers
from scedit_cli.training.trainer import Trainer
from scedit_cli.training.validation import HeldOut, held_out_count, split
from scedit_cli.utils.devices import training_precision
from scedit_cli.utils.distributed import Processes
from scedit_cli.utils.errors import SceditError, in_field
from scedit_cli.utils.hub import check_login, upload
from scedit_cli.utils.reporter import SILENT, Reporter

_LOOKED_AT = 8  # condition images of each kind


def train(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    *,
    overrides: Mapping[str, Any] | None = None,
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
        recipe, overrides: as for `load_recipe`.
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
    recipe, hub = load_recipe(recipe, overrides), push_to_hub
    request = TrainRequest(recipe, out, resume, overwrite, dry_run, hub, device)
    check(request)
    processes = Processes.join(request.device)
    try:
        with terminable(), builders.tf32(recipe.train.tf32), ExitStack() as stack:
            if hub:
                processes.by_first(lambda: check_login(hub))
            processes.by_first(lambda: check_trackers(recipe.tracking))
            folder = processes.by_first(request.run)
            if not (request.dry_run or fit):
                processes.by_first(lambda: stack.enter_context(claimed(folder)))
            return _train(request, folder, processes, reporter or SILENT, fit)
    finally:
        processes.leave()


def _train(
    request: TrainRequest, run: RunFolder, processes: Processes, every: Reporter, fit: bool
) -> TrainResult | Preflight | Ladder | None:
    started = time.monotonic()
    recipe = processes.by_first(lambda: _with_precision(request, run))
    reporter = every if processes.is_first else SILENT
    added = processes.by_first(lambda: builders.missing_kinds(recipe.tuner, recipe.data))
    recipe = recipe.model_copy(
        update={"data": recipe.data.model_copy(update={"make": [*recipe.data.make, *added]})}
    )
    for kind in added if recipe.data.path else ():
        reporter.note(
            f"{recipe.data.path} has no {kind} images: they are made while training, as by data.make = "
            f'["{kind}"]; scedit annotate makes them once, as files to look at'
        )
    base = builders.open_base(recipe.base, recipe.train, recipe.samples, request.device, to_train=not fit)
    tuner = builders.fresh_tuner(recipe.tuner, recipe.train, base)
    if recipe.tuner.weights and not processes.by_first(lambda: _has_checkpoint(request, run)):
        start_from(tuner, recipe.tuner, base, reporter)
    dataset, shards = _data(recipe, base, processes, reporter)
    stream = None
    if shards:
        held_out = range(held_out_count(sum(shards.counts), recipe.validation))
        shards = shards.without_first(dataset.path, len(held_out)) if held_out else shards
        # Every process reads its own part of the shards and notes its faults.
        stream = builders.open_stream(shards, recipe.data, recipe.train, processes, every)
        learned = range(stream.count)
    else:
        learned, held_out = split(len(dataset), recipe.validation)
    _note_doubts(recipe, base, dataset, shards is not None, reporter)
    specs = builders.specs_of(recipe.data, recipe.train.seed)
    share = processes.share_of(dataset.path)
    with processes.meeting() as meet:
        kinds = builders.cached_kinds(recipe.tuner, recipe.data)
        cache = cache_latents_and_text(dataset, base, kinds, reporter.stage("encoding"), specs, share, meet)
    sections = recipe.tuner, recipe.train, recipe.data
    if fit:
        return least_change(base, *sections, cache, processes, stream is not None) if processes.is_first else None
    trained = (base, tuner, cache, recipe.train, recipe.data)
    with Trainer(*trained, indices=learned, processes=processes, stream=stream) as trainer:
        scarce = 0 if stream else scarce_sizes(cache.buckets[learned].tolist(), recipe.train.batch_size)
        preflight = look_ahead(recipe.train, base, tuner, len(learned), len(held_out), processes, shards, scarce)
        if processes.is_first:
            preflight = _with_memory(preflight, recipe, base, cache, processes, stream is not None)
        if request.dry_run:
            seconds = trainer.rehearse() if processes.by_first(lambda: preflight.fits) else None
            return replace(preflight, seconds_per_step=seconds) if processes.is_first else None
        for name, value in preflight.summary():
            reporter.note(f"{name}: {value}")
        plan = LoopPlan(
            recipe.train,
            recipe.checkpoints,
            recipe.samples,
            recipe.validation,
            title=f"{recipe.name}: {tuner} on {Path(base.name).name}",
            recipe=recipe.to_toml(),
            examples=lambda: builders.examples(
                recipe.samples, recipe.data, builders.kinds_read(recipe.tuner, recipe.data), specs, dataset
            ),
            trackers=lambda: Trackers(recipe.tracking, recipe.model_dump(), run.tensorboard),
            scores=_held_out_scores(recipe, run, trainer, dataset, held_out) if recipe.validation.metrics else None,
        )
        if request.overwrite and processes.is_first:
            run.clear()
        measured = HeldOut(held_out, recipe.validation, processes) if held_out else None
        memory = preflight.estimated_peak_memory
        loop = Loop(plan, run, dataset, trainer, reporter, measured, processes, memory)
        resumed_at = loop.restore(lambda: _changes(run, recipe)) if request.resume else None
        loop.run_steps()
    with trainer.finished():
        if processes.is_first:
            run.check_claim()
            facts = builders.facts(recipe.base, recipe.train, recipe.to_toml(), base, dataset, trainer.step)
            _save(tuner, run.tuner, facts)
        scores = _scores(recipe, base, tuner, reporter) if processes.is_first or processes.shards_base else {}
    if not processes.is_first:
        return None
    result = TrainResult(
        run=run.folder,
        tuner=run.tuner,
        steps=trainer.step,
        seconds=time.monotonic() - started,
        images_per_second=loop.images_per_second,
        loss=recent_loss(run.log),
        trainable_parameters=preflight.tuner.trainable_parameters,
        scores=scores,
        resumed_at=resumed_at,
        waiting_share=loop.waiting_share,
        validation_loss=last_value(run.log, "validation_loss"),
        skipped=loop.losses.skipped,
        best=_best(plan.scores),
    )
    facts = {"trained": f"{result.trainable_parameters:,} parameters"} | dict(result.summary())
    shown = without_folders(recipe).to_toml()
    write_card(run, shown, recipe.name, recipe.tuner, base, facts, result.control_score)
    if request.push_to_hub:
        reporter.note(f"uploaded to {upload(run.folder, request.push_to_hub, UPLOADED)}")
    return result


def _data(
    recipe: Recipe, base: Base, processes: Processes, reporter: Reporter
) -> tuple[Dataset, ShardDataset | None]:
    """Return the images to train on; of shards only the first ones, which are used for samples and validation, and the
    shards."""
    data, kinds = recipe.data, builders.cached_kinds(recipe.tuner, recipe.data)
    shards = processes.by_first(lambda: builders.find_shards(data, kinds, base, reporter.stage("counting")))

    def find() -> Dataset:
        if not shards:
            return builders.find_dataset(recipe.tuner, data, base, reporter.stage("rendering"))
        shown = recipe.samples.count if recipe.samples.every else 1
        dataset = first_of(shards, max(held_out_count(sum(shards.counts), recipe.validation), shown))
        check_dataset(dataset, base, kinds)
        return dataset

    return processes.first_on_machine_first(find), shards


def _note_doubts(recipe: Recipe, base: Base, dataset: Dataset, streams: bool, reporter: Reporter) -> None:
    if base.is_guessed and recipe.train.prediction == "base":
        reporter.note(f'{base.doubt}: base.prediction = "epsilon" takes it for the other')
    if overlong := base.overlong(sorted({item.text for item in dataset.items})):
        reporter.note(f"{len(overlong)} captions are longer than the base reads, such as: {overlong[0]}")
    precision = recipe.train.precision
    if precision == "bf16" and (faster := training_precision(base.device.type)) != precision:
        reporter.note(
            f"this processor has no instructions for train.precision = {precision}: {faster} is many times as fast"
        )
    for kind in builders.kinds_read(recipe.tuner, recipe.data) if recipe.data.path else ():
        paths = [item.conditions[kind] for item in dataset.items[:_LOOKED_AT]]
        if told := doubts(paths, kind):
            reporter.note(told[0] + (f" ({len(told)} of the first {len(paths)} images)" if told[1:] else ""))
    if streams and not any(item.text for item in dataset.items):
        reporter.note("the first images in the shards have no captions; data.columns says how those are called")
    if other := text_in_other_precision(dataset, base):
        precisions = {dtype: name for name, dtype in DTYPES.items()}
        reporter.note(
            f"the captions in {dataset.path / 'cache'} are encoded in {precisions[other]} and train.precision is "
            f"{precision}: they are encoded again; `prepare(cache=text, precision={precision})` does it ahead"
        )


def _with_precision(request: TrainRequest, run: RunFolder) -> Recipe:
    """Return the recipe with the precision that "auto" means: that of the run to resume, else the device's own."""
    recipe, precision = request.recipe, "auto"
    if recipe.train.precision != "auto":
        return recipe
    if request.resume and (before := _begun(run)):
        precision = before.train.precision
    if precision == "auto":
        precision = training_precision(request.device)
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"precision": precision})})


def _changes(run: RunFolder, recipe: Recipe) -> str | None:
    """Return `check_changes` of the recipe that the run began with; None where its file is missing."""
    before = _begun(run)
    return check_changes(before.model_dump(), recipe.model_dump()) if before else None


def _has_checkpoint(request: TrainRequest, run: RunFolder) -> bool:
    """Return whether the run goes on from a checkpoint, so that it does not need what it began with."""
    return request.resume and newest_checkpoint(run.checkpoints)[0] is not None


def _begun(run: RunFolder) -> Recipe | None:
    """Return the recipe that the run began with; None where it cannot be read, as it is missing or from another
    version: the checkpoint itself is checked in any case."""
    try:
        return load_recipe(run.recipe)
    except SceditError:
        return None


def _with_memory(
    preflight: Preflight, recipe: Recipe, base: Base, cache: Cache, processes: Processes, streams: bool
) -> Preflight:
    try:
        sections = recipe.tuner, recipe.train, recipe.data
        peak = forecast(base, *sections, cache, processes, streams, recipe.base.quantize)
    except SceditError as reason:
        return replace(preflight, not_estimated=str(reason))
    return replace(preflight, estimated_peak_memory=peak.total)


def _held_out_scores(
    recipe: Recipe, run: RunFolder, trainer: Trainer, dataset: Dataset, held_out: Sequence[int]
) -> HeldOutScores:
    """Return the control scores on held-out images; every annotator is loaded, so that errors come before the steps."""
    if not held_out:
        told = f"validation.metrics: of {len(dataset)} images none is held out to be scored"
        raise SceditError(told, "set validation.pictures, or leave it out", "validation.metrics")
    base, kinds = trainer.base, recipe.tuner.kinds
    specs = {spec.kind: spec.drawn("") for spec in builders.specs_of(recipe.data, recipe.train.seed)}
    images = evaluation_set(
        dataset, kinds, scenes=base.family == EMBEDDED, numbers=held_out, device=str(base.device), specs=specs
    )
    for kind in kinds:
        for maker in dict.fromkeys(images.makers(kind, range(len(images)))):
            with in_field("validation.metrics"):
                maker.load(maker.settings(""), str(base.device))

    def keep(file: Path, step: int, score: float) -> None:
        facts = builders.facts(recipe.base, recipe.train, recipe.to_toml(), base, dataset, step)
        _save(trainer.tuner, file, facts | {"validation.control_score": f"{score:.6g}"})

    kept = run.best if recipe.checkpoints.best else None
    return HeldOutScores(run.scores, images, recipe.samples, recipe.validation.patience, kept, keep)


def _best(scores: HeldOutScores | None) -> dict[str, Any] | None:
    best = scores.best if scores else None
    return best and {"step": best["step"], "control_score": best["control_score"]}


def _save(tuner: Tuner | Bundle, file: Path, facts: dict[str, str]) -> None:
    """Write the tuner; each of a bundle states the facts itself, since it may be taken out of it."""
    for each in tuners_of(tuner) if isinstance(tuner, Bundle) else ():
        each.metadata = {name: value for name, value in facts.items() if name != "recipe"}
    save_tuner(tuner, file, facts)


def _scores(recipe: Recipe, base: Base, tuner: Tuner | Bundle, reporter: Reporter) -> dict[str, Score]:
    scenes, kinds = recipe.score.scenes, recipe.tuner.kinds
    if not scenes or not kinds or not set(kinds) <= set(POSSIBLE_KINDS) or base.name != EMBEDDED or recipe.data.path:
        return {}  # rendered scenes do not show what a tuner learned from the user's images
    return control_scores(base, tuners_of(tuner), scenes=scenes, reporter=reporter.stage("control score"))

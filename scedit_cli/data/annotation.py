"""Annotation of many images: by a pool of processes on the CPU, in batches on an accelerator.

The PNG text chunk `scedit` of each condition image records its source image and settings, so that a later call can tell
which ones are up to date.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from scedit_cli.conditions.annotation_spec import AnnotationSpec
from scedit_cli.conditions.registry import Make, Parameters, find
from scedit_cli.conditions.weights import digest_of_weights
from scedit_cli.data.images import identified, open_image
from scedit_cli.utils.errors import SceditError, WorkFailed, is_out_of_memory, reason
from scedit_cli.utils.io import read_json, whole
from scedit_cli.utils.reporter import SILENT, Reporter
from scedit_cli.utils.workers import serve_parent, starting

_CHUNK = 8  # images that a process annotates before it reports
_ALONE = 24  # images, at most, that this process annotates by itself, sooner than others would have started
_MOST_PROCESSES = 8
_AHEAD = 2  # batches that are opened in advance for an accelerator
_THREADS = 4  # threads that open and save


@dataclass(frozen=True)
class Task:
    """An image to annotate: its name in the dataset, its file, and the path of its condition image for each spec."""

    name: str
    image: Path
    places: tuple[Path, ...]


@dataclass
class Outcome:
    """The result of a task: the kinds that were written, those that were skipped because they existed, of these the
    `foreign` ones that scedit has not made, and for each failed kind the reason."""

    name: str
    written: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def ours(self) -> set[str]:
        """The kinds that exist and were made as their spec says."""
        return {*self.written, *self.skipped}.difference(self.foreign)


@dataclass
class _Opened:
    """A task with its image open (None where nothing is to be made) and, by kind, the path, settings and record of each
    condition image to make."""

    outcome: Outcome
    image: Image.Image | None = None
    todo: dict[str, tuple[Path, Parameters, dict[str, Any]]] = field(default_factory=dict)


def annotate_all(
    tasks: Sequence[Task],
    specs: Sequence[AnnotationSpec],
    *,
    device: str = "cpu",
    overwrite: bool = False,
    processes: int | None = None,
    batch_size: int = _CHUNK,
    reporter: Reporter = SILENT,
) -> list[Outcome]:
    """Make and write the condition images of `tasks`, in their order. Every file appears whole or not at all.

    An existing file is kept if it was made from the same image by the same annotator and settings, or not by scedit. An
    image that cannot be read or annotated is reported in its outcome and does not stop the others.

    Args:
        device: if it is not "cpu", this process alone annotates on it, in batches of `batch_size`.
        overwrite: whether existing files are replaced.
        processes: the number of processes on the CPU, at most 8; by default one per processor.
        reporter: gets (images done, of how many).

    Raises:
        SceditError: weights are missing.
        WorkFailed: memory or disk ran out, or a process was killed.
    """
    processes = min(processes or os.cpu_count() or 1, _MOST_PROCESSES)
    size = batch_size if device != "cpu" else _CHUNK
    chunks = [tasks[at : at + size] for at in range(0, len(tasks), size)]
    if device != "cpu":
        outcomes = _stream(chunks, specs, device, overwrite)
    elif processes == 1 or len(tasks) <= _ALONE:
        outcomes = map(partial(annotate_chunk, specs=specs, overwrite=overwrite), chunks)
    else:
        outcomes = _pooled(chunks, specs, overwrite, min(processes, len(chunks)))
    done: list[Outcome] = []
    for part in outcomes:
        done += part
        reporter.progress(len(done), len(tasks))
    return done


def annotate_chunk(tasks: Sequence[Task], specs: Sequence[AnnotationSpec], overwrite: bool = False) -> list[Outcome]:
    """Annotate a few images in this process, on the CPU, as `annotate_all` does."""
    opened = [_open(task, specs, overwrite) for task in tasks]
    for save in _make(opened, specs, "cpu"):
        save()
    return [each.outcome for each in opened]


def _pooled(
    chunks: list[Sequence[Task]], specs: Sequence[AnnotationSpec], overwrite: bool, processes: int
) -> Iterator[list[Outcome]]:
    threads = max(1, (os.cpu_count() or 1) // processes)
    # Processes are spawned: a fork of a process in which PyTorch or OpenCV has threads can deadlock.
    pool = ProcessPoolExecutor(processes, get_context("spawn"), _begin, (threads,))
    running: deque[Future[list[Outcome]]] = deque()
    try:
        for chunk in chunks:
            with starting():
                running.append(pool.submit(annotate_chunk, chunk, specs, overwrite))
            if len(running) > 2 * processes:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    except BrokenProcessPool as error:
        raise WorkFailed(
            "a process that annotated images was killed", hint="it may have been out of memory; take fewer processes"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _stream(
    chunks: list[Sequence[Task]], specs: Sequence[AnnotationSpec], device: str, overwrite: bool
) -> Iterator[list[Outcome]]:
    """Annotate on a device while threads open the next batches and save the last one."""
    ahead: deque[list[Future[_Opened]]] = deque()
    with ThreadPoolExecutor(_THREADS) as pool:
        waiting = iter(chunks)
        saving: tuple[list[_Opened], list[Future[None]]] = [], []
        while True:
            while len(ahead) < _AHEAD and (chunk := next(waiting, None)):
                ahead.append([pool.submit(_open, task, specs, overwrite) for task in chunk])
            if not ahead and not saving[0]:
                return
            opened = [each.result() for each in ahead.popleft()] if ahead else []
            saves = [pool.submit(save) for save in _make(opened, specs, device)]
            for save in saving[1]:
                save.result()
            if saving[0]:
                yield [each.outcome for each in saving[0]]
            saving = opened, saves


def _open(task: Task, specs: Sequence[AnnotationSpec], overwrite: bool) -> _Opened:
    opened = _Opened(Outcome(task.name))
    try:
        digest = digest_of(task.image)
        for spec, place in zip(specs, task.places, strict=True):
            settings = spec.settings(task.name)
            record = record_of(spec, settings, digest)
            there = read_record(place)
            if overwrite or not place.is_file() or there not in (None, record):
                opened.todo[spec.kind] = place, settings, record
                continue
            opened.outcome.skipped.append(spec.kind)
            if there is None:
                opened.outcome.foreign.append(spec.kind)
        if opened.todo:
            opened.image = open_image(task.image)
    except SceditError as error:
        opened.todo = {}
        opened.outcome.failed = {"picture": error.message}
    return opened


def _make(opened: Sequence[_Opened], specs: Sequence[AnnotationSpec], device: str) -> list[Callable[[], None]]:
    """Make the condition images, for each spec those of equal settings together, and return functions that save them.
    """
    saves: list[Callable[[], None]] = []
    for spec in specs:
        alike: dict[Parameters, list[_Opened]] = defaultdict(list)
        for each in opened:
            if spec.kind in each.todo:
                alike[each.todo[spec.kind][1]].append(each)
        for settings, group in alike.items():
            make = spec.load(settings, device)
            for each, one in zip(group, made(make, [each.image for each in group]), strict=True):
                place, _, record = each.todo[spec.kind]
                if isinstance(one, Exception):
                    each.outcome.failed[spec.kind] = f"{spec.kind} cannot be made of it: {reason(one)}"
                else:
                    each.outcome.written.append(spec.kind)
                    saves.append(partial(save_condition, one, place, record))
    return saves


def made(make: Make, images: list[Image.Image]) -> list[Image.Image | Exception]:
    """Return the condition images of `images`. Where the annotator fails over several, each image is tried alone, and
    an error takes the place of each one that fails.

    Raises:
        SceditError: raised by the annotator itself.
        WorkFailed: memory ran out.
    """
    try:
        return make(images)
    except (SceditError, MemoryError):
        raise
    except Exception as error:  # annotators raise errors of any class over unusual images
        if len(images) == 1 and is_out_of_memory(error):
            hint = "annotate a smaller image, or with fewer processes; a full accelerator leaves the CPU"
            raise WorkFailed("memory ran out over one image", hint) from error
        if len(images) == 1:
            return [error]
    # The retry stands outside the handler, whose error keeps the memory that the library used for all the images.
    return [one for image in images for one in made(make, [image])]


def failures(outcomes: Iterable[Outcome]) -> dict[str, str]:
    """Return why images failed, by name; an image may have several outcomes."""
    reasons: dict[str, dict[str, None]] = defaultdict(dict)
    for outcome in outcomes:
        if outcome.failed:
            reasons[outcome.name] |= dict.fromkeys(outcome.failed.values())
    return {name: "; ".join(sentences) for name, sentences in reasons.items()}


def record_of(spec: AnnotationSpec, settings: Parameters, digest: str) -> dict[str, Any]:
    """Return the record that a condition image carries; equal records mean equal images. Weights from the hub, which
    are the same for all, are not in it."""
    annotator = spec.annotator
    own = {"weights": digest_of_weights(annotator.weights, spec.weights)} if annotator.weights and spec.weights else {}
    return {
        "kind": spec.kind,
        "annotator": spec.by,
        "parameters": settings.model_dump(mode="json"),
        "picture": digest,
        "licence": annotator.licence,
    } | own


def read_record(path: Path) -> dict[str, Any] | None:
    """Return the record in the PNG at `path`; None where it has none or cannot be read."""
    try:
        with identified(path) as opened:
            record = read_json(opened.info.get("scedit", "null"))
            return record if isinstance(record, dict) else None
    except MemoryError:
        raise
    except Exception:  # the decoders raise errors of any class over damaged files
        return None


def recorded_maker(path: Path, kind: str) -> AnnotationSpec | None:
    """Return the spec recorded in the condition image of `kind` at `path`; None where it has no record, or one that
    names an annotator or settings that do not exist."""
    record = read_record(path) or {}
    if record.get("kind") != kind:
        return None
    try:
        annotator = find(kind).annotator(record.get("annotator") or "")
        settings = annotator.settings(**record["parameters"]).model_dump()
    except (SceditError, KeyError, TypeError):  # the record is of another version, or was edited
        return None
    return AnnotationSpec(kind, annotator.name, tuple(settings.items()))


def save_condition(image: Image.Image, place: Path, record: dict[str, Any], replace: bool = True) -> None:
    """Write a PNG with its record. Run-length compression is the fastest, and for edge images also the smallest."""
    info = PngInfo()
    info.add_text("scedit", json.dumps(record))
    with whole(place, replace) as part:
        image.save(part, format="PNG", compress_level=1, compress_type=zlib.Z_RLE, pnginfo=info)


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file in hex digits. Raises SceditError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SceditError(f"{path} cannot be read: {error.strerror}") from None


def _begin(threads: int) -> None:
    """Initialise a process of the pool."""
    serve_parent()
    os.environ["OMP_NUM_THREADS"] = str(threads)  # read when PyTorch is imported
    import cv2

    cv2.setNumThreads(threads)

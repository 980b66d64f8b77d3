"""The job `scedit prepare`: a dataset folder from images of any source, or from scenes of the embedded world."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scedit_cli.data.buckets import Size, bucket, exactly
from scedit_cli.data.cache import cache_latents, cache_text
from scedit_cli.data.dataset import open_dataset
from scedit_cli.data.importing import Importer
from scedit_cli.data.licences import write_licences
from scedit_cli.data.manifest import Manifest, forget_refused, located
from scedit_cli.data.report import Report
from scedit_cli.data.scenes import SCENE_KINDS, write_scenes
from scedit_cli.data.shards import write_shards
from scedit_cli.data.sources import Images, open_source
from scedit_cli.jobs.checks.prepare import MULTIPLE, Encoding, ImportRules, PrepareRequest, Scenes, check, check_size
from scedit_cli.models.base import DTYPES, Base, load_base
from scedit_cli.scenes import HELD_OUT_SEED
from scedit_cli.utils.devices import training_precision
from scedit_cli.utils.distributed import Processes
from scedit_cli.utils.errors import SceditError, shortened
from scedit_cli.utils.io import whole_folder
from scedit_cli.utils.locks import held
from scedit_cli.utils.reporter import SILENT, Reporter

_CAPTIONLESS = 0.01  # share of the kept images that may lack a caption


@dataclass(frozen=True)
class PrepareResult:
    """The written dataset folder. `report` is None where the folder existed and was only cached or sharded; `is_first`
    is False in all processes that shared the work but the first."""

    out: Path
    images: int
    conditions: list[str]
    report: Report | None
    shards: int
    seconds: float
    is_first: bool = True

    def document(self) -> dict[str, Any]:
        """Return the result as a JSON document."""
        found = (self.report or Report()).document()
        return found | {
            "out": str(self.out),
            "pictures": self.images,
            "conditions": self.conditions,
            "shards": self.shards,
            "seconds": round(self.seconds, 3),
        }

    def summary(self) -> list[tuple[str, str]]:
        """Return the rows (name, value) that a person reads."""
        rows = [("dataset", str(self.out)), ("images", f"{self.images} in {self.seconds:.1f} s")]
        rows.append(("conditions", ", ".join(self.conditions) or "none yet: scedit annotate makes them"))
        if self.shards:
            rows.append(("shards", f"{self.shards} in {self.out / 'shards'}"))
        return rows + (self.report.summary() if self.report else [])


@dataclass(frozen=True)
class _Sizes:
    """The rule by which images are resized, as `prepare` describes it."""

    side: int
    multiple: int
    square: bool
    upscale: bool

    def __call__(self, source: Size) -> Size:
        if self.square:
            return exactly(source, (self.side, self.side), self.upscale)
        return bucket(source, self.side, self.multiple, self.upscale)


def prepare(
    src: str | Path | Images | Scenes | None,
    out: str | Path,
    *,
    size: int | None = None,
    rules: ImportRules = ImportRules(),
    encoding: Encoding | None = None,
    shards: int | None = None,
    reporter: Reporter | None = None,
) -> PrepareResult:
    """Write a dataset folder, which appears when it is complete, with `report.json` and the sheet `overview.png`.

    Where `src` is None, the dataset folder `out` exists already and is only encoded and sharded; latents and text that
    a stopped run has encoded are kept. The same holds where the same call has made the folder and was stopped after
    that. An argument that would do nothing is refused. Of the processes that `accelerate launch` has started, the first
    makes the folder, and all share the encoding.

    Args:
        src: a place of images (see `Images`), or scenes of the embedded world.
        out: the dataset folder, new or empty.
        size: side in pixels, a multiple of 64 (with `encoding`, of the base's multiple); by default 128 for scenes, 512
            for images, which go into buckets of about `size`² pixels in their own shape.
        rules: how images are cut, rejected and reported.
        encoding: the latents and text to encode for training.
        shards: the number of images per WebDataset shard, which are also written into `shards/`.

    Raises:
        SceditError: the input is bad, or another process prepares `out`; nothing is written then. Or the source has
            too many faults: then only its report is written, to `<out>.report.json`.
        WorkFailed: memory or disk ran out.
    """
    src = Images(src) if isinstance(src, str | Path) else src
    out = Path(out) if Path(out).name else Path(out).absolute()
    request = PrepareRequest(src, out, size, rules, encoding, shards)
    check(request)
    started, is_there = time.monotonic(), request.is_made
    processes = Processes.join(encoding and encoding.device)
    reporter = (reporter if processes.is_first else None) or SILENT
    try:
        # A wrong base is reported before the work begins.
        frozen = _base_of(encoding) if encoding else None
        multiple = frozen.multiple if frozen else MULTIPLE
        if not is_there:
            check_size(request.usual_size, multiple)

        def make() -> tuple[int, list[str], Report | None]:
            if not is_there:
                origin = _origin(request)
                if not ((encoding or request.shards) and origin.has_made(out)):
                    if isinstance(request.src, Scenes):
                        return _render(request, origin, reporter)
                    return _take(request, multiple, origin, reporter)
                reporter.note(f"{out} is prepared already, by the same call")
            dataset = open_dataset(out)
            return len(dataset), list(dataset.kinds), None

        with ExitStack() as stack:
            processes.by_first(lambda: stack.enter_context(held(_lock(out), out, "name another folder with `out`")))
            images, kinds, report = processes.by_first(make)
            if frozen:
                _encode(out, encoding.cache, frozen, processes, reporter)
            written = processes.by_first(lambda: _shard(out, shards, reporter)) if shards else 0
    finally:
        processes.leave()
    return PrepareResult(out, images, kinds, report, written, time.monotonic() - started, processes.is_first)


def _base_of(encoding: Encoding) -> Base:
    precision = encoding.precision or training_precision(encoding.device)
    return load_base(encoding.base, dtype=DTYPES[precision], device=encoding.device, vae=encoding.vae)


def _lock(out: Path) -> Path:
    """Return the lock file, which lies beside the folder, since that does not exist before it is complete. All names
    of one folder share the lock."""
    place = Path(os.path.realpath(out))
    digest = hashlib.sha256(os.fsencode(place.name)).hexdigest()[:12]
    return place.parent / f".scedit-{digest}.lock"


def _origin(request: PrepareRequest) -> Manifest:
    """Return the manifest of the call, whose settings are those of the command line, by which it is recognised."""
    src, is_images = request.src, isinstance(request.src, Images)
    images, scenes = (src, Scenes(0)) if is_images else (Images(""), src)
    conditions = {kind: str(place) for kind, place in images.conditions.items()}
    asked = {
        "source": located(src.place) if is_images else f"{src.count} scenes from seed {src.seed}",
        "scenes": scenes.count or None, "seed": scenes.seed, "look": scenes.look, "held_out": scenes.held_out,
        "size": request.size, "conditions": conditions, "columns": dict(images.columns), "split": images.split,
        "subset": images.subset, "revision": images.revision,
    } | vars(request.rules)  # fmt: skip
    return Manifest.of(asked, (located(src.place), *conditions.values()) if is_images else (), request.out)


def _take(
    request: PrepareRequest, multiple: int, origin: Manifest, reporter: Reporter
) -> tuple[int, list[str], Report]:
    source, out, rules = open_source(request.src), request.out, request.rules
    sizes = _Sizes(request.usual_size, multiple, rules.square, rules.upscale)
    importer = Importer(sizes, rules.drop_duplicates, reporter.stage("prepare"))
    report = importer.report
    with whole_folder(out) as folder:
        importer.run(source, folder)
        if not report.images and not report.rejected:
            said = f"sizes.json beside the shards states {source.count}"
            raise SceditError(f"{origin.asked['source']} holds no images", hint=said)
        try:
            if not report.images:
                raise _none_usable(origin.asked["source"], report)
            report.check(rules.strict, 1.0 if rules.allow_captionless else _CAPTIONLESS)
        except SceditError as error:
            raise origin.refuse(out, report, error) from None
        origin.write(folder, report, list(importer.kinds))
        write_licences(folder, {kind: each for kind, each in source.licences.items() if kind in importer.kinds})
    forget_refused(out)
    return report.images, list(importer.kinds), report


def _none_usable(source: str, report: Report) -> SceditError:
    file, _, reason = report.rejected[0]
    return SceditError(
        f"none of the {len(report.rejected)} images in {source} can be used; {shortened(file)}: {shortened(reason)}"
    )


def _render(request: PrepareRequest, origin: Manifest, reporter: Reporter) -> tuple[int, list[str], Report]:
    scenes, size = request.src, request.usual_size
    if scenes.seed + scenes.count > HELD_OUT_SEED:
        if not scenes.held_out:
            raise SceditError(
                f"scenes from seed {HELD_OUT_SEED} on are kept for measuring, and a tuner must not learn from them",
                hint="take a smaller `seed`; or give `held_out=True`, for images to measure with",
            )
        reporter.note("these scenes are kept for measuring: train nothing on them")
    report, kinds = Report(images=scenes.count), list(SCENE_KINDS)
    report.buckets[size, size] = report.captions["the scenes"] = scenes.count
    write_scenes(
        request.out,
        scenes.count,
        scenes.seed,
        scenes.look,
        size=size,
        reporter=reporter.stage("render"),
        finish=lambda folder: origin.write(folder, report, kinds),
    )
    return scenes.count, kinds, report


def _encode(out: Path, cache: Sequence[str], base: Base, processes: Processes, reporter: Reporter) -> None:
    share = processes.share_of(out)
    with processes.meeting() as meet:
        dataset = open_dataset(out)
        for name, encode in (("latents", cache_latents), ("text", cache_text)):
            if name in cache:
                encode(dataset, base, reporter.stage(name), share, meet)


def _shard(out: Path, per_shard: int, reporter: Reporter) -> int:
    return len(write_shards(open_dataset(out), out / "shards", per_shard, reporter.stage("shards")))

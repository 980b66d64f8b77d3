"""The job `scedit prepare`: a dataset folder from images of any source, or from scenes of the embedded world."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
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
from scedit_cli.data.sources import Source, open_source
from scedit_cli.jobs.checks.prepare import MULTIPLE, check, check_size, is_made, usual_size
from scedit_cli.models.base import DTYPES, EMBEDDED, Base, load_base
from scedit_cli.recipe import TrainSection
from scedit_cli.scenes import HELD_OUT_SEED
from scedit_cli.training.distributed import Processes
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
    pictures: int
    conditions: list[str]
    report: Report | None
    shards: int
    seconds: float
    is_first: bool = True

    def document(self) -> dict[str, Any]:
        """Return the document that --json writes."""
        found = (self.report or Report()).document()
        return found | {
            "out": str(self.out),
            "pictures": self.pictures,
            "conditions": self.conditions,
            "shards": self.shards,
            "seconds": round(self.seconds, 3),
        }

    def summary(self) -> list[tuple[str, str]]:
        """Return the rows (name, value) that a person reads."""
        rows = [("dataset", str(self.out)), ("pictures", f"{self.pictures} in {self.seconds:.1f} s")]
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
    src: str | Path | None,
    out: str | Path,
    *,
    conditions: Mapping[str, str | Path] | None = None,
    columns: Mapping[str, str] | None = None,
    split: str | None = None,
    subset: str | None = None,
    revision: str | None = None,
    scenes: int | None = None,
    seed: int = 0,
    look: str = "plain",
    held_out: bool = False,
    size: int | None = None,
    square: bool = False,
    upscale: bool = False,
    strict: bool = False,
    allow_captionless: bool = False,
    drop_duplicates: bool = False,
    cache: Sequence[str] = (),
    base: str = EMBEDDED,
    vae: str | None = None,
    precision: str | None = None,
    device: str | None = None,
    shards: int | None = None,
    reporter: Reporter | None = None,
) -> PrepareResult:
    """Write a dataset folder, which appears when it is complete, with `report.json` and the sheet `overview.png`.

    With neither `src` nor `scenes`, the dataset folder `out` exists already and only gets the `cache` and `shards`;
    latents and text that a stopped run has encoded are kept. The same holds where the same call has made the folder
    and was stopped after that. An option that would do nothing is refused. Of the processes that `accelerate launch`
    has started, the first makes the folder, and all share the encoding.

    Args:
        src, conditions, columns, split, subset, revision: as for `data.sources.open_source`.
        out: the dataset folder, new or empty.
        scenes: the number of scenes of the embedded world to render instead, with all conditions.
        seed: the seed of the first scene.
        look: the look of the scenes: "plain" or "pastel".
        held_out: allow scenes that are reserved for evaluation.
        size: side in pixels, a multiple of 64 (with `cache`, of the base's multiple); by default 128 for scenes, 512
            for images, which go into buckets of about `size`² pixels in their own shape, enlarged only by `upscale`.
        square: crop all images to `size` x `size`; smaller images are rejected.
        upscale: enlarge smaller images.
        strict: fail where the report would list any image by name.
        allow_captionless: allow more than 1 % of the images to have no caption; their caption is empty.
        drop_duplicates: leave out images that look like an earlier one.
        cache: "latents" and "text", which are encoded by `base` and `vae`.
        precision: the precision of the text encoders. Training uses the cached text only where `train.precision` is
            the same; by default, a recipe's default.
        device: the device that encodes; by default an accelerator where there is one.
        shards: the number of images per WebDataset shard, which are also written into `shards/`.

    Raises:
        SceditError: the input is bad, or another process prepares `out`; nothing is written then. Or the source has
            too many faults: then only its report is written, to `<out>.report.json`.
        WorkFailed: memory or disk ran out.
    """
    check(**{name: value for name, value in locals().items() if name != "reporter"})
    started = time.monotonic()
    out = Path(out) if Path(out).name else Path(out).absolute()
    asked = {
        "source": f"{scenes} scenes from seed {seed}" if src is None else located(src),
        "scenes": scenes, "seed": seed, "look": look, "held_out": held_out, "size": size, "square": square,
        "upscale": upscale, "conditions": {kind: str(place) for kind, place in (conditions or {}).items()},
        "columns": dict(columns or {}), "split": split, "subset": subset, "revision": revision, "strict": strict,
        "allow_captionless": allow_captionless, "drop_duplicates": drop_duplicates,
    }  # fmt: skip
    is_there = is_made(src, out, scenes, cache, shards)
    precision = precision or TrainSection().precision
    processes = Processes.join(device)
    reporter = (reporter if processes.is_first else None) or SILENT
    try:
        # A wrong base is reported before the work begins.
        frozen = load_base(base, dtype=DTYPES[precision], device=device, vae=vae) if cache else None
        multiple = frozen.multiple if frozen else MULTIPLE
        size = usual_size(src) if size is None else size
        if not is_there:
            check_size(size, multiple)

        def make() -> tuple[int, list[str], Report | None]:
            places = () if src is None else (located(src), *asked["conditions"].values())
            origin = Manifest.of(asked, places, out)
            if (cache or shards) and not is_there and origin.has_made(out):
                reporter.note(f"{out} is prepared already, by the same call")
            elif not is_there and scenes is not None:
                return _render(out, scenes, seed, look, held_out, size, origin, reporter)
            elif not is_there:
                opened = open_source(
                    src, conditions=conditions, columns=columns, split=split, subset=subset, revision=revision
                )
                sizes = _Sizes(size, multiple, square, upscale)
                captionless = 1.0 if allow_captionless else _CAPTIONLESS
                return _take(opened, out, sizes, drop_duplicates, strict, captionless, origin, reporter)
            dataset = open_dataset(out)
            return len(dataset), list(dataset.kinds), None

        with ExitStack() as stack:
            processes.by_first(lambda: stack.enter_context(held(_lock(out), out, "name another folder with --out")))
            pictures, kinds, report = processes.by_first(make)
            if frozen:
                _encode(out, cache, frozen, processes, reporter)
            written = processes.by_first(lambda: _shard(out, shards, reporter)) if shards else 0
    finally:
        processes.leave()
    return PrepareResult(out, pictures, kinds, report, written, time.monotonic() - started, processes.is_first)


def _lock(out: Path) -> Path:
    """Return the lock file, which lies beside the folder, since that does not exist before it is complete. All names
    of one folder share the lock."""
    place = Path(os.path.realpath(out))
    digest = hashlib.sha256(os.fsencode(place.name)).hexdigest()[:12]
    return place.parent / f".scedit-{digest}.lock"


def _take(
    source: Source,
    out: Path,
    sizes: _Sizes,
    drop_duplicates: bool,
    strict: bool,
    captionless: float,
    origin: Manifest,
    reporter: Reporter,
) -> tuple[int, list[str], Report]:
    intake = Importer(sizes, drop_duplicates, reporter.stage("prepare"))
    report = intake.report
    with whole_folder(out) as folder:
        intake.run(source, folder)
        if not report.pictures and not report.rejected:
            said = f"{source.count} are told of, as sizes.json beside shards does"
            raise SceditError(f"{origin.asked['source']} holds no pictures", hint=said)
        try:
            if not report.pictures:
                raise _none_usable(origin.asked["source"], report)
            report.check(strict, captionless)
        except SceditError as error:
            raise origin.refuse(out, report, error) from None
        origin.write(folder, report, list(intake.kinds))
        write_licences(folder, {kind: each for kind, each in source.licences.items() if kind in intake.kinds})
    forget_refused(out)
    return report.pictures, list(intake.kinds), report


def _none_usable(source: str, report: Report) -> SceditError:
    file, _, reason = report.rejected[0]
    return SceditError(
        f"none of the {len(report.rejected)} pictures in {source} can be used; {shortened(file)}: {shortened(reason)}"
    )


def _render(
    out: Path,
    scenes: int,
    seed: int,
    look: str,
    held_out: bool,
    size: int,
    origin: Manifest,
    reporter: Reporter,
) -> tuple[int, list[str], Report]:
    if seed + scenes > HELD_OUT_SEED:
        if not held_out:
            raise SceditError(
                f"scenes from seed {HELD_OUT_SEED} on are kept for measuring, and a tuner must not learn from them",
                hint="take a smaller --seed; or give --held-out, for pictures to measure with",
            )
        reporter.note("these scenes are kept for measuring: train nothing on them")
    report, kinds = Report(pictures=scenes), list(SCENE_KINDS)
    report.buckets[size, size] = report.captions["the scenes"] = scenes
    write_scenes(
        out,
        scenes,
        seed,
        look,
        size=size,
        reporter=reporter.stage("render"),
        finish=lambda folder: origin.write(folder, report, kinds),
    )
    return scenes, kinds, report


def _encode(out: Path, cache: Sequence[str], base: Base, processes: Processes, reporter: Reporter) -> None:
    share = processes.share_of(out)
    with processes.meeting() as meet:
        dataset = open_dataset(out)
        for name, encode in (("latents", cache_latents), ("text", cache_text)):
            if name in cache:
                encode(dataset, base, reporter.stage(name), share, meet)


def _shard(out: Path, per_shard: int, reporter: Reporter) -> int:
    return len(write_shards(open_dataset(out), out / "shards", per_shard, reporter.stage("shards")))

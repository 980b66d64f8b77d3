"""`scedit prepare`: a dataset folder from pictures wherever they are, or from scenes of the embedded world."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scedit_cli.base import DTYPES, EMBEDDED, load_base
from scedit_cli.data.buckets import Size, bucket, exactly
from scedit_cli.data.cache import cache_latents, cache_text
from scedit_cli.data.dataset import METADATA, open_dataset
from scedit_cli.data.duplicates import Duplicates
from scedit_cli.data.intake import Rejected, in_order, take
from scedit_cli.data.overview import overview
from scedit_cli.data.pictures import save_picture
from scedit_cli.data.rendered import SCENE_KINDS, write_scenes
from scedit_cli.data.report import Report
from scedit_cli.data.shards import write_shards
from scedit_cli.data.sources import open_source
from scedit_cli.errors import SceditError, shortened
from scedit_cli.files import whole_folder
from scedit_cli.jobs.progress import Note, OnEvent, Progress
from scedit_cli.locks import held
from scedit_cli.scenes import HELD_OUT_SEED, PICTURE_SIZE

_CACHES = ("latents", "text")
_MULTIPLE = 64  # pixels: the factor 8 of the autoencoder by the factor 8 of the deepest U-Nets
_PHOTO_SIZE = 512
_CAPTIONLESS = 0.01  # share of the kept pictures that may be without a caption
_TOLD_EVERY = 0.2  # seconds
_OF_PICTURES = (
    "conditions", "columns", "split", "subset", "revision", "square", "upscale", "strict", "allow_captionless",
    "drop_duplicates",
)  # fmt: skip
_OF_SCENES = ("seed", "look", "held_out")
_IDLE = {  # options that do nothing, and what to do about them
    "with --scenes": (_OF_PICTURES, "it is for pictures"),
    "with pictures": (_OF_SCENES, "it belongs to --scenes"),
    "for a dataset that is there": ((*_OF_PICTURES, *_OF_SCENES, "size"), "it counts where the dataset is made"),
    "without --cache": (("base", "vae", "precision"), "--cache latents,text encodes by it"),
}
REPORT, OVERVIEW = "report.json", "overview.png"


@dataclass(frozen=True)
class PrepareResult:
    """A dataset folder as written. `report` is None where the folder was there and only cached or sharded."""

    out: Path
    pictures: int
    conditions: list[str]
    report: Report | None
    shards: int
    seconds: float

    def document(self) -> dict[str, Any]:
        """What --json writes."""
        found = (self.report or Report()).document()
        return found | {
            "out": str(self.out),
            "pictures": self.pictures,
            "conditions": self.conditions,
            "shards": self.shards,
            "seconds": round(self.seconds, 3),
        }

    def summary(self) -> list[tuple[str, str]]:
        """The rows that a person reads."""
        rows = [("dataset", str(self.out)), ("pictures", f"{self.pictures} in {self.seconds:.1f} s")]
        rows.append(("conditions", ", ".join(self.conditions) or "none yet: scedit annotate makes them"))
        if self.shards:
            rows.append(("shards", f"{self.shards} in {self.out / 'shards'}"))
        return rows + (self.report.summary() if self.report else [])


@dataclass(frozen=True)
class _Sizes:
    """How large pictures become: see `prepare`."""

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
    precision: str = "bf16",
    shards: int | None = None,
    on_event: OnEvent | None = None,
) -> PrepareResult:
    """Write a dataset folder, which appears when it is complete, with `report.json` and the sheet `overview.png`.

    With neither `src` nor `scenes`, the dataset folder `out` is there already and only gets what `cache` and `shards`
    ask for; what an earlier, stopped run has encoded is kept. So it is where the same call has made the folder, and was
    stopped after that. An option that would do nothing is refused.

    Args:
        src, conditions, columns, split, subset, revision: as for `data.sources.open_source`.
        out: the dataset folder, new or empty.
        scenes: how many scenes of the embedded world to render instead, with all conditions.
        seed: of the first scene.
        look: how scenes are drawn: "plain" or "pastel".
        held_out: allow scenes that are kept for measuring.
        size: side in pixels, a multiple of 64 (with `cache`, of what the base needs); by default 128 for scenes, 512
            for pictures, which come to buckets of about `size`² pixels in their own shape, never larger than they are.
        square: all pictures to `size` x `size`; smaller ones are rejected.
        upscale: make smaller pictures larger.
        strict: whatever the report would list by name is an error, and nothing is written.
        allow_captionless: more than 1 % of the pictures may have no caption; theirs is empty.
        drop_duplicates: leave out pictures that repeat an earlier one to the eye.
        cache: "latents" and "text" are encoded at once, by `base` and `vae`.
        precision: of the text encoders: what `train.precision` will be, for which alone the cached text serves.
        shards: also write WebDataset shards of so many pictures into `shards/`.

    Raises:
        SceditError: bad input, a source without one usable picture included, or another process prepares `out`;
            nothing is written then.
        WorkFailed: memory or disk ran out.
    """
    given = {name for name, value in locals().items() if value and value != prepare.__kwdefaults__.get(name)}
    started = time.monotonic()
    out, tell = Path(out), on_event or (lambda event: None)
    asked = {
        "scenes": scenes, "seed": seed, "look": look, "size": size, "square": square, "upscale": upscale,
        "conditions": {kind: str(place) for kind, place in (conditions or {}).items()}, "columns": dict(columns or {}),
        "split": split, "subset": subset, "revision": revision, "drop_duplicates": drop_duplicates,
    }  # fmt: skip
    source = str(src) if src is not None else f"{scenes} scenes from seed {seed}"
    is_there = src is None and scenes is None and (cache or shards) and (out / METADATA).is_file()
    if (src is None) == (scenes is None) and not is_there:
        raise SceditError(
            "prepare takes pictures or a number of scenes" + (", not both" if scenes else ""),
            hint="scedit prepare PHOTOS --out DIR, or scedit prepare --scenes 100 --out DIR",
        )
    if unknown := set(cache) - set(_CACHES):
        raise SceditError(f"{', '.join(sorted(unknown))} cannot be cached", hint=f"choose of {', '.join(_CACHES)}")
    if precision not in DTYPES:
        raise SceditError(f"--precision {precision}: not known", hint=f"choose one of {', '.join(DTYPES)}")
    if shards is not None and shards < 1:
        raise SceditError(f"shards of {shards} pictures", hint="give the number of pictures in each")
    way = "with --scenes" if scenes is not None else "with pictures" if src else "for a dataset that is there"
    _check_options(given, [way] if cache else [way, "without --cache"])
    # A wrong base is told before the work.
    frozen = load_base(base, dtype=DTYPES[precision], vae=vae) if cache else None
    multiple = frozen.multiple if frozen else _MULTIPLE
    size = size or (_PHOTO_SIZE if src else PICTURE_SIZE)
    if not is_there and (size < multiple or size % multiple):
        near = max(1, round(size / multiple)) * multiple
        raise SceditError(f"size is {size}, which is no multiple of {multiple}", hint=f"{near} is nearest")

    with held(_lock(out), out, "name another folder with --out"):
        report: Report | None = None
        if (cache or shards) and _asked_of(out) == asked | {"source": source}:
            tell(Note(f"{out} is prepared already, by the same call"))
            is_there = True
        if is_there:
            kinds = list(open_dataset(out).kinds)
        else:
            described = _Described(asked | {"source": source})
            if scenes is not None:
                report, kinds = _render(out, scenes, seed, look, held_out, size, described, tell)
            else:
                opened = open_source(
                    src, conditions=conditions, columns=columns, split=split, subset=subset, revision=revision
                )
                intake = _Intake(_Sizes(size, multiple, square, upscale), drop_duplicates, tell)
                captionless = 1.0 if allow_captionless else _CAPTIONLESS
                report, kinds = intake.run(opened, described, out, strict, captionless)
        dataset = open_dataset(out) if cache or shards else None
        if frozen:
            for name, encode in (("latents", cache_latents), ("text", cache_text)):
                if name in cache:
                    encode(dataset, frozen, _progress(tell, name))
        written = write_shards(dataset, out / "shards", shards, _progress(tell, "shards")) if shards else []
    pictures = report.pictures if report else len(dataset)
    return PrepareResult(out, pictures, kinds, report, len(written), time.monotonic() - started)


def _check_options(given: set[str], ways: Sequence[str]) -> None:
    """Raises SceditError for options that would do nothing."""
    for way in ways:
        idle, hint = _IDLE[way]
        for name in filter(given.__contains__, idle):
            option = "--cond" if name == "conditions" else f"--{name.replace('_', '-')}"
            raise SceditError(f"{option} does nothing {way}", hint=f"leave it out: {hint}")


def _lock(out: Path) -> Path:
    """Beside the folder, which is not there before it is complete."""
    digest = hashlib.sha256(os.fsencode(out.name)).hexdigest()[:12]
    return out.absolute().with_name(f".scedit-{digest}.lock")


@dataclass(frozen=True)
class _Described:
    """What the dataset folder says of itself: `asked` is what `prepare` was called with."""

    asked: dict[str, Any]

    def write(self, folder: Path, report: Report, kinds: list[str]) -> None:
        """Writes the report and the contact sheet beside the pictures."""
        document = {"source": self.asked["source"]} | report.document() | {"asked": self.asked}
        text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
        (folder / REPORT).write_text(text, encoding="utf-8", errors="backslashreplace")  # names may be no text
        buckets = report.buckets
        sizes = f"{len(buckets)} sizes" if len(buckets) > 1 else "{}x{}".format(*next(iter(buckets)))
        name = Path(self.asked["source"]).name
        heading = f"{name}: {report.pictures:,} pictures, {sizes}, {report.coverage:.0%} with a caption"
        save_picture(overview(folder, kinds, report.pictures, heading), folder / OVERVIEW)


def _asked_of(out: Path) -> dict[str, Any] | None:
    """What the call that made the folder was asked; None where there is no such folder."""
    try:
        return json.loads((out / REPORT).read_text("utf-8"))["asked"]
    except (OSError, ValueError, LookupError, TypeError):
        return None


class _Intake:
    """Takes a source's pictures into a dataset folder, row by row: memory does not grow with their content."""

    def __init__(self, size_of: _Sizes, drop_duplicates: bool, tell: OnEvent) -> None:
        self.size_of, self.drop_duplicates, self.tell = size_of, drop_duplicates, tell
        self.report = Report()
        self.kinds: dict[str, None] = {}
        self._duplicates = Duplicates()

    def run(
        self, source, described: _Described, out: Path, strict: bool, captionless: float
    ) -> tuple[Report, list[str]]:
        report = self.report
        report.orphans, report.hidden = list(source.orphans), source.hidden
        names: list[str] = []  # of entries on their way
        with whole_folder(out) as folder:

            def work():
                for number, entry in enumerate(source.entries):
                    names.append(entry.name)
                    yield entry, f"{number:06d}.png", folder, self.size_of

            with (folder / METADATA).open("w", encoding="utf-8") as lines:
                spoken, began = 0.0, time.monotonic()
                for done, made in enumerate(in_order(take, work()), 1):
                    self._note(names.pop(0), made, folder, lines)
                    if (now := time.monotonic()) - spoken > _TOLD_EVERY or done == source.count:
                        spoken = now
                        speed = {"pictures/s": done / max(now - began, 1e-9)}
                        self.tell(Progress("prepare", done, max(source.count, done), speed))
            if not report.pictures:
                file, _, reason = report.rejected[0]
                raise SceditError(
                    f"none of the {source.count} pictures in {described.asked['source']} can be used; "
                    f"{shortened(file)}: {shortened(reason)}"
                )
            report.check(strict, captionless)
            described.write(folder, report, list(self.kinds))
        return report, list(self.kinds)

    def _note(self, name: str, made, folder: Path, lines) -> None:
        report = self.report
        if isinstance(made, Rejected):
            report.rejected.append((name, made.fault, made.reason))
            return
        first = self._duplicates.first_of(name, made.signature)
        if first is not None:
            report.duplicates.append((name, first))
            if self.drop_duplicates:
                for file in made.files:
                    (folder / file).unlink()
                return
        lines.write(json.dumps(made.row, ensure_ascii=False) + "\n")
        report.pictures += 1
        report.buckets[made.size] += 1
        self.kinds |= dict.fromkeys(made.kinds)
        if made.caption_from:
            report.captions[made.caption_from] += 1
        else:
            report.captionless.append(name)
        if made.really:
            report.misnamed.append((name, made.really))


def _render(
    out: Path,
    scenes: int,
    seed: int,
    look: str,
    held_out: bool,
    size: int,
    described: _Described,
    tell: OnEvent,
) -> tuple[Report, list[str]]:
    if seed + scenes > HELD_OUT_SEED:
        if not held_out:
            raise SceditError(
                f"scenes from seed {HELD_OUT_SEED} on are kept for measuring, and a tuner must not learn from them",
                hint="take a smaller --seed; or give --held-out, for pictures to measure with",
            )
        tell(Note("these scenes are kept for measuring: train nothing on them"))
    report, kinds = Report(pictures=scenes), list(SCENE_KINDS)
    report.buckets[size, size] = report.captions["the scenes"] = scenes
    write_scenes(
        out,
        scenes,
        seed,
        look,
        size=size,
        on_step=_progress(tell, "render"),
        finish=lambda folder: described.write(folder, report, kinds),
    )
    return report, kinds


def _progress(tell: OnEvent, stage: str) -> Callable[[int, int], None]:
    return lambda done, total: tell(Progress(stage, done, total))

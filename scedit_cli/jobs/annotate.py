"""The job `scedit annotate`: condition images of a dataset folder, or of one image."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from scedit_cli import conditions
from scedit_cli.conditions import licences
from scedit_cli.conditions.annotation_spec import AnnotationSpec, specs_of
from scedit_cli.conditions.config import AnnotatorConfig
from scedit_cli.data.annotation import Outcome, Task, annotate_all, digest_of, failures, made, record_of, save_condition
from scedit_cli.data.dataset import column_of, condition_name, read_rows, write_rows
from scedit_cli.data.images import open_image, save_image
from scedit_cli.data.licences import check_licences, record_licences
from scedit_cli.jobs.checks.annotate import by_kind, check_names, check_options, check_place
from scedit_cli.utils.devices import best_device
from scedit_cli.utils.distributed import Share
from scedit_cli.utils.errors import SceditError, in_field, reason
from scedit_cli.utils.io import expanded, whole
from scedit_cli.utils.locks import alone
from scedit_cli.utils.reporter import SILENT, Reporter
from scedit_cli.utils.transparency import in_8_bits

_ABREAST = 5  # columns of one image's sheet


@dataclass(frozen=True)
class AnnotateResult:
    """The outcome: `written` condition images were made, `skipped` existed already, `failed` are (file, reason);
    `sheet`, if any, shows images and conditions side by side, and `images` are those of a single image by kind.
    `is_first` is False in all processes that shared the work but the first."""

    out: Path | None
    kind: str
    written: int
    skipped: int
    failed: list[tuple[str, str]]
    seconds: float
    sheet: Path | None = None
    annotators: dict[str, str] = field(default_factory=dict)
    is_first: bool = True
    images: dict[str, Image.Image] = field(default_factory=dict, repr=False)

    def document(self) -> dict[str, Any]:
        """Return the document for programs."""
        return {
            "out": str(self.out) if self.out else None,
            "sheet": str(self.sheet) if self.sheet else None,
            "kind": self.kind,
            "annotators": self.annotators,
            "written": self.written,
            "skipped": self.skipped,
            "failed": [{"file": file, "reason": reason} for file, reason in self.failed],
            "seconds": round(self.seconds, 3),
        }

    def summary(self) -> list[tuple[str, str]]:
        """Return the rows (name, value) that a person reads."""
        rows = [("out", str(self.out)), (self.kind, f"{self.written} written, {self.skipped} there already")]
        rows = rows if self.out else []
        rows += [("sheet", str(self.sheet))] if self.sheet else []
        return rows + [("failed", f"{file}: {reason}") for file, reason in self.failed]


def annotate(
    source: str | Path | Image.Image,
    kinds: str | Sequence[str],
    *,
    out: str | Path | None = None,
    sheet: str | Path | None = None,
    preview: int | None = None,
    overwrite: bool = False,
    config: AnnotatorConfig = AnnotatorConfig(),
    reporter: Reporter | None = None,
    **params: Any,
) -> AnnotateResult | Image.Image:
    """Make condition images.

    An image in memory gives its condition image. In a dataset folder, every image gets a condition image of each kind,
    and the metadata their columns. Condition images that were made from the same image with the same settings are kept,
    so that a stopped run resumes; so are those from elsewhere. An image that cannot be read is listed, and the others
    are annotated. Processes that `accelerate launch` has started share the images.

    Args:
        source: an image, an image's file, or a dataset folder.
        kinds: one kind or several.
        out: the condition image of a single file, for one kind; None writes nothing.
        sheet: an image file to write that shows the image and its conditions side by side.
        preview: the number of a folder's images to show on a sheet, without writing anything else; `sheet` is then
            NAME-preview.png beside the folder by default.
        overwrite: whether to replace existing condition images and a named sheet.
        config: the choice of annotators, and how they run.
        params: annotator settings, `low=50`, or by kind where there are several, `canny={"low": 50}`; a pair of numbers
            draws a value between them for each image.

    Returns:
        The condition image of an image in memory (by kind, if there are several), else the report.

    Raises:
        SceditError: the input is bad, or no image of a folder can be annotated; `field` names the argument.
        WorkFailed: memory or disk ran out.
    """
    started = time.monotonic()
    names = [kinds] if isinstance(kinds, str) else list(dict.fromkeys(kinds))
    if not names:
        raise SceditError("no kind of condition is named", f"choose one of {', '.join(conditions.KINDS)}", "kinds")
    config.check()
    check_options(source, out, sheet, preview)
    weights = expanded(config.weights) if config.weights else None
    with in_field("params", named=False):
        given = by_kind(names, params)
        specs = specs_of(names, given, annotator=config.annotator, weights=weights, seed=config.seed)
    for spec in specs:
        (licences.accept if config.accept_license else licences.require)(spec.annotator)
    if isinstance(source, Image.Image):
        made_of = _Work(Path(), specs, overwrite, config, reporter or SILENT).make("the image", open_image(source))
        return made_of[0] if isinstance(kinds, str) else dict(zip(names, made_of, strict=True))
    work = _Work(Path(source), specs, overwrite, config, reporter or SILENT)
    if not work.src.is_dir():
        done = _one_image(work, *(expanded(each) if each else None for each in (out, sheet)))
    elif preview is not None:
        done = _preview(work, preview, expanded(sheet) if sheet else None)
    else:
        done = _folder(work)
    makers = {spec.kind: spec.by for spec in specs}
    return AnnotateResult(kind=",".join(names), annotators=makers, seconds=time.monotonic() - started, **done)


@dataclass(frozen=True)
class _Work:
    src: Path
    specs: list[AnnotationSpec]
    overwrite: bool
    config: AnnotatorConfig
    reporter: Reporter

    def place(self, number: int = 0) -> str:
        """Return the device of annotators with weights: the named one, else the machine's accelerator of this number,
        if it has one, else "cpu"."""
        if self.config.device or not any(spec.annotator.weights for spec in self.specs):
            return self.config.device or "cpu"
        best = best_device().type
        return best if best in ("cpu", "mps") else f"{best}:{number}"

    def make(self, name: str, image: Image.Image) -> list[Image.Image]:
        """Return one image's conditions, made in this process.

        Raises:
            SceditError: an annotator cannot annotate the image.
        """
        device, found = self.place(), []
        for spec in self.specs:
            [one] = made(spec.load(spec.settings(name), device), [image])
            if isinstance(one, Exception):
                raise SceditError(f"{spec.kind} cannot be made of {name}: {reason(one)}") from one
            found.append(one)
        return found


def _one_image(work: _Work, out: Path | None, sheet: Path | None) -> dict[str, Any]:
    src, specs = work.src, work.specs
    if out and len(specs) > 1:
        raise SceditError(
            f"{src} is one image, for which several kinds are named",
            "`out` takes one kind; `sheet` shows several side by side",
            "out",
        )
    for name, place in {"out": out, "sheet": sheet}.items():
        if place:
            check_place(place, work.overwrite, name)
    if out and sheet and out.resolve() == sheet.resolve():
        raise SceditError(f"`out` and `sheet` are both {out}", "name two places", "sheet")
    image = open_image(src)
    found = work.make(src.name, image)
    if out:
        [spec] = specs
        record = record_of(spec, spec.settings(src.name), digest_of(src))
        save_condition(found[0], out, record, work.overwrite)
    if sheet:
        _draw(sheet, work.overwrite, [[image, *found]], specs)
    images = dict(zip((spec.kind for spec in specs), found, strict=True))
    return {"out": out, "sheet": sheet, "written": 1 if out else 0, "skipped": 0, "failed": [], "images": images}


def _preview(work: _Work, count: int, sheet: Path | None) -> dict[str, Any]:
    """Write a sheet of a folder's first `count` images beside their conditions. A sheet at the default place replaces
    the previous one."""
    if sheet:
        check_place(sheet, work.overwrite, "sheet")
    place = sheet or work.src.resolve().with_name(f"{work.src.resolve().name}-preview.png")
    names = [row["file_name"] for _, row in read_rows(work.src)][:count]
    rows: dict[str, list[Image.Image]] = {}
    failed: dict[str, str] = {}
    for number, name in enumerate(names, 1):
        try:
            image = open_image(work.src / name)
            rows[name] = [image, *work.make(name, image)]
        except SceditError as error:
            failed[name] = error.message
        work.reporter.progress(number, len(names), "preview")
    if not rows:
        raise _nothing_read(work.src, failed)
    _draw(place, work.overwrite or not sheet, list(rows.values()), work.specs, list(rows))
    return {"out": None, "sheet": place, "written": 0, "skipped": 0, "failed": list(failed.items())}


def _draw(
    place: Path,
    replace: bool,
    rows: list[list[Image.Image]],
    specs: Sequence[AnnotationSpec],
    labels: list[str] | None = None,
) -> None:
    from scedit_cli.inference.sampler import grid

    shown = [[in_8_bits(image) for image in row] for row in rows]
    headings = ["image", *(spec.kind for spec in specs)]
    if labels:
        sheet = grid(shown, headings, labels)
    else:
        [row], parts = shown, [slice(at, at + _ABREAST) for at in range(0, len(headings), _ABREAST)]
        sheet = _below_each_other([grid([row[part]], headings[part]) for part in parts])
    with whole(place, replace) as part:
        save_image(sheet, part)


def _below_each_other(strips: list[Image.Image]) -> Image.Image:
    sheet = Image.new("RGB", (max(each.width for each in strips), sum(each.height for each in strips)), "white")
    top = 0
    for each in strips:
        sheet.paste(each, (0, top))
        top += each.height
    return sheet


def _folder(work: _Work) -> dict[str, Any]:
    share = Share.mine()
    rows = [row for _, row in read_rows(work.src)]
    check_names(work.src, rows)
    check_licences(work.src)
    outcomes = share.gathered(_annotate(work, share.of([row["file_name"] for row in rows]), share))
    failed = failures(outcomes)
    written, skipped = (sum(len(getattr(each, kept)) for each in outcomes) for kept in ("written", "skipped"))
    if failed and not written and not skipped:
        raise _nothing_read(work.src, failed)
    if share.is_first:
        for kind, count in Counter(kind for outcome in outcomes for kind in outcome.foreign).items():
            work.reporter.note(
                f"{kind} images that `annotate` did not make are kept as they are: {count}; `overwrite` replaces them"
            )
        with alone(work.src):  # another process may have added a column meanwhile
            rows = [row for _, row in read_rows(work.src)]
            _enter(rows, outcomes, [spec.kind for spec in work.specs])
            write_rows(work.src, rows)
            ours = {kind for outcome in outcomes for kind in outcome.ours}
            record_licences(work.src, [spec.annotator for spec in work.specs if spec.kind in ours])
    return {
        "out": work.src,
        "written": written,
        "skipped": skipped,
        "failed": list(failed.items()),
        "is_first": share.is_first,
    }


def _annotate(work: _Work, names: Sequence[str], share: Share) -> list[Outcome]:
    """Annotate on the accelerator, if any, by annotators that run there, and by the others in processes on the CPU."""
    began = time.monotonic()
    device = work.place(share.local_index)
    heavy = [spec for spec in work.specs if device != "cpu" and spec.annotator.runs_on(device)]
    passes = [(device, heavy), ("cpu", [spec for spec in work.specs if spec not in heavy])]
    processes = work.config.processes or max(1, (os.cpu_count() or 1) // share.local_count)
    outcomes: list[Outcome] = []
    for where, specs in passes:
        stage = ", ".join(spec.kind for spec in specs)
        if specs:
            outcomes += annotate_all(
                [_task(work.src, name, specs) for name in names],
                specs,
                device=where,
                overwrite=work.overwrite,
                processes=processes,
                batch_size=work.config.batch_size,
                reporter=_Speed(work.reporter.stage(stage), began, len(outcomes)) if share.is_first else SILENT,
            )
    return outcomes


class _Speed(Reporter):
    """A reporter that adds the speed since `began`, when `before` images of the call were done."""

    def __init__(self, outer: Reporter, began: float, before: int) -> None:
        self._outer, self._began, self._before = outer, began, before

    def progress(self, step: int, total: int, *_: object) -> None:
        speed = (self._before + step) / (time.monotonic() - self._began)
        self._outer.progress(step, total, values={"images/s": speed})


def _task(src: Path, name: str, specs: Sequence[AnnotationSpec]) -> Task:
    return Task(name, src / name, tuple(src / condition_name(spec.kind, name) for spec in specs))


def _enter(rows: Sequence[dict[str, Any]], outcomes: Sequence[Outcome], kinds: Sequence[str]) -> None:
    """Add to `rows` the columns of all existing condition images, also of those that a stopped run made but did not
    add."""
    there = {(outcome.name, kind) for outcome in outcomes for kind in (*outcome.written, *outcome.skipped)}
    for row in rows:
        name = row["file_name"]
        row |= {column_of(kind): condition_name(kind, name) for kind in kinds if (name, kind) in there}


def _nothing_read(src: Path, failed: dict[str, str]) -> SceditError:
    return SceditError(f"none of the images of {src} can be annotated; the first: {next(iter(failed.values()))}")

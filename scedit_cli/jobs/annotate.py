"""The job `scedit annotate`: condition images of a dataset folder, or of one image."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from scedit_cli import conditions
from scedit_cli.conditions import licences
from scedit_cli.conditions.annotation_spec import AnnotationSpec, make_specs
from scedit_cli.data.annotation import Outcome, Task, annotate_all, digest_of, failures, made, record_of, save_condition
from scedit_cli.data.dataset import column_of, condition_name, read_rows, write_rows
from scedit_cli.data.images import open_image, save_image
from scedit_cli.data.licences import check_licences, record_licences
from scedit_cli.utils.devices import best_device
from scedit_cli.utils.distributed import Share
from scedit_cli.utils.errors import SceditError, reason
from scedit_cli.utils.io import check_writable, expanded, whole
from scedit_cli.utils.locks import alone
from scedit_cli.utils.reporter import SILENT, Reporter
from scedit_cli.utils.transparency import in_8_bits

_BATCH, _ABREAST = 8, 5  # images per batch on an accelerator; columns of one image's sheet


@dataclass(frozen=True)
class AnnotateResult:
    """The outcome: `written` condition images were made, `skipped` existed already, `failed` are (file, reason);
    `sheet`, if any, shows images and conditions side by side. `is_first` is False in all processes that shared the
    work but the first."""

    out: Path | None
    kind: str
    written: int
    skipped: int
    failed: list[tuple[str, str]]
    seconds: float
    sheet: Path | None = None
    annotators: dict[str, str] = field(default_factory=dict)
    is_first: bool = True

    def document(self) -> dict[str, Any]:
        """Return the document that --json writes."""
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
    src: str | Path,
    kinds: str | Sequence[str],
    out: str | Path | None = None,
    *,
    annotator: str | None = None,
    params: Iterable[str] = (),
    seed: int = 0,
    weights: str | Path | None = None,
    accept_license: bool = False,
    sheet: str | Path | None = None,
    preview: int | None = None,
    overwrite: bool = False,
    device: str | None = None,
    processes: int | None = None,
    batch_size: int = _BATCH,
    reporter: Reporter | None = None,
) -> AnnotateResult:
    """Make condition images.

    In a dataset folder, every image gets a condition image of each kind, and the metadata their columns. Condition
    images that were made from the same image with the same settings are kept, so that a stopped run resumes; so are
    those from elsewhere. An image that cannot be read is listed, and the others are annotated. Processes that
    `accelerate launch` has started share the images.

    Args:
        src: a dataset folder, or an image.
        kinds: one kind or several.
        out: the condition image of a single image, for one kind.
        annotator: the annotator of the kinds that have it; by default each kind's first.
        params: annotator settings, `[KIND.]NAME=VALUE` such as "canny.low=50"; LOW..HIGH draws a value for each image.
        seed: the seed of these draws.
        weights: a folder with local copies of the annotators' weights.
        accept_license: whether to accept, permanently, licences of weights that forbid commercial use.
        sheet: an image file to write that shows the image and its conditions side by side.
        preview: the number of a folder's images to show on a sheet, without writing anything else; `sheet` is then
            NAME-preview.png beside the folder by default.
        overwrite: whether to replace existing condition images and a named sheet.
        device: PyTorch's name of the device for annotators with weights; by default the accelerator, if any.
        processes: the number of processes on the CPU, at most 8; by default one per processor.
        batch_size: images per batch on an accelerator.

    Raises:
        SceditError: the input is bad, or no image of a folder can be annotated.
        WorkFailed: memory or disk ran out.
    """
    started = time.monotonic()
    src = Path(src)
    names = [kinds] if isinstance(kinds, str) else list(dict.fromkeys(kinds))
    if not names:
        raise SceditError("no kind of condition is named", hint=f"choose one of {', '.join(conditions.KINDS)}")
    weights = expanded(weights) if weights else None
    orders = make_specs(names, params, annotator=annotator, weights=weights, seed=seed)
    _check_options(src, out, sheet, preview)
    for order in orders:
        (licences.accept if accept_license else licences.require)(order.annotator)
    work = _Work(src, orders, overwrite, device, processes, batch_size, reporter or SILENT)
    if not src.is_dir():
        done = _one_picture(work, *(expanded(each) if each else None for each in (out, sheet)))
    elif preview is not None:
        done = _preview(work, preview, expanded(sheet) if sheet else None)
    else:
        done = _folder(work)
    makers = {order.kind: order.by for order in orders}
    return AnnotateResult(kind=",".join(names), annotators=makers, seconds=time.monotonic() - started, **done)


@dataclass(frozen=True)
class _Work:
    src: Path
    orders: list[AnnotationSpec]
    overwrite: bool
    device: str | None
    processes: int | None
    batch_size: int
    reporter: Reporter

    def place(self, number: int = 0) -> str:
        """Return the device of annotators with weights: the named one, else the machine's accelerator of this number,
        if it has one, else "cpu"."""
        if self.device or not any(order.annotator.weights for order in self.orders):
            return self.device or "cpu"
        best = best_device().type
        return best if best in ("cpu", "mps") else f"{best}:{number}"

    def make(self, name: str, picture: Image.Image) -> list[Image.Image]:
        """Return one image's conditions, made in this process.

        Raises:
            SceditError: an annotator cannot annotate the image.
        """
        device, found = self.place(), []
        for order in self.orders:
            [one] = made(order.load(order.settings(name), device), [picture])
            if isinstance(one, Exception):
                raise SceditError(f"{order.kind} cannot be made of {name}: {reason(one)}") from one
            found.append(one)
        return found


def _check_options(src: Path, out: object, sheet: object, preview: int | None) -> None:
    if not src.exists():
        raise SceditError(f"{src} does not exist", hint="name a dataset folder, or a picture")
    if not src.is_dir():
        if preview is not None:
            raise SceditError(f"--preview is for a dataset folder, and {src} is none", hint="--sheet shows one picture")
    elif out is not None:
        raise SceditError(
            f"{out}: --out is for a single picture, and {src} is a folder",
            hint="its condition pictures go into the folder itself",
        )
    elif sheet is not None and preview is None:
        raise SceditError(
            f"{sheet}: --sheet is for a single picture, and {src} is a folder",
            hint="--preview 8 shows so many pictures of a folder",
        )
    elif preview is not None and preview < 1:
        raise SceditError(f"--preview is {preview}", hint="give 1 or more")


def _one_picture(work: _Work, out: Path | None, sheet: Path | None) -> dict[str, Any]:
    src, orders = work.src, work.orders
    if out and len(orders) > 1:
        raise SceditError(
            f"{src} is one picture, for which several kinds are named",
            hint="--out takes one kind; --sheet shows several side by side",
        )
    if not (out or sheet):
        raise SceditError(f"no place is named for the condition of {src}", hint="name it with --out edges.png")
    for option, place in {"--out": out, "--sheet": sheet}.items():
        if place:
            _check_place(place, work.overwrite, option)
    if out and sheet and out.resolve() == sheet.resolve():
        raise SceditError(f"--out and --sheet are both {out}", hint="name two places")
    picture = open_image(src)
    found = work.make(src.name, picture)
    if out:
        [order] = orders
        record = record_of(order, order.settings(src.name), digest_of(src))
        save_condition(found[0], out, record, work.overwrite)
    if sheet:
        _draw(sheet, work.overwrite, [[picture, *found]], orders)
    return {"out": out, "sheet": sheet, "written": 1 if out else 0, "skipped": 0, "failed": []}


def _check_place(place: Path, overwrite: bool, option: str) -> None:
    if place.suffix.lower() != ".png":
        raise SceditError(f"{place} is no .png", hint="condition pictures are PNG, which loses nothing")
    if place.exists() and not overwrite:
        raise SceditError(f"{option} {place} exists already", hint="name another place, or give --overwrite")
    check_writable(place, option)


def _preview(work: _Work, count: int, sheet: Path | None) -> dict[str, Any]:
    """Write a sheet of a folder's first `count` images beside their conditions. A sheet at the default place replaces
    the previous one."""
    if sheet:
        _check_place(sheet, work.overwrite, "--sheet")
    place = sheet or work.src.resolve().with_name(f"{work.src.resolve().name}-preview.png")
    names = [row["file_name"] for _, row in read_rows(work.src)][:count]
    rows: dict[str, list[Image.Image]] = {}
    failed: dict[str, str] = {}
    for number, name in enumerate(names, 1):
        try:
            picture = open_image(work.src / name)
            rows[name] = [picture, *work.make(name, picture)]
        except SceditError as error:
            failed[name] = error.message
        work.reporter.progress(number, len(names), "preview")
    if not rows:
        raise _nothing_read(work.src, failed)
    _draw(place, work.overwrite or not sheet, list(rows.values()), work.orders, list(rows))
    return {"out": None, "sheet": place, "written": 0, "skipped": 0, "failed": list(failed.items())}


def _draw(
    place: Path,
    replace: bool,
    rows: list[list[Image.Image]],
    orders: Sequence[AnnotationSpec],
    labels: list[str] | None = None,
) -> None:
    from scedit_cli.inference.sampler import grid

    shown = [[in_8_bits(picture) for picture in row] for row in rows]
    headings = ["picture", *(order.kind for order in orders)]
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
    _check_places(work.src, rows)
    check_licences(work.src)
    outcomes = share.gathered(_annotate(work, share.of([row["file_name"] for row in rows]), share))
    failed = failures(outcomes)
    written, skipped = (sum(len(getattr(each, kept)) for each in outcomes) for kept in ("written", "skipped"))
    if failed and not written and not skipped:
        raise _nothing_read(work.src, failed)
    if share.is_first:
        with alone(work.src):  # another process may have added a column meanwhile
            rows = [row for _, row in read_rows(work.src)]
            _enter(rows, outcomes, [order.kind for order in work.orders])
            write_rows(work.src, rows)
            ours = {kind for outcome in outcomes for kind in outcome.ours}
            record_licences(work.src, [order.annotator for order in work.orders if order.kind in ours])
    return {
        "out": work.src,
        "written": written,
        "skipped": skipped,
        "failed": list(failed.items()),
        "is_first": share.is_first,
    }


def _check_places(src: Path, rows: Sequence[dict[str, Any]]) -> None:
    owner: dict[str, str] = {}
    for name in (row["file_name"] for row in rows):
        if (other := owner.setdefault(condition_name("any", name), name)) != name:
            raise SceditError(f"{src}: {other} and {name} would share a condition picture", hint="rename one of them")


def _annotate(work: _Work, names: Sequence[str], share: Share) -> list[Outcome]:
    """Annotate on the accelerator, if any, by annotators that run there, and by the others in processes on the CPU."""
    began = time.monotonic()
    device = work.place(share.local_index)
    heavy = [order for order in work.orders if device != "cpu" and order.annotator.runs_on(device)]
    passes = [(device, heavy), ("cpu", [order for order in work.orders if order not in heavy])]
    processes = work.processes or max(1, (os.cpu_count() or 1) // share.local_count)
    outcomes: list[Outcome] = []
    for where, orders in passes:
        stage = ", ".join(order.kind for order in orders)

        if orders:
            outcomes += annotate_all(
                [_task(work.src, name, orders) for name in names],
                orders,
                device=where,
                overwrite=work.overwrite,
                processes=processes,
                batch_size=work.batch_size,
                reporter=_Speed(work.reporter.stage(stage), began, len(outcomes)) if share.is_first else SILENT,
            )
    return outcomes


class _Speed(Reporter):
    """A reporter that adds the speed since `began`, when `before` images of the call were done."""

    def __init__(self, outer: Reporter, began: float, before: int) -> None:
        self._outer, self._began, self._before = outer, began, before

    def progress(self, step: int, total: int, *_: object) -> None:
        speed = (self._before + step) / (time.monotonic() - self._began)
        self._outer.progress(step, total, values={"pictures/s": speed})


def _task(src: Path, name: str, orders: Sequence[AnnotationSpec]) -> Task:
    return Task(name, src / name, tuple(src / condition_name(order.kind, name) for order in orders))


def _enter(rows: Sequence[dict[str, Any]], outcomes: Sequence[Outcome], kinds: Sequence[str]) -> None:
    """Add to `rows` the columns of all existing condition images, also of those that a stopped run made but did not
    add."""
    there = {(outcome.name, kind) for outcome in outcomes for kind in (*outcome.written, *outcome.skipped)}
    for row in rows:
        name = row["file_name"]
        row |= {column_of(kind): condition_name(kind, name) for kind in kinds if (name, kind) in there}


def _nothing_read(src: Path, failed: dict[str, str]) -> SceditError:
    return SceditError(f"none of the pictures of {src} can be annotated; the first: {next(iter(failed.values()))}")

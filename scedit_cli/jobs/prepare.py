"""`scedit prepare`: a dataset folder from scenes of the embedded world, or from a folder of pictures."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from scedit_cli import conditions
from scedit_cli.base import EMBEDDED, Base, load_base
from scedit_cli.data.cache import cache_latents, cache_text
from scedit_cli.data.dataset import METADATA, item_of, open_dataset, read_rows, row_of, write_rows
from scedit_cli.data.pictures import SUFFIXES, open_picture, save_picture
from scedit_cli.data.rendered import SCENE_KINDS, write_scenes
from scedit_cli.errors import SceditError
from scedit_cli.files import whole_folder
from scedit_cli.jobs.progress import OnEvent, Progress
from scedit_cli.scenes import PICTURE_SIZE

_CACHES = ("latents", "text")
_MULTIPLE = 64  # pixels: the factor 8 of the autoencoder by the factor 8 of the deepest U-Nets
_PHOTO_SIZE = 512
_THREADS = 4
_AT_ONCE = 64  # pictures in flight, which bounds the memory


@dataclass(frozen=True)
class PrepareResult:
    """A dataset folder as written; `rejected` are (file, reason)."""

    out: Path
    pictures: int
    rejected: list[tuple[str, str]]
    conditions: list[str]
    seconds: float

    def document(self) -> dict[str, Any]:
        """What --json writes."""
        return {
            "out": str(self.out),
            "pictures": self.pictures,
            "rejected": [{"file": file, "reason": reason} for file, reason in self.rejected],
            "conditions": self.conditions,
            "seconds": round(self.seconds, 3),
        }

    def summary(self) -> list[tuple[str, str]]:
        """The rows that a person reads."""
        rows = [("dataset", str(self.out)), ("pictures", f"{self.pictures} in {self.seconds:.1f} s")]
        rows.append(("conditions", ", ".join(self.conditions) or "none yet: scedit annotate makes them"))
        return rows + [("rejected", f"{file}: {reason}") for file, reason in self.rejected]


def prepare(
    src: str | Path | None,
    out: str | Path,
    *,
    scenes: int | None = None,
    seed: int = 0,
    look: str = "plain",
    size: int | None = None,
    cache: Sequence[str] = (),
    base: str = EMBEDDED,
    on_event: OnEvent | None = None,
) -> PrepareResult:
    """Write a dataset folder, which appears when it is complete.

    Args:
        src: a folder of pictures, each with its caption in a .txt file beside it, or with a metadata.jsonl, whose
            condition pictures come along; None with `scenes`.
        out: the dataset folder, new or empty.
        scenes: how many scenes of the embedded world to render instead, with all conditions.
        seed: of the first scene.
        look: how scenes are drawn: "plain" or "pastel".
        size: side of the square pictures in pixels, a multiple of 64; by default 128 for scenes, 512 for pictures.
            Pictures are cut around their middle and made smaller, never larger.
        cache: "latents" and "text" are encoded at once, by `base`.

    Raises:
        SceditError: bad input, a picture folder without one usable picture included; nothing is written then.
    """
    started = time.monotonic()
    out = Path(out)
    tell = on_event or (lambda event: None)
    if (src is None) == (scenes is None):
        raise SceditError(
            "prepare takes a folder of pictures or a number of scenes" + (", not both" if scenes else ""),
            hint="scedit prepare PHOTOS --out DIR, or scedit prepare --scenes 100 --out DIR",
        )
    size = size or (_PHOTO_SIZE if src else PICTURE_SIZE)
    if size < _MULTIPLE or size % _MULTIPLE:
        near = max(1, round(size / _MULTIPLE)) * _MULTIPLE
        raise SceditError(f"size is {size}, which is no multiple of {_MULTIPLE}", hint=f"{near} is nearest")
    if unknown := set(cache) - set(_CACHES):
        raise SceditError(f"{', '.join(sorted(unknown))} cannot be cached", hint=f"choose of {', '.join(_CACHES)}")
    frozen = load_base(base) if cache else None  # a wrong base is told before the work
    if src is None:
        write_scenes(
            out, scenes, seed, look, size=size, on_step=lambda done, total: tell(Progress("render", done, total))
        )
        pictures, rejected, kinds = scenes, [], list(SCENE_KINDS)
    else:
        pictures, rejected, kinds = _prepare_pictures(Path(src), out, size, tell)
    if frozen:
        _encode(out, cache, frozen, tell)
    return PrepareResult(out, pictures, rejected, kinds, time.monotonic() - started)


@dataclass(frozen=True)
class _Source:
    """A picture to prepare. `text` is None where its caption is in a file beside it."""

    name: str
    image: Path
    text: str | None
    conditions: dict[str, Path] = field(default_factory=dict)


def _prepare_pictures(src: Path, out: Path, size: int, tell: OnEvent) -> tuple[int, list[tuple[str, str]], list[str]]:
    sources = list(_sources(src))
    if not sources:
        raise SceditError(f"no pictures in {src}", hint="name a folder with pictures and a .txt caption beside each")
    rows: list[dict[str, str]] = []
    rejected: list[tuple[str, str]] = []
    with whole_folder(out) as folder, ThreadPoolExecutor(_THREADS) as pool:
        for at in range(0, len(sources), _AT_ONCE):
            batch = sources[at : at + _AT_ONCE]
            names = [f"{index:06d}.png" for index in range(at, at + len(batch))]
            fitted = pool.map(lambda source, name: _fit(source, name, folder, size), batch, names)
            for source, made in zip(batch, fitted, strict=True):
                if isinstance(made, SceditError):
                    rejected.append((source.name, made.message))
                else:
                    rows.append(made)
            tell(Progress("prepare", len(rows) + len(rejected), len(sources)))
        if not rows:
            file, reason = rejected[0]
            raise SceditError(f"none of the {len(sources)} pictures in {src} can be used; {file}: {reason}")
        write_rows(folder, rows)
    return len(rows), rejected, list(open_dataset(out).kinds)


def _sources(src: Path) -> Iterator[_Source]:
    if not src.is_dir():
        raise SceditError(f"{src} is no folder" if src.exists() else f"{src} does not exist")
    if (src / METADATA).exists():
        for line, row in read_rows(src):
            item = item_of(src, line, row)
            yield _Source(row["file_name"], item.image, item.text, item.conditions)
        return
    for path in sorted(src.rglob("*")):
        inside = path.relative_to(src)
        if path.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in inside.parts):
            yield _Source(inside.as_posix(), path, None)


def _fit(source: _Source, name: str, folder: Path, size: int) -> dict[str, str] | SceditError:
    """Writes one picture with its conditions at `size`; gives its row, or why it was rejected."""
    try:
        text = _caption(source)
        picture = open_picture(source.image)
        if min(picture.size) < size:
            raise SceditError(f"{picture.width}x{picture.height} pixels, smaller than {size}x{size}")
        opened = {kind: open_picture(path) for kind, path in source.conditions.items()}
        for kind, condition in opened.items():
            if condition.size != picture.size:
                raise SceditError(f"its {kind} is {condition.width}x{condition.height} pixels, not its own size")
    except SceditError as error:
        return error
    save_picture(ImageOps.fit(picture, (size, size), Image.Resampling.LANCZOS), folder / "images" / name)
    for kind, condition in opened.items():
        blended = kind not in conditions.KINDS or not conditions.find(kind).labels
        method = Image.Resampling.LANCZOS if blended else Image.Resampling.NEAREST
        save_picture(ImageOps.fit(condition, (size, size), method), folder / "conditions" / kind / name)
    return row_of(name, text, list(opened))


def _caption(source: _Source) -> str:
    if source.text is not None:
        return source.text
    beside = source.image.with_suffix(".txt")
    try:
        text = " ".join(beside.read_text("utf-8").split())
    except FileNotFoundError:
        raise SceditError(f"no caption: {beside.name} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SceditError(f"no caption: {beside.name} cannot be read as UTF-8 text ({error})") from None
    if not text:
        raise SceditError(f"no caption: {beside.name} is empty")
    return text


def _encode(out: Path, cache: Sequence[str], base: Base, tell: OnEvent) -> None:
    dataset = open_dataset(out)
    for name, encode in (("latents", cache_latents), ("text", cache_text)):
        if name in cache:
            encode(dataset, base, lambda done, total, name=name: tell(Progress(name, done, total)))

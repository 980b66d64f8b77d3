"""The request of `prepare`, and its first checks."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from scedit_cli.data.dataset import METADATA
from scedit_cli.data.formats import is_shard
from scedit_cli.data.sources.entry import Images
from scedit_cli.data.uris import is_remote
from scedit_cli.models.names import check_autoencoder, check_model, multiple_of
from scedit_cli.scenes import IMAGE_SIZE, WORLD
from scedit_cli.scenes.render import LOOKS
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.hub import is_hub_id
from scedit_cli.utils.io import check_writable, expanded
from scedit_cli.utils.names import EMBEDDED, KIND, PRECISIONS

MULTIPLE = 64  # pixels: the factor 8 of the autoencoder by the factor 8 of the deepest U-Nets
LARGEST = 8192  # pixels, as data.size of a recipe
_CACHES = ("latents", "text")
_PHOTO_SIZE = 512
THERE = "for a dataset that is there"
_OF_IMAGES = (
    "conditions", "columns", "split", "subset", "revision", "square", "upscale", "strict", "allow_captionless",
    "drop_duplicates",
)  # fmt: skip
_OF_SCENES = ("seed", "look", "held_out")
_IDLE = {  # case -> arguments that do nothing in it, and the reason in a hint
    "with `scenes`": (_OF_IMAGES, "it is for images"),
    "with images": (_OF_SCENES, "it belongs to `scenes`"),
    THERE: ((*_OF_IMAGES, *_OF_SCENES, "size"), "it counts where the dataset is made"),
    "without `cache`": (("base", "vae", "precision", "device"), "`cache=latents,text` encodes by it"),
}


@dataclass(frozen=True)
class Scenes:
    """Scenes of the embedded world to render, with all conditions.

    Attributes:
        count: the number of scenes.
        seed: the seed of the first one.
        look: the look of the scenes: "plain" or "pastel".
        held_out: whether to allow scenes that are reserved for evaluation.
    """

    count: int
    seed: int = 0
    look: str = "plain"
    held_out: bool = False


@dataclass(frozen=True)
class ImportRules:
    """The rules by which images are cut, rejected and reported.

    Attributes:
        square: whether to crop all images to squares; smaller images are rejected.
        upscale: whether to enlarge smaller images.
        strict: whether to fail where the report would list any image by name.
        allow_captionless: whether more than 1 % of the images may have no caption; their caption is empty.
        drop_duplicates: whether to leave out images that look like an earlier one.
    """

    square: bool = False
    upscale: bool = False
    strict: bool = False
    allow_captionless: bool = False
    drop_duplicates: bool = False


@dataclass(frozen=True)
class Encoding:
    """The encoding of a dataset's latents and text for training.

    Attributes:
        cache: what is encoded: "latents", "text" or both.
        base, vae: the base that encodes, and the autoencoder in place of its own.
        precision: the precision of the text encoders. Training uses the cached text only where `train.precision` is
            the same; by default, the one that "auto" means on the device.
        device: the device that encodes; by default an accelerator where there is one.
    """

    cache: Sequence[str] = _CACHES
    base: str = EMBEDDED
    vae: str | None = None
    precision: str | None = None
    device: str | None = None


@dataclass(frozen=True)
class PrepareRequest:
    """The arguments of `prepare`, which describes them."""

    src: Images | Scenes | None
    out: Path
    size: int | None = None
    rules: ImportRules = ImportRules()
    encoding: Encoding | None = None
    shards: int | None = None

    @property
    def is_made(self) -> bool:
        """Whether `out` is an existing dataset folder that only gets caches or shards."""
        return self.src is None and bool(self.encoding or self.shards) and _is_dataset(self.out)

    @property
    def usual_size(self) -> int:
        """The side of the images in pixels."""
        if self.size is not None:
            return self.size
        return _PHOTO_SIZE if isinstance(self.src, Images) else IMAGE_SIZE


def check(request: PrepareRequest) -> None:
    """Raise SceditError for every fault that shows without weights."""
    src, encoding, is_there = request.src, request.encoding, request.is_made
    if src is None and not is_there:
        raise SceditError("prepare takes images or a number of scenes", "give a folder, or Scenes(100)", "src")
    if encoding and (unknown := set(encoding.cache) - set(_CACHES)):
        hint = f"choose of {', '.join(_CACHES)}"
        raise SceditError(f"`cache`: {', '.join(sorted(unknown))} cannot be cached", hint, "encoding.cache")
    if encoding and encoding.precision not in (None, *PRECISIONS):
        hint = f"choose one of {', '.join(PRECISIONS)}"
        raise SceditError(f"`precision` {encoding.precision}: not known", hint, "encoding.precision")
    if request.shards is not None and request.shards < 1:
        raise SceditError(f"shards of {request.shards} images", "give the number of images in each", "shards")
    given = {name for name, value in vars(request.rules).items() if value} | ({"size"} if request.size else set())
    check_idle(given, [THERE if is_there else "with `scenes`" if isinstance(src, Scenes) else "with images"])
    if isinstance(src, Scenes) and src.look not in LOOKS:
        raise SceditError(f"`look` is {src.look!r}", f"choose one of {', '.join(LOOKS)}", "src.look")
    if encoding:
        check_model(encoding.base)
        if encoding.vae is not None:
            check_autoencoder(encoding.vae)
    if not is_there:
        base = encoding and (WORLD / "base" if encoding.base == EMBEDDED else expanded(encoding.base))
        check_size(request.usual_size, (multiple_of(base) if base else MULTIPLE) or 1)
    out = request.out
    if not is_there and (out.is_file() or (out.is_dir() and any(out.iterdir()) and not _is_dataset(out))):
        raise SceditError(f"{out} exists already", "name another place, or remove it first", "out")
    check_writable(out, "`out`")
    if isinstance(src, Images):
        _check_images(src)


def check_idle(given: Collection[str], cases: Sequence[str]) -> None:
    """Raise SceditError for an argument among those `given` that would do nothing in one of the `cases`."""
    for case in cases:
        idle, hint = _IDLE[case]
        for name in filter(given.__contains__, idle):
            raise SceditError(f"`{name}` does nothing {case}", f"leave it out: {hint}", name)


def _is_dataset(place: Path) -> bool:
    return (place / METADATA).is_file()


def check_size(size: int, multiple: int) -> None:
    if size < multiple or size % multiple:
        near = max(1, round(size / multiple)) * multiple
        raise SceditError(f"size is {size}, which is no multiple of {multiple}", f"{near} is nearest", "size")
    if size > LARGEST:
        raise SceditError(f"size is {size}", f"give at most {LARGEST} pixels", "size")


def _check_images(src: Images) -> None:
    for field, names in {"conditions": src.conditions, "columns": src.columns}.items():
        for name in names:
            if not re.fullmatch(KIND, str(name)) or (field == "conditions" and name in ("image", "text")):
                message = f"`{field}={name}={names[name]}`: {name!r} names no kind of condition"
                hint = "write the kind first, in lower case, as in `conditions=depth=maps`"
                if field == "columns":
                    hint = "write image, text or the kind first, and the column after it"
                raise SceditError(message, hint, f"src.{field}")
    if is_remote(str(src.place)):
        return
    path = expanded(src.place)
    if not path.exists() and not is_shard(path.name) and not is_hub_id(src.place):
        raise SceditError(f"{src.place} does not exist", "name a folder, a file or shards that are there", "src")
    if path.is_dir():
        if not any(path.iterdir()):
            hint = "name a folder with images and a .txt or .caption file beside each"
            raise SceditError(f"no images in {src.place}", hint, "src")
        for kind, place in src.conditions.items():
            if not (expanded(place).exists() or (path / place).exists()):
                message = f"`conditions={kind}={place}`: {place} does not exist"
                raise SceditError(message, "name a folder that is there", "src.conditions")

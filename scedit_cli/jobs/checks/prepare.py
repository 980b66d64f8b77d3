"""The first checks of `scedit prepare`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from scedit_cli.data.dataset import METADATA
from scedit_cli.data.formats import is_shard
from scedit_cli.data.uris import is_remote
from scedit_cli.models.names import check_autoencoder, check_model, multiple_of
from scedit_cli.scenes import PICTURE_SIZE, WORLD
from scedit_cli.scenes.render import LOOKS
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.hub import is_hub_id
from scedit_cli.utils.io import check_writable, expanded
from scedit_cli.utils.names import EMBEDDED, PRECISIONS

MULTIPLE = 64  # pixels: the factor 8 of the autoencoder by the factor 8 of the deepest U-Nets
_CACHES = ("latents", "text")
_PHOTO_SIZE = 512
_OF_PICTURES = (
    "conditions", "columns", "split", "subset", "revision", "square", "upscale", "strict", "allow_captionless",
    "drop_duplicates",
)  # fmt: skip
_OF_SCENES = ("seed", "look", "held_out")
_IDLE = {  # case -> options that do nothing in it, and the reason in a hint
    "with --scenes": (_OF_PICTURES, "it is for pictures"),
    "with pictures": (_OF_SCENES, "it belongs to --scenes"),
    "for a dataset that is there": ((*_OF_PICTURES, *_OF_SCENES, "size"), "it counts where the dataset is made"),
    "without --cache": (("base", "vae", "precision", "device"), "--cache latents,text encodes by it"),
}


def check(
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
) -> None:
    """Raise SceditError for every fault that shows without weights."""
    given = {name for name, value in locals().items() if value and value != check.__kwdefaults__.get(name)}
    is_there = is_made(src, out, scenes, cache, shards)
    if (src is None) == (scenes is None) and not is_there:
        raise SceditError(
            "prepare takes pictures or a number of scenes" + (", not both" if scenes else ""),
            hint="scedit prepare PHOTOS --out DIR, or scedit prepare --scenes 100 --out DIR",
        )
    if unknown := set(cache) - set(_CACHES):
        raise SceditError(f"{', '.join(sorted(unknown))} cannot be cached", hint=f"choose of {', '.join(_CACHES)}")
    if precision not in (None, *PRECISIONS):
        raise SceditError(f"--precision {precision}: not known", hint=f"choose one of {', '.join(PRECISIONS)}")
    if shards is not None and shards < 1:
        raise SceditError(f"shards of {shards} pictures", hint="give the number of pictures in each")
    way = "for a dataset that is there" if is_there else "with pictures" if scenes is None else "with --scenes"
    _check_idle(given, [way] if cache else [way, "without --cache"])
    if look not in LOOKS:
        raise SceditError(f"look is {look!r}", hint=f"choose one of {', '.join(LOOKS)}")
    if cache:
        check_model(base)
        if vae is not None:
            check_autoencoder(vae)
    if not is_there:
        multiple = multiple_of(WORLD / "base" if base == EMBEDDED else expanded(base)) if cache else MULTIPLE
        check_size(usual_size(src) if size is None else size, multiple or 1)
    place = Path(out)
    if not is_there and (place.is_file() or (place.is_dir() and any(place.iterdir()) and not _is_dataset(place))):
        raise SceditError(f"{out} exists already", hint="name another place, or remove it first")
    check_writable(out, "--out")
    _check_source(src, conditions or {})


def is_made(
    src: object, out: str | Path, scenes: int | None, cache: Sequence[str], shards: int | None
) -> bool:
    """Return whether `out` is an existing dataset folder that only gets caches or shards."""
    return src is None and scenes is None and bool(cache or shards) and _is_dataset(Path(out))


def _is_dataset(place: Path) -> bool:
    return (place / METADATA).is_file()


def usual_size(src: object) -> int:
    """Return the side in pixels that images get by default."""
    return PICTURE_SIZE if src is None else _PHOTO_SIZE


def check_size(size: int, multiple: int) -> None:
    if size < multiple or size % multiple:
        near = max(1, round(size / multiple)) * multiple
        raise SceditError(f"size is {size}, which is no multiple of {multiple}", hint=f"{near} is nearest")


def _check_idle(given: set[str], ways: Sequence[str]) -> None:
    """Raise SceditError for options that would do nothing."""
    for way in ways:
        idle, hint = _IDLE[way]
        for name in filter(given.__contains__, idle):
            option = "--cond" if name == "conditions" else f"--{name.replace('_', '-')}"
            raise SceditError(f"{option} does nothing {way}", hint=f"leave it out: {hint}")


def _check_source(src: str | Path | None, conditions: Mapping[str, str | Path]) -> None:
    if src is None or is_remote(str(src)):
        return
    path = expanded(src)
    if not path.exists() and not is_shard(path.name) and not is_hub_id(src):
        raise SceditError(f"{src} does not exist", hint="name a folder, a file or shards that are there")
    if path.is_dir():
        if not any(path.iterdir()):
            raise SceditError(
                f"no pictures in {src}", hint="name a folder with pictures and a .txt or .caption file beside each"
            )
        for kind, place in conditions.items():
            if not (expanded(place).exists() or (path / place).exists()):
                raise SceditError(f"--cond {kind}={place}: {place} does not exist", hint="name a folder that is there")

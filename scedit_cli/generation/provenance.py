"""The provenance of generated images: each file holds the settings that make its image again."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from scedit_cli import scenes
from scedit_cli.core.source import locate
from scedit_cli.data.images import identified
from scedit_cli.generation.config import Request
from scedit_cli.generation.filenames import FORMATS
from scedit_cli.utils.errors import SceditError, shortened
from scedit_cli.utils.hub import is_hub_id, split_revision
from scedit_cli.utils.specs import ConditionSpec, parse_tuner

_LARGEST_BATCH = 1024
_IMAGE_DESCRIPTION = 0x010E  # the EXIF tag for free text
_TYPES = {field: kind for kind, names in {
    str: ("prompt", "negative", "base", "revision", "vae", "vae_revision", "prediction", "dtype", "device",
          "guidance_span", "scheduler", "resize", "weights", "image", "inpaint", "outpaint"),
    int: ("seed", "steps", "width", "height"),
    float: ("guidance", "guidance_rescale", "strength"),
    list: ("conds", "conds_from", "params", "masks", "tuners", "scales"),
    bool: ("any_base", "weighted", "vae_slicing", "vae_tiling", "offload", "compile"),
}.items() for field in names}  # fmt: skip


def encoded(picture: Image.Image, suffix: str, settings: dict[str, Any]) -> bytes:
    """Encode an image file with its settings in a PNG's text chunk `scedit`, else in the EXIF image description."""
    text = json.dumps(settings)
    if suffix.lower() == ".png":
        info = PngInfo()
        info.add_text("scedit", text)
        options = {"pnginfo": info}
    else:
        exif = Image.Exif()
        exif[_IMAGE_DESCRIPTION] = text
        options = {"exif": exif, "quality": 95}
    buffer = io.BytesIO()
    picture.save(buffer, FORMATS[suffix.lower()], **options)
    return buffer.getvalue()


def settings_in(path: Path) -> dict[str, Any]:
    """Return the settings that an image's file holds.

    Raises:
        SceditError: the file does not exist, or is no image that `scedit generate` wrote, or its settings are invalid.
    """
    try:
        with identified(path) as picture:
            text = getattr(picture, "text", {}).get("scedit") or picture.getexif().get(_IMAGE_DESCRIPTION)
        settings = json.loads(text)
        if not isinstance(settings["prompt"], str) or not isinstance(settings["files"], dict):
            raise TypeError("a prompt and the files")
    except FileNotFoundError:
        raise SceditError(f"--from {path} does not exist", hint="check the path") from None
    except MemoryError:
        raise
    except Exception as error:  # decoders raise many types of errors for damaged files
        raise SceditError(
            f"--from {path}: it does not say how it was made",
            hint="name a picture that scedit generate wrote, not a copy that another program saved",
        ) from error
    batch = settings.get("batch") or [0, 1]
    counts = isinstance(batch, list) and len(batch) == 2 and all(type(each) is int for each in batch)
    if not counts or not 0 <= batch[0] < batch[1] <= _LARGEST_BATCH:
        said = shortened(repr(batch))
        raise SceditError(f"--from {path}: its batch is {said}", hint="its settings were changed by hand")
    for name, kind in _TYPES.items():
        if (value := settings.get(name)) is not None and not _is(value, kind):
            said = shortened(repr(value))
            raise SceditError(f"--from {path}: its {name} is {said}", hint="its settings were changed by hand")
    return settings


def _is(value: Any, kind: type) -> bool:
    if kind is list:
        return type(value) is list and all(type(each) is str for each in value)
    return type(value) is kind or (kind is float and type(value) is int)


def request_from(path: Path) -> tuple[Request, dict[str, Any]]:
    """Return the request that makes the image at `path` again, and all its settings. The request leaves the device
    open, since another machine may not have it.

    Raises:
        SceditError: as for `settings_in`.
    """
    settings = settings_in(path)
    ours = [name for name in _TYPES if name not in ("prompt", "device")]
    known = {name: settings[name] for name in ours if settings.get(name) is not None}
    for model, revision in (("base", "revision"), ("vae", "vae_revision")):
        if (commit := known.pop(revision, None)) and model in known:
            known[model] += f"@{commit}"
    names = [(text, parse_tuner(text).name) for text in known.get("tuners", [])]
    known["tuners"] = [_place(name) + text.removeprefix(name) for text, name in names]
    return Request(prompts=(settings["prompt"],), **known), settings


def check_files(path: Path, files: Mapping[str, str], request: Request) -> None:
    """Check that those `files` (name -> SHA-256) of the image at `path` which `request` uses are unchanged.

    Raises:
        SceditError: a file is gone or has other content.
    """
    pictures, hint = list(map(str, request.picture_files)), "put it back, or name another in its place"
    for name, digest in files.items():
        place = _place(name)
        is_tuner = place in request.tuner_names
        if not is_tuner and place not in pictures:
            continue
        on_hub = is_tuner and is_hub_id(split_revision(place)[0])
        if not (on_hub or Path(place).is_file() or (is_tuner and Path(place).is_dir())):
            raise SceditError(f"--from {path}: {name} is gone", hint)
        if sha256(locate(place) if is_tuner else Path(place)) != digest:
            raise SceditError(f"--from {path}: {name} is not the file that it was made with", hint)


def _place(name: str) -> str:
    """Return the path of a shipped tuner's file; any other file is named by its path."""
    return str(scenes.TUNERS / f"{name}.safetensors") if Path(name).name == name else name


def digests(files: Iterable[Path]) -> dict[str, str]:
    """Return the SHA-256 of the files that exist, by absolute path."""
    return {str(file.absolute()): sha256(file) for file in files if file.is_file()}


def sha256(file: Path) -> str:
    state = file.stat()
    return _sha256(file.absolute(), state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=256)
def _sha256(file: Path, modified: int, size: int) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def condition_text(spec: ConditionSpec, kind: str) -> str:
    """Return the text that `parse_condition` reads as this condition, from any working directory."""
    start, end = (format(Decimal(repr(each)), "f") for each in (spec.start, spec.end))
    return f"{kind}={spec.file.absolute()}:{spec.scale!r}:{start}-{end}"

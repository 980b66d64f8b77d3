"""The provenance of generated images: each file holds the settings that make its image again."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from scedit_cli import scenes
from scedit_cli.core.source import locate
from scedit_cli.data.images import identified
from scedit_cli.data.inputs import file_of
from scedit_cli.generation.config import GenerationConfig
from scedit_cli.generation.filenames import FORMATS
from scedit_cli.inference.config import Control
from scedit_cli.utils.errors import SceditError, shortened
from scedit_cli.utils.hub import is_hub_id, split_revision
from scedit_cli.utils.io import expanded, read_json, sha256
from scedit_cli.utils.specs import parse_tuner

_LARGEST_BATCH = 1024
_IMAGE_DESCRIPTION = 0x010E  # the EXIF tag for free text
_TYPES = {field: kind for kind, names in {
    str: ("prompt", "negative", "base", "revision", "vae", "vae_revision", "prediction", "dtype", "device",
          "guidance_span", "scheduler", "resize", "weights", "image", "inpaint", "outpaint", "unet"),
    int: ("seed", "steps", "reuse", "width", "height", "frames", "fps"),
    float: ("guidance", "control_guidance", "guidance_rescale", "strength"),
    list: ("conds", "conds_from", "params", "weights_of", "masks", "tuners", "scales", "in_memory"),
    bool: ("any_base", "weighted", "vae_slicing", "vae_tiling", "compile"),
}.items() for field in names}  # fmt: skip


def encoded(image: Image.Image, suffix: str, settings: dict[str, Any]) -> bytes:
    """Encode an image file with its settings in a PNG's text chunk `scedit`, else in the EXIF image description."""
    if suffix.lower() == ".png":
        info = PngInfo()
        info.add_text("scedit", json.dumps(settings))
        options = {"pnginfo": info}
    else:
        options = described(settings) | {"quality": 95}
    buffer = io.BytesIO()
    image.save(buffer, FORMATS[suffix.lower()], **options)
    return buffer.getvalue()


def described(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the option of Pillow's `save` that keeps the settings in the EXIF image description."""
    exif = Image.Exif()
    exif[_IMAGE_DESCRIPTION] = json.dumps(settings)
    return {"exif": exif}


def settings_in(path: Path) -> dict[str, Any]:
    """Return the settings that an image's file holds.

    Raises:
        SceditError: the file does not exist, or is no image that `scedit generate` wrote, or its settings are invalid.
    """
    try:
        with identified(path) as image:
            text = getattr(image, "text", {}).get("scedit") or image.getexif().get(_IMAGE_DESCRIPTION)
        settings = read_json(text)
        if not isinstance(settings["prompt"], str) or not isinstance(settings["files"], dict):
            raise TypeError("a prompt and the files")
    except FileNotFoundError:
        raise SceditError(f"source {path} does not exist", "check the path", "source") from None
    except MemoryError:
        raise
    except Exception as error:  # decoders raise many types of errors for damaged files
        raise SceditError(
            f"source {path}: it does not say how it was made",
            "name an image that scedit generate wrote, not a copy that another program saved",
            "source",
        ) from error
    batch = settings.get("batch") or [0, 1]
    counts = isinstance(batch, list) and len(batch) == 2 and all(type(each) is int for each in batch)
    if not counts or not 0 <= batch[0] < batch[1] <= _LARGEST_BATCH:
        raise _changed(path, "batch", batch)
    for name, kind in _TYPES.items():
        if (value := settings.get(name)) is not None and not _is(value, kind):
            raise _changed(path, name, value)
    return settings


def _changed(path: Path, name: str, value: Any) -> SceditError:
    said = shortened(repr(value))
    return SceditError(f"source {path}: its {name} is {said}", "its settings were changed by hand", "source")


def _is(value: Any, kind: type) -> bool:
    if kind is list:
        return type(value) is list and all(type(each) is str for each in value)
    return type(value) is kind or (kind is float and type(value) is int)


def settings_to_remake(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings that make the image at `path` again, by the names and in the forms of the command line's
    options, and all that the file holds; `weights_of` are the folders of annotators' weights, as KIND=DIR, where they
    differ. Device and offloading are left open, since another machine may not have them.

    Raises:
        SceditError: as for `settings_in`; or the image was made of images or tuners that no file holds.
    """
    settings = settings_in(path)
    if absent := settings.get("in_memory"):
        raise SceditError(
            f"source {path}: no file holds its {', '.join(map(str, absent))}",
            "pass it to `scedit.generate` again",
            "source",
        )
    ours = [name for name in _TYPES if name not in ("prompt", "device", "in_memory")]
    known = {name: settings[name] for name in ours if settings.get(name) is not None}
    for model, revision in (("base", "revision"), ("vae", "vae_revision")):
        if (commit := known.pop(revision, None)) and model in known:
            known[model] += f"@{commit}"
    tuners = [(text, parse_tuner(text)) for text in known.get("tuners", [])]
    heads = [(text, of_kinds(each.conditions), str(each.source)) for text, each in tuners]
    known["tuners"] = [kinds + _place(name) + text.removeprefix(kinds + name) for text, kinds, name in heads]
    return {"prompts": (settings["prompt"],), **known}, settings


def check_files(path: Path, files: Mapping[str, str], config: GenerationConfig) -> None:
    """Check that those `files` (name -> SHA-256) of the image at `path` which `config` uses are unchanged.

    Raises:
        SceditError: a file is gone or has other content.
    """
    tuners = {str(spec.source) for spec in config.tuners}
    others = {str(file.absolute()) for file in (*image_files(config), *model_files(config))}
    for name, digest in files.items():
        place = _place(name)
        is_tuner = place in tuners
        if not is_tuner and not {place, str(Path(place).parent)} & others:  # a frame is in a folder of them
            continue
        on_hub = is_tuner and is_hub_id(split_revision(place)[0])
        if not (on_hub or Path(place).is_file() or (is_tuner and Path(place).is_dir())):
            told = "is gone"
        elif sha256(locate(place) if is_tuner else Path(place)) != digest:
            told = "is not the file that it was made with"
        else:
            continue
        hint = "put it back, or name another in its place"
        raise SceditError(f"source {path}: {name} {told}", hint, "source")


def image_files(config: GenerationConfig) -> list[Path]:
    """Return the files of controls and masks and of the image to start from."""
    given: list[Any] = [each for _, control in config.placed_controls() for each in (control.image, control.photo)]
    given += [control.mask for _, control in config.placed_controls()]
    given += config.overrides.masks.values()
    given += [config.init.image, config.init.mask] if config.init else []
    return [file for file in map(file_of, given) if file]


def model_files(config: GenerationConfig) -> list[Path]:
    """Return the places of an autoencoder and of an exported U-Net, whose weights are not in the base's fingerprint,
    and the files in those that are folders."""
    given = [expanded(each) for each in (config.base.vae, config.base.unet) if each]
    return [*given, *(file for place in given if place.is_dir() for file in sorted(place.iterdir()))]


def _place(name: str) -> str:
    """Return the path of a shipped tuner's file; any other file is named by its path."""
    return str(scenes.TUNERS / f"{name}.safetensors") if Path(name).name == name else name


def digests(files: Iterable[Path]) -> dict[str, str]:
    """Return the SHA-256 of the files that exist, by absolute path."""
    return {str(file.absolute()): sha256(file) for file in files if file.is_file()}


def of_kinds(conditions: Sequence[str]) -> str:
    """Return what the command line reads before a tuner's file as its `conditions`."""
    return f"{','.join(conditions)}=" if conditions else ""


def control_text(control: Control, brief: bool = False) -> str:
    """Return the text that the command line reads as this control, from any working directory; a `brief` one states no
    span of all steps and rounds the numbers."""
    if brief:
        span = "" if (control.start, control.end) == (0, 1) else f":{control.start:g}-{control.end:g}"
        return f"{control.kind}={control.source}:{control.scale:g}{span}"
    start, end = (format(Decimal(repr(float(each))), "f") for each in (control.start, control.end))
    return f"{control.kind}={control.source.absolute()}:{float(control.scale)!r}:{start}-{end}"

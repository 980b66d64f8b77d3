"""The formats of whole folders that `merge` writes, without heavy imports: nodes for ComfyUI, and graphs of a U-Net."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scedit_cli.utils.errors import SceditError, reason
from scedit_cli.utils.io import read_json

DESCRIPTION, DESCRIBED = "scedit.json", "scedit-unet/1"  # a graph's description, and its format
GRAPHS = ("onnx", "torch-export")
FOLDERS = ("comfyui", *GRAPHS)
_FILES = (".safetensors", ".bin", ".onnx", ".pt2")


def check_folder(out: Path, format: str) -> None:
    """Raise SceditError if `out` has a file's suffix: these formats are folders."""
    if out.suffix in _FILES:
        raise SceditError(f"`out` {out}: the format {format} is a folder", f"name it {out.with_suffix('')}", "out")


def read_description(folder: Path) -> dict[str, Any]:
    """Return the description of an exported U-Net in `folder`.

    Raises:
        SceditError: there is none, or it is of another format.
    """
    hint = "`scedit merge` writes one, in the format onnx or torch-export"
    if not folder.is_dir():
        raise SceditError(f"exported U-Net {folder}: no such folder", hint)
    try:
        about = read_json((folder / DESCRIPTION).read_text(encoding="utf-8"))
        if about["format"] != DESCRIBED:
            raise ValueError(f"its format is {about['format']}, and this program reads {DESCRIBED}")
        file, tuners = folder / about["file"], [each["condition"] for each in about["tuners"]]
    except (OSError, LookupError, TypeError, ValueError) as error:
        raise SceditError(f"{folder} is no folder with an exported U-Net: {reason(error)}", hint) from error
    if not file.is_file():
        raise SceditError(f"{file} is missing", hint="export the U-Net again")
    return about | {"conditions": tuners}

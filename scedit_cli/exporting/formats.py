"""The formats of whole folders that `merge` writes, without heavy imports: nodes for ComfyUI, and graphs of a U-Net."""

from __future__ import annotations

from pathlib import Path

from scedit_cli.utils.errors import SceditError

GRAPHS = ("onnx", "torch-export")
FOLDERS = ("comfyui", *GRAPHS)
_FILES = (".safetensors", ".bin", ".onnx", ".pt2")


def check_folder(out: Path, format: str) -> None:
    """Raise SceditError if `out` has a file's suffix: these formats are folders."""
    if out.suffix in _FILES:
        raise SceditError(f"--out {out}: the format {format} is a folder", hint=f"name it {out.with_suffix('')}")

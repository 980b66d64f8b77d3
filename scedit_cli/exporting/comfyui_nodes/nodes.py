"""The nodes: Load SCEdit Tuner and Apply SCEdit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from .edits import Applied, apply_to
from .hints import as_hint
from .tuners import Tuner, read

TUNERS = Path(__file__).parent / "tuners"


def folders() -> list[Path]:
    """Return the folders with tuners: this package's, and ComfyUI's models/scedit."""
    try:
        from folder_paths import models_dir
    except ImportError:  # outside ComfyUI
        return [TUNERS]
    return [TUNERS, Path(models_dir) / "scedit"]


def tuner_files() -> dict[str, Path]:
    """Return the tuner files that can be chosen, by name; this package's come first."""
    found: dict[str, Path] = {}
    for folder in folders():
        for file in sorted(folder.glob("**/*.safetensors")):
            found.setdefault(file.relative_to(folder).as_posix(), file)
    return found


class LoadTuner:
    """Load one tuner file."""

    CATEGORY = "SCEdit"
    DESCRIPTION = "Loads a tuner of SCEdit from this package's folder tuners or from models/scedit."
    FUNCTION = "load"
    RETURN_TYPES = ("SCEDIT_TUNER",)
    RETURN_NAMES = ("tuner",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"tuner": (list(tuner_files()), {"tooltip": "a tuner file of the format scedit/1"})}}

    @classmethod
    def IS_CHANGED(cls, tuner: str) -> str:
        facts = _file(tuner).stat()
        return f"{facts.st_mtime_ns} {facts.st_size}"

    def load(self, tuner: str) -> tuple[Tuner]:
        return (read(_file(tuner)),)


class ApplyTuner:
    """Apply a tuner to a clone of the model; several such nodes in a row sum their edits."""

    CATEGORY = "SCEdit"
    DESCRIPTION = "Edits the skip connections of a U-Net with a tuner of SCEdit. Several in a row are summed."
    FUNCTION = "apply"
    RETURN_TYPES = ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        share = {"default": 0.0, "min": 0.0, "max": 1.0, "step": 0.001}
        return {
            "required": {
                "model": ("MODEL",),
                "tuner": ("SCEDIT_TUNER",),
                "strength": (
                    "FLOAT",
                    {"default": 1.0, "min": -10.0, "max": 10.0, "step": 0.01, "tooltip": "0 leaves the model as it is"},
                ),
                "start_percent": ("FLOAT", {**share, "tooltip": "share of the sampling after which the tuner acts"}),
                "end_percent": (
                    "FLOAT",
                    {**share, "default": 1.0, "tooltip": "share of the sampling until which the tuner acts"},
                ),
            },
            "optional": {
                "hint": ("IMAGE", {"tooltip": "the condition image, for a tuner that takes one"}),
                "mask": ("MASK", {"tooltip": "where the tuner acts: 1 fully, 0 not at all"}),
            },
        }

    def apply(
        self,
        model: Any,
        tuner: Tuner,
        strength: float,
        start_percent: float,
        end_percent: float,
        hint: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Any]:
        if start_percent > end_percent:
            raise ValueError(
                f"start_percent {start_percent:g} is after end_percent {end_percent:g}: the tuner never acts"
            )
        if tuner.kind == "csc" and hint is None and strength * tuner.scale != 0:
            raise ValueError(f"{tuner} has no hint: connect a {tuner.condition} image to it")
        if tuner.kind == "sc" and hint is not None:
            raise ValueError(f"{tuner} takes no hint: leave it unconnected, or load a tuner for this condition")
        hint = None if hint is None else as_hint(hint, tuner)
        if mask is not None:
            mask = mask.detach().reshape(-1, 1, *mask.shape[-2:]).float().clamp(0, 1)
        return (apply_to(model, Applied(tuner, strength, start_percent, end_percent, hint, mask)),)


def _file(name: str) -> Path:
    files = tuner_files()
    if name not in files:
        raise ValueError(f"the tuner {name} is not there: put it into {' or '.join(map(str, folders()))}")
    return files[name]


NODE_CLASS_MAPPINGS = {"LoadSCEditTuner": LoadTuner, "ApplySCEdit": ApplyTuner}
NODE_DISPLAY_NAME_MAPPINGS = {"LoadSCEditTuner": "Load SCEdit Tuner", "ApplySCEdit": "Apply SCEdit"}

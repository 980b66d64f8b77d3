"""The package of nodes for ComfyUI, with its tuners and a sample workflow."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from scedit_cli.core.bundle import Bundle
from scedit_cli.core.tuners import Tuner
from scedit_cli.core.weights import save_tuner
from scedit_cli.exporting.workflow import workflow

NODES = Path(__file__).parent / "comfyui_nodes"
WORKFLOW = "example_workflows/scedit.json"  # where ComfyUI looks for the examples of custom nodes


@dataclass(frozen=True)
class NodePackage:
    """A folder for ComfyUI's `custom_nodes`: the nodes, a file for each tuner, and a sample workflow.

    Attributes:
        tuners: each tuner with its scale, by its file's name.
        notes, file_notes: sentences about the use of the folder; it is never a single file.
    """

    tuners: dict[str, tuple[Tuner, float]]
    notes: tuple[str, ...] = ("ComfyUI finds the folder in its custom_nodes; README.md in it explains the nodes",)
    file_notes: tuple[str, ...] = ()

    def write(self, path: Path, header: Mapping[str, str] | None = None, dtype: torch.dtype | None = None) -> None:
        """Write the package into the existing folder `path`.

        Args:
            header: facts for the headers of the tuner files.
            dtype: of the tuner files; the tuners' own by default.
        """
        for source in sorted(NODES.iterdir()):
            if source.is_file():
                (path / source.name).write_bytes(source.read_bytes())
        for name, (tuner, scale) in self.tuners.items():
            facts = {**(header or {}), "modelspec.title": Path(name).stem}
            save_tuner(tuner if scale == 1 else Bundle([tuner], [scale]), path / "tuners" / name, facts, dtype=dtype)
        shown = [(name, each.condition, getattr(each, "in_channels", 0)) for name, (each, _) in self.tuners.items()]
        (path / WORKFLOW).parent.mkdir(exist_ok=True)
        (path / WORKFLOW).write_text(json.dumps(workflow(shown), indent=1) + "\n", encoding="utf-8")

    def located(self, path: Path) -> list[Path]:
        """Return the tuner files of a package that was written to `path`, in order."""
        return [path / "tuners" / name for name in self.tuners]


def node_package(tuner: Tuner | Bundle) -> NodePackage:
    """Return the package for one tuner, or for a bundle's: each has a file of its own, which keeps its scale."""
    if not isinstance(tuner, Bundle):
        return NodePackage({f"{_stem(tuner)}.safetensors": (tuner, 1.0)})
    parts: dict[str, tuple[Tuner, float]] = {}
    for each, scale in zip(tuner.tuners, tuner.scales, strict=True):
        stem = _stem(each)
        again = f"-{len(parts) + 1}" if f"{stem}.safetensors" in parts else ""
        parts[f"{stem}{again}.safetensors"] = (each, scale)
    return NodePackage(parts)


def _stem(tuner: Tuner) -> str:
    return re.sub(r"[^\w-]+", "-", tuner.condition or "style").strip("-") or "tuner"

"""Writing of a U-Net with its tuners as one graph: for ONNX, or for torch.export."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from scedit_cli.core.bundle import Bundle
from scedit_cli.core.tuners import Tuner
from scedit_cli.exporting.graph import MOST_ROWS, OUTPUT, EditedUNet, input_name, parts_of
from scedit_cli.models.base import Base
from scedit_cli.models.loading import quiet
from scedit_cli.utils.errors import SceditError, is_out_of_memory, reason
from scedit_cli.utils.io import as_json
from scedit_cli.utils.version import __version__

FORMAT = "scedit-unet/1"
DESCRIPTION = "scedit.json"
FILES = {"onnx": "unet.onnx", "torch-export": "unet.pt2"}
_LARGEST = 2**31 - 2**24  # bytes of an ONNX file, whose protobuf holds less than 2 GiB


@dataclass(frozen=True)
class UNetGraph:
    """A base's U-Net with its tuners, to be written as one graph.

    Attributes:
        base: the frozen base.
        tuner: a tuner or a bundle; its scales become the inputs' usual values in the description.
        format: one of FILES.
        largest: the most bytes of weights within an ONNX file; more lie in a file beside it.
    """

    base: Base
    tuner: Tuner | Bundle
    format: str
    largest: int = _LARGEST

    def write(self, folder: Path, facts: Mapping[str, str] | None = None) -> None:
        """Write the graph and its description into the existing `folder`.

        Args:
            facts: more facts for the description.

        Raises:
            SceditError: the U-Net cannot be exported.
        """
        tuners = [each.to(self.base.device, self.base.dtype).eval() for each, _ in parts_of(self.tuner)]
        edited = EditedUNet(self.base, tuners).eval().requires_grad_(False)
        about = description(self.base, self.tuner, edited, facts or {}) | {"file": FILES[self.format]}
        write = _write_onnx if self.format == "onnx" else _write_exported
        try:
            with quiet(), torch.no_grad():
                write(_exported(edited), edited, folder / FILES[self.format], about, self.largest)
        except Exception as error:  # exporters raise errors of any kind
            if isinstance(error, SceditError | OSError) or is_out_of_memory(error):
                raise
            raise SceditError(
                f"base {self.base.name}: its U-Net cannot be exported to {self.format}: {reason(error)}",
                hint="bases of diffusers' own operators can be, such as SD1.5, SD2.1 and SDXL",
            ) from error
        finally:
            edited.release()
        (folder / DESCRIPTION).write_text(as_json(about), encoding="utf-8")


def description(base: Base, tuner: Tuner | Bundle, edited: EditedUNet, facts: Mapping[str, str]) -> dict[str, Any]:
    """Return what a program needs to know of a graph: its base, its tuners, its inputs, their dtypes and shapes."""
    own = base.unet.config
    return {
        "format": FORMAT,
        "scedit": __version__,
        "base": base.name,
        "base_revision": base.revision,
        "base_fingerprint": base.fingerprint,
        "family": base.family,
        "prediction_type": base.prediction_type,
        "dtype": str(base.dtype).removeprefix("torch."),
        "multiple": max(base.skips.strides),
        "most_rows": MOST_ROWS,
        "inputs": {
            name: {
                "dtype": str(each.dtype).removeprefix("torch."),
                "shape": _in_words(each.shape, edited.shapes[name], max(base.skips.strides)),
            }
            for name, each in edited.example.items()
        },
        "output": {"name": OUTPUT, "shape": ["batch", own.out_channels, "height", "width"]},
        "tuners": [
            {
                "input": input_name(each),
                "kind": each.kind,
                "condition": each.condition,
                "scale": scale,
                "sizes": each.sizes,
                "metadata": each.metadata,
            }
            for each, scale in parts_of(tuner)
        ],
        "facts": dict(facts),
    }


def _in_words(shape: torch.Size, changing: Mapping[int, Any] | None, stride: int) -> list[int | str]:
    """Return a shape with its changing sizes by name: the latents' height and width, and the hints' 8 times those."""
    words: list[int | str] = list(shape)
    for place in changing or {}:
        if len(shape) == 4 and place:
            latents = (2 if place == 2 else 3) * stride
            times = shape[place] // latents
            words[place] = ("" if times == 1 else f"{times}*") + ("height" if place == 2 else "width")
        else:
            words[place] = "batch" if place == 0 else "tokens"
    return words


def _exported(edited: EditedUNet) -> torch.export.ExportedProgram:
    return torch.export.export(edited, (edited.example,), dynamic_shapes=(edited.shapes,), strict=False)


def _write_onnx(program: Any, edited: EditedUNet, file: Path, about: Mapping[str, Any], largest: int) -> None:
    written = torch.onnx.export(
        program, dynamo=True, input_names=list(edited.example), output_names=[OUTPUT], verbose=False
    )
    told = {name: value if isinstance(value, str) else json.dumps(value) for name, value in about.items()}
    written.model.metadata_props.update(told)
    written.model.producer_name, written.model.producer_version = "scedit", __version__
    size = sum(value.const_value.nbytes for value in written.model.graph.initializers.values())
    written.save(file, external_data=size > largest)


def _write_exported(program: Any, edited: EditedUNet, file: Path, about: Mapping[str, Any], largest: int) -> None:
    torch.export.save(program, file, extra_files={DESCRIPTION: as_json(about)})

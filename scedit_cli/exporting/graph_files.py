"""Writing of a U-Net with its tuners as one graph: for ONNX, or for torch.export."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import torch

from scedit_cli.core.attach import attach
from scedit_cli.core.bundle import Bundle, parts_of
from scedit_cli.core.compare import Difference
from scedit_cli.core.tuners import Tuner
from scedit_cli.exporting.formats import DESCRIBED, DESCRIPTION
from scedit_cli.exporting.graph import MOST_ROWS, OUTPUT, EditedUNet, input_name
from scedit_cli.exporting.running import ExportedUNet, UNetFolder
from scedit_cli.models.base import DTYPES, Base
from scedit_cli.models.loading import quiet
from scedit_cli.utils.errors import SceditError, WorkFailed, is_out_of_memory, reason
from scedit_cli.utils.io import as_json, whole_folder
from scedit_cli.utils.version import __version__

FILES = {"onnx": "unet.onnx", "torch-export": "unet.pt2"}
_ROUNDING = {torch.float32: 1e-4, torch.float16: 3e-2, torch.bfloat16: 2e-1}  # shares of the largest output
_LARGEST = 2**31 - 2**24  # bytes of an ONNX file, whose protobuf holds less than 2 GiB


@dataclass(frozen=True)
class UNetGraph:
    """A base's U-Net with its tuners, to be written as one graph.

    Attributes:
        base: the frozen base.
        tuner: a tuner or a bundle, which stays as it is; its scales become the inputs' usual values in the description.
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
        if self.base.skips.beside:
            message = f"base {self.base.name}: no graph takes DreamLite's inputs: sizes, and a mask of its texts"
            raise SceditError(message, hint="export a tuner of an SD1.5, SD2.1 or SDXL base")
        own = [copy.deepcopy(each).to(self.base.device, self.base.dtype) for each, _ in parts_of(self.tuner)]
        edited = EditedUNet(self.base.unet, self.base.text_layout, own).eval().requires_grad_(False)
        try:
            about = description(self.base, self.tuner, edited, facts or {}) | {"file": FILES[self.format]}
            write_graph(edited, self.format, folder / FILES[self.format], about, self.largest)
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


def write_graph(
    edited: EditedUNet, format: str, file: Path, about: Mapping[str, Any], largest: int = _LARGEST
) -> None:
    """Write a U-Net with tuners to `file` in one of FILES; see UNetGraph. `about` becomes its metadata."""
    write = _write_onnx if format == "onnx" else _write_exported
    with quiet(), torch.no_grad():
        write(_exported(edited), edited, file, about, largest)


def description(base: Base, tuner: Tuner | Bundle, edited: EditedUNet, facts: Mapping[str, str]) -> dict[str, Any]:
    """Return what a program needs to know of a graph: its base, its tuners, its inputs, their dtypes and shapes."""
    own = base.unet.config
    return {
        "format": DESCRIBED,
        "scedit": __version__,
        "base": base.name,
        "base_revision": base.revision,
        "base_fingerprint": base.fingerprint,
        "family": base.family,
        "prediction_type": base.prediction_type,
        "dtype": next(name for name, dtype in DTYPES.items() if dtype == base.dtype),
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
    with redirect_stderr(StringIO()):  # PyTorch prints the whole graph where it cannot go on
        program = torch.export.export(edited, (edited.example,), dynamic_shapes=(edited.shapes,), strict=False)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it holds paths of this machine, which files must not
    return program


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


def write_checked(graph: UNetGraph, out: Path, facts: Mapping[str, str]) -> Difference:
    """Write `graph` to the folder `out`, whole or not at all, after running it beside the attached tuners; return the
    difference of the two outputs, which the description states too.

    Raises:
        SceditError: the U-Net cannot be exported, or `out` exists.
        WorkFailed: the graph gives another output.
    """
    with whole_folder(out) as folder:
        graph.write(folder, facts)
        found = difference_of(graph, UNetFolder(folder))
        most = _ROUNDING[graph.base.dtype]
        if not found.largest <= most * max(1.0, found.edit):  # a NaN is a difference too
            raise WorkFailed(
                f"the exported U-Net gives outputs that differ by {found.largest:.3g} from the attached tuners'",
                hint="nothing was written; please report it, with the base's name and the tuners",
            )
        about = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        about["max_difference"] = found.largest
        (folder / DESCRIPTION).write_text(as_json(about), encoding="utf-8")
    return found


@torch.no_grad()
def difference_of(graph: UNetGraph, folder: UNetFolder) -> Difference:
    """Return the difference of a graph's output from that of the base with the tuners attached, on random inputs that
    are not those it was traced with."""
    base, parts = graph.base, parts_of(graph.tuner)
    example = EditedUNet(base.unet, base.text_layout, [tuner for tuner, _ in parts], seed=1)
    example.release()
    inputs = {name: each[:1] if each.dim() else each for name, each in example.example.items()}
    hints = {tuner.condition: inputs[f"hint_{input_name(tuner)}"] for tuner, _ in parts if tuner.condition}
    added = {name: inputs[name] for name in ("text_embeds", "time_ids") if name in inputs}
    given = (inputs["sample"], inputs["timestep"], inputs["encoder_hidden_states"])
    others = {"timestep_cond": inputs.get("timestep_cond"), "added_cond_kwargs": added or None}
    with attach(base.unet, [tuner for tuner, _ in parts], [scale for _, scale in parts]) as edits:
        edits.set_hints(hints)
        expected = base.unet(*given, **others).sample.float()
    exported = ExportedUNet(folder, base.unet)
    exported.set_hints(hints)
    found = exported(*given, **others).sample.float()
    apart = found - expected
    return Difference(float(apart.abs().max()), float(expected.abs().max()), float(apart.norm() / expected.norm()))

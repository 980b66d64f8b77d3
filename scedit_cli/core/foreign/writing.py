"""Conversion of this library's tuners to other implementations' files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scedit_cli.core.blend import merge
from scedit_cli.core.bundle import Bundle
from scedit_cli.core.foreign.fitting import by_up_block, ratio_for, widened
from scedit_cli.core.foreign.formats import FORMATS
from scedit_cli.core.packing import packed, pickled
from scedit_cli.core.tuners import STEM_WIDTHS, CSCTuner, SCTuner, Tuner
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.io import write_whole

_LINEAR = {"down": "ln1", "up": "ln2"}
_STUDIO = "0_SwiftSCETuning"  # scepter's studio looks for a folder, and an adapter, of this name

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Export:
    """A tuner in another program's format.

    Attributes:
        format: one of FORMATS.
        tensors: the single file's tensors.
        folder: the folder's files by path: tensors, or an object for JSON.
        parts: the folder's subfolders that hold one tuner each, in the bundle's order; the folder itself is "".
        notes: sentences about settings that the program needs.
        file_notes: further such sentences for a single file.
        only_in_folder: the reason why a single file would not do, else None.
    """

    format: str
    tensors: Tensors
    folder: dict[str, Tensors | dict[str, Any]]
    parts: tuple[str, ...] = ("",)
    notes: tuple[str, ...] = ()
    file_notes: tuple[str, ...] = ()
    only_in_folder: str | None = None

    def write(self, path: Path, header: Mapping[str, str] | None = None, dtype: torch.dtype | None = None) -> None:
        """Write the file `path` (.safetensors, or .bin as PyTorch pickles tensors), or into the existing folder `path`;
        every file appears whole or not at all.

        Args:
            header: facts for the header of .safetensors files.
            dtype: of the tensors; float32 by default.

        Raises:
            SceditError: `path` is a file, and only a folder can express this tuner.
        """
        if path.is_dir():
            for name, content in self.folder.items():
                if name.endswith(".json"):
                    write_whole(path / name, json.dumps(content, indent=2, sort_keys=True))
                else:
                    _write(path / name, content, header or {}, dtype or torch.float32)
        elif self.only_in_folder:
            raise SceditError(
                f"{self.only_in_folder}, which no file of {self.format} can say",
                hint=f"write a folder, with its configuration: leave the suffix {path.suffix} out",
            )
        else:
            _write(path, self.tensors, header or {}, dtype or torch.float32)

    def located(self, path: Path) -> list[Path]:
        """Return the paths to load, one by one, of an export that was written to `path`."""
        return [path / part for part in self.parts] if path.is_dir() else [path]


def export(tuner: Tuner | Bundle, format: str) -> Export:
    """Convert `tuner` to another program's format; a bundle's SC-Tuners become one, with their scales folded in.

    Raises:
        SceditError: that program has no such tuner, or the format is not one of FORMATS.
    """
    if format not in FORMATS:
        raise SceditError(f"format {format!r}: not known", hint=f"choose one of scedit, {', '.join(FORMATS)}")
    with torch.no_grad():
        merged = merge([(tuner, 1.0)])
        parts = list(zip(merged.tuners, merged.scales, strict=True)) if isinstance(merged, Bundle) else [(merged, 1.0)]
        if format == "scepter":
            return _scepter(parts)
        if any(isinstance(each, CSCTuner) for each, _ in parts):
            raise SceditError(
                f"{format} has no CSC-Tuners, and the {parts[-1][0]} is one", hint='only the format "scepter" has them'
            )
        return _swift(parts[0][0]) if format == "ms-swift" else _scedit_pytorch(parts[0][0])


def _scepter(parts: Sequence[tuple[Tuner, float]]) -> Export:
    exports = []
    for number, (tuner, scale) in enumerate(parts):
        if isinstance(tuner, CSCTuner):
            exports.append(_scepter_csc(tuner, scale, number - (parts[0][0].kind == "sc")))
        else:
            exports.append(_scepter_sc(tuner))
    if len(exports) == 1:
        return exports[0]
    names = [f"{i}_{re.sub(r'[^0-9A-Za-z-]', '-', tuner.condition or 'sc')}" for i, (tuner, _) in enumerate(parts)]
    named = list(zip(names, exports, strict=True))
    return Export(
        "scepter",
        tensors={key: tensor for each in exports for key, tensor in each.tensors.items()},
        folder={f"{name}/{path}": content for name, each in named for path, content in each.folder.items()},
        parts=tuple(names),
        file_notes=tuple(note for each in exports for note in each.file_notes),
        only_in_folder=next((each.only_in_folder for each in exports if each.only_in_folder), None),
    )


def _scepter_sc(tuner: SCTuner) -> Export:
    ratio, hidden = ratio_for(tuner.channels, tuner.hidden)
    tuner = widened(tuner, hidden=hidden)
    swift = _maps(tuner, lambda step, layer: f"model.lsc_identity.{step}.scetuner_{_STUDIO}.tuner_op.{_LINEAR[layer]}")
    return Export(
        "scepter",
        tensors=_maps(tuner, lambda step, layer: f"model.lsc_identity.{step}.tuner_op.{_LINEAR[layer]}"),
        folder={
            f"{_STUDIO}/adapter_model.safetensors": swift,
            f"{_STUDIO}/adapter_config.json": _adapter_config(tuner, ratio, r"model.lsc_identity\.\d+$", "identity"),
        },
        file_notes=(f"in scepter, TUNER_MODEL.SC_TUNER_CFG needs DOWN_RATIO: {ratio:g}",) if ratio != 1 else (),
    )


def _scepter_csc(tuner: CSCTuner, scale: float, number: int) -> Export:
    if tuner.hint_kernel not in (1, 3):
        raise SceditError(
            f"the {tuner} has a chain of {tuner.hint_kernel}×{tuner.hint_kernel} convolutions",
            hint="scepter pads those of 1×1 and 3×3 only",
        )
    ratio, hidden = ratio_for(tuner.channels, tuner.hidden)
    stem_ratio, stem = ratio_for(STEM_WIDTHS, tuner.hint_widths)
    tuner = widened(tuner, hidden=hidden, hint_widths=stem)
    bare = _maps(tuner, lambda step, layer: f"lsc_tuner_blocks.{step}.tuner_op.{_LINEAR[layer]}")
    for name, tensor in tuner.encoder.state_dict().items():
        part, place, end = name.split(".")
        bare[f"pre_hint_blocks.{place}.{end}" if part == "stem" else f"dense_hint_blocks.{place}.1.{end}"] = tensor
    control = {
        "NAME": "CSCTuners",
        "PRE_HINT_IN_CHANNELS": tuner.in_channels,
        "PRE_HINT_OUT_CHANNELS": tuner.hint_channels,
        "PRE_HINT_DIM_RATIO": stem_ratio,
        "DENSE_HINT_KERNAL": tuner.hint_kernel,
        "SCALE": scale,
        "DOWN_RATIO": ratio,
        "SC_TUNER_CFG": {"NAME": "SCTuner", "TUNER_NAME": "SCEAdapter"},
    }
    return Export(
        "scepter",
        tensors={f"{number}.{key}": tensor for key, tensor in bare.items()},
        # The keys have no number here: scepter's studio takes both forms, but its run_inference only this one.
        folder={
            f"{_STUDIO}/pytorch_model.bin": bare,
            f"{_STUDIO}/configuration.json": {"CONTROL_MODEL": control},
        },
        file_notes=(f"in scepter, the CONTROL_MODEL of the {tuner} is {json.dumps(control)}",),
        only_in_folder=f"the {tuner} has the scale {scale:g}" if scale != 1 else None,
    )


def _swift(tuner: SCTuner) -> Export:
    ratio, hidden = ratio_for(tuner.channels, tuner.hidden)
    tuner = widened(tuner, hidden=hidden)
    sites = by_up_block(tuner)
    name = "up_blocks.{}.resnets.{}.scetuner_default.tuner_op.{}"
    tensors = _maps(tuner, lambda step, layer: name.format(*sites[step], _LINEAR[layer]))
    return Export(
        "ms-swift",
        tensors,
        folder={
            "default/adapter_model.safetensors": tensors,
            "default/adapter_config.json": _adapter_config(tuner, ratio, r"^up_blocks\.\d+\.resnets\.\d+$", "decoder"),
            "configuration.json": {},
        },
        file_notes=("ms-swift loads a folder with an adapter_config.json: leave the suffix out to have one written",),
    )


def _scedit_pytorch(tuner: SCTuner) -> Export:
    rank = None
    if any(h > c for h, c in zip(tuner.hidden, tuner.channels, strict=True)):
        rank = max(tuner.hidden)
    elif len(set(tuner.hidden)) == 1 and tuner.hidden != tuner.channels:
        rank = tuner.hidden[0]
    tuner = widened(tuner, hidden=tuner.channels if rank is None else [rank] * len(tuner.channels))
    sites = by_up_block(tuner)
    tensors = _maps(tuner, lambda step, layer: "up_blocks.{}.sc_tuners.{}.{}".format(*sites[step], layer))
    return Export(
        "scedit-pytorch",
        tensors,
        folder={"pytorch_scedit_weights.safetensors": tensors},
        notes=(f"in scedit-pytorch, call unet.set_sctuner(rank={rank}) before loading",) if rank else (),
    )


def _maps(tuner: Tuner, name: Callable[[int, str], str]) -> Tensors:
    """Return the tuner's maps as linear layers, named by decoder step and layer ("down" or "up")."""
    tensors = {}
    for step, each in enumerate(reversed(tuner.maps)):
        for layer in ("down", "up"):
            convolution = getattr(each, layer)
            tensors[f"{name(step, layer)}.weight"] = convolution.weight[:, :, 0, 0]
            tensors[f"{name(step, layer)}.bias"] = convolution.bias
    return tensors


def _adapter_config(tuner: SCTuner, ratio: float, modules: str, mode: str) -> dict[str, Any]:
    """Return the configuration from which ms-swift builds the tuner's modules."""
    return {
        "dims": list(reversed(tuner.channels)),
        "down_ratio": ratio,
        "hint_modules": None,
        "model_key_mapping": None,
        "swift_type": "SCETuning",
        "target_modules": modules,
        "tuner_mode": mode,
        "tuner_op": "SCEAdapter",
    }


def _write(path: Path, tensors: Tensors, header: Mapping[str, str], dtype: torch.dtype) -> None:
    is_pickled = path.suffix == ".bin"
    write_whole(path, pickled(tensors, dtype) if is_pickled else packed(tensors, {"format": "pt", **header}, dtype))

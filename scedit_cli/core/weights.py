"""Writing and strict loading of the tuner file, a safetensors file that describes itself completely."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from scedit_cli.core.bundle import Bundle, unwrapped
from scedit_cli.core.foreign.formats import is_folder
from scedit_cli.core.foreign.reading import read_foreign
from scedit_cli.core.foreign.writing import export
from scedit_cli.core.objective import PREDICTION_TYPES
from scedit_cli.core.packing import packed
from scedit_cli.core.source import locate, read
from scedit_cli.core.tuners import CSCTuner, SCTuner, Tuner
from scedit_cli.utils.errors import SceditError, reason
from scedit_cli.utils.io import read_json, whole_folder, write_whole
from scedit_cli.utils.version import __version__

FORMAT = "scedit/1"
_KINDS = {"sc": SCTuner, "csc": CSCTuner}
# Short facts, which other programs and the screen show.
_SHORT = ("kind", "condition", "base", "base_fingerprint", "prediction_type", "zero_terminal_snr")
_LONGEST = 1000  # characters of a short fact: a base may be a path
# Facts that describe the weights themselves are always written new, never copied from older metadata.
_OWN = {"format", "kind", "condition", "sizes", "skip_channels", "up_blocks", "tuners"}


def save_tuner(
    tuner: Tuner | Bundle,
    path: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
    *,
    format: str = "scedit",
    dtype: torch.dtype | None = None,
) -> Path:
    """Write one tuner file, whole or not at all, and return its path.

    Args:
        tuner: an SC-Tuner, a CSC-Tuner, or a bundle with its scales; also one that torch.compile or
            DistributedDataParallel has wrapped.
        path: a `.safetensors` file; in another program's format also a `.bin` file or a folder.
        metadata: more facts for the file's header, all strings, added to `tuner.metadata`: `base`, `base_fingerprint`,
            `prediction_type`, `recipe`, `steps`, `modelspec.*`.
        format: "scedit", or that of another program: "scepter", "ms-swift", "scedit-pytorch".
        dtype: of the tensors in the file; the tuner's own by default.

    Raises:
        SceditError: the suffix is another, a metadata value is no string, the path cannot be written to, or the format
            has no such tuner.
    """
    path, tuner = Path(path), unwrapped(tuner)
    given = dict(metadata or {})
    for key, value in given.items():
        if not isinstance(value, str):
            raise SceditError(f"metadata {key} is {type(value).__name__}", hint="metadata values are strings")
    if format != "scedit":
        exported = export(tuner, format)
        if is_folder(path):
            with whole_folder(path) as folder:
                exported.write(folder, given, dtype)
        else:
            exported.write(path, given, dtype)
        return path
    if path.suffix != ".safetensors":
        raise SceditError(f"{path}: a tuner file ends in .safetensors", hint=f"name it {path.stem}.safetensors")
    facts = tuner.metadata | given
    spec = _modelspec(tuner, path, facts)
    header = {key: value for key, value in (facts | spec | given).items() if key not in _OWN} | _header(tuner)
    return write_whole(path, packed(tuner.state_dict(), header, dtype))


def load_tuner(path: str | os.PathLike[str], condition: str | Sequence[str] | None = None) -> Tuner | Bundle:
    """Load a tuner on the CPU, in float32 (float64 if the file is).

    Args:
        path: a tuner file of this library, scepter, ms-swift or scedit-pytorch; a folder that holds one; or a hub id.
        condition: the condition of a foreign file's CSC-Tuner, or one name for each of several; by default `hint`,
            `hint2`, …. A file of this library states its condition, and must agree.

    Returns:
        An SCTuner or CSCTuner with the file's facts in `.metadata`, or a Bundle of several; also a Bundle of one if
        scepter's `configuration.json` beside the file gives it another scale than 1.

    Raises:
        SceditError: there is no such file, it holds no tuner, or its keys and shapes are not exactly the expected ones.
    """
    file = locate(path)
    header, tensors = read(file)
    names = [condition] if isinstance(condition, str) else list(condition or [])
    if "format" in header and header["format"].startswith("scedit/"):
        return _ours(file, header, tensors, names)
    return _foreign(file, tensors, names)


def _header(tuner: Tuner | Bundle) -> dict[str, str]:
    if isinstance(tuner, Bundle):
        parts = [
            # Sorted, since the library reads metadata in any order and the same tuners shall give the same file.
            {"scale": scale, "metadata": dict(sorted((_facts(each) | _header(each)).items()))}
            for each, scale in zip(tuner.tuners, tuner.scales, strict=True)
        ]
        return {"format": FORMAT, "kind": "bundle", "tuners": json.dumps(parts)}
    header = {
        "format": FORMAT,
        "kind": tuner.kind,
        "sizes": json.dumps(tuner.sizes),
        "skip_channels": json.dumps(tuner.channels),
    }
    if tuner.up_blocks:
        header["up_blocks"] = json.dumps(tuner.up_blocks)
    return header | ({"condition": tuner.condition} if tuner.condition else {})


def _facts(tuner: Tuner) -> dict[str, str]:
    return {key: value for key, value in tuner.metadata.items() if key not in _OWN}


def _modelspec(tuner: Tuner | Bundle, path: Path, facts: Mapping[str, str]) -> dict[str, str]:
    """Return the keys that other programs show (Stability's ModelSpec 1.0.0); the caller's own values override them."""
    spec = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{facts.get('base', 'diffusion-unet')}/scedit-{tuner.kind}",
        "modelspec.implementation": f"scedit {__version__}",
        "modelspec.title": path.stem,
    }
    if prediction := facts.get("prediction_type"):
        spec["modelspec.prediction_type"] = {"v_prediction": "v"}.get(prediction, prediction)
    return spec


def _ours(file: Path, header: dict[str, str], tensors: dict[str, Tensor], names: list[str]) -> Tuner | Bundle:
    if header["format"] != FORMAT:
        raise SceditError(
            f"{file} has the format {header['format']}, this program reads {FORMAT}", hint="update scedit"
        )
    try:
        if header["kind"] == "bundle":
            parts = read_json(header["tuners"])
            if len(parts) > len(tensors):
                raise ValueError(f"{len(parts)} tuners of {len(tensors)} tensors")
            tuners = [_build(part["metadata"], len(tensors)) for part in parts]
            made: Tuner | Bundle = _bundled(tuners, [part["scale"] for part in parts], file)
            made.metadata = header
        else:
            made = _build(header, len(tensors))
            tuners = [made]
    except (LookupError, TypeError, ValueError, RuntimeError, ArithmeticError) as error:  # sizes that no tensor has
        raise SceditError(
            f"{file}: its metadata is incomplete: {type(error).__name__}: {reason(error)}",
            hint="the file was changed; get it again",
        ) from error
    conditions = [tuner.condition for tuner in tuners if tuner.condition]
    if names and names != conditions:
        raise SceditError(
            f"{file} takes {', '.join(conditions) or 'no hints'}, not {', '.join(names)}",
            hint="condition= names the conditions of foreign files; leave it out",
        )
    return _filled(made, tensors, file)


def _build(header: Mapping[str, str], tensors: int) -> Tuner:
    """Build the tuner that a header describes, on the meta device; the file holds `tensors` tensors in all."""
    _check_facts(header)
    about = {"condition": header["condition"]} if header["kind"] == "csc" else {}
    sizes = read_json(header["sizes"])
    if not 0 < len(sizes["channels"]) <= tensors:
        raise ValueError(f"{len(sizes['channels'])} skips of {tensors} tensors")
    if not all(type(width) is int and width > 0 for name in ("channels", "hidden") for width in sizes[name]):
        raise ValueError("a skip without channels")
    with torch.device("meta"):  # no memory is taken before the tensors are known to fit
        tuner = _KINDS[header["kind"]](**sizes, **about)
    if "up_blocks" in header:
        tuner.up_blocks = tuple(read_json(header["up_blocks"]))
        if not all(type(count) is int and 0 < count <= len(tuner.maps) for count in tuner.up_blocks):
            raise ValueError(f"up_blocks {header['up_blocks']}")
    tuner.metadata = dict(header)
    return tuner


def _check_facts(header: Mapping[str, str]) -> None:
    """Raise ValueError if the metadata holds anything but texts, or a short fact or prediction type that is invalid."""
    if not isinstance(header, Mapping):
        raise ValueError(f"the header of a part is {type(header).__name__}")
    for name, value in header.items():
        if not isinstance(value, str):
            raise ValueError(f"{name} is {type(value).__name__}")
        if name in _SHORT and (len(value) > _LONGEST or not value.isprintable()):
            raise ValueError(f"{name} is {ascii(value[:40])}")
    if (prediction := header.get("prediction_type")) is not None and prediction not in PREDICTION_TYPES:
        raise ValueError(f"prediction_type is {ascii(prediction[:40])}")


def _foreign(file: Path, tensors: dict[str, Tensor], names: list[str]) -> Tuner | Bundle:
    tuners, states, scales = read_foreign(tensors, names, file)
    filled = [_filled(tuner, state, file) for tuner, state in zip(tuners, states, strict=True)]
    return filled[0] if scales == [1.0] else _bundled(filled, scales, file)


def _bundled(tuners: Sequence[Tuner], scales: Sequence[float], file: Path) -> Bundle:
    try:
        return Bundle(tuners, scales)
    except SceditError as error:
        raise SceditError(f"{file}: {error.message}", hint=error.hint) from error


def _filled(module: Tuner | Bundle, tensors: Mapping[str, Tensor], file: Path) -> Tuner | Bundle:
    """Fill `module` with exactly these tensors: none may be missing or left over, and every shape must fit."""
    expected = module.state_dict()
    faults = [f"missing {key}" for key in expected if key not in tensors]
    faults += [f"unexpected {key}" for key in tensors if key not in expected]
    faults += [
        f"{key} is {tuple(tensors[key].shape)} instead of {tuple(value.shape)}"
        for key, value in expected.items()
        if key in tensors and tensors[key].shape != value.shape
    ]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise SceditError(f"{file} does not fit its tuner: {'; '.join(faults[:3])}{more}", hint="get the file again")
    double = any(tensor.dtype == torch.float64 for tensor in tensors.values())
    module.to(torch.float64 if double else torch.float32).to_empty(device="cpu")
    module.load_state_dict(tensors)
    for key, value in module.state_dict().items():
        if not value.isfinite().all():
            raise SceditError(
                f"{file}: {key} holds values that are not numbers (NaN or Inf)",
                hint="its training failed, or the file is damaged; get it again, or an earlier checkpoint of it",
            )
    return module

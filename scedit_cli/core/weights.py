"""The tuner file: one safetensors file that can be loaded knowing nothing else, and strict loading of it."""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from scedit_cli import __version__
from scedit_cli.core.bundle import Bundle
from scedit_cli.core.foreign import resemblance, translate
from scedit_cli.core.tuners import CSCTuner, SCTuner, Tuner
from scedit_cli.errors import SceditError
from scedit_cli.files import write_whole

FORMAT = "scedit/1"
_KINDS = {"sc": SCTuner, "csc": CSCTuner}
# What describes the weights themselves is always written afresh, never taken over from older metadata.
_OWN = {"format", "kind", "condition", "sizes", "skip_channels", "tuners"}


def save_tuner(tuner: Tuner | Bundle, path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None) -> Path:
    """Writes one tuner file, whole or not at all; returns its path.

    Args:
        tuner: an SC-Tuner, a CSC-Tuner, or a bundle with its scales.
        path: ends in `.safetensors`.
        metadata: more facts for the file's header, added to `tuner.metadata`: `base`, `base_fingerprint`,
            `prediction_type`, `recipe`, `steps`, `modelspec.*`. All strings.

    Raises:
        SceditError: another suffix, metadata that is no string, or a place that cannot be written to.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise SceditError(f"{path}: a tuner file ends in .safetensors", hint=f"name it {path.stem}.safetensors")
    given = dict(metadata or {})
    for key, value in given.items():
        if not isinstance(value, str):
            raise SceditError(f"metadata {key} is {type(value).__name__}", hint="metadata values are strings")
    facts = tuner.metadata | given
    spec = _modelspec(tuner, path, facts)
    header = {key: value for key, value in (facts | spec | given).items() if key not in _OWN} | _header(tuner)
    tensors = {key: value.detach().cpu().contiguous() for key, value in tuner.state_dict().items()}
    return write_whole(path, _ordered(save(tensors, header)))


def load_tuner(path: str | os.PathLike[str], condition: str | Sequence[str] | None = None) -> Tuner | Bundle:
    """Reads a tuner, on the CPU and in float32 (float64 where the file is).

    Args:
        path: a tuner file of this library, scepter, ms-swift or scedit-pytorch; a folder that holds one; or a hub id.
        condition: what the CSC-Tuner of a foreign file takes as its hint, or one name for each of several; `hint`,
            `hint2`, … where left out. A file of this library knows its condition, and must agree.

    Returns:
        An SCTuner or CSCTuner with the file's facts in `.metadata`, or a Bundle of several.

    Raises:
        SceditError: no such file, a file of another shape, or keys and sizes that are not exactly those expected.
    """
    file = _locate(path)
    header, tensors = _read(file)
    names = [condition] if isinstance(condition, str) else list(condition or [])
    if "format" in header and header["format"].startswith("scedit/"):
        return _ours(file, header, tensors, names)
    return _foreign(file, tensors, names)


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The header of a tuner file; empty for a foreign file that has none."""
    return _read(_locate(path))[0]


def _header(tuner: Tuner | Bundle) -> dict[str, str]:
    if isinstance(tuner, Bundle):
        parts = [
            {"scale": scale, "metadata": {k: v for k, v in each.metadata.items() if k not in _OWN} | _header(each)}
            for each, scale in zip(tuner.tuners, tuner.scales, strict=True)
        ]
        return {"format": FORMAT, "kind": "bundle", "tuners": json.dumps(parts)}
    header = {
        "format": FORMAT,
        "kind": tuner.kind,
        "sizes": json.dumps(tuner.sizes),
        "skip_channels": json.dumps(tuner.channels),
    }
    return header | ({"condition": tuner.condition} if tuner.condition else {})


def _modelspec(tuner: Tuner | Bundle, path: Path, facts: Mapping[str, str]) -> dict[str, str]:
    """The keys that other programs show (Stability's ModelSpec 1.0.0); the caller's own win over them."""
    spec = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{facts.get('base', 'diffusion-unet')}/scedit-{tuner.kind}",
        "modelspec.implementation": f"scedit {__version__}",
        "modelspec.title": path.stem,
    }
    if prediction := facts.get("prediction_type"):
        spec["modelspec.prediction_type"] = {"v_prediction": "v"}.get(prediction, prediction)
    return spec


def _ordered(file: bytes) -> bytes:
    """A safetensors file with its metadata sorted, which the library writes in any order: one tuner, one file."""
    size = int.from_bytes(file[:8], "little")
    header = json.loads(file[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors stay aligned
    return len(text).to_bytes(8, "little") + text + file[8 + size :]


def _locate(path: str | os.PathLike[str]) -> Path:
    place = Path(path)
    if place.is_file():
        return place
    if place.is_dir():
        return _in_folder(place)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)) and place.suffix not in (".safetensors", ".bin"):
        return _in_folder(_download(str(path)))
    raise SceditError(f"{path}: no such tuner file", hint="give a .safetensors file, a folder with one, or a hub id")


def _in_folder(folder: Path) -> Path:
    """The one tuner file of a folder, or of its subfolders where it has none itself."""
    if (folder / "tuner.safetensors").is_file():
        return folder / "tuner.safetensors"
    for pattern in ("*.safetensors", "*.bin", "*/*.safetensors", "*/*.bin"):
        found = sorted(folder.glob(pattern))
        if len(found) > 1:
            names = ", ".join(str(file.relative_to(folder)) for file in found[:4])
            raise SceditError(f"{folder} holds several files: {names}", hint="name the one to load")
        if found:
            return found[0]
    raise SceditError(f"{folder} holds no tuner file", hint="a tuner is a .safetensors file")


def _download(repository: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, allow_patterns=["*.safetensors", "*.bin"]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise SceditError(
            f"{repository}: no such file, and the hub gave none: {reason}", hint="check the path, or the hub id"
        ) from error


def _read(file: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    if file.suffix == ".bin":
        return {}, _read_bin(file)
    if file.suffix != ".safetensors":
        raise SceditError(
            f"{file}: {file.suffix or 'a file without suffix'} is not read, because such a file may run code",
            hint="a tuner is a .safetensors file",
        )
    try:
        with safe_open(file, framework="pt") as opened:
            return opened.metadata() or {}, {key: opened.get_tensor(key) for key in opened.keys()}
    except (SafetensorError, OSError) as error:
        raise SceditError(
            f"{file} cannot be read as safetensors: {error}", hint="the file is damaged or of another kind"
        ) from error


def _read_bin(file: Path) -> dict[str, Tensor]:
    try:
        tensors = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise SceditError(
            f"{file} holds more than plain tensors, or is damaged; it was not loaded",
            hint="a pickle may run code: ask for the tuner as .safetensors",
        ) from error
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise SceditError(f"{file} is no flat dictionary of tensors", hint="a tuner is a .safetensors file")
    return tensors


def _ours(file: Path, header: dict[str, str], tensors: dict[str, Tensor], names: list[str]) -> Tuner | Bundle:
    if header["format"] != FORMAT:
        raise SceditError(
            f"{file} has the format {header['format']}, this program reads {FORMAT}", hint="update scedit"
        )
    try:
        if header["kind"] == "bundle":
            parts = json.loads(header["tuners"])
            tuners = [_build(part["metadata"]) for part in parts]
            made: Tuner | Bundle = Bundle(tuners, [part["scale"] for part in parts])
            made.metadata = header
        else:
            made = _build(header)
            tuners = [made]
    except (KeyError, TypeError, ValueError) as error:
        raise SceditError(
            f"{file}: its metadata is incomplete: {error!r}", hint="the file was changed; get it anew"
        ) from error
    conditions = [tuner.condition for tuner in tuners if tuner.condition]
    if names and names != conditions:
        raise SceditError(
            f"{file} takes {', '.join(conditions) or 'no hints'}, not {', '.join(names)}",
            hint="condition= names the conditions of foreign files; leave it out",
        )
    return _filled(made, tensors, file)


def _build(header: Mapping[str, str]) -> Tuner:
    about = {"condition": header["condition"]} if header["kind"] == "csc" else {}
    tuner = _KINDS[header["kind"]](**json.loads(header["sizes"]), **about)
    tuner.metadata = dict(header)
    return tuner


def _foreign(file: Path, tensors: dict[str, Tensor], names: list[str]) -> Tuner | Bundle:
    try:
        states, unknown = translate(tensors)
    except KeyError as error:
        raise _cut_short(file, error) from error
    if not states:
        raise SceditError(
            f"{file} is {resemblance(unknown)}, not an SC-Tuner or CSC-Tuner",
            hint="expected a file of scedit, scepter, ms-swift or scedit-pytorch",
        )
    if unknown:
        raise SceditError(
            f"{file} holds {unknown[0]!r} ({len(unknown)} such keys), which belongs to no tuner",
            hint="expected a file of scedit, scepter, ms-swift or scedit-pytorch, with nothing else in it",
        )
    takers = sum("encoder.stem.0.weight" in state for state in states)
    if names and len(names) != takers:
        raise SceditError(f"{file} holds {takers} CSC-Tuners, condition= names {len(names)}", hint="name each one")
    conditions = iter(names or ["hint", *(f"hint{i}" for i in range(2, takers + 1))])
    tuners = []
    for state in states:
        try:
            tuner = _shaped_like(state, conditions)
        except (KeyError, IndexError, ValueError) as error:
            raise _cut_short(file, error) from error
        tuners.append(_filled(tuner, state, file))
    return tuners[0] if len(tuners) == 1 else Bundle(tuners)


def _cut_short(file: Path, error: Exception) -> SceditError:
    return SceditError(f"{file} lacks weights of its tuner: {error.args[0]}", hint="the file is cut short; get it anew")


def _shaped_like(state: Mapping[str, Tensor], names: Iterator[str]) -> Tuner:
    """A tuner of the sizes that the tensors have."""
    count = sum(key.startswith("maps.") and key.endswith("down.weight") for key in state)
    if not count:
        raise KeyError("there is no map of a skip")
    hidden, channels = zip(*(state[f"maps.{i}.down.weight"].shape[:2] for i in range(count)), strict=True)
    if not any(key.startswith("encoder.") for key in state):
        return SCTuner(channels, hidden)
    stem = [state[f"encoder.stem.{i}.weight"].shape for i in range(0, 13, 2)]
    return CSCTuner(
        channels,
        hidden,
        condition=next(names),
        in_channels=stem[0][1],
        hint_channels=stem[6][0],
        hint_kernel=state["encoder.chain.0.weight"].shape[-1],
        hint_widths=[stem[0][0], stem[2][0], stem[4][0]],
    )


def _filled(module: Tuner | Bundle, tensors: Mapping[str, Tensor], file: Path) -> Tuner | Bundle:
    """`module` with exactly these tensors: nothing missing, nothing left over, every shape right."""
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
        raise SceditError(f"{file} does not fit its tuner: {'; '.join(faults[:3])}{more}", hint="get the file anew")
    if any(tensor.dtype == torch.float64 for tensor in tensors.values()):
        module.double()
    module.load_state_dict(tensors)
    return module

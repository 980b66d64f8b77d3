"""From the keys of other implementations to tuners of this library."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scedit_cli.core.foreign.recognition import recognised
from scedit_cli.core.tuners import CSCTuner, SCTuner, Tuner
from scedit_cli.errors import SceditError
from scedit_cli.files import read_json

State = dict[str, Tensor]

_PARAMETER = r"\.(?P<name>weight|bias)"
_SWIFT = r"scetuner_(?P<adapter>[^.]+)\."
_INDEX = r"\d{1,4}"
_IDENTITY = rf"(?:model\.)?lsc_identity\.(?P<site>{_INDEX})\."
_SC = {
    "scepter": re.compile(rf"{_IDENTITY}tuner_op\.(?P<map>ln[12]){_PARAMETER}"),
    "ms-swift, identity": re.compile(rf"{_IDENTITY}{_SWIFT}tuner_op\.(?P<map>ln[12]){_PARAMETER}"),
    "ms-swift, decoder": re.compile(
        rf"(?:unet\.)?up_blocks\.(?P<block>{_INDEX})\.resnets\.(?P<site>{_INDEX})\.{_SWIFT}"
        rf"tuner_op\.(?P<map>ln[12]){_PARAMETER}"
    ),
    "scedit-pytorch": re.compile(
        rf"(?:unet\.)?up_blocks\.(?P<block>{_INDEX})\.sc_tuners\.(?P<site>{_INDEX})\.(?P<map>down|up){_PARAMETER}"
    ),
}
_NUMBER = rf"(?:model\.)?(?:control_blocks\.)?(?:(?P<tuner>{_INDEX})\.)?"
_CSC_MAP = re.compile(rf"{_NUMBER}lsc_tuner_blocks\.(?P<site>{_INDEX})\.tuner_op\.(?P<map>ln[12]){_PARAMETER}")
_CSC_HINT = {
    "encoder.stem": re.compile(rf"{_NUMBER}pre_hint_blocks\.(?P<n>{_INDEX}){_PARAMETER}"),
    "encoder.chain": re.compile(rf"{_NUMBER}dense_hint_blocks\.(?P<n>{_INDEX})\.1{_PARAMETER}"),
}
_OURS = {"ln1": "down", "down": "down", "ln2": "up", "up": "up"}

_ELSEWHERE = re.compile(rf"(?P<module>.+)\.{_SWIFT}tuner_op\..+")
_DEEPER = re.compile(r"(?:unet\.)?up_blocks\.\d+\.sc_tuners\.\d+\.model\..+")
_EXPECTED = "expected a tuner of scedit, scepter, ms-swift or scedit-pytorch"


@dataclass
class _Found:
    """One tuner's tensors: its maps by (up block, step in it), its hint encoder's under this library's names."""

    maps: dict[tuple[int, int], State] = field(default_factory=lambda: defaultdict(dict))
    hint: State = field(default_factory=dict)


def read_foreign(
    tensors: Mapping[str, Tensor], names: Sequence[str], file: Path
) -> tuple[list[Tuner], list[State], list[float]]:
    """Takes a foreign file apart into tuners, the SC-Tuner first.

    Args:
        tensors: all that the file holds.
        names: the conditions of its CSC-Tuners in order; none for `hint`, `hint2`, ….
        file: for error messages, and to find the `configuration.json` or `adapter_config.json` beside it.

    Returns:
        Tuners of the right sizes, on the meta device and without their weights; the state dict and the scale of each.

    Raises:
        SceditError: it is no tuner, one that edits something else than skips, or one that is not whole.
    """
    sc, hinted, blockwise = _sorted_out(tensors, file)
    if (step := next(_gaps([sc, *hinted]), None)) is not None:
        raise SceditError(
            f"{file} has no map for decoder step {step}",
            hint="the file is cut short, or its tuner was made for some of the skips only, which is not read",
        )
    if names and len(names) != len(hinted):
        raise SceditError(f"{file} holds {len(hinted)} CSC-Tuners, condition= names {len(names)}", hint="name each one")
    conditions = names or ["hint", *(f"hint{i}" for i in range(2, len(hinted) + 1))][: len(hinted)]
    tuners, states = [], []
    for condition, found in [(None, sc)] * bool(sc.maps) + list(zip(conditions, hinted, strict=True)):
        state = dict(found.hint)
        for i, site in enumerate(sorted(found.maps, reverse=True)):  # the last step consumes skip 0
            state |= {f"maps.{i}.{name}": tensor for name, tensor in found.maps[site].items()}
        try:
            with torch.device("meta"):
                tuners.append(_shaped_like(state, condition))
        except KeyError as error:
            raise SceditError(
                f"{file} lacks weights of its tuner: {error.args[0]}", hint="the file is cut short; get it anew"
            ) from error
        states.append(state)
    if blockwise:
        blocks = [block for block, _ in sc.maps]
        tuners[0].up_blocks = tuple(blocks.count(b) for b in range(max(blocks) + 1))
    return tuners, states, [1.0] * (len(tuners) - len(hinted)) + _scales_beside(file, len(hinted))


def _sorted_out(tensors: Mapping[str, Tensor], file: Path) -> tuple[_Found, list[_Found], bool]:
    """The SC-Tuner, the CSC-Tuners, and whether the former is kept by up block; every key has its place."""
    sc, hinted = _Found(), defaultdict(_Found)
    kept_as: set[tuple[str, str | None]] = set()  # layout and adapter name
    unknown = []
    for key, tensor in tensors.items():
        if found := next(((layout, m) for layout, keys in _SC.items() if (m := keys.fullmatch(key))), None):
            layout, match = found
            parts = match.groupdict()
            kept_as.add((layout, parts.get("adapter")))
            site = (int(parts.get("block") or 0), int(parts["site"]))
            sc.maps[site][f"{_OURS[parts['map']]}.{parts['name']}"] = _pixelwise(tensor)
        elif match := _CSC_MAP.fullmatch(key):
            site = (0, int(match["site"]))
            hinted[int(match["tuner"] or 0)].maps[site][f"{_OURS[match['map']]}.{match['name']}"] = _pixelwise(tensor)
        elif found := next(((ours, m) for ours, keys in _CSC_HINT.items() if (m := keys.fullmatch(key))), None):
            ours, match = found
            hinted[int(match["tuner"] or 0)].hint[f"{ours}.{match['n']}.{match['name']}"] = tensor
        else:
            unknown.append(key)
    _refuse_what_edits_no_skips(unknown, {layout for layout, _ in kept_as}, file)
    if not sc.maps and not hinted:
        what, tool = recognised(unknown)
        raise SceditError(f"{file} is {what}, not an SC-Tuner or CSC-Tuner", hint=f"{tool}; {_EXPECTED}")
    if unknown:
        raise SceditError(
            f"{file} holds {unknown[0]!r} ({len(unknown)} such keys), which belongs to no tuner",
            hint=f"{_EXPECTED}, with nothing else in it",
        )
    if len(kept_as) > 1:
        names = " and ".join(sorted(adapter or layout for layout, adapter in kept_as))
        raise SceditError(
            f"{file} holds several SC-Tuners ({names}), which their program runs one after another, not as a sum",
            hint="save each one alone, then merge the files",
        )
    blockwise = any("block" in _SC[layout].groupindex for layout, _ in kept_as)
    return sc, [hinted[number] for number in sorted(hinted)], blockwise


def _refuse_what_edits_no_skips(unknown: Sequence[str], layouts: set[str], file: Path) -> None:
    if elsewhere := next((m for m in map(_ELSEWHERE.fullmatch, unknown) if m), None):
        where = elsewhere["module"]
    elif "ms-swift, decoder" in layouts and _beside(file, "adapter_config.json").get("tuner_mode") == "encoder":
        where = "the up blocks' resnets"
    elif any(map(_DEEPER.fullmatch, unknown)):
        raise SceditError(
            f"{file} holds maps of three layers (scedit-pytorch's SCTunerLinearLayer2), not SC-Tuners of two",
            hint="train it with scedit-pytorch's default, SCTunerLinearLayer",
        )
    else:
        return
    raise SceditError(
        f"{file} is an ms-swift tuner in encoder mode: it edits the main path, at {where}, and not the skips",
        hint='ms-swift with tuner_mode="decoder" makes one that edits the skips',
    )


def _gaps(tuners: Sequence[_Found]) -> Iterator[int]:
    """The decoder steps that a tuner has no map for, though it has one for a later step."""
    for found in tuners:
        before = (0, -1)
        for count, site in enumerate(sorted(found.maps)):
            if site not in ((before[0], before[1] + 1), (before[0] + 1, 0)):
                yield count
            before = site


def _shaped_like(state: Mapping[str, Tensor], condition: str | None) -> Tuner:
    """A tuner of the sizes that the tensors have; an SC-Tuner where there is no condition."""
    count = sum(key.startswith("maps.") and key.endswith("down.weight") for key in state)
    if not count:
        raise KeyError("there is no map of a skip")
    hidden, channels = zip(*(_shape(state, f"maps.{i}.down.weight")[:2] for i in range(count)), strict=True)
    if condition is None:
        return SCTuner(channels, hidden)
    stem = [_shape(state, f"encoder.stem.{i}.weight") for i in range(0, 13, 2)]
    return CSCTuner(
        channels,
        hidden,
        condition=condition,
        in_channels=stem[0][1],
        hint_channels=stem[6][0],
        hint_kernel=_shape(state, "encoder.chain.0.weight")[-1],
        hint_widths=[stem[0][0], stem[2][0], stem[4][0]],
    )


def _shape(state: Mapping[str, Tensor], key: str) -> tuple[int, ...]:
    """The shape of a convolution's weight."""
    if key not in state:
        raise KeyError(key)
    if state[key].dim() != 4 or 0 in state[key].shape:
        raise KeyError(f"{key} is of shape {tuple(state[key].shape)}")
    return tuple(state[key].shape)


def _pixelwise(tensor: Tensor) -> Tensor:
    """A linear layer's weight as that of a 1×1 convolution."""
    return tensor[:, :, None, None] if tensor.dim() == 2 else tensor


def _scales_beside(file: Path, count: int) -> list[float]:
    """The scales that scepter's `configuration.json` beside `file` gives its `count` CSC-Tuners; else 1."""
    config = _beside(file, "configuration.json")
    control = config.get("CONTROL_MODEL", config if config.get("NAME") == "CSCTuners" else None)
    if not count or control is None:
        return [1.0] * count
    each = control if isinstance(control, list) else [control]
    scales = [one.get("SCALE", 1.0) if isinstance(one, dict) else None for one in each]
    if len(scales) != count or not all(type(scale) in (int, float) for scale in scales):
        raise SceditError(
            f"{file.with_name('configuration.json')}: CONTROL_MODEL gives no scale to each of the {count} tuners of "
            f"{file.name}",
            hint="each entry has a number as SCALE; move the configuration away to load the tuners at scale 1",
        )
    return [float(scale) for scale in scales]


def _beside(file: Path, name: str) -> dict[str, Any]:
    """The JSON object in the file of that name beside `file`; empty where there is none."""
    path = file.with_name(name)
    if not path.is_file():
        return {}
    try:
        content = read_json(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise SceditError(f"{path} cannot be read as JSON: {error}", hint="mend it, or move it away") from error
    return content if isinstance(content, dict) else {}

"""Sorting of other implementations' keys by tuner, without looking at the tensors."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scedit_cli.core.foreign.recognition import recognised
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.io import read_json

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
class Found:
    """The tensors of one tuner: its maps' by (up block, step in it), its hint encoder's by this library's names."""

    maps: dict[tuple[int, int], dict[str, Any]] = field(default_factory=lambda: defaultdict(dict))
    hint: dict[str, Any] = field(default_factory=dict)


def sorted_out(tensors: Mapping[str, Any], file: Path) -> tuple[Found, list[Found], bool]:
    """Return the SC-Tuner's tensors, the CSC-Tuners', and whether the former are stored by up block.

    Raises:
        SceditError: a key belongs to no tuner, there is no tuner or several SC-Tuners, or one does not edit skips.
    """
    sc, hinted = Found(), defaultdict(Found)
    kept_as: set[tuple[str, str | None]] = set()  # layout and adapter name
    unknown = []
    for key, tensor in tensors.items():
        if found := next(((layout, m) for layout, keys in _SC.items() if (m := keys.fullmatch(key))), None):
            layout, match = found
            parts = match.groupdict()
            kept_as.add((layout, parts.get("adapter")))
            site = (int(parts.get("block") or 0), int(parts["site"]))
            sc.maps[site][f"{_OURS[parts['map']]}.{parts['name']}"] = tensor
        elif match := _CSC_MAP.fullmatch(key):
            site = (0, int(match["site"]))
            hinted[int(match["tuner"] or 0)].maps[site][f"{_OURS[match['map']]}.{match['name']}"] = tensor
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
    elif "ms-swift, decoder" in layouts and beside(file, "adapter_config.json").get("tuner_mode") == "encoder":
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


def beside(file: Path, name: str) -> dict[str, Any]:
    """Return the JSON object in the file `name` beside `file`; empty if there is none."""
    path = file.with_name(name)
    if not path.is_file():
        return {}
    try:
        content = read_json(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise SceditError(f"{path} cannot be read as JSON: {error}", hint="mend it, or move it away") from error
    return content if isinstance(content, dict) else {}

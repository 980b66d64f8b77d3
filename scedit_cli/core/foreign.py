"""Tuner files of other SCEdit implementations, told apart by their keys; all sizes are read off the shapes.

Known layouts, N and M counting in decoder order and I in encoder order:

- scepter SC: `model.lsc_identity.N.tuner_op.ln1|ln2.*`
- scepter CSC: `pre_hint_blocks.*`, `dense_hint_blocks.I.1.*`, `lsc_tuner_blocks.N.tuner_op.ln1|ln2.*`, with or without
  `model.` and the tuner's number before them; several numbers are several conditions
- ms-swift, identity: as scepter SC with `scetuner_<name>.` before `tuner_op`
- ms-swift, decoder: `up_blocks.B.resnets.K.scetuner_<name>.tuner_op.ln1|ln2.*`
- scedit-pytorch: `up_blocks.B.sc_tuners.K.down|up.*`
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping

from torch import Tensor

_PARAMETER = r"\.(?P<name>weight|bias)"
_SWIFT = r"(?:scetuner_[^.]+\.)"
_SC = [
    re.compile(rf"(?:model\.)?lsc_identity\.(?P<n>\d+)\.{_SWIFT}?tuner_op\.(?P<map>ln1|ln2){_PARAMETER}"),
    re.compile(rf"up_blocks\.(?P<b>\d+)\.resnets\.(?P<n>\d+)\.{_SWIFT}tuner_op\.(?P<map>ln1|ln2){_PARAMETER}"),
    re.compile(rf"up_blocks\.(?P<b>\d+)\.sc_tuners\.(?P<n>\d+)\.(?P<map>down|up){_PARAMETER}"),
]
_CSC_PREFIX = r"(?:model\.)?(?:(?P<tuner>\d+)\.)?"
_CSC_MAP = re.compile(rf"{_CSC_PREFIX}lsc_tuner_blocks\.(?P<n>\d+)\.tuner_op\.(?P<map>ln1|ln2){_PARAMETER}")
_CSC_HINT = [
    (re.compile(rf"{_CSC_PREFIX}pre_hint_blocks\.(?P<n>\d+){_PARAMETER}"), "encoder.stem"),
    (re.compile(rf"{_CSC_PREFIX}dense_hint_blocks\.(?P<n>\d+)\.1{_PARAMETER}"), "encoder.chain"),
]
_MAPS = {"ln1": "down", "down": "down", "ln2": "up", "up": "up"}

State = dict[str, Tensor]


def translate(tensors: Mapping[str, Tensor]) -> tuple[list[State], list[str]]:
    """Takes a foreign file's tensors apart into tuners with this library's keys.

    Returns:
        One state dict per tuner, the SC-Tuner first, and the keys that belong to no known layout.

    Raises:
        KeyError: a skip's map is missing between others.
    """
    maps: dict[int, dict[tuple[int, int], State]] = defaultdict(lambda: defaultdict(dict))  # tuner -> site -> map
    hints: dict[int, State] = defaultdict(dict)
    unknown = []
    for key, tensor in tensors.items():
        if match := next((m for m in (layout.fullmatch(key) for layout in _SC) if m), None):
            site = (int(match.groupdict().get("b") or 0), int(match["n"]))
            maps[-1][site][f"{_MAPS[match['map']]}.{match['name']}"] = _pixelwise(tensor)
        elif match := _CSC_MAP.fullmatch(key):
            site = (0, int(match["n"]))
            maps[int(match["tuner"] or 0)][site][f"{_MAPS[match['map']]}.{match['name']}"] = _pixelwise(tensor)
        elif found := next(((m, ours) for layout, ours in _CSC_HINT if (m := layout.fullmatch(key))), None):
            match, ours = found
            hints[int(match["tuner"] or 0)][f"{ours}.{match['n']}.{match['name']}"] = tensor
        else:
            unknown.append(key)
    states = []
    for tuner in sorted({*maps, *hints}):
        state = dict(hints.get(tuner, {}))
        sites = sorted(maps[tuner])
        for before, site in zip([(-1, -1), *sites], sites, strict=False):
            if site not in ((before[0], before[1] + 1), (before[0] + 1, 0)):
                raise KeyError(f"no map before site {site[-1]}")
        for i, site in enumerate(reversed(sites)):  # the last site consumes skip 0
            state |= {f"maps.{i}.{name}": tensor for name, tensor in maps[tuner][site].items()}
        states.append(state)
    return states, unknown


def _pixelwise(tensor: Tensor) -> Tensor:
    """A linear layer's weight as that of a 1×1 convolution."""
    return tensor[:, :, None, None] if tensor.dim() == 2 else tensor


_OTHERS = [
    ("a LoRA", ("lora_", ".lora.", "lora.")),
    ("a ControlNet", ("controlnet_", "control_model.", "zero_convs.", "input_hint_block.")),
    ("a T2I-Adapter", ("adapter.body.", "adapter.conv_in.", "body.0.block1.", "body.0.in_conv.")),
    ("an IP-Adapter", ("image_proj.", "ip_adapter.")),
    ("a textual inversion", ("emb_params", "string_to_param", "<")),
    ("a full Stable Diffusion checkpoint", ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.")),
    ("a VAE", ("decoder.up_blocks.", "decoder.up.", "quant_conv.")),
    ("a whole U-Net", ("up_blocks.", "conv_norm_out.")),
    ("a text encoder", ("text_model.",)),
    ("a scedit tuner whose metadata was lost", ("maps.0.down.", "tuners.0.maps.")),
]


def resemblance(keys: list[str]) -> str:
    """What a file with such keys seems to be, with an article: "a LoRA", "a ControlNet", …"""
    for name, marks in _OTHERS:
        if any(mark in key for key in keys for mark in marks):
            return name
    return f"a file with keys such as {keys[0]!r}" if keys else "an empty file"

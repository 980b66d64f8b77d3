"""A U-Net with its tuners as one module of tensors in and tensors out, as graph exporters take it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from scedit_cli.core.skips import edit_skips, survey
from scedit_cli.core.tuners import HINT_SCALE, CSCTuner, Tuner
from scedit_cli.utils.errors import SceditError

OUTPUT = "prediction"
MOST_ROWS = 63  # of a batch: diffusers' upsampling takes another path from 64 on
_TEXT_TOKENS = 77

TextLayout = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]


class EditedUNet(nn.Module):
    """A U-Net with tuners, whose inputs are tensors alone.

    `forward` takes one mapping: `sample` (B, C, h, w), `timestep` (B,), `encoder_hidden_states` (B, tokens, width),
    what else the base takes (SDXL's `text_embeds` (B, width) and `time_ids` (B, 6); a distilled base's
    `timestep_cond`), for each CSC-Tuner `hint_<condition>` (B, C, 8h, 8w) in [0, 1], and for each tuner
    `scale_<condition>` (`scale_sc` for an SC-Tuner), its α as a tensor without dimensions. A scale of 0 gives the
    output of the U-Net alone.

    The edits are `core.attach`'s, but with scales as tensors, and without its checks, which a graph cannot hold.

    Args:
        unet: the frozen U-Net; it gets hooks that act in `forward` alone, until `release`.
        text: the shapes of one prompt's encoded text by name, as `Base.text_layout` gives them.
        tuners: its tuners, in the U-Net's precision; none for the U-Net alone.
        seed: the seed of the example inputs.

    Raises:
        SceditError: two tuners have inputs of one name.
    """

    def __init__(self, unet: nn.Module, text: TextLayout, tuners: Sequence[Tuner], seed: int = 0) -> None:
        super().__init__()
        self.unet = unet
        self.tuners = nn.ModuleList(tuners)
        self.names = [input_name(tuner) for tuner in tuners]
        for name in self.names:
            if self.names.count(name) > 1:
                raise SceditError(f"two tuners would have the input hint_{name}", hint="rename a tuner's condition")
        skips = survey(unet)
        self.example, self.shapes = _inputs(unet, max(skips.strides), text, tuners, self.names, seed)
        self._strides = skips.strides
        self._active: list[tuple[Tuner, Tensor, list[Tensor] | None]] | None = None
        self._handles = edit_skips(unet, skips, self.edited)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        sample = inputs["sample"]
        self._active = [
            (tuner, inputs[f"scale_{name}"].to(sample.dtype), self._features(tuner, inputs.get(f"hint_{name}")))
            for tuner, name in zip(self.tuners, self.names, strict=True)
        ]
        added = {name: inputs[name] for name in ("text_embeds", "time_ids") if name in inputs}
        try:
            return self.unet(
                sample,
                inputs["timestep"],
                inputs["encoder_hidden_states"],
                timestep_cond=inputs.get("timestep_cond"),
                added_cond_kwargs=added or None,
                return_dict=False,
            )[0]
        finally:
            self._active = None

    def edited(self, skip: Tensor, index: int) -> Tensor:
        if not self._active:
            return skip
        edits = torch.zeros((), dtype=skip.dtype, device=skip.device)
        for tuner, scale, features in self._active:
            edit = tuner(skip, index) if features is None else tuner(skip, index, features[index])
            edits = edits - scale * edit
        return skip - edits

    def release(self) -> None:
        """Remove the hooks from the U-Net."""
        for handle in self._handles:
            handle.remove()

    def _features(self, tuner: Tuner, hint: Tensor | None) -> list[Tensor] | None:
        return tuner.encoder(hint.to(tuner.dtype), self._strides) if isinstance(tuner, CSCTuner) else None


def input_name(tuner: Tuner) -> str:
    """Return what the names of a tuner's inputs end in: `hint_canny` and `scale_canny`, or `scale_sc`."""
    return re.sub(r"\W", "_", tuner.condition) if tuner.condition else "sc"


def _inputs(
    unet: nn.Module, stride: int, text: TextLayout, tuners: Sequence[Tuner], names: Sequence[str], seed: int
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return example inputs, and by name the dimensions that may change: batch, tokens, and the latents' height and
    width in multiples of the U-Net's deepest stride."""
    batch, tokens = torch.export.Dim("batch", max=MOST_ROWS), torch.export.Dim("tokens")
    height, width = torch.export.Dim("height"), torch.export.Dim("width")
    rows, high, wide = 2, 2 * stride, 3 * stride  # of sizes that PyTorch does not take for constants
    draw = torch.Generator().manual_seed(seed)
    inputs = {
        "sample": torch.randn(rows, unet.config.in_channels, high, wide, generator=draw),
        "timestep": torch.tensor([10.0, 700.0]),
        "encoder_hidden_states": torch.randn(rows, _TEXT_TOKENS, text["encoder_hidden_states"][1][-1], generator=draw),
    }
    shapes: dict[str, Any] = {
        "sample": {0: batch, 2: stride * height, 3: stride * width},
        "timestep": {0: batch},
        "encoder_hidden_states": {0: batch, 1: tokens},
    }
    if "text_embeds" in text:
        inputs["text_embeds"] = torch.randn(rows, *text["text_embeds"][1], generator=draw)
        inputs["time_ids"] = torch.tensor([[8.0 * high, 8.0 * wide, 0, 0, 8.0 * high, 8.0 * wide]]).repeat(rows, 1)
    if unet.config.time_cond_proj_dim:
        inputs["timestep_cond"] = torch.randn(rows, unet.config.time_cond_proj_dim, generator=draw)
    for tuner, name in zip(tuners, names, strict=True):
        if isinstance(tuner, CSCTuner):
            size = HINT_SCALE * high, HINT_SCALE * wide
            inputs[f"hint_{name}"] = torch.rand(rows, tuner.in_channels, *size, generator=draw)
            side = HINT_SCALE * stride
            shapes[f"hint_{name}"] = {0: batch, 2: side * height, 3: side * width}
        inputs[f"scale_{name}"] = torch.tensor(0.5)
    exact = ("timestep", "time_ids")
    inputs = {
        name: each.to(unet.device, each.dtype if name in exact or not each.dim() else unet.dtype)
        for name, each in inputs.items()
    }
    return inputs, {name: shapes.get(name, {0: batch} if each.dim() else None) for name, each in inputs.items()}

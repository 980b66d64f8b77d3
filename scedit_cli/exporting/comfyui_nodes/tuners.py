"""SCEdit's tuners in plain PyTorch: reading of a tuner file, the edits of its skips, and its hint encoder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

FORMAT = "scedit/1"
HINT_SCALE = 8  # a hint is this many times the latents' size
_STEM_STRIDES = (1, 1, 2, 1, 2, 1, 2)


class Tuner:
    """One SC- or CSC-Tuner (arXiv 2312.11392), as its file describes it.

    Attributes:
        name: the file's name, for messages.
        kind: "sc" or "csc".
        condition: the kind of hint it takes, None for an SC-Tuner.
        channels: channels of the skips that it edits, in encoder order.
        in_channels: channels of its hint, 0 for an SC-Tuner.
        scale: its own α, which multiplies the strength.
        prediction_type: the quantity that its base predicts, None if the file does not say.
        base: the name of the base that it was trained on, "another base" if the file does not say.
    """

    def __init__(self, name: str, header: Mapping[str, str], tensors: Mapping[str, Tensor], scale: float = 1.0) -> None:
        sizes = json.loads(header["sizes"])
        self.name, self.kind, self.condition = name, header["kind"], header.get("condition")
        self.channels: tuple[int, ...] = tuple(sizes["channels"])
        self.in_channels: int = sizes.get("in_channels", 0)
        self.scale = scale
        self.prediction_type = header.get("prediction_type")
        self.base = header.get("base", "another base")
        self.weights = dict(tensors)
        _check_weights(name, tensors, _shapes(self.kind, sizes))

    def __str__(self) -> str:
        return f"{self.name} ({self.condition or 'SC-Tuner'})"

    def edit(self, weights: Mapping[str, Tensor], skip: Tensor, index: int, feature: Tensor | None) -> Tensor:
        """Return T(x) of skip `index` (encoder order), or T(x + c) + c with the hint's `feature` c. The `weights` are of
        the skip's device and dtype."""
        x = skip if feature is None else skip + feature
        hidden = F.gelu(_convolved(x, weights, f"maps.{index}.down"))
        edit = _convolved(hidden, weights, f"maps.{index}.up")
        return edit if feature is None else edit + feature

    def encode(self, weights: Mapping[str, Tensor], hint: Tensor, strides: Sequence[int]) -> list[Tensor]:
        """Return the hint's feature for each skip, in encoder order.

        Args:
            hint: (B, in_channels, 8h, 8w) in [0, 1] for latents of h × w, of the device and dtype of `weights`.
            strides: the factor by which each skip is smaller than the latents.
        """
        x = hint
        for place, stride in enumerate(_STEM_STRIDES):
            x = _convolved(F.silu(x) if place else x, weights, f"encoder.stem.{2 * place}", stride)
        features, before = [], 1
        for link, stride in enumerate(strides):
            x = _convolved(F.silu(x), weights, f"encoder.chain.{link}", stride // before)
            features.append(x)
            before = stride
        return features


def read(path: Path) -> Tuner:
    """Read a tuner file of scedit strictly: every tensor must be there, in its shape, and no other.

    Raises:
        ValueError: it is no such file, or holds several tuners.
    """
    try:
        with safe_open(path, "pt") as opened:
            header = opened.metadata() or {}
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}
    except Exception as error:
        raise ValueError(f"{path.name} cannot be read as safetensors: {error}") from error
    if header.get("format") != FORMAT:
        raise ValueError(
            f"{path.name} is no tuner of the format {FORMAT}; `scedit merge` converts those "
            "of SCEPTER, ms-swift and scedit-pytorch"
        )
    scale = 1.0
    try:
        if header["kind"] == "bundle":
            parts = json.loads(header["tuners"])
            if len(parts) != 1:
                raise ValueError(
                    f"{path.name} holds {len(parts)} tuners, and a node applies one: `scedit merge` "
                    "writes each into a file of its own, in the format comfyui"
                )
            scale, header = parts[0]["scale"], parts[0]["metadata"]
            tensors = {key.removeprefix("tuners.0."): tensor for key, tensor in tensors.items()}
        return Tuner(path.name, header, tensors, scale)
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{path.name}: its metadata is incomplete ({error!r}); get the file again") from error


def _shapes(kind: str, sizes: Mapping) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of a tuner with these sizes, by name."""
    convolutions = {}
    for i, (channels, hidden) in enumerate(zip(sizes["channels"], sizes["hidden"], strict=True)):
        convolutions[f"maps.{i}.down"] = (hidden, channels, 1)
        convolutions[f"maps.{i}.up"] = (channels, hidden, 1)
    if kind == "csc":
        full, half, quarter = sizes["hint_widths"]
        widths = [sizes["in_channels"], full, full, half, half, quarter, quarter, sizes["hint_channels"]]
        for place in range(len(_STEM_STRIDES)):
            convolutions[f"encoder.stem.{2 * place}"] = (widths[place + 1], widths[place], 3)
        widths = [sizes["hint_channels"], *sizes["channels"]]
        for link in range(len(sizes["channels"])):
            convolutions[f"encoder.chain.{link}"] = (widths[link + 1], widths[link], sizes["hint_kernel"])
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (outputs, inputs, kernel) in convolutions.items():
        shapes |= {f"{name}.weight": (outputs, inputs, kernel, kernel), f"{name}.bias": (outputs,)}
    return shapes


def _check_weights(name: str, tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    found = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    if wrong := sorted(key for key in found.keys() | shapes.keys() if found.get(key) != shapes.get(key)):
        key = wrong[0]
        raise ValueError(
            f"{name}: {key} is {found.get(key, 'missing')} where {shapes.get(key, 'nothing')} is expected; "
            "get the file again"
        )
    for key, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name}: {key} holds values that are not numbers; get the file again")


def _convolved(x: Tensor, weights: Mapping[str, Tensor], name: str, stride: int = 1) -> Tensor:
    weight = weights[f"{name}.weight"]
    return F.conv2d(x, weight, weights[f"{name}.bias"], stride, padding=weight.shape[-1] // 2)

"""diffusers' control networks as adapters beside a U-Net, which is called as usual while a hook adds their features."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from scedit_cli.models.controlnet import controlnet_for

if TYPE_CHECKING:
    from diffusers import ControlNetModel, UNet2DConditionModel, UNetControlNetXSModel

_XS_RATIO = 0.1  # as a share of the base's widths (ControlNet-XS, arXiv 2312.06573), but at least:
_XS_CHANNELS = 4


class Fused:
    """A forward pre-hook for a U-Net that takes the hint itself. For a batch that is a multiple of the hints, as in
    classifier-free guidance, the hints are repeated as a whole."""

    def __init__(self) -> None:
        self.hint: Tensor | None = None
        self.scales: tuple[float, ...] = ()

    def set_hints(self, hints: dict[str, Tensor] | Tensor | None) -> None:
        """Set the hints, (B, 3, H, W) in [0, 1], or a dict of one such tensor; None calls the U-Net without."""
        self.hint = next(iter(hints.values()), None) if isinstance(hints, dict) else hints

    def __call__(self, unet: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        if self.hint is None:
            return None
        (sample, timestep), rest = args[:2], args[2:]
        if rest:  # Adapters take the text by name.
            args, kwargs = (sample, timestep), kwargs | dict(zip(("encoder_hidden_states",), rest, strict=True))
        hint = self.hint.to(sample.device)
        hint = hint.repeat(len(sample) // len(hint), 1, 1, 1)
        return args, kwargs | self.added(sample, timestep, hint, kwargs)

    def added(self, sample: Tensor, timestep: Tensor, hint: Tensor, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the keywords to add to the U-Net's own."""
        return {"controlnet_cond": hint}


class SideNetwork(Fused):
    """An adapter whose features are added to the U-Net's.

    Args:
        adapter: the module, float32, on the U-Net's device.
        features: a function of (adapter, sample, timestep, hint, the U-Net's own keywords) that gives more keywords.
    """

    def __init__(self, adapter: nn.Module, features: Callable[..., dict[str, Any]]) -> None:
        super().__init__()
        self.adapter = adapter
        self._features = features

    def added(self, sample: Tensor, timestep: Tensor, hint: Tensor, kwargs: dict[str, Any]) -> dict[str, Any]:
        return self._features(self.adapter, sample, timestep, hint, kwargs)


def controlnet(unet: UNet2DConditionModel, width: float = 1.0) -> SideNetwork:
    """Return ControlNet (arXiv 2302.05543), a trained copy of the encoder; `width` as for `controlnet_model`."""
    return SideNetwork(controlnet_model(unet, width).float().requires_grad_(True), _controlnet_features)


def controlnet_model(unet: UNet2DConditionModel, width: float = 1.0) -> ControlNetModel:
    """Return `controlnet_for` on the U-Net's device, with its kind of attention; raise ValueError as there."""
    made = controlnet_for(unet, width, meta=unet.device.type == "meta")
    made.set_attn_processor(type(next(iter(unet.attn_processors.values())))())
    return made.to(unet.device)


def t2i_adapter(unet: UNet2DConditionModel) -> SideNetwork:
    """Return the full-size T2I-Adapter (arXiv 2302.08453). It is the kind for SDXL if the first level has no attention,
    since such a level receives its feature after its downsampling."""
    from diffusers import T2IAdapter

    widths = list(unet.config.block_out_channels)
    late = unet.config.down_block_types[0] == "DownBlock2D"
    kind = {"adapter_type": "full_adapter_xl", "downscale_factor": 16} if late else {"adapter_type": "full_adapter"}
    with torch.device("meta" if unet.device.type == "meta" else "cpu"):
        adapter = T2IAdapter(in_channels=3, channels=widths + widths[-1:] if late else widths, **kind)
    return SideNetwork(adapter.to(unet.device).requires_grad_(True), _t2i_features)


def controlnet_xs(unet: UNet2DConditionModel) -> UNetControlNetXSModel:
    """Return ControlNet-XS (arXiv 2312.06573) fused with the U-Net, whose own weights stay frozen and keep their dtype.

    Raises:
        ValueError, RuntimeError: the U-Net lacks the two resnets per level that diffusers' implementation assumes.
    """
    from diffusers import ControlNetXSAdapter, UNetControlNetXSModel

    if unet.config.layers_per_block != 2:
        raise ValueError("ControlNet-XS in diffusers wants a U-Net with two resnets a level")
    with torch.device("meta" if unet.device.type == "meta" else "cpu"):
        ratio = max(_XS_RATIO, _XS_CHANNELS / min(unet.config.block_out_channels))
        adapter = ControlNetXSAdapter.from_unet(unet, size_ratio=ratio)
        fused = UNetControlNetXSModel.from_unet(unet, adapter)
    fused.requires_grad_(True)
    fused.freeze_unet_params()
    for weight in fused.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    return fused.to(unet.device)


def save_trained(module: nn.Module, path: Path) -> None:
    """Write the trained weights of `module`."""
    from safetensors.torch import save_file

    learns = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
    save_file({name: weight.detach().contiguous() for name, weight in learns.items()}, path)


def _controlnet_features(
    adapter: ControlNetModel, sample: Tensor, timestep: Tensor, hint: Tensor, kwargs: dict[str, Any]
) -> dict[str, Any]:
    names = ("encoder_hidden_states", "added_cond_kwargs")
    text = {name: kwargs[name] for name in names if kwargs.get(name) is not None}
    down, mid = adapter(sample, timestep, controlnet_cond=hint, return_dict=False, **text)
    return {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}


def _t2i_features(
    adapter: nn.Module, sample: Tensor, timestep: Tensor, hint: Tensor, kwargs: dict[str, Any]
) -> dict[str, Any]:
    return {"down_intrablock_additional_residuals": [each.to(sample.dtype) for each in adapter(hint)]}

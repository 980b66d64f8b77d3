"""The training methods that are compared, each as what it trains on a U-Net and how it predicts the noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from scedit_cli.core.attach import attach
from scedit_cli.core.tuners import CSCTuner, SCTuner, Tuner
from scedit_cli.core.weights import save_tuner

if TYPE_CHECKING:
    from diffusers import ControlNetModel, UNet2DConditionModel

_LORA_RANK = 64
_ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]


@dataclass(frozen=True)
class Inputs:
    """A batch as training from caches sees it.

    Attributes:
        latents: noisy ones, (B, C, h, w).
        timesteps: (B,) integers.
        hint: (B, 3, 8h, 8w) in [0, 1].
        text: the U-Net's keywords for the prompts.
    """

    latents: Tensor
    timesteps: Tensor
    hint: Tensor
    text: dict[str, Any]


@dataclass(frozen=True)
class Trainee:
    """One method on one U-Net.

    Attributes:
        weights: what is trained, by name, in float32.
        predict: the U-Net's answer to a batch.
        save: writes the trained weights to a .safetensors file.
    """

    weights: dict[str, nn.Parameter]
    predict: Callable[[Inputs], Tensor]
    save: Callable[[Path], object]

    @property
    def count(self) -> int:
        return sum(weight.numel() for weight in self.weights.values())


def prepare(method: str, unet: UNet2DConditionModel) -> Trainee:
    """Sets `unet` up for one of METHODS. It changes, so every method wants a U-Net of its own; one on the meta device
    will do for counting."""
    unet.requires_grad_(False)
    return METHODS[method](unet)


def _sc(unet: UNet2DConditionModel) -> Trainee:
    return _tuned(unet, SCTuner.for_unet(unet))


def _csc(unet: UNet2DConditionModel, hint_kernel: int) -> Trainee:
    return _tuned(unet, CSCTuner.for_unet(unet, condition="hint", hint_kernel=hint_kernel))


def _lora(unet: UNet2DConditionModel) -> Trainee:
    from diffusers.training_utils import cast_training_params
    from peft import LoraConfig

    unet.add_adapter(LoraConfig(r=_LORA_RANK, lora_alpha=_LORA_RANK, target_modules=_ATTENTION))
    cast_training_params(unet, torch.float32)
    return _plain(unet, partial(_predict, unet))


def _full(unet: UNet2DConditionModel) -> Trainee:
    unet.float().requires_grad_(True)
    return _plain(unet, partial(_predict, unet))


def _controlnet(unet: UNet2DConditionModel) -> Trainee:
    controlnet = controlnet_for(unet).float().requires_grad_(True)

    def predict(inputs: Inputs) -> Tensor:
        down, mid = controlnet(
            inputs.latents, inputs.timesteps, controlnet_cond=inputs.hint, return_dict=False, **inputs.text
        )
        return _predict(unet, inputs, down_block_additional_residuals=down, mid_block_additional_residual=mid)

    return _plain(controlnet, predict)


METHODS: dict[str, Callable[[UNet2DConditionModel], Trainee]] = {
    "sc": _sc,
    "csc": partial(_csc, hint_kernel=1),
    "csc-k3": partial(_csc, hint_kernel=3),
    "lora": _lora,
    "full": _full,
    "controlnet": _controlnet,
}


def controlnet_for(unet: UNet2DConditionModel) -> ControlNetModel:
    """The ControlNet that starts as a copy of the U-Net's encoder, on its device."""
    from diffusers import ControlNetModel

    meta = unet.device.type == "meta"
    with torch.device("meta" if meta else "cpu"):
        return ControlNetModel.from_unet(unet, load_weights_from_unet=not meta).to(unet.device)


def _tuned(unet: UNet2DConditionModel, tuner: Tuner) -> Trainee:
    attachment = attach(unet, tuner)

    def predict(inputs: Inputs) -> Tensor:
        if isinstance(tuner, CSCTuner):
            attachment.set_hints(inputs.hint)
        return _predict(unet, inputs)

    return Trainee(dict(tuner.named_parameters()), predict, partial(save_tuner, tuner))


def _plain(module: nn.Module, predict: Callable[[Inputs], Tensor]) -> Trainee:
    """All of the module's parameters that learn."""
    weights = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
    return Trainee(weights, predict, partial(save_file, {name: weight.detach() for name, weight in weights.items()}))


def _predict(unet: UNet2DConditionModel, inputs: Inputs, **more: Any) -> Tensor:
    return unet(inputs.latents, inputs.timesteps, **inputs.text, **more).sample

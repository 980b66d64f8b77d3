"""The training methods that are compared; each prepares a U-Net, which is then called as usual."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from scedit_cli.benchmark import peers
from scedit_cli.core.attach import attach
from scedit_cli.core.norms import norms_in_own_precision
from scedit_cli.core.tuners import CSCTuner, SCTuner, Tuner
from scedit_cli.core.weights import save_tuner
from scedit_cli.models.quantization import quantize, quantize_shapes

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

_ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
_FEED_FORWARD = ["ff.net.0.proj", "ff.net.2"]


@dataclass(frozen=True)
class Options:
    """The sizes of the methods: LoRA, tuners, a CSC-Tuner's hint encoder (by default the paper's), and ControlNet's
    hint encoder as a share of its usual width; and the base's storage: its weights' `quantize`, as in recipes, and
    whether the encoder is offloaded, which only tuners on skips allow."""

    lora_rank: int = 64
    lora_feed_forward: bool = False
    down_ratio: float = 1.0
    hint_channels: int = 256
    hint_width: float = 1.0
    controlnet_width: float = 1.0
    quantize: str = "none"
    offload: bool = False


@dataclass(frozen=True)
class Inputs:
    """A training batch as read from caches.

    Attributes:
        latents: noisy latents, (B, C, h, w).
        timesteps: (B,) integers.
        hint: (B, 3, 8h, 8w) in [0, 1]; methods without a hint ignore it.
        text: the U-Net's keywords for the prompts.
    """

    latents: Tensor
    timesteps: Tensor
    hint: Tensor
    text: dict[str, Any]


class Hinted(Protocol):
    """The interface that `sampling.sample` needs of tuners, and that every method has."""

    scales: Any

    def set_hints(self, hints: Any) -> None: ...


@dataclass
class Unhinted:
    """The `Hinted` interface of a method without a hint."""

    scales: tuple[float, ...] = ()

    def set_hints(self, hints: Any) -> None:
        """Ignore the hints."""


@dataclass(frozen=True)
class TrainableMethod:
    """One method on one U-Net.

    Attributes:
        unet: the module called to predict the noise.
        parts: every module whose weights are in memory.
        save: a function that writes the trained weights to a .safetensors file.
        hinted: the object that takes the hints.
        takes_hint: whether the method is controlled by hints.
    """

    unet: nn.Module
    parts: tuple[nn.Module, ...]
    save: Callable[[Path], object]
    hinted: Hinted = field(default_factory=Unhinted)
    takes_hint: bool = False

    @property
    def weights(self) -> list[nn.Parameter]:
        """The trained weights, in float32."""
        return [weight for part in self.parts for weight in part.parameters() if weight.requires_grad]

    @property
    def count(self) -> int:
        return sum(weight.numel() for weight in self.weights)

    def predict(self, inputs: Inputs) -> Tensor:
        """Return the U-Net's output for a batch."""
        if self.takes_hint:
            self.hinted.set_hints(inputs.hint)
        return self.unet(inputs.latents, inputs.timesteps, **inputs.text).sample


@dataclass(frozen=True)
class Method:
    """A method: `make` prepares a frozen U-Net; contexts that it enters into the stack end with the method. `plain`
    names the method that does the same without the memory-lean differentiation of `core.frozen`."""

    make: Callable[[UNet2DConditionModel, Options, ExitStack], TrainableMethod]
    plain: str


@contextmanager
def prepared(method: str, unet: UNet2DConditionModel, options: Options | None = None) -> Iterator[TrainableMethod]:
    """Prepare `unet` for one of METHODS within the block. Some methods change its weights, so each needs its own U-Net;
    one on the meta device is enough for counting."""
    unet.requires_grad_(False)
    if options and options.offload and method.split("-")[0] not in ("sc", "csc"):
        raise ValueError("the encoder cannot be offloaded: the backward pass enters it")
    with ExitStack() as stack:
        trainable = METHODS[method].make(unet, options or Options(), stack)
        for part in trainable.parts:
            stack.enter_context(norms_in_own_precision(part))
        yield trainable


def _sc(unet: UNet2DConditionModel, options: Options, stack: ExitStack, memory: str) -> TrainableMethod:
    return _tuned(unet, SCTuner.for_unet(unet, options.down_ratio), options, stack, memory)


def _csc(unet: UNet2DConditionModel, options: Options, stack: ExitStack, memory: str, kernel: int) -> TrainableMethod:
    sizes = {"down_ratio": options.down_ratio, "hint_channels": options.hint_channels, "hint_width": options.hint_width}
    tuner = CSCTuner.for_unet(unet, "hint", hint_kernel=kernel, **sizes)
    return _tuned(unet, tuner, options, stack, memory)


def _tuned(
    unet: UNet2DConditionModel, tuner: Tuner, options: Options, stack: ExitStack, memory: str
) -> TrainableMethod:
    _shrink(unet, options)
    edits = stack.enter_context(attach(unet, tuner, memory=memory))
    return TrainableMethod(unet, (unet, tuner), partial(save_tuner, tuner), edits, isinstance(tuner, CSCTuner))


def _lora(unet: UNet2DConditionModel, options: Options, stack: ExitStack, memory: str) -> TrainableMethod:
    from diffusers.training_utils import cast_training_params
    from peft import LoraConfig, inject_adapter_in_model

    _shrink(unet, options)
    targets = _ATTENTION + (_FEED_FORWARD if options.lora_feed_forward else [])
    config = LoraConfig(r=options.lora_rank, lora_alpha=options.lora_rank, target_modules=targets)
    if hasattr(unet, "add_adapter"):
        unet.add_adapter(config)
    else:  # Stable Video Diffusion's U-Net has no loader of its own for adapters
        inject_adapter_in_model(config, unet)
    cast_training_params(unet, torch.float32)
    if memory == "checkpoint":
        unet.enable_gradient_checkpointing()
    _lean(unet, stack, memory)
    return TrainableMethod(unet, (unet,), partial(peers.save_trained, unet))


def _full(unet: UNet2DConditionModel, options: Options, stack: ExitStack) -> TrainableMethod:
    _stays_whole(options, "full fine-tuning changes them")
    unet.float().requires_grad_(True)
    return TrainableMethod(unet, (unet,), partial(peers.save_trained, unet))


def _beside(
    unet: UNet2DConditionModel,
    options: Options,
    stack: ExitStack,
    make: Callable[[UNet2DConditionModel, Options], peers.SideNetwork],
    memory: str = "plain",
) -> TrainableMethod:
    beside = make(unet, options)
    _shrink(unet, options)
    _lean(unet, stack, memory)
    handle = unet.register_forward_pre_hook(beside, with_kwargs=True)
    stack.callback(handle.remove)
    adapter = beside.adapter
    return TrainableMethod(unet, (unet, adapter), partial(peers.save_trained, adapter), beside, takes_hint=True)


def _controlnet(unet: UNet2DConditionModel, options: Options) -> peers.SideNetwork:
    return peers.controlnet(unet, options.controlnet_width)


def _t2i_adapter(unet: UNet2DConditionModel, options: Options) -> peers.SideNetwork:
    return peers.t2i_adapter(unet)


def _controlnet_xs(unet: UNet2DConditionModel, options: Options, stack: ExitStack) -> TrainableMethod:
    _stays_whole(options, "ControlNet-XS joins them with its own")
    fused = peers.controlnet_xs(unet)
    hinted = peers.Fused()
    handle = fused.register_forward_pre_hook(hinted, with_kwargs=True)
    stack.callback(handle.remove)
    return TrainableMethod(fused, (fused,), partial(peers.save_trained, fused), hinted, takes_hint=True)


def _shrink(unet: UNet2DConditionModel, options: Options) -> None:
    """Store the base's weights as `options` ask; on the meta device, their shapes."""
    if options.quantize != "none":
        (quantize_shapes if unet.device.type == "meta" else quantize)(unet, options.quantize)


def _stays_whole(options: Options, why: str) -> None:
    if options.quantize != "none":
        raise ValueError(f"the base's weights cannot be {options.quantize}: {why}")


def _lean(unet: UNet2DConditionModel, stack: ExitStack, memory: str) -> None:
    if memory != "plain":
        from scedit_cli.core.frozen import lean

        stack.enter_context(lean(unet))


METHODS: dict[str, Method] = {
    "sc": Method(partial(_sc, memory="lean"), "sc-plain"),
    "csc": Method(partial(_csc, memory="lean", kernel=1), "csc-plain"),
    "csc-k3": Method(partial(_csc, memory="lean", kernel=3), "csc-k3-plain"),
    "sc-checkpoint": Method(partial(_sc, memory="checkpoint"), "sc-plain"),
    "csc-checkpoint": Method(partial(_csc, memory="checkpoint", kernel=1), "csc-plain"),
    "sc-plain": Method(partial(_sc, memory="plain"), "sc-plain"),
    "csc-plain": Method(partial(_csc, memory="plain", kernel=1), "csc-plain"),
    "csc-k3-plain": Method(partial(_csc, memory="plain", kernel=3), "csc-k3-plain"),
    "lora": Method(partial(_lora, memory="plain"), "lora"),
    "lora-lean": Method(partial(_lora, memory="lean"), "lora"),
    "lora-checkpoint": Method(partial(_lora, memory="checkpoint"), "lora"),
    "full": Method(_full, "full"),
    "controlnet": Method(partial(_beside, make=_controlnet), "controlnet"),
    "controlnet-lean": Method(partial(_beside, make=_controlnet, memory="lean"), "controlnet"),
    "t2i-adapter": Method(partial(_beside, make=_t2i_adapter), "t2i-adapter"),
    "controlnet-xs": Method(_controlnet_xs, "controlnet-xs"),
}

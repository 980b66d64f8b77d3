"""The U-Nets to compare methods on, by their configurations: no weights are needed to know what a step costs."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from scedit_cli.base import Base, load_base
from scedit_cli.core.skips import survey
from scedit_cli.core.tuners import HINT_SCALE
from scedit_cli.errors import SceditError
from scedit_cli.files import expanded
from scedit_cli.original import CONFIGS
from scedit_cli.pipelines import EMBEDDED, quiet
from scedit_cli.scenes import WORLD

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

PUBLIC = ("sd15", "sd21", "sdxl")  # built from the configurations in the package, with random weights
_TOKENS = 77  # CLIP's


@dataclass(frozen=True)
class Architecture:
    """A U-Net and how it is trained.

    Attributes:
        name: what was asked for: one of PUBLIC, "scenes", a folder, file or hub id.
        config: the U-Net's configuration.
        alphas: ᾱ of the noise schedule, (T,).
        prediction_type: "epsilon" or "v_prediction".
        tokens: length of an encoded text.
    """

    name: str
    config: dict[str, Any]
    alphas: Tensor
    prediction_type: str
    tokens: int = _TOKENS

    @cached_property
    def multiple(self) -> int:
        """Sides of pictures are multiples of this many pixels."""
        return HINT_SCALE * max(survey(self.on_meta()).strides)

    @property
    def resolution(self) -> int:
        """The side in pixels that it was made for."""
        size = self.config["sample_size"]
        return HINT_SCALE * (size if isinstance(size, int) else min(size))

    @property
    def pooled(self) -> int:
        """Width of the pooled text that an SDXL U-Net takes; 0 for others."""
        if self.config.get("addition_embed_type") != "text_time":
            return 0
        return self.config["projection_class_embeddings_input_dim"] - 6 * self.config["addition_time_embed_dim"]

    def on_meta(self, dtype: torch.dtype = torch.float32) -> UNet2DConditionModel:
        """The U-Net without weights."""
        return self._random("meta", dtype)

    def unet(self, dtype: torch.dtype, device: torch.device) -> UNet2DConditionModel:
        """The U-Net, frozen, with its weights; random ones for PUBLIC."""
        if self.name in PUBLIC:
            return self._random(device, dtype).requires_grad_(False).eval()
        return load_base(self.name, dtype=dtype, device=device).unet

    def match_attention(self, model: Any, device: str) -> None:
        """Gives a model that trains on `device` ("cpu" or "cuda") the kind of attention that the base has there."""
        if self.name == EMBEDDED and device == "cpu":
            from diffusers.models.attention_processor import AttnProcessor

            model.set_attn_processor(AttnProcessor())

    def _random(self, device: torch.device | str, dtype: torch.dtype) -> UNet2DConditionModel:
        from diffusers import UNet2DConditionModel

        with quiet(), torch.random.fork_rng(devices=[]), torch.device(device):
            torch.manual_seed(0)
            return UNet2DConditionModel.from_config(self.config).to(dtype)


def architecture(model: str) -> Architecture:
    """Of a public family, the embedded base, or a diffusers folder by its configuration files; anything else is
    loaded as `load_base` loads it.

    Raises:
        SceditError: nothing is there, or it is no pipeline with a U-Net.
    """
    if model in PUBLIC:
        files = CONFIGS / model
        return _read(model, files / "unet.json", files / "scheduler.json")
    folder = WORLD / "base" if model == EMBEDDED else expanded(model)
    unet, scheduler = folder / "unet" / "config.json", folder / "scheduler" / "scheduler_config.json"
    if unet.is_file() and scheduler.is_file():
        about = folder / "tokenizer" / "tokenizer_config.json"
        tokens = json.loads(about.read_text("utf-8")).get("model_max_length", _TOKENS) if about.is_file() else _TOKENS
        return _read(model, unet, scheduler, tokens)
    return replace(architecture_of(load_base(model)), name=model)  # with its revision


def architecture_of(base: Base) -> Architecture:
    """Of a base that is loaded."""
    return Architecture(base.name, dict(base.unet.config), base.scheduler.alphas_cumprod, base.prediction_type)


def _read(name: str, unet: Path, scheduler: Path, tokens: int = _TOKENS) -> Architecture:
    import diffusers

    try:
        config, about = (json.loads(file.read_text("utf-8")) for file in (unet, scheduler))
        with quiet():
            schedule = getattr(diffusers, about["_class_name"]).from_config(about)
        if config["_class_name"] != "UNet2DConditionModel":
            raise ValueError(f"a {config['_class_name']}, which has no U-Net skips to edit")
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        raise SceditError(f"base {name}: its configuration cannot be read: {error}", hint="get it anew") from error
    return Architecture(name, config, schedule.alphas_cumprod, schedule.config.prediction_type, tokens)

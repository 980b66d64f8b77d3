"""The U-Nets to compare methods on, by their configurations: the cost of a step does not depend on the weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from scedit_cli.core.skips import survey
from scedit_cli.core.tuners import HINT_SCALE
from scedit_cli.models.base import Base, load_base
from scedit_cli.models.dreamlite import TOKENS as DREAMLITE_TOKENS
from scedit_cli.models.dreamlite import take_one_image
from scedit_cli.models.loading import quiet
from scedit_cli.models.noise_levels import check_scheduler, noise_levels
from scedit_cli.models.single_file import CONFIGS, original_config
from scedit_cli.models.unet_inputs import check_unet
from scedit_cli.scenes import WORLD
from scedit_cli.utils.errors import SceditError, reason
from scedit_cli.utils.hub import download_configs, is_hub_id, split_revision
from scedit_cli.utils.io import expanded, read_json
from scedit_cli.utils.names import EMBEDDED, PUBLIC

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

_TOKENS = 77  # CLIP's text length
_FRAMES = 16  # AnimateDiff's, whose U-Net does not say it
_DREAMLITE = "DreamLiteUNetModel"
_IMAGES = ("UNet2DConditionModel", _DREAMLITE)
_KINDS = (*_IMAGES, "UNetMotionModel", "UNetSpatioTemporalConditionModel")
_MOST_TOKENS = 10_000  # A larger number means no limit.


@dataclass(frozen=True)
class Architecture:
    """A U-Net and the way it is trained.

    Attributes:
        name: the name given by the user: one of PUBLIC, "scenes", a folder, file or hub id.
        config: the U-Net's configuration.
        alphas: ᾱ of the noise schedule, (T,).
        prediction_type: "epsilon" or "v_prediction".
        tokens: the length of an encoded text.
        kind: the U-Net's class in diffusers.
        frames: the number of a video's frames, those that its U-Net was made for; None for images.
    """

    name: str
    config: dict[str, Any]
    alphas: Tensor
    prediction_type: str
    tokens: int = _TOKENS
    kind: str = "UNet2DConditionModel"

    @cached_property
    def frames(self) -> int | None:
        return None if self.kind in _IMAGES else self.config.get("num_frames", _FRAMES)

    @cached_property
    def multiple(self) -> int:
        """The number of pixels that the sides of images must be a multiple of."""
        return HINT_SCALE * max(survey(self.on_meta()).strides)

    @property
    def resolution(self) -> int:
        """The side in pixels of the images that the U-Net was made for.

        Raises:
            SceditError: the configuration does not contain it.
        """
        size = self.config["sample_size"]
        sizes = size if isinstance(size, list | tuple) else [size]
        if not all(isinstance(each, int) for each in sizes):
            raise SceditError(
                f"base {self.name} does not say what size it was made for: sample_size is {size}",
                hint="add `resolution`",
            )
        return HINT_SCALE * min(sizes)

    @property
    def text_width(self) -> int:
        """The width of an encoded text."""
        return self.config.get("encoder_hid_dim") or self.config["cross_attention_dim"]

    @property
    def pooled(self) -> int:
        """The width of the pooled text that an SDXL U-Net takes; 0 for others."""
        if self.config.get("addition_embed_type") != "text_time":
            return 0
        return self.config["projection_class_embeddings_input_dim"] - 6 * self.config["addition_time_embed_dim"]

    def on_meta(self, dtype: torch.dtype = torch.float32) -> UNet2DConditionModel:
        """Return the U-Net without weights."""
        return self._random("meta", dtype)

    def unet(self, dtype: torch.dtype, device: torch.device) -> UNet2DConditionModel:
        """Return the frozen U-Net with its weights; those of PUBLIC are random."""
        if self.name in PUBLIC:
            return self._random(device, dtype).requires_grad_(False).eval()
        return load_base(self.name, dtype=dtype, device=device).unet

    def match_attention(self, model: Any, device: str) -> None:
        """Give `model` the kind of attention that the base has when training on `device` ("cpu" or "cuda")."""
        if self.name == EMBEDDED and device == "cpu":
            from diffusers.models.attention_processor import AttnProcessor

            model.set_attn_processor(AttnProcessor())

    def _random(self, device: torch.device | str, dtype: torch.dtype) -> UNet2DConditionModel:
        import diffusers

        with quiet(), torch.random.fork_rng(devices=[]), torch.device(device):
            torch.manual_seed(0)
            # `to` moves what diffusers makes on the CPU whatever the context, such as the mixing factors of SVD.
            unet = getattr(diffusers, self.kind).from_config(self.config).to(device, dtype)
        if self.kind == _DREAMLITE:
            take_one_image(unet)
        return unet


def architecture(model: str) -> Architecture:
    """Return the architecture of a public family, the embedded base, a diffusers folder, a single file or a hub model.
    Only configuration files (and a single file's header) are read.

    Raises:
        SceditError: `model` does not exist, or is not a pipeline with a U-Net.
    """
    try:
        return _described(model)
    except (SceditError, MemoryError):
        raise
    except Exception as error:  # Odd configurations raise many kinds of errors in diffusers.
        raise SceditError(
            f"base {model}: its configuration cannot be read: {reason(error)}", hint="get it again"
        ) from error


def architecture_of(base: Base) -> Architecture:
    """Return the architecture of a loaded base."""
    levels = base.noise_levels
    facts = dict(base.unet.config), levels.alphas.float(), levels.prediction_type
    return Architecture(base.name, *facts, base.text_layout["encoder_hidden_states"][1][0], type(base.unet).__name__)


def _described(model: str) -> Architecture:
    if model in PUBLIC:
        return _made(model, *(_json(CONFIGS / model / f"{part}.json") for part in ("unet", "scheduler")))
    folder = WORLD / "base" if model == EMBEDDED else expanded(model)
    if folder.is_file():
        return _made(model, original_config(folder, "unet"), original_config(folder, "scheduler"))
    if not folder.exists() and folder.suffix != ".safetensors" and is_hub_id(split_revision(model)[0]):
        folder = download_configs(*split_revision(model))
    files = folder / "unet" / "config.json", folder / "scheduler" / "scheduler_config.json"
    if not all(file.is_file() for file in files):
        return replace(architecture_of(load_base(model)), name=model)  # load_base names missing files
    about = folder / "tokenizer" / "tokenizer_config.json"
    tokens = _json(about).get("model_max_length", _TOKENS) if about.is_file() else _TOKENS
    return _made(model, *map(_json, files), tokens)


def _made(name: str, unet: dict[str, Any], scheduler: dict[str, Any], tokens: int = _TOKENS) -> Architecture:
    """Return the architecture for the configurations of a U-Net and a scheduler."""
    import diffusers

    kind = unet["_class_name"]
    if kind not in _KINDS:
        raise ValueError(f"a {kind}, for whose inputs no batch is written; bench takes {', '.join(_KINDS)}")
    if kind in _IMAGES:
        check_unet(unet, name, unet.get("out_channels", 4))
    with quiet():
        schedule = getattr(diffusers, scheduler["_class_name"]).from_config(scheduler)
        with torch.device("meta"):
            config = dict(getattr(diffusers, kind).from_config(unet).config)
    check_scheduler(schedule, name, by_size=kind == _DREAMLITE)
    tokens = DREAMLITE_TOKENS if kind == _DREAMLITE else tokens
    if not isinstance(config["cross_attention_dim"], int):
        raise ValueError(f"cross_attention_dim is {config['cross_attention_dim']}, and texts have one width")
    if tokens not in range(1, _MOST_TOKENS):
        raise ValueError(f"model_max_length of its tokenizer is {tokens}")
    levels = noise_levels(schedule)
    return Architecture(name, config, levels.alphas.float(), levels.prediction_type, tokens, kind)


def _json(file: Path) -> dict[str, Any]:
    return read_json(file.read_text("utf-8"))

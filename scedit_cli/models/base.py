"""Frozen pipelines to tune and sample: the embedded world's, and those of the SD1.5, SD2.1, SDXL and
DreamLite families."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scedit_cli.core.quantized import parameter_count
from scedit_cli.core.skips import SkipMap, survey
from scedit_cli.models.autoencoder import open_autoencoder
from scedit_cli.models.distillates import distillation_doubt, is_distilled
from scedit_cli.models.fingerprint import fingerprint
from scedit_cli.models.inpainting import complete_inputs
from scedit_cli.models.latents import check_latents, scaled, unscaled
from scedit_cli.models.loading import EMBEDDED, open_pipeline, quiet
from scedit_cli.models.noise_levels import NoiseLevels, noise_levels, prediction_of
from scedit_cli.models.rescheduling import rescheduled
from scedit_cli.models.schedulers import scheduler_like
from scedit_cli.models.single_file import PREDICTIONS
from scedit_cli.utils.devices import best_device
from scedit_cli.utils.errors import SceditError, WorkFailed
from scedit_cli.utils.hub import split_revision

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, DiffusionPipeline, SchedulerMixin, UNet2DConditionModel

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}  # of a base, by their names in recipes


@dataclass(frozen=True)
class Defaults:
    """The default sampling settings of a base: image side in pixels, denoising steps, guidance scale."""

    resolution: int
    steps: int
    guidance: float


@dataclass(eq=False)
class Base:
    """A frozen text-to-image pipeline. U-Net and text encoders compute in `dtype`, the autoencoder in float32.

    Attributes:
        name: the model that `load_base` was called with, without a revision.
        family: "scenes", "sd15", "sd21", "sdxl" or "dreamlite".
        revision: the hub commit of the weights, else None.
        vae_name, vae_revision: name and hub commit of an autoencoder that replaces the base's own, else None.
        is_guessed: whether `prediction_type` is a guess: SD2.1's releases for 512 and 768 pixels predict different
            quantities, and a single file need not say which release it is.
        names: the model's names: that of its path or hub id, and those in the pipeline's files.
        prediction: the prediction type that `load_base` was called with, else None.
    """

    name: str
    family: str
    revision: str | None
    _loaded: DiffusionPipeline = field(repr=False)
    vae_name: str | None = None
    vae_revision: str | None = None
    is_guessed: bool = False
    names: tuple[str, ...] = ()
    prediction: str | None = None

    @property
    def unet(self) -> UNet2DConditionModel:
        return self._loaded.unet

    @property
    def vae(self) -> AutoencoderKL:
        return self._loaded.vae

    @property
    def scheduler(self) -> SchedulerMixin:
        return self._loaded.scheduler

    @property
    def prediction_type(self) -> str:
        """The quantity that the U-Net predicts: "epsilon", "v_prediction", "sample" or "flow"."""
        return prediction_of(self.scheduler)

    @property
    def doubt(self) -> str:
        """The note to show for a base that `is_guessed`."""
        return f"{self.name} does not say which SD2.1 it is, and is taken for that of 768 pixels, which predicts v"

    @property
    def device(self) -> torch.device:
        """The U-Net's device, wherever other parts may be; with offloading, the accelerator."""
        return self._loaded._execution_device if hasattr(self.unet, "_hf_hook") else self.unet.device

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.dtype

    @cached_property
    def skips(self) -> SkipMap:
        return survey(self.unet)

    @property
    def multiple(self) -> int:
        """The number of pixels that image sides are multiples of, so that no level of the U-Net has to round."""
        return self._loaded.vae_scale_factor * max(self.skips.strides)

    @property
    def defaults(self) -> Defaults:
        size = self.unet.config.sample_size
        resolution = (size if isinstance(size, int) else min(size)) * self._loaded.vae_scale_factor
        if self.family == "scenes":
            return Defaults(resolution, steps=20, guidance=2.0)
        if self.is_distilled:  # a U-Net with the guidance as an input was trained on scales of 3 to 15
            return Defaults(resolution, steps=4, guidance=8.0 if self.unet.config.time_cond_proj_dim else 1.0)
        return Defaults(resolution, steps=30, guidance=5.0 if self.family == "sdxl" else 7.5)

    @property
    def is_distilled(self) -> bool:
        """Whether the base is sampled in a few steps without guidance, as LCM, TCD, turbo and Lightning are."""
        return is_distilled(self._loaded, self.names)

    @property
    def distillation_doubt(self) -> str | None:
        """The note to show for a base that is sampled as an ordinary one but may be a distilled one, else None."""
        why = None if self.family == EMBEDDED else distillation_doubt(self._loaded, self.names)
        return why and f"{self.name} {why}, and is sampled as an ordinary base"

    @property
    def noise_levels(self) -> NoiseLevels:
        """The noise levels that the U-Net was trained on."""
        return noise_levels(self.scheduler)

    @property
    def zeroes_dropped_text(self) -> bool:
        """Whether guidance without a negative prompt contrasts with zeros instead of the empty prompt."""
        return bool(self._loaded.config.get("force_zeros_for_empty_prompt"))

    @cached_property
    def fingerprint(self) -> str:
        """The fingerprint of the U-Net's weights: 32 hex digits, the same in every precision."""
        return fingerprint(self.unet)

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """The fingerprints that a tuner for this base may have been trained on."""
        return (self.fingerprint,)

    @cached_property
    def parameter_count(self) -> int:
        """The number of the U-Net's parameters, in whatever way they are stored."""
        return parameter_count(self.unet)

    def place(self, device: torch.device, apart: Iterable[str] = ()) -> None:
        """Move all parts of the pipeline to `device`, but for the U-Net's children named in `apart`."""
        for part in self.pipeline().components.values():
            if part is self.unet:
                for name, child in part.named_children():
                    if name not in apart:
                        child.to(device)
            elif isinstance(part, torch.nn.Module):
                part.to(device)

    def pipeline(self, scheduler: str | None = None) -> DiffusionPipeline:
        """Return a diffusers pipeline over the same modules, with a scheduler of its own and no progress bar.

        Args:
            scheduler: a scheduler's name and settings, as for `scheduler_like`; by default the base's own.

        Raises:
            SceditError: no such scheduler works with this base.
        """
        pipeline = copy.copy(self._loaded)
        with quiet():
            pipeline.register_modules(scheduler=scheduler_like(self.scheduler, scheduler))
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def rescheduled(self, prediction_type: str, zero_terminal_snr: bool = False) -> Base:
        """Return this base, over the same modules, with a scheduler for another prediction type.

        Args:
            prediction_type: the quantity that the scheduler takes the U-Net's output for: "epsilon", "v_prediction",
                "sample" or "flow", for which it is replaced by FlowMatchEulerDiscrete.
            zero_terminal_snr: whether sampling starts from pure noise; a scheduler that cannot is replaced by DDIM.

        Raises:
            SceditError: the base has continuous or EDM noise levels, which do not allow the change.
        """
        scheduler = rescheduled(self.scheduler, self.name, prediction_type, zero_terminal_snr)
        if scheduler is self.scheduler:
            return self
        other = copy.copy(self)
        other._loaded = copy.copy(self._loaded)
        with quiet():
            other._loaded.register_modules(scheduler=scheduler)
        return other

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> dict[str, Tensor]:
        """Encode prompts to `encoder_hidden_states` (B, tokens, width), and for SDXL also the pooled `text_embeds`
        (B, width). `unet_arguments` turns them into keywords of the U-Net."""
        with quiet():
            encoded = self._loaded.encode_prompt(
                prompt=list(prompts), device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
            )
        text = {"encoder_hidden_states": encoded[0].to(self.dtype)}
        return text | {"text_embeds": encoded[2].to(self.dtype)} if self.family == "sdxl" else text

    @property
    def text_layout(self) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """The dtype and shape of each tensor that `encode_prompts` returns, for one prompt, by name."""
        loaded = self._loaded
        encoders = [loaded.text_encoder, loaded.text_encoder_2] if self.family == "sdxl" else [loaded.text_encoder]
        width = sum(encoder.config.hidden_size for encoder in encoders)
        layout = {"encoder_hidden_states": (self.dtype, (loaded.tokenizer.model_max_length, width))}
        pooled = {"text_embeds": (self.dtype, (encoders[-1].config.projection_dim,))} if self.family == "sdxl" else {}
        return layout | pooled

    def overlong(self, prompts: Iterable[str]) -> list[str]:
        """Return the prompts that have more tokens than the text encoder reads."""
        with quiet():
            return [text for text in prompts if self._is_overlong(text)]

    def _is_overlong(self, prompt: str) -> bool:
        tokenizer = self._loaded.tokenizer
        return len(tokenizer(prompt).input_ids) > tokenizer.model_max_length

    def unet_arguments(
        self, text: dict[str, Tensor], height: int, width: int, sizes: Tensor | None = None
    ) -> dict:
        """Return the keywords of a U-Net call for encoded prompts and images of `height` x `width` pixels.

        Args:
            sizes: SDXL's size inputs for each image, (B, 6): original height and width, top and left of the crop,
                height and width; by default those of an uncropped image.
        """
        context = text["encoder_hidden_states"]
        arguments: dict = {"encoder_hidden_states": context}
        if "text_embeds" in text:
            ids = [height, width, 0, 0, height, width]
            ids = context.new_tensor(ids).repeat(len(context), 1) if sizes is None else sizes.to(context)
            arguments["added_cond_kwargs"] = {"text_embeds": text["text_embeds"], "time_ids": ids}
        if width_of_guidance := self.unet.config.time_cond_proj_dim:  # distilled with the guidance as an input
            scales = torch.full((len(context),), self.defaults.guidance - 1)
            embedded = self._loaded.get_guidance_scale_embedding(scales, embedding_dim=width_of_guidance)
            arguments["timestep_cond"] = embedded.to(context)
        return arguments

    @property
    def moment_channels(self) -> int:
        """The channels of what `encode_images` returns."""
        return 2 * self.vae.config.latent_channels

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        """Encode images (B, 3, H, W) in [0, 1] to the moments (B, 2C, h, w) of their latents' distribution, in float32
        and unscaled."""
        images = images.to(self.device, torch.float32)
        return finite(self.vae.encode(images * 2 - 1).latent_dist.parameters, "the latents of these images")

    def latents_from(self, moments: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return scaled latents (B, C, h, w), as the U-Net takes them: drawn with `generator`, or the mean without."""
        from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

        distribution = DiagonalGaussianDistribution(moments)
        latents = distribution.mode() if generator is None else distribution.sample(generator)
        return scaled(latents, self.vae)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode scaled latents to images (B, 3, H, W), float32 in [0, 1].

        Raises:
            WorkFailed: the latents or the images hold NaN or Inf.
        """
        latents = finite(latents.to(self.device, torch.float32), "the sampled latents")
        images = self.vae.decode(unscaled(latents, self.vae)).sample
        return (finite(images, "the decoded images") / 2 + 0.5).clamp(0, 1)


def default_dtype(model: str | Path, device: torch.device) -> torch.dtype:
    """Return the precision in which a base computes on `device` unless another one is asked for."""
    return torch.float32 if model == EMBEDDED or device.type == "cpu" else torch.bfloat16


def load_base(
    model: str | Path = EMBEDDED,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    revision: str | None = None,
    vae: str | Path | None = None,
    vae_revision: str | None = None,
    prediction: str | None = None,
) -> Base:
    """Load a frozen base.

    Args:
        model: "scenes" (embedded), a diffusers folder, a hub id (`owner/name`, or `owner/name@revision`), or a single
            file in the original layout.
        dtype: of U-Net and text encoders; by default float32 on a CPU and for the embedded base, else bfloat16.
        device: the device of all parts; by default an accelerator where there is one.
        revision: branch, tag or commit of a hub id that names none.
        vae, vae_revision: an autoencoder (a folder, a hub id or a file) that replaces the base's own, and its revision.
        prediction: "epsilon", "v_prediction" or "flow", for files that do not say what the U-Net predicts, or say it
            wrongly.

    Raises:
        SceditError: the model does not exist, the hub cannot be reached, it is no pipeline, or its model is no U-Net.
    """
    device = torch.device(device) if device else best_device()
    dtype = dtype or default_dtype(model, device)
    if prediction and prediction not in PREDICTIONS:
        raise SceditError(f"prediction type {prediction!r}: not known", hint=f"choose {' or '.join(PREDICTIONS)}")
    model, revision = split_revision(model, revision)
    opened = open_pipeline(model, dtype, revision, prediction)
    pipeline = opened.pipeline
    check_latents(pipeline.vae, f"base {model}: its vae")
    vae_commit = None
    family = "scenes" if model == EMBEDDED else _family(pipeline)
    if vae:
        if family == "dreamlite":
            message = f"base {model}: its AutoencoderTiny cannot be replaced"
            raise SceditError(message, hint="leave the autoencoder out")
        vae, vae_revision = split_revision(vae, vae_revision)
        own, vae_commit = open_autoencoder(vae, pipeline.vae, vae_revision)
        pipeline.register_modules(vae=own)
    complete_inputs(pipeline)
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.requires_grad_(False).eval().to(device)
    if model == EMBEDDED and device.type == "cpu":
        from diffusers.models.attention_processor import AttnProcessor

        # Over 64 tokens, plain products are faster than PyTorch's fused attention for CPUs, above all backward.
        pipeline.unet.set_attn_processor(AttnProcessor())
    kind = Base
    if family == "dreamlite":
        from scedit_cli.models.dreamlite import DreamLiteBase as kind
    base = kind(model, family, opened.commit, pipeline, vae, vae_commit, opened.is_guessed, opened.names, prediction)
    _ = base.skips  # raises here for a U-Net that cannot be tuned, not at the first step
    if base.defaults.resolution >= 512:
        base.vae.enable_slicing()  # one image at a time keeps the peak of memory small
    return base.rescheduled(prediction) if prediction else base


def _family(pipeline: DiffusionPipeline) -> str:
    if type(pipeline.unet).__name__ == "DreamLiteUNetModel":
        return "dreamlite"
    if hasattr(pipeline, "text_encoder_2"):
        return "sdxl"
    return "sd21" if pipeline.unet.config.use_linear_projection else "sd15"


def finite(values: Tensor, what: str) -> Tensor:
    if not torch.isfinite(values).all():
        raise WorkFailed(
            f"{what} hold values that are not numbers (NaN or Inf)",
            hint="the weights may be damaged or the dtype too narrow: try float32 or bfloat16",
        )
    return values

"""Frozen pipelines for videos: AnimateDiff's, from texts, and Stable Video Diffusion's, from an image."""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from scedit_cli.models.base import Base, Defaults, default_dtype
from scedit_cli.models.fingerprint import fingerprint
from scedit_cli.models.latents import check_latents
from scedit_cli.models.loading import best_variant, check_files, names_in, quiet, read_index
from scedit_cli.models.names import VIDEO_PIPELINES, check_model, no_video
from scedit_cli.models.noise_levels import check_scheduler
from scedit_cli.models.parts import load_part
from scedit_cli.models.unet_inputs import check_texts, check_unet
from scedit_cli.utils.devices import best_device
from scedit_cli.utils.errors import SceditError, not_loaded
from scedit_cli.utils.hub import download_pipeline, split_revision
from scedit_cli.utils.io import expanded, read_json

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_MOTION = re.compile(r"\bmotion_modules\.")  # the layers that a motion U-Net has beside those of its base for images
_TEXT_PARTS, _IMAGE_PARTS = ("text_encoder", "tokenizer"), ("image_encoder", "feature_extractor")


class VideoBase(Base):
    """A frozen pipeline for videos."""

    @property
    def takes_image(self) -> bool:
        """Whether videos are made from an image, as Stable Video Diffusion's are, and not from texts."""
        return "image_encoder" in self._loaded.components and not hasattr(self._loaded, "text_encoder")

    @property
    def defaults(self) -> Defaults:
        """The defaults of the diffusers pipeline."""
        size = self.unet.config.sample_size
        resolution = (size if isinstance(size, int) else min(size)) * self._loaded.vae_scale_factor
        return Defaults(resolution, 25, 3.0) if self.takes_image else Defaults(resolution, 50, 7.5)

    @property
    def fps(self) -> int:
        """The frames per second that the pipeline makes by default."""
        return 7 if self.takes_image else 8

    @cached_property
    def fingerprints(self) -> tuple[str, ...]:
        """The U-Net's fingerprint, and that of the U-Net for images within a motion U-Net, whose tuners fit both."""
        return (self.fingerprint,) if self.takes_image else (self.fingerprint, fingerprint(self.unet, _MOTION))

    @property
    def distillation_doubt(self) -> None:
        return None


def load_video_base(
    model: str | Path, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
) -> VideoBase:
    """Load a frozen pipeline for videos.

    Args:
        model: a diffusers folder, or a hub id with or without `@revision`.
        dtype, device: as for `load_base`.

    Raises:
        SceditError: the model does not exist, the hub cannot be reached, or it is no such pipeline.
    """
    device = torch.device(device) if device else best_device()
    dtype = dtype or default_dtype(model, device)
    name, revision = split_revision(model)
    check_model(name)
    folder, commit = expanded(name), None
    if not folder.exists():
        folder, commit = download_pipeline(
            name, revision, lambda place: _checked_index(place, name), lambda files: best_variant(files, dtype)
        )
    pipeline = _load_folder(folder, name, dtype)
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.requires_grad_(False).eval().to(device)
    family = "svd" if "image_encoder" in _checked_index(folder, name)[1] else "sd15"
    base = VideoBase(name, family, commit, pipeline, names=names_in(folder))
    _ = base.skips  # raises here for a U-Net that cannot be tuned
    return base


def _checked_index(folder: Path, name: str) -> tuple[str, dict[str, str]]:
    """Return the pipeline's class and its parts' classes, after checking that videos can be made with it."""
    if not folder.is_dir():
        raise no_video(name, "a single file")
    kind, parts = read_index(folder, name)
    if kind not in VIDEO_PIPELINES:
        raise no_video(name, f"a {kind}")
    if parts.get("unet") != (wanted := VIDEO_PIPELINES[kind]):
        hint = "save it with save_pretrained of the pipeline with its motion adapter"
        raise SceditError(f"base {name}: its U-Net is a {parts.get('unet')}, not a {wanted}", hint)
    needed = ("vae", "scheduler", *(_IMAGE_PARTS if kind == "StableVideoDiffusionPipeline" else _TEXT_PARTS))
    if missing := [part for part in needed if part not in parts]:
        raise SceditError(f"base {name}: a {kind} without {' and '.join(missing)}", "get the folder anew")
    return kind, parts


def _load_folder(folder: Path, name: str, dtype: torch.dtype) -> DiffusionPipeline:
    import diffusers
    import transformers

    kind, _ = _checked_index(folder, name)
    if kind == "AnimateDiffPipeline":
        kinds = {
            "unet": diffusers.UNetMotionModel, "vae": diffusers.AutoencoderKL,
            "text_encoder": transformers.CLIPTextModel,
        }  # fmt: skip
        unused = {"motion_adapter": None, "feature_extractor": None, "image_encoder": None}
    else:
        kinds = {
            "unet": diffusers.UNetSpatioTemporalConditionModel, "vae": diffusers.AutoencoderKLTemporalDecoder,
            "image_encoder": transformers.CLIPVisionModelWithProjection,
        }  # fmt: skip
        unused = {}
    check_files(folder, name, dtype, ("image_encoder",))
    try:
        unet, vae = (read_json((folder / part / "config.json").read_text("utf-8")) for part in ("unet", "vae"))
        latents = vae.get("latent_channels", 4)
        if unused:
            check_unet(unet, name, latents)
        elif unet.get("in_channels") != 2 * latents:
            message = f"base {name}: its U-Net takes {unet.get('in_channels')} channels, not {2 * latents}"
            raise SceditError(message, "a U-Net that takes noise and the image's latents makes videos")
        with quiet():
            models = {}
            for part, model in kinds.items():
                precision = torch.float32 if part == "vae" else dtype
                models[part] = load_part(folder / part, model, precision, f"base {name}: weights of its {part}")
            pipeline = getattr(diffusers, kind).from_pretrained(folder, local_files_only=True, **models, **unused)
    except SceditError:
        raise
    except Exception as error:  # with odd weights and configurations, the libraries raise errors of any kind
        hint = "whole pipelines with .safetensors weights are read; pickled .bin weights are not"
        raise not_loaded(error, f"base {name}: its pipeline cannot be loaded", hint) from error
    check_latents(pipeline.vae, f"base {name}: its vae")
    check_scheduler(pipeline.scheduler, name)
    if unused:
        check_texts(pipeline, name)
    return pipeline

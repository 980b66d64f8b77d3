"""The runner that draws images, batch by batch, and gives the settings that their files record."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from scedit_cli.core.attach import attach
from scedit_cli.core.offload import ENCODER, offloaded
from scedit_cli.core.tuners import Tuner
from scedit_cli.exporting.running import ExportedUNet, GraphAttachment
from scedit_cli.generation.conditioning import Conditioning
from scedit_cli.generation.config import GenerationConfig
from scedit_cli.generation.image_jobs import ImageJob
from scedit_cli.inference.controls import PlacedTuner, on_device
from scedit_cli.inference.denoising import check_sampling
from scedit_cli.inference.sampler import sample
from scedit_cli.models.base import DTYPES, Base
from scedit_cli.models.loading import EMBEDDED, quiet
from scedit_cli.utils.errors import SceditError, in_field
from scedit_cli.utils.io import expanded
from scedit_cli.utils.reporter import SILENT, Reporter
from scedit_cli.utils.version import __version__

_SWITCHES = ("any_base", "vae_slicing", "vae_tiling", "offload", "compile")


class ImageRunner:
    """A base that draws images; within the `with` block its tuners are attached and its memory settings are on, and
    afterwards it is what it was."""

    def __init__(self, config: GenerationConfig, base: Base, conditioning: Conditioning) -> None:
        self.config, self.base, self.conditioning = config, base, conditioning
        self.sampler = config.sampler
        self.steps = self.sampler.steps or base.defaults.steps
        self.guidance = self.sampler.guided(base.defaults.guidance)
        with quiet(), in_field("sampler", named=False):
            how = self.sampler.scheduler, conditioning.start, self.sampler.reuse
            check_sampling(base, self.steps, self.guidance, *how)
        self._device = accelerator(config.base.device) if config.base.offload else base.device
        self._attachment = None

    def __enter__(self) -> ImageRunner:
        base, settings, placed = self.base, self.config.base, self.conditioning.placed
        with ExitStack() as undo:
            for part in ("slicing", "tiling"):
                if getattr(settings, f"vae_{part}"):
                    undo.callback(setattr, base.vae, f"use_{part}", getattr(base.vae, f"use_{part}", False))
                    getattr(base.vae, f"enable_{part}")()
            if settings.offload == "models":
                undo.callback(base.place, base.device)
                undo.callback(base.pipeline().remove_all_hooks)
            if settings.offload == "encoder":
                undo.callback(base.place, base.device)
                _ = base.fingerprint, base.parameter_count  # known now, while all weights are here
                base.place(self._device, ENCODER)
                undo.enter_context(offloaded(base.unet, self._device))
            if isinstance(base.unet, ExportedUNet):
                self._attachment = GraphAttachment(base.unet, [each.tuner for each in placed])
                undo.callback(self._attachment.detach)
            elif placed:
                self._attachment = attach(base.unet, [self._ready(each) for each in placed])
                undo.callback(self._attachment.detach)
            if settings.compile:
                undo.callback(setattr, base.unet, "_compiled_call_impl", base.unet._compiled_call_impl)
                base.unet.compile()
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._undo.close()

    def _ready(self, placed: PlacedTuner) -> Tuner:
        """Return a tuner on the device and in the base's precision, to which its edits are rounded anyway."""
        return on_device(placed, torch.device(self._device), self.base.dtype).tuner

    def batches(self, jobs: Sequence[ImageJob]) -> list[list[int]]:
        """Return batches of indices into `jobs` that can be drawn together, as they differ only in prompts, seeds and
        condition images; raise SceditError for batches that are too large for an exported U-Net."""
        groups: dict[Any, list[int]] = {}
        given = self.conditioning
        for i, job in enumerate(jobs):
            # Weighted prompts differ in length, and an image must not depend on the padding of its prompt.
            text = (job.prompt, job.negative) if self.sampler.weighted else None
            key = given.size(job), given.scales(job), given.spans(job), tuple(given.masks(job).items()), text
            groups.setdefault(key, []).append(i)
        most = self.sampler.batch_size
        batches = [group[at : at + most] for group in groups.values() for at in range(0, len(group), most)]
        if isinstance(self.base.unet, ExportedUNet):  # before the first image, since later batches may be larger
            guided = self.guidance.scale > 1 and self.base.unet.config.time_cond_proj_dim is None
            self.base.unet.check_rows(max(map(len, batches)) * (2 if guided else 1))
        return batches

    def draw(self, jobs: Sequence[ImageJob], reporter: Reporter = SILENT) -> list[Image.Image]:
        """Draw the images of a batch; `reporter` gets (denoising steps done, of how many)."""
        first, given = jobs[0], self.conditioning
        width, height = given.size(first)
        if self._attachment:
            self._attachment.scales = given.scales(first)
            self._attachment.set_regions(given.regions(first))
        return sample(
            self.base,
            [job.prompt for job in jobs],
            attachment=self._attachment,
            hints=given.hints(jobs),
            seeds=[job.seed for job in jobs],
            steps=self.steps,
            guidance=self.guidance,
            negative=[job.negative for job in jobs],
            height=height,
            width=width,
            batch_size=len(jobs),
            scheduler=self.sampler.scheduler,
            spans=given.spans(first),
            start=given.start,
            weighted=self.sampler.weighted,
            reuse=self.sampler.reuse,
            offload=str(self._device) if self.config.base.offload == "models" else None,
            reporter=reporter,
        )

    def facts(self, job: ImageJob) -> dict[str, Any]:
        """Return the fields of a file name's template."""
        width, height = self.conditioning.size(job)
        return {
            "prompt": job.prompt,
            "seed": job.seed,
            "sweep": "-".join(f"{name}-{scale:g}" for name, scale in job.scales.items()) or "none",
            "base": Path(self.base.name).name,
            "scheduler": (self.sampler.scheduler or type(self.base.scheduler).__name__).partition(":")[0],
            "steps": self.steps,
            "guidance": self.guidance.scale,
            "width": width,
            "height": height,
            "date": time.strftime("%Y-%m-%d"),
            "time": time.strftime("%H-%M-%S"),
        }

    def settings(self, job: ImageJob, batch: list[int] | None = None) -> dict[str, Any]:
        """Return the settings that the image's file records and `settings_to_remake` reads back."""
        sampler, base, guidance = self.sampler, self.base, self.guidance
        width, height = self.conditioning.size(job)
        span = "-".join(format(Decimal(repr(float(each))), "f") for each in sampler.guidance_span)
        return {
            "program": f"scedit {__version__}, torch {torch.__version__}",
            "base": base.name if base.name == EMBEDDED else _from_anywhere(base.name),
            "revision": base.revision,
            "vae": base.vae_name and _from_anywhere(base.vae_name),
            "vae_revision": base.vae_revision,
            "base_fingerprint": base.fingerprint,
            "prediction": base.prediction,
            "unet": self.config.base.unet and str(expanded(self.config.base.unet).absolute()),
            "dtype": next(name for name, dtype in DTYPES.items() if dtype == base.dtype),
            "device": str(self._device),
            "prompt": job.prompt,
            "negative": job.negative,
            "seed": job.seed,
            "steps": self.steps,
            "guidance": guidance.scale,
            "control_guidance": guidance.control,
            "guidance_rescale": guidance.rescale,
            "guidance_span": None if tuple(sampler.guidance_span) == (0, 1) else span,
            "scheduler": sampler.scheduler or type(base.scheduler).__name__,
            "width": width,
            "height": height,
            "weighted": sampler.weighted,
            "reuse": sampler.reuse,
            **{name: getattr(self.config.base, name) for name in _SWITCHES},
            **self.conditioning.settings(job),
            "batch": batch,
        }


def accelerator(name: str | None = None) -> torch.device:
    """Return the accelerator to offload from: `name`, else the machine's; raise SceditError where there is none."""
    if name == "cpu":
        message = "base.offload: on `device=cpu` there is nothing to offload from"
        raise SceditError(message, "leave one of them out", "base.offload")
    device = torch.device(name) if name else torch.accelerator.current_accelerator(check_available=True)
    if device is None:
        message = "base.offload: there is no accelerator here to offload from"
        raise SceditError(message, "leave it out", "base.offload")
    return device


def _from_anywhere(name: str) -> str:
    """Return the name of a model, which is absolute where it is a path."""
    local = expanded(name)
    return str(local.absolute()) if local.exists() else name

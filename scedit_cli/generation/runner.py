"""The runner that draws a request's images, batch by batch, and gives the settings that their files record."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from scedit_cli.core.attach import attach
from scedit_cli.generation.conditioning import Conditioning
from scedit_cli.generation.config import Request
from scedit_cli.generation.image_jobs import ImageJob
from scedit_cli.inference.denoising import check_sampling
from scedit_cli.inference.sampler import sample
from scedit_cli.models.base import DTYPES, Base
from scedit_cli.models.loading import EMBEDDED, quiet
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.io import expanded
from scedit_cli.utils.reporter import SILENT, Reporter
from scedit_cli.utils.version import __version__

_BATCH = 8
_SWITCHES = ("any_base", "weighted", "vae_slicing", "vae_tiling", "offload", "compile")


class ImageRunner:
    """A base that draws a request's images; its tuners are attached within the `with` block."""

    def __init__(self, request: Request, base: Base, steering: Conditioning) -> None:
        self.request, self.base, self.steering = request, base, steering
        self.steps = request.steps or base.defaults.steps
        self.guidance = request.guided(base.defaults.guidance)
        with quiet():
            check_sampling(base, self.steps, self.guidance, request.scheduler, steering.start)
        self._device = accelerator(request.device) if request.offload else base.device
        self._attachment = None

    def __enter__(self) -> ImageRunner:
        base, placed = self.base, self.steering.placed
        if self.request.vae_slicing:
            base.vae.enable_slicing()
        if self.request.vae_tiling:
            base.vae.enable_tiling()
        if placed:
            # The tuners take the base's precision, since their edits are rounded to it anyway.
            self._attachment = attach(base.unet, [each.tuner.to(self._device, base.dtype) for each in placed])
        if self.request.compile:
            base.unet.compile()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._attachment:
            self._attachment.detach()
        if self.request.compile:
            self.base.unet._compiled_call_impl = None

    def batches(self, orders: Sequence[ImageJob]) -> list[list[int]]:
        """Return batches of indices into `orders` that can be drawn together, as they differ only in prompts, seeds and
        condition images."""
        groups: dict[Any, list[int]] = {}
        for i, order in enumerate(orders):
            # Weighted prompts differ in length, and an image must not depend on the padding of its prompt.
            text = (order.prompt, order.negative) if self.request.weighted else None
            key = (self.steering.size(order), self.steering.scales(order), self.steering.spans(order), text)
            groups.setdefault(key, []).append(i)
        most = self.request.batch_size or _BATCH
        return [group[at : at + most] for group in groups.values() for at in range(0, len(group), most)]

    def draw(self, orders: Sequence[ImageJob], reporter: Reporter = SILENT) -> list[Image.Image]:
        """Draw the images of a batch; `reporter` gets (denoising steps done, of how many)."""
        first, steering = orders[0], self.steering
        width, height = steering.size(first)
        if self._attachment:
            self._attachment.scales = steering.scales(first)
            self._attachment.set_regions(steering.regions(first))
        return sample(
            self.base,
            [order.prompt for order in orders],
            attachment=self._attachment,
            hints=steering.hints(orders),
            seeds=[order.seed for order in orders],
            steps=self.steps,
            guidance=self.guidance,
            negative=[order.negative for order in orders],
            height=height,
            width=width,
            batch_size=len(orders),
            scheduler=self.request.scheduler,
            spans=steering.spans(first),
            start=steering.start,
            weighted=self.request.weighted,
            offload=str(self._device) if self.request.offload else None,
            reporter=reporter,
        )

    def facts(self, order: ImageJob) -> dict[str, Any]:
        """Return the fields of a file name's template."""
        width, height = self.steering.size(order)
        return {
            "prompt": order.prompt,
            "seed": order.seed,
            "sweep": "-".join(f"{name}-{scale:g}" for name, scale in order.scales.items()) or "none",
            "base": Path(self.base.name).name,
            "scheduler": (self.request.scheduler or type(self.base.scheduler).__name__).partition(":")[0],
            "steps": self.steps,
            "guidance": self.guidance.scale,
            "width": width,
            "height": height,
            "date": time.strftime("%Y-%m-%d"),
            "time": time.strftime("%H-%M-%S"),
        }

    def settings(self, order: ImageJob, batch: list[int] | None = None) -> dict[str, Any]:
        """Return the settings that the image's file records and `request_from` reads back."""
        request, base, guidance = self.request, self.base, self.guidance
        width, height = self.steering.size(order)
        return {
            "program": f"scedit {__version__}, torch {torch.__version__}",
            "base": base.name if base.name == EMBEDDED else _from_anywhere(base.name),
            "revision": base.revision,
            "vae": base.vae_name and _from_anywhere(base.vae_name),
            "vae_revision": base.vae_revision,
            "base_fingerprint": base.fingerprint,
            "prediction": request.prediction,
            "dtype": next(name for name, dtype in DTYPES.items() if dtype == base.dtype),
            "device": str(self._device),
            "prompt": order.prompt,
            "negative": order.negative,
            "seed": order.seed,
            "steps": self.steps,
            "guidance": guidance.scale,
            "guidance_rescale": guidance.rescale,
            "guidance_span": request.guidance_span,
            "scheduler": request.scheduler or type(base.scheduler).__name__,
            "width": width,
            "height": height,
            **{name: getattr(request, name) for name in _SWITCHES},
            **self.steering.settings(order),
            "batch": batch,
        }


def accelerator(name: str | None = None) -> torch.device:
    """Return the accelerator to offload from: `name`, else the machine's; raise SceditError where there is none."""
    if name == "cpu":
        raise SceditError("--offload: on --device cpu there is nothing to offload from", hint="leave one of them out")
    device = torch.device(name) if name else torch.accelerator.current_accelerator(check_available=True)
    if device is None:
        raise SceditError("--offload: there is no accelerator here to offload from", hint="leave it out")
    return device


def _from_anywhere(name: str) -> str:
    """Return the name of a model, which is absolute where it is a path."""
    local = expanded(name)
    return str(local.absolute()) if local.exists() else name

"""Denoising of latents through diffusers' own pipelines: from text alone, from an image, or within a mask."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from scedit_cli.inference.weighting import parsed, pooled
from scedit_cli.models.base import Base
from scedit_cli.models.schedulers import check_steps, scheduler_like, seed_noise
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.reporter import Reporter

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_TEXT = (  # what the `encode_prompt` of a pipeline returns; not all pipelines return the last ones
    "prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds",
    "prompt_embeds_mask", "negative_prompt_embeds_mask",
)  # fmt: skip
_PER_GUIDANCE = (
    "prompt_embeds", "prompt_embeds_mask", "add_text_embeds", "add_time_ids", "mask", "masked_image_latents"
)  # fmt: skip


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance (arXiv 2207.12598).

    Attributes:
        scale: the scale of the prompt; 1 or less is no guidance.
        rescale: the share of its excess contrast that is removed, in [0, 1] (arXiv 2305.08891).
        start, end: the fractions of the steps between which it acts (arXiv 2404.07724).
        control: the scale of the hints, between 1, which is no guidance, and `scale`.
    """

    scale: float
    rescale: float = 0.0
    start: float = 0.0
    end: float = 1.0
    control: float = 1.0

    def at(self, progress: float) -> float:
        return self.scale if self.start <= progress < self.end else 1.0

    def unprompted(self, progress: float) -> float:
        """Return the share of α with which tuners edit the prediction without the prompt.

        With edits of share s there, and of share 1 in the prediction with the prompt, guidance moves by
        s + scale·(1 - s) times what the edits change, to first order: by `control` for the share returned.
        """
        scale = self.at(progress)
        return (scale - self.control) / (scale - 1) if scale > 1 else 1.0


@dataclass(frozen=True)
class Start:
    """An image to start from.

    Attributes:
        image: the image, (1, 3, H, W) in [0, 1].
        strength: the share of it that becomes noise, in (0, 1]; the same share of the steps is made.
        redraw: a mask of the part that is redrawn, (1, 1, H, W) in [0, 1]; None redraws all of it.
    """

    image: Tensor
    strength: float
    redraw: Tensor | None = None

    @property
    def redrawn(self) -> Tensor | None:
        """The mask `redraw` as bool, cut at 0.5 as in diffusers."""
        return None if self.redraw is None else self.redraw >= 0.5


class Denoiser:
    """A pipeline that denoises many batches.

    Args:
        base: the frozen base.
        scheduler: as for `Base.pipeline`.
        start: an image to start from; without one, images are drawn from text alone.
        offload: an accelerator that holds each model only while it runs.

    Raises:
        SceditError: the base cannot be sampled with these options.
    """

    def __init__(
        self, base: Base, scheduler: str | None = None, start: Start | None = None, offload: str | None = None
    ) -> None:
        self.base = base
        self.start = start
        self.pipeline = _for_task(base, base.pipeline(scheduler), start)
        if offload:
            self.pipeline.enable_model_cpu_offload(device=offload)
        self._given = self._start_arguments() if start else {}

    def encode(self, prompt: str, negative: str, weighted: bool = False) -> dict[str, Tensor]:
        """Return the pipeline's keywords for one prompt and its negative, a batch of one. compel reads `weighted`
        prompts, which may have any length and weights. An empty negative becomes the pipeline's own: zeros for most
        SDXL bases, as for captions dropped in training, else the encoded empty prompt.

        Raises:
            SceditError: compel is not installed.
        """
        if weighted:
            if self.base.family == "dreamlite":
                message = f"sampler.weighted: compel does not read prompts for DreamLite, of which {self.base.name} is"
                raise SceditError(message, "leave it out", "sampler.weighted")
            return _read_by_compel(self.pipeline, prompt, negative)
        encoded = self.pipeline.encode_prompt(
            prompt=prompt,
            negative_prompt=negative or None,
            device=self.pipeline._execution_device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=True,
        )
        return {name: each for name, each in zip(_TEXT, encoded) if each is not None}

    def latents(
        self,
        text: dict[str, Tensor],
        generators: Sequence[torch.Generator],
        *,
        steps: int,
        guidance: Guidance,
        height: int,
        width: int,
        before_step: Callable[[float], None],
        reporter: Reporter,
    ) -> Tensor:
        """Return scaled latents, (B, C, h, w), one per generator.

        Args:
            text: the keywords of `encode`, stacked to the batch.
            before_step: called with the completed share of the steps before each call of the U-Net; second-order
                samplers make two calls per step.
            reporter: gets (calls done, of how many) after each call.
        """
        pipeline = self.pipeline
        order = pipeline.scheduler.order
        switch = _Switch(guidance, text)
        seed_noise(pipeline.scheduler, generators)

        def after_step(pipeline: DiffusionPipeline, step: int, timestep: Any, tensors: dict[str, Tensor]) -> dict:
            done, total = step + 1, pipeline.num_timesteps
            reporter.progress(done, total)
            if done == total:
                return {}
            share = done // order / -(-total // order)
            before_step(share)
            return switch(pipeline, share, tensors)

        before_step(0.0)
        given = {name: self._batched(value, len(generators)) for name, value in self._given.items()} | {
            "generator": list(generators),
            "num_inference_steps": steps,
            "guidance_scale": guidance.at(0.0),
            "output_type": "latent",  # the pipeline would decode in its own precision, without a VAE's shift
            "callback_on_step_end": after_step,
            "callback_on_step_end_tensor_inputs": [n for n in _PER_GUIDANCE if n in pipeline._callback_tensor_inputs],
        }
        takes = inspect.signature(pipeline.__call__).parameters
        if "height" in takes:
            given |= {"height": height, "width": width}
        if guidance.at(0.0) <= 1:
            text = {name: each for name, each in text.items() if not name.startswith("negative")}
        with rescaled(pipeline, guidance.rescale) if guidance.rescale else nullcontext():
            return pipeline(**given, **text)[0]

    def _start_arguments(self) -> dict[str, Any]:
        """Return the pipeline's keywords for the image to start from: its latents, encoded once in float32."""
        start, base = self.start, self.base
        given: dict[str, Any] = {"image": self._encoded(start.image), "strength": start.strength}
        if start.redraw is not None:
            # A latent stands for a square of pixels, which is redrawn where the mask has any pixel in it.
            side = self.pipeline.vae_scale_factor
            drawn = F.interpolate(F.max_pool2d(start.redrawn.float(), side), scale_factor=side)
            given["mask_image"] = drawn
            if base.unet.config.in_channels != base.vae.config.latent_channels:
                masked = torch.where(drawn > 0.5, 0.5, start.image)  # such U-Nets were trained with gray there
                given["masked_image_latents"] = self._encoded(masked)
            else:
                given["masked_image_latents"] = torch.zeros_like(given["image"])  # unused, so nothing is encoded
        return given

    def _encoded(self, image: Tensor) -> Tensor:
        return self.base.latents_from(self.base.encode_images(image))

    @staticmethod
    def _batched(value: Any, count: int) -> Any:
        return value.expand(count, -1, -1, -1) if isinstance(value, Tensor) else value


def check_sampling(
    base: Base,
    steps: int,
    guidance: Guidance,
    scheduler: str | None = None,
    start: Start | None = None,
    reuse: int = 1,
) -> None:
    """Raise SceditError for a sampler that does not suit this base, and for steps or a guidance that do not suit
    both or the image to start from."""
    if start and int(steps * start.strength) < 1:
        raise SceditError(f"strength {start.strength:g} of {steps} steps is no step at all", "raise one of the two")
    taken = int(steps * start.strength) if start else steps
    if reuse > taken:
        message = f"sampler.reuse is {reuse}, and there are {taken} steps: the deep layers would run at the first alone"
        raise SceditError(message, "give fewer steps from one full step to the next, or more steps", "sampler.reuse")
    check_steps(scheduler_like(base.scheduler, scheduler), steps, scheduler)
    if not 1 <= guidance.control <= max(guidance.scale, 1):
        message = f"sampler.control_guidance is {guidance.control:g}, and the guidance of the prompt {guidance.scale:g}"
        hint = "give at least 1 and at most the prompt's, or leave it out"
        raise SceditError(message, hint, "sampler.control_guidance")
    if base.unet.config.get("time_cond_proj_dim") is not None:
        if (guidance.start, guidance.end) != (0, 1):
            raise SceditError(
                f"base {base.name} has guidance built in, it cannot be limited to a part of the steps",
                hint="leave the guidance interval out",
            )
        if guidance.control != 1:
            message = f"base {base.name} has guidance built in, which does not reach the hints"
            raise SceditError(message, "leave the guidance of the hints out", "sampler.control_guidance")


@contextmanager
def rescaled(pipeline: DiffusionPipeline, share: float) -> Iterator[None]:
    """Remove a `share` of guidance's excess contrast within the context (arXiv 2305.08891, section 3.4), also in
    pipelines that have no argument for it.

    A hook replaces both outputs of the U-Net, with and without the prompt, by the guided and rescaled output, which the
    pipeline's own guidance then leaves unchanged.
    """
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

    def answer(unet: torch.nn.Module, inputs: tuple, output: tuple[Tensor]) -> tuple[Tensor] | None:
        if not pipeline.do_classifier_free_guidance:
            return None
        without, with_ = output[0].chunk(2)
        guided = rescale_noise_cfg(without + pipeline.guidance_scale * (with_ - without), with_, share)
        return (torch.cat([guided, guided]),)

    handle = pipeline.unet.register_forward_hook(answer)
    try:
        yield
    finally:
        handle.remove()


class _Switch:
    """A switch of classifier-free guidance between steps; without guidance, the batch is half as large."""

    def __init__(self, guidance: Guidance, text: dict[str, Tensor]) -> None:
        self._guidance = guidance
        self._negatives = {
            "prompt_embeds": text["negative_prompt_embeds"],
            "prompt_embeds_mask": text.get("negative_prompt_embeds_mask"),
            "add_text_embeds": text.get("negative_pooled_prompt_embeds"),
        }
        self._on = guidance.at(0.0) > 1

    def __call__(self, pipeline: DiffusionPipeline, progress: float, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        scale = self._guidance.at(progress)
        if (scale > 1) == self._on:
            return {}
        self._on = not self._on
        pipeline._guidance_scale = scale
        if not self._on:
            return {name: each.chunk(2)[1] for name, each in tensors.items()}
        negatives = {name: self._negatives.get(name, each) for name, each in tensors.items()}
        return {name: torch.cat([negatives[name].to(each), each]) for name, each in tensors.items()}


def _for_task(base: Base, pipeline: DiffusionPipeline, start: Start | None) -> DiffusionPipeline:
    import diffusers

    if start is None:
        return pipeline
    if base.family == "dreamlite":
        message = f"base {base.name}: starting from an image is not written for DreamLite"
        raise SceditError(message, hint="draw from text alone")
    if (latent := base.vae.config.latent_channels) != 4:
        raise SceditError(
            f"base {base.name}: its latents have {latent} channels; diffusers starts from images with 4 only",
            hint="draw from text alone",
        )
    family = "StableDiffusionXL" if hasattr(pipeline, "text_encoder_2") else "StableDiffusion"
    kind = getattr(diffusers, f"{family}{'Img2Img' if start.redraw is None else 'Inpaint'}Pipeline")
    takes = inspect.signature(kind.__init__).parameters
    parts = {name: part for name, part in pipeline.components.items() if name in takes}
    options = {"requires_safety_checker": False, "add_watermarker": False}
    options["force_zeros_for_empty_prompt"] = base.zeroes_dropped_text
    made = kind(**parts, **{name: value for name, value in options.items() if name in takes})
    made.set_progress_bar_config(disable=True)
    return made


def _read_by_compel(pipeline: DiffusionPipeline, prompt: str, negative: str) -> dict[str, Tensor]:
    conjunctions = [parsed(text) for text in (prompt, negative)]  # raises SceditError where compel is not installed
    from compel import CompelForSD, CompelForSDXL

    xl = hasattr(pipeline, "text_encoder_2")
    read = (CompelForSDXL if xl else CompelForSD)(pipeline, device=str(pipeline._execution_device))
    readers = [read.compel_1, read.compel_2] if xl else [read.compel]
    readers[-1].requires_pooled = False  # compel pools the literal text, and with pooling refuses weights of and()
    both = torch.cat([reader([prompt, negative]) for reader in readers], dim=-1)
    text = dict(zip(("prompt_embeds", "negative_prompt_embeds"), both.chunk(2), strict=True))
    if xl:
        vectors = [pooled(conjunction, readers[-1].conditioning_provider) for conjunction in conjunctions]
        text |= dict(zip(("pooled_prompt_embeds", "negative_pooled_prompt_embeds"), vectors, strict=True))
        if not negative and pipeline.config.force_zeros_for_empty_prompt:
            text |= {name: torch.zeros_like(each) for name, each in text.items() if name.startswith("negative")}
    return text

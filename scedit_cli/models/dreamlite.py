"""DreamLite's pipelines as bases for images from texts, which Qwen3-VL reads; latents are two images side by side."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scedit_cli.models.base import Base, Defaults, finite
from scedit_cli.models.latents import scaled
from scedit_cli.models.loading import quiet

TOKENS = 200  # of a prompt, with the end of its template; the pipelines' default


@dataclass(eq=False)
class DreamLiteBase(Base):
    """A frozen DreamLite pipeline. Its U-Net takes noisy latents and, on their right, those of an image to edit; images
    from texts have zeros there, which hooks on the U-Net add."""

    def __post_init__(self) -> None:
        take_one_image(self.unet)
        kind = type(self._loaded)
        self._loaded.__class__ = type(kind.__name__, (_Batched, kind), {})

    @property
    def defaults(self) -> Defaults:
        """The defaults of the diffusers pipelines."""
        resolution = self._loaded.default_sample_size * self._loaded.vae_scale_factor
        return Defaults(resolution, 4, 1.0) if self.is_distilled else Defaults(resolution, 30, 3.5)

    @property
    def is_distilled(self) -> bool:
        return self._loaded.is_mobile

    @property
    def distillation_doubt(self) -> None:
        return None

    @property
    def moment_channels(self) -> int:
        return self.vae.config.latent_channels

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> dict[str, Tensor]:
        """Encode prompts to `encoder_hidden_states` (B, tokens, width) and `encoder_attention_mask` (B, tokens), 1 for
        each token and 0 after the last one. An empty prompt is encoded as guidance's negative one."""
        with quiet():
            context, mask = self._loaded.read([text and _asked(text) for text in prompts], self.device)
        lacking = TOKENS - mask.shape[1]
        padded = {"encoder_hidden_states": F.pad(context, (0, 0, 0, lacking))}
        padded["encoder_attention_mask"] = F.pad(mask, (0, lacking))
        return {name: each.to(self.dtype) for name, each in padded.items()}

    @property
    def text_layout(self) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        width = self._loaded.text_encoder.config.get_text_config().hidden_size
        shapes = {"encoder_hidden_states": (TOKENS, width), "encoder_attention_mask": (TOKENS,)}
        return {name: (self.dtype, shape) for name, shape in shapes.items()}

    def _is_overlong(self, prompt: str) -> bool:
        loaded = self._loaded
        whole = loaded.prompt_template_encode_generate.format(_asked(prompt))
        return len(loaded.tokenizer(whole).input_ids) > TOKENS + loaded.prompt_template_encode_generate_start_idx

    def unet_arguments(self, text: dict[str, Tensor], height: int, width: int, sizes: Tensor | None = None) -> dict:
        """Return the keywords of a U-Net call as `Base.unet_arguments` does; DreamLite takes no sizes but the image's
        own."""
        return text | _size_input(height, width, text["encoder_hidden_states"])

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        """Encode images (B, 3, H, W) in [0, 1] to latents (B, C, h, w), in float32 and unscaled: this autoencoder gives
        no distribution."""
        images = images.to(self.device, torch.float32)
        return finite(self.vae.encode(images * 2 - 1).latents, "the latents of these images")

    def latents_from(self, moments: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return scaled latents (B, C, h, w), as the U-Net takes them; nothing is drawn."""
        return scaled(moments, self.vae)


def take_one_image(unet: nn.Module) -> None:
    """Let DreamLite's U-Net be called with the noisy latents alone, and return their velocity alone."""
    unet.register_forward_pre_hook(_Widening(), with_kwargs=True)
    unet.register_forward_hook(_Cut())


class _Widening:
    """A forward pre-hook on the U-Net that adds zeros for an image to edit, on the right of the latents."""

    def __call__(self, unet: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        sample = args[0] if args else kwargs["sample"]
        wide = F.pad(sample, (0, sample.shape[-1]))
        return ((wide, *args[1:]), kwargs) if args else (args, kwargs | {"sample": wide})


class _Cut:
    """A forward hook on the U-Net that leaves the left half of its output."""

    def __call__(self, unet: nn.Module, args: tuple, output: Any) -> Any:
        left = output[0].chunk(2, dim=-1)[0]
        return (left,) if isinstance(output, tuple) else type(output)(sample=left)


class _Batched:
    """The pipelines' way from texts to latents for a batch of encoded prompts, with calls between steps. Their own call
    takes a single prompt, encodes it itself and calls nothing."""

    _callback_tensor_inputs = ["prompt_embeds", "prompt_embeds_mask"]

    @property
    def is_mobile(self) -> bool:
        """Whether it is the distilled pipeline, which has no guidance."""
        return type(self).__name__ == "DreamLiteMobilePipeline"

    @property
    def do_classifier_free_guidance(self) -> bool:
        return self.guidance_scale > 1

    @property
    def guidance_scale(self) -> float:
        return self._guidance_scale

    def read(self, texts: list[str], device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the texts' features (B, tokens, width), padded to the longest, and their mask (B, tokens)."""
        dtype = self.text_encoder.dtype
        return super().encode_prompt("generate", texts, device, dtype, max_sequence_length=TOKENS)

    def encode_prompt(
        self, prompt: str, negative_prompt: str | None, device: torch.device, **unused: Any
    ) -> tuple[Tensor | None, ...]:
        """Return features of prompt and negative prompt, nothing for pooled ones, and the masks of the two, all as the
        pipeline's own call makes them. The distilled pipeline reads no negative prompt: the prompt stands for it."""
        texts = [_asked(prompt)] if self.is_mobile else [negative_prompt or "", _asked(prompt)]
        context, mask = self.read(texts, device)
        return context[-1:], context[:1], None, None, mask[-1:], mask[:1]

    @torch.no_grad()
    def __call__(
        self,
        *,
        prompt_embeds: Tensor,
        prompt_embeds_mask: Tensor,
        negative_prompt_embeds: Tensor | None = None,
        negative_prompt_embeds_mask: Tensor | None = None,
        height: int,
        width: int,
        guidance_scale: float,
        num_inference_steps: int,
        generator: list[torch.Generator],
        callback_on_step_end: Callable[..., dict[str, Tensor]],
        callback_on_step_end_tensor_inputs: list[str],
        output_type: str = "latent",
    ) -> tuple[Tensor]:
        self._guidance_scale = guidance_scale
        text = {"prompt_embeds": prompt_embeds, "prompt_embeds_mask": prompt_embeds_mask}
        if self.do_classifier_free_guidance:
            negatives = (negative_prompt_embeds, negative_prompt_embeds_mask)
            text = {name: torch.cat([each, text[name]]) for name, each in zip(text, negatives, strict=True)}
        dtype, device = self.text_encoder.dtype, self._execution_device
        channels = self.vae.config.latent_channels
        latents = self.prepare_latents(len(generator), channels, height, width, dtype, device, generator)
        self._set_timesteps(num_inference_steps, latents)
        timesteps = self.scheduler.timesteps
        self.num_timesteps = len(timesteps)
        for step, time in enumerate(timesteps):
            rows = torch.cat([latents] * 2) if self.do_classifier_free_guidance else latents
            velocity = self.unet(
                rows,
                timestep=time.expand(len(rows)).to(dtype),
                encoder_hidden_states=text["prompt_embeds"],
                encoder_attention_mask=text["prompt_embeds_mask"],
                return_dict=False,
                **_size_input(height, width, rows),
            )[0]
            if self.do_classifier_free_guidance:
                without, with_ = velocity.chunk(2)
                velocity = without + self.guidance_scale * (with_ - without)
            latents = self.scheduler.step(velocity, time, latents, generator=generator, return_dict=False)[0]
            text |= callback_on_step_end(self, step, time, text)
        self.maybe_free_model_hooks()
        return (latents,)

    def _set_timesteps(self, steps: int, latents: Tensor) -> None:
        """Set the scheduler's steps. Where it shifts its noise levels by the image's size, that is a number of patches,
        each of two by two latents."""
        import numpy as np
        from diffusers.pipelines.dreamlite.pipeline_dreamlite import calculate_shift

        if "mu" not in inspect.signature(self.scheduler.set_timesteps).parameters:
            return self.scheduler.set_timesteps(steps, device=latents.device)
        usual = {"base_image_seq_len": 256, "max_image_seq_len": 4096, "base_shift": 0.5, "max_shift": 1.16}
        ends = [self.scheduler.config.get(name, value) for name, value in usual.items()]
        shift = calculate_shift(latents.shape[2] * latents.shape[3] // 4, *ends)
        sigmas = np.linspace(1.0, 1 / steps, steps)
        self.scheduler.set_timesteps(sigmas=sigmas, device=latents.device, mu=shift)


def _asked(prompt: str) -> str:
    return f"[Generate]: {prompt}"


def _size_input(height: int, width: int, like: Tensor) -> dict[str, dict[str, Tensor]]:
    return {"added_cond_kwargs": {"time_ids": like.new_tensor([[width, height]] * len(like))}}

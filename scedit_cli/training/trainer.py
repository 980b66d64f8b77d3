"""The training steps of one tuner on a frozen base, and the state from which they go on bit for bit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from scedit_cli.base import Base
from scedit_cli.core.attach import attach
from scedit_cli.core.objective import add_noise, min_snr_weights, noise_prediction_loss
from scedit_cli.core.tuners import Tuner
from scedit_cli.data.cache import Cache
from scedit_cli.data.loader import batches
from scedit_cli.data.sampler import StatefulSampler
from scedit_cli.errors import SceditError
from scedit_cli.recipe import TrainSection
from scedit_cli.training.checkpoints import Checkpoint
from scedit_cli.training.schedules import draw_timesteps, learning_rate_factor

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Step:
    """A step that was made, the first being number 1. `losses` (B,) are those of the pictures `indices`, on the base's
    device: looking at them waits for them."""

    number: int
    losses: Tensor
    learning_rate: float
    indices: list[int]


class Trainer:
    """Trains `tuner`, which stays attached to the base until `close`, or the end of a `with` block.

    Everything random in step k is drawn on the CPU from the seed and k, so that its state is the weights, the
    optimizer's moments and the number of steps made.

    Args:
        base: frozen, in the precision to train in. Only its U-Net is called, once per step.
        tuner: float32, on the base's device.
        cache: the data; it holds hints of the tuner's condition.
        size: width and height of the pictures in pixels.
        options: of the optimisation.
        caption_dropout: share of captions that each step replaces with the empty one.
    """

    def __init__(
        self,
        base: Base,
        tuner: Tuner,
        cache: Cache,
        size: tuple[int, int],
        options: TrainSection,
        caption_dropout: float = 0.0,
    ) -> None:
        self.base, self.tuner, self.options = base, tuner, options
        self.step = 0
        self.optimizer = torch.optim.AdamW(
            tuner.parameters(),
            lr=options.learning_rate,
            weight_decay=options.weight_decay,
            fused=base.device.type in ("cpu", "cuda"),
        )
        self.average = None
        if options.ema_decay:
            self.average = AveragedModel(tuner, multi_avg_fn=get_ema_multi_avg_fn(options.ema_decay))
        self._width, self._height = size
        self._caption_dropout = caption_dropout
        self._empty_text = cache.empty_text
        self._alphas = base.scheduler.alphas_cumprod.to(base.device)
        self._scaler = torch.amp.GradScaler(base.device.type, enabled=options.precision == "fp16")
        self._sampler = StatefulSampler(len(cache), options.batch_size, options.seed)
        self._batches = batches(cache, self._sampler)
        self.edits = attach(base.unet, tuner, memory=options.memory, recompute=options.recompute)

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self._batches.close()
        self.edits.detach()

    def advance(self) -> Step:
        """Makes the next step."""
        options, device = self.options, self.base.device
        generator = _generator(options.seed, self.step)
        batch = next(self._batches)
        latents = self.base.latents_from(batch.moments, generator)
        noise = torch.randn(latents.shape, generator=generator)
        timesteps = draw_timesteps(
            options.timesteps, len(latents), len(self._alphas), options.timestep_shift, generator
        )
        dropped = torch.rand(len(latents), generator=generator) < self._caption_dropout
        text = {name: self._dropped(name, values, dropped).to(device) for name, values in batch.text.items()}
        latents, noise, timesteps = latents.to(device), noise.to(device), timesteps.to(device)
        self.edits.set_hints({kind: hints.to(device) for kind, hints in batch.hints.items()} or None)

        noisy = add_noise(latents, noise, timesteps, self._alphas).to(self.base.dtype)
        with torch.autocast(device.type, self.base.dtype, enabled=options.precision != "fp32"):
            arguments = self.base.unet_arguments(text, self._height, self._width)
            output = self.base.unet(noisy, timesteps, **arguments).sample
        weights = None
        if options.loss_weighting == "min-snr":
            weights = min_snr_weights(timesteps, self._alphas, self.base.prediction_type, options.snr_gamma)
        losses = noise_prediction_loss(
            output, noise, latents, timesteps, self._alphas, self.base.prediction_type, weights
        )
        self._scaler.scale(losses.mean()).backward()
        rate = self._update()
        return Step(self.step, losses.detach(), rate, batch.indices)

    @contextmanager
    def averaged(self) -> Iterator[Tuner]:
        """The tuner, within with its averaged weights if an average is kept."""
        if self.average is None or not self.average.n_averaged:
            yield self.tuner
            return
        own = {name: value.clone() for name, value in self.tuner.state_dict().items()}
        self.tuner.load_state_dict(self.average.module.state_dict())
        try:
            yield self.tuner
        finally:
            self.tuner.load_state_dict(own)

    def checkpoint(self) -> Checkpoint:
        """Everything that `restore` needs."""
        moments = self.optimizer.state_dict()["state"]
        tensors = {
            "tuner": self.tuner.state_dict(),
            "optimizer": {f"{index}.{key}": value for index, each in moments.items() for key, value in each.items()},
        }
        if self.average is not None:
            tensors["average"] = self.average.state_dict()
        tensors = {
            file: {name: value.detach().cpu().contiguous() for name, value in values.items()}
            for file, values in tensors.items()
        }
        state = {
            "base_fingerprint": self.base.fingerprint,
            "condition": self.tuner.condition,
            "sampler": self._sampler.state_dict(),
            "scaler": self._scaler.state_dict(),
        }
        return Checkpoint(self.step, tensors, state)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Goes on after `checkpoint`; to be called before the first step.

        Raises:
            SceditError: it is of another base, tuner, dataset, batch size or seed.
        """
        if checkpoint.state["base_fingerprint"] != self.base.fingerprint:
            raise _changed(f"its base is not {self.base.name}")
        if checkpoint.state["condition"] != self.tuner.condition:
            raise _changed(f"its tuner.condition is {checkpoint.state['condition']}, not {self.tuner.condition}")
        if ("average" in checkpoint.tensors) != (self.average is not None):
            raise _changed("a moving average of its weights (train.ema_decay) cannot begin or end on the way")
        try:
            self.tuner.load_state_dict(checkpoint.tensors["tuner"])
            if self.average is not None:
                self.average.load_state_dict(checkpoint.tensors["average"])
        except RuntimeError:
            raise _changed("its tuner is of another kind or other sizes ([tuner])") from None
        self._sampler.load_state_dict(checkpoint.state["sampler"])
        moments: dict[int, dict[str, Tensor]] = defaultdict(dict)
        for name, value in checkpoint.tensors["optimizer"].items():
            index, key = name.split(".")
            moments[int(index)][key] = value
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": moments})
        for parameter, state in self.optimizer.state.items():  # the fused step wants its memory laid out alike
            for key, value in state.items():
                if value.shape == parameter.shape:
                    state[key] = torch.empty_like(parameter).copy_(value)
        self._scaler.load_state_dict(checkpoint.state["scaler"])
        self.step = checkpoint.step

    def _update(self) -> float:
        """The optimizer's step on the gradients at hand; returns its learning rate."""
        options = self.options
        rate = options.learning_rate * learning_rate_factor(
            options.schedule, self.step, options.steps, options.warmup
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if options.max_grad_norm:
            self._scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.tuner.parameters(), options.max_grad_norm)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update_parameters(self.tuner)
        self.step += 1
        return rate

    def _dropped(self, name: str, values: Tensor, dropped: Tensor) -> Tensor:
        mask = dropped.view(-1, *[1] * (values.dim() - 1))
        return torch.where(mask, self._empty_text[name], values)


def move_idle_parts(base: Base, device: torch.device | str) -> None:
    """Moves the autoencoder and the text encoders, which no training step calls, out of or into the way."""
    for part in base.pipeline().components.values():
        if isinstance(part, nn.Module) and part is not base.unet:
            part.to(device)


def _generator(seed: int, step: int) -> torch.Generator:
    mixed = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(mixed[0]))


def _changed(what: str) -> SceditError:
    return SceditError(f"the run cannot go on: {what}", hint="resume with the recipe it began with, or start a new run")

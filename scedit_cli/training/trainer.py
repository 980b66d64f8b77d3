"""The training steps of one tuner on a frozen base, and the state from which training resumes bit for bit."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scedit_cli.core.attach import attach
from scedit_cli.core.bundle import Bundle, tuners_of
from scedit_cli.core.norms import norms_by_rows, norms_in_own_precision
from scedit_cli.core.offload import offloaded
from scedit_cli.core.tuners import Tuner
from scedit_cli.data.cache import Cache
from scedit_cli.data.loader import Batch, batches, sent
from scedit_cli.data.sampler import StatefulSampler, part_of
from scedit_cli.data.stream import Raw, Stream
from scedit_cli.models.base import Base
from scedit_cli.recipe import DataSection, TrainSection
from scedit_cli.training.average import average_of, averaged_weights
from scedit_cli.training.checkpoints import Checkpoint
from scedit_cli.training.objective import NoisyBatch, Objective, StepRandomness
from scedit_cli.training.optimizers import has_two_modes, load_optimizer_state, make_optimizer, optimizer_state
from scedit_cli.training.schedules import learning_rate_factor
from scedit_cli.training.signals import undisturbed
from scedit_cli.utils.distributed import Processes, apart
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.transparency import luminance

_LONG = 10.0  # seconds of a pass
MASK = "mask"  # the kind of image that weights the loss by position


@dataclass(frozen=True)
class Step:
    """A finished step; the first one has number 1.

    Attributes:
        losses: (B,) for the whole batch, 0 where another process has the image, on the base's device (reading waits).
        indices: the dataset indices of this process's images; `places` are their places in the batch.
        gradient_norm: the norm before clipping, None where gradients are not clipped.
        is_skipped: whether fp16 met values that are not finite and left the weights unchanged.
        waited: seconds spent waiting for data.
    """

    number: int
    losses: Tensor
    learning_rate: float
    indices: list[int]
    places: range
    gradient_norm: Tensor | None
    is_skipped: bool
    waited: float


class Trainer:
    """A trainer of `tuner`, which stays attached to the base until `close` or the end of a `with` block.

    Everything random in step k is drawn on the CPU from the seed and k. The state is therefore the weights, the
    optimizer's state and the number of steps, for any number of processes. All images of a batch have one size.

    Args:
        base: the frozen base, in the precision to train in. Only its U-Net is called.
        tuner: the tuner, or a bundle of several, float32, on the base's device.
        cache: the data, with hints of the tuner's conditions, and masks where the loss is masked.
        options: the options of the optimisation.
        data: the options of dropout and masking.
        indices: those of `cache` to train on; all by default.
        stream: images to train on instead, encoded at their step.
    """

    def __init__(
        self,
        base: Base,
        tuner: Tuner | Bundle,
        cache: Cache,
        options: TrainSection,
        data: DataSection,
        *,
        indices: Sequence[int] | None = None,
        processes: Processes = Processes(),
        stream: Stream | None = None,
    ) -> None:
        processes.check_batch(options.batch_size)
        self.base, self.tuner, self.cache, self.options = base, tuner, cache, options
        self.objective = Objective(base, options)
        self.device, self._dtype = base.device, base.dtype  # The U-Net's own properties are slow to read.
        self.step = 0
        self.is_whole = True  # whether the weights are those after `step`, not half updated
        self.optimizer = make_optimizer(tuner.parameters(), options, base.device)
        self.average = average_of(tuner, options.ema_decay) if options.ema_decay else None
        self._data, self._processes = data, processes
        self._kinds = [each.condition for each in tuners_of(tuner) if each.condition]
        self._pixels = base.pipeline().vae_scale_factor  # pixels per latent
        self._dropped_text = {name: values.to(base.device) for name, values in cache.dropped_text.items()}
        self._rate = learning_rate_factor(
            options.schedule,
            options.steps,
            options.warmup,
            options.schedule_cycles,
            options.schedule_power,
            options.learning_rate,
        )
        self._scaler = torch.amp.GradScaler(base.device.type, enabled=options.precision == "fp16")
        self.stream = stream
        if stream:
            self._sampler, self._batches = stream, stream.batches()
        else:
            self._sampler = self._sampler_of(list(range(len(cache)) if indices is None else indices))
            self._batches = batches(cache, self._sampler)
        # The hooks that gather a part of a sharded base are not called by memory-lean layers.
        memory = "plain" if processes.shards_base else options.memory
        self._attached = ExitStack()
        if self.device.type == "cpu":
            self._attached.enter_context(norms_by_rows(base.unet))
        self.edits = self._attached.enter_context(
            attach(base.unet, tuner, memory=memory, recompute=options.recompute)
        )
        self._attached.enter_context(norms_in_own_precision(base.unet))
        if processes.shards_base:
            _ = base.fingerprint  # computed now, while all weights are here
            processes.shard(base.unet)
        self.offload = None
        if options.offload == "encoder":
            _ = base.fingerprint, base.parameter_count  # known now, while all weights are here
            self.offload = self._attached.enter_context(offloaded(base.unet, base.device))
        self._unet = processes.together(_TunedUNet(base, tuner), base.device)
        if options.compile:
            base.unet.compile()

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _sampler_of(self, indices: list[int]) -> StatefulSampler:
        options, share = self.options, (self._processes.index, self._processes.count)
        sizes, data = self.cache.buckets[indices].tolist(), self.cache.fingerprint(indices)
        return StatefulSampler(indices, options.batch_size, options.seed, groups=sizes, share=share, data=data)

    def close(self) -> None:
        self._batches.close()
        if self.options.compile:
            self.base.unet._compiled_call_impl = None
        self._attached.close()

    @property
    def epoch(self) -> int:
        """The number of complete passes over the images."""
        return self._sampler.epoch

    @property
    def is_finite(self) -> bool:
        """Whether all weights are finite, the averaged ones too; reading it waits for the device."""
        kept = [*self.tuner.parameters(), *(self.average.shadow_params if self.average else ())]
        return torch.stack([weights.isfinite().all() for weights in kept]).all().item()

    def advance(self) -> Step:
        """Make the next step."""
        began = time.perf_counter()
        batch = next(self._batches)
        waited = time.perf_counter() - began
        losses = self.backward(self._encoded(batch))
        self.is_whole = False
        rate, norm, is_skipped = self._update()
        self.step += 1
        self.is_whole = True
        return Step(self.step, losses, rate, batch.indices, self._sampler.places, norm, is_skipped, waited)

    def rehearse(self) -> float:
        """Return the seconds of one forward and backward pass, for a dry run; it uses up a batch."""
        batch, seconds = next(self._batches), 0.0
        for _ in range(2):  # The first pass warms up, which makes no difference where it is long.
            if seconds < _LONG:
                began = time.perf_counter()
                self.backward(self._encoded(batch)).sum().item()
                seconds = time.perf_counter() - began
                self.optimizer.zero_grad()
        return seconds

    def backward(self, batch: Batch) -> Tensor:
        """Accumulate the gradients of the mean loss of `batch`, part by part; return the losses as in `Step.losses`."""
        options, places = self.options, self._sampler.places
        most = -(-options.batch_size // self._processes.count)
        parts = -(-most // (options.micro_batch_size or most))  # equal in all processes, as a sharded base needs
        losses = torch.zeros(options.batch_size, device=self.device)
        for part in range(parts):
            of_part = part_of(places, part, parts)
            is_idle = not of_part  # another process has one image more
            of_part = of_part or places[:1]
            within = slice(of_part.start - places.start, of_part.stop - places.start)
            with apart(self._unet, is_last=part == parts - 1):
                each = self._losses(batch.cut(within), of_part)
                # The gradients of all processes are averaged, hence the factor.
                mean = each.sum() * (0.0 if is_idle else self._processes.count / options.batch_size)
                self._scaler.scale(mean).backward()
            if not is_idle:
                losses[of_part.start : of_part.stop] = each.detach()
        return losses

    def output(self, batch: Batch, noised: NoisyBatch, text: dict[str, Tensor]) -> Tensor:
        """Return the U-Net's output for noisy latents of `batch` with the tuner's edits; all on the base's device."""
        self.edits.set_hints({kind: batch.hints[kind] for kind in self._kinds} or None)
        height, width = (self._pixels * side for side in noised.noisy.shape[-2:])
        arguments = self.base.unet_arguments(text, height, width, batch.sizes)
        return self._unet(noised.noisy.to(self._dtype), noised.times, arguments)

    @contextmanager
    def finished(self) -> Iterator[Tuner | Bundle]:
        """Give the tuner its final weights within the block: the averaged ones, if there is an average."""
        own = {name: value.clone() for name, value in self.tuner.state_dict().items()}
        try:
            with undisturbed():  # An interrupt must not leave a mixture of both weights.
                if has_two_modes(self.optimizer):
                    self.optimizer.eval()
                elif self.average:
                    self.tuner.load_state_dict(averaged_weights(self.average, self.tuner))
            yield self.tuner
        finally:
            with undisturbed():
                if has_two_modes(self.optimizer):
                    self.optimizer.train()
                self.tuner.load_state_dict(own)

    def checkpoint(self) -> Checkpoint:
        """Return the state that `restore` needs."""
        tensors, plain = optimizer_state(self.optimizer)
        weights = {"tuner": self.tuner.state_dict()}
        if self.average:
            weights["average"] = averaged_weights(self.average, self.tuner)
        files = {
            file: {name: value.detach().cpu().contiguous() for name, value in values.items()}
            for file, values in weights.items()
        }
        state = {
            "base_fingerprint": self.base.fingerprint,
            "condition": ",".join(self._kinds) or None,
            "sampler": self._sampler.state_dict() | {"step": self.step},
            "epoch": self.epoch,
            "optimizer": {"name": self.options.optimizer, "state": plain},
            "scaler": self._scaler.state_dict(),
        } | ({"averaged": self.average.optimization_step} if self.average else {})
        return Checkpoint(self.step, files | {"optimizer": tensors}, state)

    NEEDED = ("base_fingerprint", "condition", "sampler", "optimizer", "scaler", "tuner")  # in a checkpoint

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from `checkpoint`; call it before the first step.

        Raises:
            SceditError: the checkpoint has another base, tuner, optimizer, dataset, batch size or seed.
        """
        state: dict[str, Any] = checkpoint.state
        if state["base_fingerprint"] != self.base.fingerprint:
            raise _changed(f"its base is not {self.base.name}")
        if state["condition"] != (own := ",".join(self._kinds) or None):
            raise _changed(f"its tuner.condition is {state['condition']}, not {own}")
        if ("average" in checkpoint.tensors) != bool(self.average):
            raise _changed("a moving average of its weights (train.ema_decay) cannot begin or end on the way")
        if state["optimizer"]["name"] != self.options.optimizer:
            raise _changed(f"its train.optimizer is {state['optimizer']['name']}, not {self.options.optimizer}")
        try:
            if self.average:  # An average without "averaged" had no warm-up: a new one replaces it.
                self.tuner.load_state_dict(checkpoint.tensors["average" if "averaged" in state else "tuner"])
                self.average = average_of(self.tuner, self.options.ema_decay, state.get("averaged", 0))
            self.tuner.load_state_dict(checkpoint.tensors["tuner"])
        except RuntimeError:
            raise _changed("its tuner is of another kind or other sizes ([tuner])") from None
        self._sampler.load_state_dict(state["sampler"])
        plain = state["optimizer"]["state"]
        load_optimizer_state(self.optimizer, checkpoint.tensors["optimizer"], plain, self.options)
        if state["scaler"]:  # empty in a run that was not in fp16 before
            self._scaler.load_state_dict(state["scaler"])
        self.step = checkpoint.step

    def _encoded(self, batch: Batch | Raw) -> Batch:
        return batch.encoded(self.base) if isinstance(batch, Raw) else batch

    def _losses(self, batch: Batch, places: range) -> Tensor:
        draws = StepRandomness(self.options.seed, self.step, places, self.options.batch_size)
        noised = self.objective.add_noise(self.base.latents_from(batch.moments, draws.of_images), draws)
        batch = batch.on(self.device)
        without_text = sent(draws.happens(self._data.caption_dropout), self.device)
        text = {name: _where(without_text, self._dropped_text[name], values) for name, values in batch.text.items()}
        hints = dict(batch.hints)
        for kind in self._kinds:
            if share := self._data.hint_dropout_of(kind):
                black = sent(draws.happens(share), self.device)
                hints[kind] = _where(black, torch.zeros_like(hints[kind]), hints[kind])
        batch = replace(batch, hints=hints)
        mask = None
        if self._data.masked_loss:
            mask = F.adaptive_avg_pool2d(luminance(batch.hints[MASK]), noised.latents.shape[-2:])
        return self.objective.losses(self.output(batch, noised, text), noised, batch.weights, mask)

    def _update(self) -> tuple[float, Tensor | None, bool]:
        """Update the weights by the gradients; return learning rate, gradient norm and whether the step was skipped."""
        options, norm = self.options, None
        rate = options.learning_rate * self._rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if options.max_grad_norm:
            self._scaler.unscale_(self.optimizer)
            norm = torch.nn.utils.clip_grad_norm_(self.tuner.parameters(), options.max_grad_norm)
        before = self._scaler.get_scale()
        self._scaler.step(self.optimizer)
        self._scaler.update()
        is_skipped = self._scaler.get_scale() < before
        self.optimizer.zero_grad()
        if self.average and not is_skipped:
            self.average.step(self.tuner.parameters())
        return rate, norm, is_skipped


class _TunedUNet(nn.Module):
    """The U-Net's output as a module that owns the tuner's weights only, since DDP synchronises what a module owns."""

    def __init__(self, base: Base, tuner: Tuner | Bundle) -> None:
        super().__init__()
        self.tuner = tuner
        self._base = base
        self._device, self._dtype = base.device.type, base.dtype

    def forward(self, noisy: Tensor, timesteps: Tensor, arguments: dict[str, Any]) -> Tensor:
        with torch.autocast(self._device, self._dtype, enabled=self._dtype != torch.float32):
            return self._base.unet(noisy, timesteps, **arguments).sample


def move_idle_parts(base: Base, device: torch.device | str) -> None:
    """Move the autoencoder and the text encoders, which no training step calls, to `device`."""
    for part in base.pipeline().components.values():
        if isinstance(part, nn.Module) and part is not base.unet:
            part.to(device)


def _where(chosen: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """Return `one` for the images chosen (B,), and `other` (B, ...) for the rest."""
    return torch.where(chosen.view(-1, *[1] * (other.dim() - 1)), one, other)


def _changed(what: str) -> SceditError:
    hint = "resume with the recipe it began with, or start a new run"
    return SceditError(f"the run cannot be resumed: {what}", hint)

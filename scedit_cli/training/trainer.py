"""The training steps of one tuner on a frozen base, and the state from which they go on bit for bit."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scedit_cli.core.attach import attach
from scedit_cli.core.precision import norms_in_own_precision
from scedit_cli.core.tuners import Tuner
from scedit_cli.data.cache import Cache
from scedit_cli.data.loader import Batch, batches, sent
from scedit_cli.data.sampler import StatefulSampler, part_of
from scedit_cli.data.stream import Raw, Stream
from scedit_cli.models.base import Base
from scedit_cli.recipe import DataSection, TrainSection
from scedit_cli.training.average import average_of, averaged_weights
from scedit_cli.training.checkpoints import Checkpoint
from scedit_cli.training.distributed import Processes, apart
from scedit_cli.training.objective import NoisyBatch, Objective, StepRandomness
from scedit_cli.training.optimizers import has_two_modes, load_optimizer_state, make_optimizer, optimizer_state
from scedit_cli.training.schedules import learning_rate_factor
from scedit_cli.training.signals import undisturbed
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.transparency import luminance

MASK = "mask"  # the kind of picture that says where the loss counts


@dataclass(frozen=True)
class Step:
    """A step that was made, the first being number 1.

    Attributes:
        losses: (B,) of the whole batch, 0 where other processes have them, on the base's device: looking waits for it.
        indices: the pictures of this process, and `places`, where they are in the batch.
        gradient_norm: before clipping, None where gradients are not clipped.
        is_skipped: fp16 found values that are not finite, and the weights stayed what they were.
        waited: seconds in which no data was there.
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
    """Trains `tuner`, which stays attached to the base until `close`, or the end of a `with` block.

    Everything random in step k is drawn on the CPU from the seed and k, so that its state is the weights, the
    optimizer's state and the number of steps made, for any number of processes. A batch has pictures of one size.

    Args:
        base: frozen, in the precision to train in. Only its U-Net is called.
        tuner: float32, on the base's device.
        cache: the data; it holds hints of the tuner's condition, and masks where the loss is masked.
        options: of the optimisation.
        data: what is dropped and masked.
        pictures: the indices of `cache` to learn from; all by default.
        stream: pictures to learn from instead, which are encoded when their step comes.
    """

    def __init__(
        self,
        base: Base,
        tuner: Tuner,
        cache: Cache,
        options: TrainSection,
        data: DataSection,
        *,
        pictures: Sequence[int] | None = None,
        processes: Processes = Processes(),
        stream: Stream | None = None,
    ) -> None:
        processes.check_batch(options.batch_size)
        self.base, self.tuner, self.cache, self.options = base, tuner, cache, options
        self.objective = Objective(base, options)
        self.device, self._dtype = base.device, base.dtype  # which a U-Net looks up in all of its modules each time
        self.step = 0
        self.is_whole = True  # whether the weights are those after `step`, and not on their way to the next
        self.optimizer = make_optimizer(tuner.parameters(), options, base.device)
        self.average = average_of(tuner, options.ema_decay) if options.ema_decay else None
        self._data, self._processes = data, processes
        self._pixels = base.pipeline().vae_scale_factor  # to a latent
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
            self._sampler = self._sampler_of(list(range(len(cache)) if pictures is None else pictures))
            self._batches = batches(cache, self._sampler)
        # A part of a base that is spread over processes is gathered by hooks that a lean layer would not call.
        memory = "plain" if processes.shards_base else options.memory
        self._attached = ExitStack()
        self.edits = self._attached.enter_context(
            attach(base.unet, tuner, memory=memory, recompute=options.recompute)
        )
        self._attached.enter_context(norms_in_own_precision(base.unet))
        if processes.shards_base:
            _ = base.fingerprint  # of all of its weights
            processes.shard(base.unet)
        self._answer = processes.together(_Answer(base, tuner), base.device)
        if options.compile:
            base.unet.compile()

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _sampler_of(self, pictures: list[int]) -> StatefulSampler:
        options, share = self.options, (self._processes.index, self._processes.count)
        sizes, data = self.cache.buckets[pictures].tolist(), self.cache.fingerprint(pictures)
        return StatefulSampler(pictures, options.batch_size, options.seed, groups=sizes, share=share, data=data)

    def close(self) -> None:
        self._batches.close()
        if self.options.compile:
            self.base.unet._compiled_call_impl = None
        self._attached.close()

    @property
    def epoch(self) -> int:
        """Complete passes over the pictures."""
        return self._sampler.epoch

    @property
    def is_finite(self) -> bool:
        """Whether all weights are numbers, the averaged ones too; looking waits for the device."""
        kept = [*self.tuner.parameters(), *(self.average.shadow_params if self.average else ())]
        return torch.stack([weights.isfinite().all() for weights in kept]).all().item()

    def advance(self) -> Step:
        """Makes the next step."""
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
        """Seconds that forward and backward take, of a batch that is lost by it: for a dry run."""
        batch, seconds = next(self._batches), []
        for _ in range(2):  # the first one warms up
            began = time.perf_counter()
            self.backward(self._encoded(batch)).sum().item()
            seconds.append(time.perf_counter() - began)
            self.optimizer.zero_grad()
        return seconds[-1]

    def backward(self, batch: Batch) -> Tensor:
        """Adds up the gradients of the mean loss of `batch`, part by part; returns what `Step.losses` is."""
        options, places = self.options, self._sampler.places
        most = -(-options.batch_size // self._processes.count)
        parts = -(-most // (options.micro_batch_size or most))  # alike in all processes, which a sharded base needs
        losses = torch.zeros(options.batch_size, device=self.device)
        for part in range(parts):
            of_part = part_of(places, part, parts)
            is_idle = not of_part  # some other process has a picture more
            of_part = of_part or places[:1]
            within = slice(of_part.start - places.start, of_part.stop - places.start)
            with apart(self._answer, is_last=part == parts - 1):
                each = self._losses(_cut(batch, within), of_part)
                # Of what each process has here, the mean over the processes is taken.
                mean = each.sum() * (0.0 if is_idle else self._processes.count / options.batch_size)
                self._scaler.scale(mean).backward()
            if not is_idle:
                losses[of_part.start : of_part.stop] = each.detach()
        return losses

    def answer(self, batch: Batch, asked: NoisyBatch, text: dict[str, Tensor]) -> Tensor:
        """What the U-Net says to noisy latents of `batch`, with the tuner's edits; all on the base's device."""
        self.edits.set_hints({kind: hints for kind, hints in batch.hints.items() if kind != MASK} or None)
        height, width = (self._pixels * side for side in asked.noisy.shape[-2:])
        arguments = self.base.unet_arguments(text, height, width, batch.sizes)
        return self._answer(asked.noisy.to(self._dtype), asked.times, arguments)

    @contextmanager
    def finished(self) -> Iterator[Tuner]:
        """The tuner, within with the weights to use: averaged ones, if an average is kept."""
        own = {name: value.clone() for name, value in self.tuner.state_dict().items()}
        try:
            with undisturbed():  # nobody may find weights that are half of these and half of those
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
        """Everything that `restore` needs."""
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
            "condition": self.tuner.condition,
            "sampler": self._sampler.state_dict() | {"step": self.step},
            "epoch": self.epoch,
            "optimizer": {"name": self.options.optimizer, "state": plain},
            "scaler": self._scaler.state_dict(),
        } | ({"averaged": self.average.optimization_step} if self.average else {})
        return Checkpoint(self.step, files | {"optimizer": tensors}, state)

    NEEDED = ("base_fingerprint", "condition", "sampler", "optimizer", "scaler", "tuner")  # of a checkpoint

    def restore(self, checkpoint: Checkpoint) -> None:
        """Goes on after `checkpoint`; to be called before the first step.

        Raises:
            SceditError: it is of another base, tuner, optimizer, dataset, batch size or seed.
        """
        state: dict[str, Any] = checkpoint.state
        if state["base_fingerprint"] != self.base.fingerprint:
            raise _changed(f"its base is not {self.base.name}")
        if state["condition"] != self.tuner.condition:
            raise _changed(f"its tuner.condition is {state['condition']}, not {self.tuner.condition}")
        if ("average" in checkpoint.tensors) != bool(self.average):
            raise _changed("a moving average of its weights (train.ema_decay) cannot begin or end on the way")
        if state["optimizer"]["name"] != self.options.optimizer:
            raise _changed(f"its train.optimizer is {state['optimizer']['name']}, not {self.options.optimizer}")
        try:
            if self.average:  # one of a checkpoint without "averaged" had no warm-up: a new one takes its place
                self.tuner.load_state_dict(checkpoint.tensors["average" if "averaged" in state else "tuner"])
                self.average = average_of(self.tuner, self.options.ema_decay, state.get("averaged", 0))
            self.tuner.load_state_dict(checkpoint.tensors["tuner"])
        except RuntimeError:
            raise _changed("its tuner is of another kind or other sizes ([tuner])") from None
        self._sampler.load_state_dict(state["sampler"])
        plain = state["optimizer"]["state"]
        load_optimizer_state(self.optimizer, checkpoint.tensors["optimizer"], plain, self.options)
        self._scaler.load_state_dict(state["scaler"])
        self.step = checkpoint.step

    def _encoded(self, batch: Batch | Raw) -> Batch:
        return batch.encoded(self.base) if isinstance(batch, Raw) else batch

    def _losses(self, batch: Batch, places: range) -> Tensor:
        draws = StepRandomness(self.options.seed, self.step, places, self.options.batch_size)
        asked = self.objective.ask(self.base.latents_from(batch.moments, draws.of_pictures), draws)
        batch = batch.on(self.device)
        without_text = sent(draws.happens(self._data.caption_dropout), self.device)
        text = {name: _where(without_text, self._dropped_text[name], values) for name, values in batch.text.items()}
        if self._data.hint_dropout:
            black = sent(draws.happens(self._data.hint_dropout), self.device)
            hints = {k: v if k == MASK else _where(black, torch.zeros_like(v), v) for k, v in batch.hints.items()}
            batch = replace(batch, hints=hints)
        mask = None
        if self._data.masked_loss:
            mask = F.adaptive_avg_pool2d(luminance(batch.hints[MASK]), asked.latents.shape[-2:])
        return self.objective.losses(self.answer(batch, asked, text), asked, batch.weights, mask)

    def _update(self) -> tuple[float, Tensor | None, bool]:
        """The optimizer's step on the gradients at hand: its learning rate, their norm, and whether it was skipped."""
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


class _Answer(nn.Module):
    """The U-Net's answer as a function of the tuner's weights, which are all that it owns: DDP looks no further."""

    def __init__(self, base: Base, tuner: Tuner) -> None:
        super().__init__()
        self.tuner = tuner
        self._base = base
        self._device, self._dtype = base.device.type, base.dtype

    def forward(self, noisy: Tensor, timesteps: Tensor, arguments: dict[str, Any]) -> Tensor:
        with torch.autocast(self._device, self._dtype, enabled=self._dtype != torch.float32):
            return self._base.unet(noisy, timesteps, **arguments).sample


def move_idle_parts(base: Base, device: torch.device | str) -> None:
    """Moves the autoencoder and the text encoders, which no training step calls, out of or into the way."""
    for part in base.pipeline().components.values():
        if isinstance(part, nn.Module) and part is not base.unet:
            part.to(device)


def _cut(batch: Batch, within: slice) -> Batch:
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return Batch(**{name: _cut_each(value, within) for name, value in values.items()})


def _cut_each(value: Any, within: slice) -> Any:
    if isinstance(value, dict):
        return {key: each[within] for key, each in value.items()}
    return value if value is None else value[within]


def _where(chosen: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """`one` where a picture is chosen (B,), `other` (B, ...) elsewhere."""
    return torch.where(chosen.view(-1, *[1] * (other.dim() - 1)), one, other)


def _changed(what: str) -> SceditError:
    return SceditError(f"the run cannot go on: {what}", hint="resume with the recipe it began with, or start a new run")

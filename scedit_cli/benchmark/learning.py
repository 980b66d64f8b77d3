"""The training of a method on the embedded world, one step at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from scedit_cli.benchmark.architecture import architecture
from scedit_cli.benchmark.config import BenchConfig
from scedit_cli.benchmark.evaluation import CONDITION, Evaluation
from scedit_cli.benchmark.measure import options_for
from scedit_cli.benchmark.methods import Inputs, TrainableMethod, prepared
from scedit_cli.core.objective import add_noise, noise_prediction_loss
from scedit_cli.data.loader import Batch, batches
from scedit_cli.data.sampler import StatefulSampler
from scedit_cli.models.base import Base, load_base
from scedit_cli.models.loading import EMBEDDED
from scedit_cli.training.schedules import draw_timesteps

_WARM_UP = 50  # steps in which the learning rate rises
_DROPPED = 0.1  # the share of captions left empty


@dataclass(frozen=True)
class Training:
    """A method on a fresh embedded base; each call of `step` makes a training step."""

    base: Base
    trainable: TrainableMethod
    step: Callable[[], None]


@contextmanager
def training(
    method: str, evaluation: Evaluation, setting: BenchConfig, pictures: int, seed: int, rate: float
) -> Iterator[Training]:
    """Train `method` by AdamW at the learning rate `rate`, with `setting.batch` of `pictures` scenes in a step."""
    base = load_base(EMBEDDED, device=evaluation.device)
    torch.manual_seed(seed)
    with prepared(method, base.unet, options_for(setting, architecture(EMBEDDED))) as trainable:
        cache = evaluation.data(base, trainable.takes_hint, pictures)
        source = batches(cache, StatefulSampler(len(cache), setting.batch, seed))
        optimizer = torch.optim.AdamW(trainable.weights, lr=rate, fused=base.device.type in ("cpu", "cuda"))
        done = 0

        def step() -> None:
            nonlocal done
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1.0, (done + 1) / _WARM_UP)
            noise = torch.Generator().manual_seed(1_000_003 * seed + done)  # equal for every method
            _loss_of_batch(base, trainable, next(source), cache.dropped_text, noise).backward()
            torch.nn.utils.clip_grad_norm_(trainable.weights, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            done += 1

        try:
            yield Training(base, trainable, step)
        finally:
            source.close()


def _loss_of_batch(
    base: Base, trainable: TrainableMethod, batch: Batch, empty: dict[str, Tensor], generator: torch.Generator
) -> Tensor:
    latents = base.latents_from(batch.moments, generator)
    noise = torch.randn(latents.shape, generator=generator)
    alphas = base.scheduler.alphas_cumprod
    kind = "shifted" if trainable.takes_hint else "uniform"
    times = draw_timesteps(kind, len(latents), len(alphas), generator)
    dropped = torch.rand(len(latents), generator=generator) < _DROPPED
    text = {
        name: torch.where(dropped.view(-1, *[1] * (values.dim() - 1)), empty[name], values).to(base.device)
        for name, values in batch.text.items()
    }
    latents, noise, times, alphas = (each.to(base.device) for each in (latents, noise, times, alphas))
    size = base.defaults.resolution
    hint = batch.hints[CONDITION].to(base.device) if trainable.takes_hint else None
    inputs = Inputs(add_noise(latents, noise, times, alphas), times, hint, base.unet_arguments(text, size, size))
    answer = trainable.predict(inputs)
    return noise_prediction_loss(answer, noise, latents, times, alphas, base.prediction_type).mean()

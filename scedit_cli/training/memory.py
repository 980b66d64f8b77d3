"""The forecast of a run's memory before its first step: the trainer makes one step on fake tensors."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from scedit_cli.data.cache import Cache
from scedit_cli.data.loader import Batch, load_batch
from scedit_cli.models.base import Base
from scedit_cli.models.loading import quiet
from scedit_cli.models.quantization import quantize_shapes
from scedit_cli.recipe import DataSection, TrainSection, TunerSection
from scedit_cli.training import builders
from scedit_cli.training.memory_tracker import CountedFlops, CudaAutocast, LiveStorages, tensors_of
from scedit_cli.training.optimizers import make_optimizer
from scedit_cli.training.trainer import Trainer
from scedit_cli.utils.distributed import Processes
from scedit_cli.utils.errors import SceditError, reason
from scedit_cli.utils.process_memory import resident, workspaces


@dataclass(frozen=True)
class Forecast:
    """The forecast of a training step in one process.

    Attributes:
        peak: bytes at the peak by category: weights, gradients, optimizer, activations, workspaces (of matrix products,
            on a card), and others (on a CPU the rest of the process, on a card the encoders where a run streams).
        flops: floating-point operations of forward and backward passes, with those that are made twice.
        transfers: bytes of offloaded weights that are brought to the device.
    """

    peak: dict[str, int]
    flops: int = 0
    transfers: int = 0

    @property
    def total(self) -> int:
        """The bytes at the peak."""
        return sum(self.peak.values())


def forecast(
    base: Base,
    options: TunerSection,
    train: TrainSection,
    data: DataSection,
    cache: Cache,
    processes: Processes = Processes(),
    streams: bool = False,
    quantized: str = "none",
) -> Forecast:
    """Return the forecast of a training step in one of `processes`, on a base whose weights are `quantized`.

    The trainer makes its usual step on images of the largest size in `cache`, with fake tensors. On an accelerator the
    peak is the memory that PyTorch allocates; convolutions' workspaces and the driver's memory come on top.

    Raises:
        SceditError: no estimate is possible; the message says why.
    """
    if processes.shards_base:
        raise SceditError("not estimated where each process has a part of the base")
    from torch._subclasses.fake_tensor import FakeTensorMode

    on_card = base.device.type != "cpu"
    if train.offload != "none":
        _ = base.fingerprint, base.parameter_count  # which the trainer asks for
    unreal, part = _without_weights(base, quantized), _one_part(train, processes.count)
    with torch.random.fork_rng(devices=[]):
        with torch.device("meta"):
            tuner = builders.fresh_tuner(options, train, unreal)
        batch = _largest_batch(cache, part.batch_size)
        shapes = [weight.shape for weight in tuner.parameters()]
        state = {shape: _state_bytes(train, shape, base.device) for shape in set(shapes)}
        fake, live = FakeTensorMode(allow_non_fake_inputs=True), LiveStorages("activations")
        flops = CountedFlops()
        with fake:
            for module in (unreal.unet, tuner):
                module.to_empty(device="cpu")
        with Trainer(unreal, tuner, cache, part, data, indices=[0]) as trainer, fake, live:
            if trainer.offload:
                trainer.offload.bring = partial(_brought, live)
            live.own("weights", tensors_of([unreal.unet, tuner]))
            live.own_gradients(tuner.parameters())
            with live.labelled("optimizer"):
                kept = [torch.empty(state[shape], dtype=torch.uint8) for shape in shapes]
            if part.batch_size * processes.count < train.batch_size:  # the gradients of earlier parts
                with live.labelled("gradients"):
                    for weight in tuner.parameters():
                        weight.grad = torch.zeros_like(weight)
            live.forget_peak()
            try:
                with CudaAutocast() if on_card else nullcontext(), flops:
                    trainer.backward(_faked(batch))
            except RuntimeError as error:  # Fake tensors lack an operation of an unusual base.
                raise SceditError(f"not estimated: {reason(error)}") from error
            del kept
            transfers = trainer.offload.size if trainer.offload else 0
    peak = dict(live.at_peak)
    if train.ema_decay:
        peak["weights"] += sum(weight.nbytes for weight in tuner.parameters())
    if held := workspaces(base.device):
        peak["workspaces"] = held
    if not on_card:
        here = sum(each.nbytes for each in tensors_of([base.unet, tuner]))
        peak["others"] = max(0, resident() - here)
    elif streams:
        parts = [part for part in base.pipeline().components.values() if isinstance(part, nn.Module)]
        peak["others"] = sum(each.nbytes for part in parts if part is not base.unet for each in tensors_of([part]))
    passes = -(-train.batch_size // (processes.count * part.batch_size))
    return Forecast(peak, passes * flops.total, passes * transfers)


def _brought(live: LiveStorages, weight: Tensor) -> Tensor:
    with live.labelled("weights"):
        return torch.empty_like(weight)


def _without_weights(base: Base, quantized: str = "none") -> Base:
    """Return a base like this one whose U-Net is on the meta device, its weights `quantized` or "none"."""
    with quiet(), torch.device("meta"):
        unet = type(base.unet).from_config(base.unet.config).to(base.dtype)
    unet.requires_grad_(False).eval()
    unet.set_attn_processor(dict(base.unet.attn_processors))
    if base.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last):
        unet.to(memory_format=torch.channels_last)
    if quantized != "none":
        quantize_shapes(unet, quantized)
    unreal = copy.copy(base)
    unreal._loaded = copy.copy(base._loaded)
    with quiet():
        unreal._loaded.register_modules(unet=unet)
    return unreal


def _one_part(options: TrainSection, processes: int) -> TrainSection:
    """Return the options of a step on the images that a process takes at once, without the parts that need real values:
    the compiler, fp16's scaler, averages and most optimizers."""
    share = -(-options.batch_size // processes)
    changes = {"batch_size": min(options.micro_batch_size or share, share), "micro_batch_size": 0, "compile": False}
    changes |= {"optimizer": "adamw", "optimizer_options": {}, "ema_decay": 0.0}
    if options.precision == "fp16":
        changes["precision"] = "bf16"
    return options.model_copy(update=changes)


def _largest_batch(cache: Cache, count: int) -> Batch:
    """Return `count` images of the largest size, repeated where there are fewer."""
    sides = torch.tensor(cache.bucket_sizes)
    largest = (cache.buckets == sides.prod(dim=1).argmax()).nonzero().flatten().tolist()
    return load_batch(cache, 0, [largest[place % len(largest)] for place in range(count)])


def _state_bytes(options: TrainSection, shape: torch.Size, device: torch.device) -> int:
    """Return the bytes of the optimizer's state for weights of `shape`, measured after one real step."""
    weight = nn.Parameter(torch.ones(shape, device=device))
    weight.grad = torch.ones_like(weight)
    optimizer = make_optimizer([weight], options, device)
    optimizer.step()
    return sum(each.nbytes for each in optimizer.state[weight].values() if isinstance(each, Tensor))


def _faked(batch: Batch) -> Batch:
    def fake(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: fake(each) for name, each in value.items()}
        return torch.empty_like(value) if isinstance(value, Tensor) else value

    return Batch(**{field.name: fake(getattr(batch, field.name)) for field in fields(batch)})

"""The estimated cost of a training step: fake tensors pass through the real code without any arithmetic."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scedit_cli.benchmark.architecture import Architecture, architecture
from scedit_cli.benchmark.config import Figures
from scedit_cli.benchmark.methods import METHODS, Inputs, Options, TrainableMethod, prepared
from scedit_cli.benchmark.step import loss_of, new_optimizer, random_batch
from scedit_cli.core.offload import offloaded
from scedit_cli.models.base import DTYPES
from scedit_cli.models.controlnet import controlnet_parameters
from scedit_cli.training.memory_tracker import CountedFlops, CudaAutocast, LiveStorages, tensors_of


@dataclass(frozen=True)
class Work:
    """The part of the cost that does not depend on the machine.

    Attributes:
        trainable_parameters, base_parameters: the numbers for the method and for the U-Net.
        controlnet_parameters: the number for the base's ControlNet; None where it can have none.
        flops: operations of one forward and backward pass over the batch, without recomputation by memory-lean methods.
    """

    trainable_parameters: int
    base_parameters: int
    controlnet_parameters: int | None
    flops: int


def estimate(
    method: str,
    base: Architecture | str,
    batch: int,
    resolution: int | None = None,
    dtype: str = "bf16",
    *,
    device: str = "cuda",
    libraries: int = 0,
    options: Options | None = None,
) -> Figures:
    """Return the exact parameters and floating-point operations of a training step and its predicted peak memory.

    A step runs on fake tensors whose storages are followed. On an accelerator the prediction is the memory that PyTorch
    allocates; kernels' workspaces and the driver's memory (about half a GiB) come on top. The file's header is not
    counted.

    Args:
        method: one of METHODS.
        base: an architecture, or a name that `architecture` takes.
        batch, resolution: the number of images in a step and their side in pixels, by default the base's own.
        dtype: the type of the frozen weights, one of DTYPES.
        device: "cuda" or "cpu", which decides autocast and attention.
        libraries: bytes that are resident before any model is; they count on a CPU.

    Raises:
        SceditError: the base is invalid.
        ValueError, RuntimeError: the U-Net cannot have the method.
    """
    base = architecture(base) if isinstance(base, str) else base
    resolution = resolution or base.resolution
    work = count(method, base, batch, resolution, options)
    memory = peak(method, base, batch, resolution, dtype, device=device, options=options)
    if device == "cpu":
        memory["libraries"] = libraries
    total = sum(memory.values())
    return Figures(
        method=method,
        **shares(work),
        flops_per_step=work.flops,
        peak_memory=total,
        memory=memory,
        estimated_peak_memory=total,
        file_size=4 * work.trainable_parameters,
    )


def count(method: str, base: Architecture, batch: int, resolution: int, options: Options | None = None) -> Work:
    """Count parameters and operations on the meta device."""
    unet, options = base.on_meta(), options or Options()
    total, of_controlnet = unet.num_parameters(), controlnet_parameters(unet, options.controlnet_width)
    inputs, noise = random_batch(base, batch, resolution, torch.float32, "meta")
    with torch.random.fork_rng(devices=[]), prepared(METHODS[method].plain, unet, options) as trainable:
        with CountedFlops() as counted:
            loss_of(trainable, inputs, noise, base).backward()
        return Work(trainable.count, total, of_controlnet, counted.total)


def shares(work: Work) -> dict[str, Any]:
    """Return the fields of `Figures` about the share that is trained."""
    of = work.controlnet_parameters
    return {
        "trainable_parameters": work.trainable_parameters,
        "share_of_base": work.trainable_parameters / work.base_parameters,
        "share_of_controlnet": work.trainable_parameters / of if of else None,
    }


def peak(
    method: str,
    base: Architecture,
    batch: int,
    resolution: int,
    dtype: str,
    *,
    device: str = "cuda",
    options: Options | None = None,
) -> dict[str, int]:
    """Return the bytes at the peak of a step by category (weights, gradients, optimizer, activations), once the
    optimizer has its moments."""
    with rehearsed(method, base, resolution, dtype, device=device, options=options) as peak_at:
        return peak_at(batch)


@contextmanager
def rehearsed(
    method: str,
    base: Architecture,
    resolution: int,
    dtype: str,
    *,
    device: str = "cuda",
    options: Options | None = None,
) -> Iterator[Callable[[int], dict[str, int]]]:
    """Prepare a method on fake tensors within the block, and return `peak` as a function of the batch alone."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    unet = base.on_meta(DTYPES[dtype])
    base.match_attention(unet, device)
    fake, live = FakeTensorMode(allow_non_fake_inputs=True), LiveStorages("activations")
    with torch.random.fork_rng(devices=[]), ExitStack() as stack:
        trainable = stack.enter_context(prepared(method, unet, options))
        with fake:
            for part in trainable.parts:
                part.to_empty(device="cpu")
        with fake, live:
            stack.enter_context(boundary(trainable, options, live))
            live.own("weights", tensors_of(trainable.parts))
            live.own_gradients(trainable.weights)
            optimizer = new_optimizer(trainable)
            with live.labelled("optimizer"):  # the moments, made by the first step
                for weight in trainable.weights:
                    weight.grad = torch.empty_like(weight)
                optimizer.step()
                optimizer.zero_grad()

        def peak_at(batch: int) -> dict[str, int]:
            if live.now["activations"]:  # of an earlier step, in cycles
                gc.collect()
            inputs, noise = random_batch(base, batch, resolution, DTYPES[dtype], "meta")
            with fake, live:
                inputs, noise = faked(inputs), faked(noise)
                live.forget_peak()
                with CudaAutocast() if device == "cuda" else nullcontext():  # the backward pass recomputes
                    with torch.autocast("cpu", DTYPES[dtype], enabled=dtype != "fp32"):
                        loss = loss_of(trainable, inputs, noise, base)
                    loss.backward()
                    with live.labelled("optimizer"):
                        optimizer.step()
                optimizer.zero_grad()
            return dict.fromkeys(("weights", "gradients", "optimizer", "activations"), 0) | live.at_peak

        yield peak_at


def boundary(
    trainable: TrainableMethod, options: Options | None, live: LiveStorages
) -> AbstractContextManager[object]:
    """Return a context in which an offloaded encoder's weights count while they are on the device."""
    if not (options and options.offload):
        return nullcontext()

    def bring(host: Tensor) -> Tensor:
        with live.labelled("weights"):
            return torch.empty_like(host)

    return offloaded(trainable.unet, torch.device("cpu"), bring)


def faked(each: Any) -> Any:
    """Return a batch's tensors without values, under a FakeTensorMode."""
    if isinstance(each, Inputs):
        return Inputs(*(faked(value) for value in (each.latents, each.timesteps, each.hint, each.text)))
    if isinstance(each, dict):
        return {name: faked(value) for name, value in each.items()}
    return torch.empty_like(each, device="cpu")

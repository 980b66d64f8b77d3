"""Offload of a frozen U-Net's encoder: its weights stay in the host's memory and visit the device unit by unit.

Tuners on skips need the encoder once a step, forward only: the backward pass never enters it. diffusers' group
offloading does not suit it: it wraps `forward`, from which memory-lean layers keep away, and needs an accelerator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

ENCODER = ("down_blocks", "mid_block")  # the children of a U-Net that are offloaded

Bring = Callable[[Tensor], Tensor]


@contextmanager
def offloaded(unet: nn.Module, device: torch.device, bring: Bring | None = None) -> Iterator[Offload]:
    """Keep the down blocks and the mid block of `unet` off `device` inside the block, except while they compute.

    Outputs stay the same, bit for bit. On an accelerator the next unit's weights are copied from pinned memory while a
    unit computes. On a CPU the boundary is simulated: weights outside their unit's call have no elements.

    Args:
        unet: a diffusers U-Net with frozen weights, on any device.
        device: the device that computes.
        bring: a function that copies a weight to `device`; by default the device's own copy.
    """
    offload = Offload(unet, device, bring)
    try:
        yield offload
    finally:
        offload.undo()


class Offload:
    """The offloaded encoder of a U-Net, until `undo`.

    Attributes:
        units: the modules that visit the device one after the other.
        bring: the function that copies a weight to the device.
    """

    def __init__(self, unet: nn.Module, device: torch.device, bring: Bring | None = None) -> None:
        self.units = list(_units(unet))
        self._device = device
        self._stream = torch.Stream(device) if device.type in ("cuda", "xpu") else None
        self.bring = bring or self._copied
        self._slots = {unit: [*_slots(unit, self._stream is not None)] for unit in self.units}
        self._next: dict[nn.Module, nn.Module] = {}  # learned from the order of the last pass
        self._last: nn.Module | None = None
        self._here: set[nn.Module] = set()
        self._handles = [unet.register_forward_pre_hook(_Begin(self))]
        for unit in self.units:
            self._handles += [unit.register_forward_pre_hook(_Enter(self)), unit.register_forward_hook(_Leave(self))]
            self._drop(unit)

    @property
    def size(self) -> int:
        """The bytes of all offloaded weights, which cross to the device once a pass."""
        return sum(slot.host.nbytes for slots in self._slots.values() for slot in slots)

    def undo(self) -> None:
        """Return every weight to the device; calling this twice is harmless."""
        for handle in self._handles:
            handle.remove()
        while self._slots:
            _, slots = self._slots.popitem()
            for slot in slots:
                slot.restore(self._device)

    def begin(self) -> None:
        """Prepare for a pass: the units of an interrupted one are dropped."""
        self._last = None
        for unit in list(self._here):
            self._drop(unit)

    def enter(self, unit: nn.Module) -> None:
        """Bring the weights of `unit` to the device, and begin to bring those of the unit after it."""
        for other in self._here - {unit}:  # brought for a unit that was skipped
            self._drop(other)
        if unit not in self._here:
            self._fetch(unit)
        if self._stream:
            torch.accelerator.current_stream().wait_stream(self._stream)
        if self._last is not None:
            self._next[self._last] = unit
        self._last = unit
        if following := self._next.get(unit):
            self._fetch(following)

    def leave(self, unit: nn.Module) -> None:
        """Drop the weights of `unit` from the device."""
        self._drop(unit)

    def _fetch(self, unit: nn.Module) -> None:
        self._here.add(unit)
        for slot in self._slots[unit]:
            slot.put(self.bring(slot.host))

    def _drop(self, unit: nn.Module) -> None:
        self._here.discard(unit)
        for slot in self._slots[unit]:
            held = slot.tensor
            if self._stream and held.numel() and held.device.type == self._device.type:
                held.record_stream(torch.accelerator.current_stream())  # its memory is free once the unit has computed
            slot.put(slot.host.new_empty(0, device=self._device))

    def _copied(self, host: Tensor) -> Tensor:
        if self._stream is None:
            return host.to(self._device, copy=True)
        with self._stream:
            return host.to(self._device, non_blocking=True)


@dataclass
class _Slot:
    """A weight's place in its module, and its copy in the host's memory."""

    owner: nn.Module
    name: str
    host: Tensor
    is_parameter: bool

    @property
    def tensor(self) -> Tensor:
        return getattr(self.owner, self.name)

    def put(self, tensor: Tensor) -> None:
        if self.is_parameter:
            self.owner._parameters[self.name] = nn.Parameter(tensor, requires_grad=False)
        else:
            self.owner._buffers[self.name] = tensor

    def restore(self, device: torch.device) -> None:
        self.put(self.host.to(device))


class _Hook:
    """A hook of an offload: a class, not a closure, so that it can be pickled."""

    def __init__(self, offload: Offload) -> None:
        self.offload = offload


class _Begin(_Hook):
    def __call__(self, unet: nn.Module, args: tuple) -> None:
        self.offload.begin()


class _Enter(_Hook):
    def __call__(self, unit: nn.Module, args: tuple) -> None:
        self.offload.enter(unit)


class _Leave(_Hook):
    def __call__(self, unit: nn.Module, args: tuple, output: object) -> None:
        self.offload.leave(unit)


def _units(unet: nn.Module) -> Iterator[nn.Module]:
    """Yield the parts of the encoder that compute as a whole: resnets, blocks of transformers, and the layers around
    them."""
    for block in (*unet.down_blocks, *([unet.mid_block] if unet.mid_block is not None else [])):
        for name, child in block.named_children():
            parts = child if isinstance(child, nn.ModuleList) else [child]
            yield from (part for each in parts for part in (_of_transformer(each) if name == "attentions" else [each]))


def _of_transformer(transformer: nn.Module) -> Iterator[nn.Module]:
    for child in transformer.children():
        yield from child if isinstance(child, nn.ModuleList) else [child]


def _slots(unit: nn.Module, pinned: bool) -> Iterator[_Slot]:
    for module in unit.modules():
        for tensors, is_parameter in ((module._parameters, True), (module._buffers, False)):
            for name, tensor in tensors.items():
                if tensor is not None:
                    host = tensor.detach().to("cpu")
                    yield _Slot(module, name, host.pin_memory() if pinned else host, is_parameter)

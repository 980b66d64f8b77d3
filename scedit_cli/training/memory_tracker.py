"""A tracker of the memory that tensors hold while a program runs. It works with fake tensors, which take no memory, so
that a training step can be measured on any machine."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


class LiveStorages(TorchDispatchMode):
    """A mode that follows every storage made by an operation until it is freed; views share their storage.

    Memory that kernels allocate for themselves and an allocator's rounding are not counted. Enter it after a
    FakeTensorMode. The backward pass is counted if it runs on the calling thread, as on CPUs and with fake tensors.

    >>> with LiveStorages() as live:
    ...     live.own("parameters", model.parameters())
    ...     with live.labelled("activations"):
    ...         loss = model(x).sum()
    >>> live.peak, live.at_peak["activations"]

    Args:
        label: the category of storages made outside any `labelled` block.

    Attributes:
        now: bytes held now, by category.
        at_peak: bytes held at the peak, by category.
        peak: the most bytes ever held.
    """

    def __init__(self, label: str = "other") -> None:
        super().__init__()
        self.now: Counter[str] = Counter()
        self.at_peak: dict[str, int] = {}
        self.peak = 0
        self._label = label
        self._held = 0
        self._known: dict[int, tuple[weakref.ref, str, int]] = {}  # storage's id -> reference, category, bytes

    def __torch_dispatch__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, Tensor):
                self._meet(each)
        return result

    def own(self, label: str, tensors: Iterable[Tensor]) -> None:
        """Put the storages of `tensors` into the category `label`, including storages that were not followed before."""
        for tensor in tensors:
            self._meet(tensor, label)

    def own_gradients(self, parameters: Iterable[nn.Parameter], label: str = "gradients") -> None:
        """Put each parameter's gradient into the category `label` as soon as it is computed."""
        for parameter in parameters:
            parameter.register_post_accumulate_grad_hook(lambda each: self.own(label, [each.grad]))

    @contextmanager
    def labelled(self, label: str) -> Iterator[None]:
        """Put the storages made within the block into the category `label`."""
        before, self._label = self._label, label
        try:
            yield
        finally:
            self._label = before

    def forget_peak(self) -> None:
        """Restart the measurement of the peak from the bytes held now."""
        self.peak, self.at_peak = self._held, +self.now

    def _meet(self, tensor: Tensor, label: str | None = None) -> None:
        if tensor.layout != torch.strided:
            return
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        known = self._known.get(key)
        if known is None:
            self._enter(key, weakref.ref(storage, lambda _: self._leave(key)), label or self._label, size)
        elif (label or known[1], size) != known[1:]:  # its category changed, or it was resized in place
            self._leave(key)
            self._enter(key, known[0], label or known[1], size)

    def _enter(self, key: int, reference: weakref.ref, label: str, size: int) -> None:
        self._known[key] = reference, label, size
        self.now[label] += size
        self._held += size
        if self._held >= self.peak:  # equal after a change of category, where the later categories are the better ones
            self.forget_peak()

    def _leave(self, key: int) -> None:
        _, label, size = self._known.pop(key)
        self.now[label] -= size
        self._held -= size


_ATTENTION = "_scaled_dot_product_flash_attention"
_ON_CPU = {  # the attention of fake tensors on a CPU, counted as a card's
    getattr(torch.ops.aten, f"{_ATTENTION}_for_cpu{end}"): flop_registry[getattr(torch.ops.aten, f"{_ATTENTION}{end}")]
    for end in ("", "_backward")
}


class CountedFlops(TorchDispatchMode):
    """A mode that counts the floating-point operations of matrix products, convolutions and attention. Unlike
    PyTorch's counter it takes no operation apart and holds no tensor, so that memory can be followed at once.

    Attributes:
        total: the operations so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0
        self._formulas = _ON_CPU | flop_registry

    def __torch_dispatch__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if formula := self._formulas.get(func._overloadpacket):
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        return result


class CudaAutocast(TorchFunctionMode):
    """A mode in which CPU autocast runs in float32 the operations of a U-Net and its loss that CUDA's autocast runs in
    float32 and the CPU's does not. It is meant for (fake) CPU tensors."""

    _LIFTED = frozenset({F.group_norm, F.layer_norm, F.interpolate, F.mse_loss, torch.sum, torch.pow})

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func in self._LIFTED and torch.is_autocast_enabled("cpu"):
            args = tuple(_lifted(each) for each in args)
            kwargs = {name: _lifted(each) for name, each in kwargs.items()}
        return func(*args, **kwargs)


def _lifted(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


def tensors_of(parts: Iterable[nn.Module]) -> list[Tensor]:
    """Return the parameters and buffers of all parts."""
    return [tensor for part in parts for tensor in (*part.parameters(), *part.buffers())]

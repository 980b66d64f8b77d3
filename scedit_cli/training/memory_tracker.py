"""The memory that tensors hold while a program runs, followed storage by storage. Works with fake tensors, which take
no memory, so that a training step can be weighed on any machine."""

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


class LiveStorages(TorchDispatchMode):
    """Follows every storage that an operation makes while the mode is on, until it is freed; views share theirs.

    What kernels allocate for themselves is not seen, nor what an allocator rounds up. Enter it after a FakeTensorMode.
    The backward pass is seen where it runs on the thread that calls it, as it does on a CPU and with fake CPU tensors.

    >>> with LiveStorages() as live:
    ...     live.own("parameters", model.parameters())
    ...     with live.labelled("activations"):
    ...         loss = model(x).sum()
    >>> live.peak, live.at_peak["activations"]

    Args:
        label: the category of what is made outside any `labelled` block.

    Attributes:
        now: bytes held, by category.
        at_peak: bytes by category when most was held.
        peak: the most bytes ever held.
    """

    def __init__(self, label: str = "other") -> None:
        super().__init__()
        self.now: Counter[str] = Counter()
        self.at_peak: dict[str, int] = {}
        self.peak = 0
        self._label = label
        self._held = 0
        self._known: dict[int, tuple[weakref.ref, str, int]] = {}  # by the storage's id: itself, category, bytes

    def __torch_dispatch__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, Tensor):
                self._meet(each)
        return result

    def own(self, label: str, tensors: Iterable[Tensor]) -> None:
        """Puts the storages of `tensors` into the category `label`, those not met before too."""
        for tensor in tensors:
            self._meet(tensor, label)

    def own_gradients(self, parameters: Iterable[nn.Parameter], label: str = "gradients") -> None:
        """Puts each parameter's gradient into the category `label` as soon as it is there."""
        for parameter in parameters:
            parameter.register_post_accumulate_grad_hook(lambda each: self.own(label, [each.grad]))

    @contextmanager
    def labelled(self, label: str) -> Iterator[None]:
        """Within, new storages belong to the category `label`."""
        before, self._label = self._label, label
        try:
            yield
        finally:
            self._label = before

    def forget_peak(self) -> None:
        """The peak counts from here on."""
        self.peak, self.at_peak = self._held, +self.now

    def _meet(self, tensor: Tensor, label: str | None = None) -> None:
        if tensor.layout != torch.strided:
            return
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        known = self._known.get(key)
        if known is None:
            self._enter(key, weakref.ref(storage, lambda _: self._leave(key)), label or self._label, size)
        elif (label or known[1], size) != known[1:]:  # another category, or resized in place
            self._leave(key)
            self._enter(key, known[0], label or known[1], size)

    def _enter(self, key: int, reference: weakref.ref, label: str, size: int) -> None:
        self._known[key] = reference, label, size
        self.now[label] += size
        self._held += size
        if self._held >= self.peak:  # equal after a change of category: the later one is the better known
            self.forget_peak()

    def _leave(self, key: int) -> None:
        _, label, size = self._known.pop(key)
        self.now[label] -= size
        self._held -= size


class CudaAutocast(TorchFunctionMode):
    """CUDA's autocast lifts some operations to float32 that a CPU's leaves as they are; those that a U-Net and its
    loss have, for tensors on a (fake) CPU."""

    _LIFTED = frozenset({F.group_norm, F.layer_norm, F.interpolate, F.mse_loss, torch.sum, torch.pow})

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func in self._LIFTED and torch.is_autocast_enabled("cpu"):
            args = tuple(_lifted(each) for each in args)
            kwargs = {name: _lifted(each) for name, each in kwargs.items()}
        return func(*args, **kwargs)


def _lifted(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value

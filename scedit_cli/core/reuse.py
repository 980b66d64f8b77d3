"""Sampling with fewer runs of a U-Net's deep layers, whose features change little from step to step.

DeepCache (arXiv 2312.00858) keeps the features that the deep layers hand to the shallow ones, Faster Diffusion
(arXiv 2312.09608) those of the encoder. Here the input of the last up block is kept, with the tuners' edits in it.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from scedit_cli.core.attach import attached
from scedit_cli.core.sites.up_blocks import InTuple
from scedit_cli.core.skips import survey
from scedit_cli.utils.errors import SceditError


def reuse(unet: nn.Module, every: int, calls_per_step: int = 1) -> Reuse:
    """Run the deep layers of `unet` at every `every`-th step only, until the reuse is undone or its `with` block ends.

    At the steps between, the last up block, and the part of the encoder whose skips it consumes, run on the input that
    the other up blocks gave at the last full step. Tuners edit live skips as always; edits of other skips are
    kept with the features. A change of the tuners' scales, hints or regions, or of the sample's shape, makes a full
    step. The U-Net's class and weights stay as they are, and with 1 for `every` there is not even a hook.

    Args:
        unet: a diffusers U-Net, before or after tuners are attached to it.
        every: the number of steps from one full step to the next, at least 1.
        calls_per_step: U-Net calls that one step of the sampler makes, 2 for second-order samplers.

    Raises:
        SceditError: `every` is below 1, the U-Net has no skips, reuses already, or is compiled.
    """
    if every < 1:
        raise SceditError(f"reuse is {every}", hint="give the steps from one full step to the next: 1, 2, 3, …", field="reuse")
    if any(isinstance(hook, _BeforeUNet) for hook in unet._forward_pre_hooks.values()):
        raise SceditError("this U-Net reuses its deep layers already", hint="undo the first reuse before the second")
    if hasattr(unet, "_orig_mod") or unet._compiled_call_impl is not None:
        raise SceditError("this U-Net is compiled, and its code would ignore the reuse", hint="leave one of the two out")
    if not isinstance(survey(unet).sites[0], InTuple):
        raise SceditError(
            f"the deep layers of {type(unet).__name__} cannot be reused",
            hint="only U-Nets whose up blocks take their skips as a tuple can reuse them",
        )
    return Reuse(unet, every, calls_per_step)


class Reuse:
    """The reuse of a U-Net's deep layers, as `reuse` returns it.

    Attributes:
        full, all: the number of U-Net calls so far that ran every layer, and of all calls.
    """

    def __init__(self, unet: nn.Module, every: int, calls_per_step: int) -> None:
        self.full = self.all = 0
        self._every, self._calls_per_step = every, calls_per_step
        self._calls = 0  # since the last restart or change
        self._state: tuple[Any, ...] | None = None
        self._is_full = True
        self._kept: dict[int, Tensor] = {}  # by the call's place within its step
        self._handles = []
        if every == 1:
            return
        self._hook(unet, _BeforeUNet(self))
        for block in _deep(unet):
            self._hook(block, _BeforeDeep(self))
            self._handles.append(_Skippable(self, unet, block))
        self._hook(unet.up_blocks[-1], _BeforeLast(self))

    def restart(self) -> None:
        """Make the next step a full one, as each image's first step has to be."""
        self._state = None
        self._kept.clear()

    def undo(self) -> None:
        """Remove the hooks, which leaves the U-Net exactly as it was; calling this twice is harmless."""
        for handle in self._handles:
            handle.remove()
        self.restart()

    def __enter__(self) -> Reuse:
        return self

    def __exit__(self, *exception: object) -> None:
        self.undo()

    def _hook(self, module: nn.Module, hook: Any) -> None:
        # Before the tuners' hooks, so that they see which skips are empty.
        self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True, prepend=True))

    def _begin(self, unet: nn.Module, sample: Tensor) -> None:
        attachment = attached(unet)
        state = (sample.shape, sample.dtype, sample.device, attachment and (attachment, attachment.changes))
        if state != self._state:
            self._state, self._calls = state, 0
        step, self._place = divmod(self._calls, self._calls_per_step)
        self._is_full = step % self._every == 0 or self._place not in self._kept
        self._calls += 1
        self.all += 1
        self.full += self._is_full


class _BeforeUNet:
    """The forward pre-hook on the U-Net, which decides whether this call is a full one."""

    def __init__(self, owner: Reuse) -> None:
        self.owner = owner

    def __call__(self, unet: nn.Module, args: tuple, kwargs: dict) -> None:
        self.owner._begin(unet, kwargs["sample"] if "sample" in kwargs else args[0])


class _BeforeDeep:
    """The forward pre-hook on a deep block, which cuts the batch of its inputs to nothing where its features are
    reused: the tuners' hooks come later, and edit nothing then."""

    def __init__(self, owner: Reuse) -> None:
        self.owner = owner

    def __call__(self, block: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        return None if self.owner._is_full else (_emptied(args), _emptied(kwargs))


class _Skippable:
    """A deep block's `forward` as an attribute of its own, where accelerate's hooks keep theirs, since no hook of
    PyTorch can keep a module from running. A skipped block hands on its empty input, also as its skips."""

    def __init__(self, owner: Reuse, unet: nn.Module, block: nn.Module) -> None:
        self.owner, self.unet, self.block = owner, unet, block
        self.forward = block.forward
        self.own = vars(block).get("forward")
        down = getattr(block, "downsamplers", None)
        self.skips = len(block.resnets) + bool(down) if block in [*unet.down_blocks] else None
        block.forward = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.owner._is_full:
            return self.forward(*args, **kwargs)
        hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        return hidden if self.skips is None else (hidden, (hidden,) * self.skips)

    def remove(self) -> None:
        """Give the block back the `forward` that it had."""
        if vars(self.block).get("forward") is self:
            is_mark = getattr(self.own, "__func__", None) is type(self.block).forward  # of tuners, which may be gone
            if self.own is None or is_mark and not attached(self.unet):
                del self.block.forward
            else:
                self.block.forward = self.own


class _BeforeLast:
    """The forward pre-hook on the last up block, which keeps or replaces what the deep layers give it."""

    def __init__(self, owner: Reuse) -> None:
        self.owner = owner

    def __call__(self, block: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        owner = self.owner
        if owner._is_full:
            owner._kept[owner._place] = kwargs["hidden_states"]
            return None
        return args, kwargs | {"hidden_states": owner._kept[owner._place]}


def _deep(unet: nn.Module) -> list[nn.Module]:
    """Return the blocks between the skips that the last up block consumes and that block."""
    live, reached, shallow = survey(unet).up_blocks[-1], 1, 0  # the first skip is conv_in's
    while reached < live:
        block = unet.down_blocks[shallow]
        reached += len(block.resnets) + bool(getattr(block, "downsamplers", None))
        shallow += 1
    middle = [] if unet.mid_block is None else [unet.mid_block]
    return [*unet.down_blocks[shallow:], *middle, *unet.up_blocks[:-1]]


def _emptied(value: Any) -> Any:
    """Return arguments with the batch of every tensor cut to nothing."""
    if isinstance(value, Tensor):
        return value[:0] if value.dim() else value
    if isinstance(value, dict):
        return {name: _emptied(each) for name, each in value.items()}
    return type(value)(map(_emptied, value)) if type(value) in (tuple, list) else value

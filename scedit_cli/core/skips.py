"""The skip connections of a U-Net: finding them, and passing each one through a function on its way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from scedit_cli.core.sites import KINDS
from scedit_cli.core.sites.refused import refusal
from scedit_cli.core.sites.site import TOKENS, Entries, Site, SkipMap, in_words

__all__ = ["Entries", "SkipMap", "decoder_parts", "edit_skips", "in_words", "input_of", "survey"]

Edit = Callable[[Tensor, int], Tensor]


def survey(unet: nn.Module) -> SkipMap:
    """Find the skips of a diffusers model that has any: a U-Net for images or video, or Hunyuan-DiT.

    Channels and strides are read off the encoder's modules, and the channels that are taken off the decoder's; the two
    must agree.

    Raises:
        SceditError: the model has no skips, or skips of a kind that cannot be edited, or its encoder and decoder do not
            fit together.
    """
    return _kind_and_skips(unet)[1]


def decoder_parts(unet: nn.Module) -> Iterator[tuple[nn.Module, bool]]:
    """Yield the modules of the decoder that can run again in the backward pass, each with whether it is a transformer.

    Raises:
        SceditError: as for `survey`.
    """
    return _kind_and_skips(unet)[0].parts(unet)


def edit_skips(
    unet: nn.Module, skips: SkipMap, edit: Edit, entries: Entries | None = None
) -> list[RemovableHandle]:
    """Let `unet` read edit(skip, index) in the place of every skip, (…, C, h, w) with its number in encoder order,
    until the returned handles are removed. An `edit` that returns the skip itself leaves it as it is.

    The hooks can be pickled and deep-copied with the U-Net if `edit` can be. `entries` are skips.entries(unet), if
    known.
    """
    size = _InputSize(skips.input)
    handles = []
    if skips.sites[0].layout == TOKENS:  # the others do not need it
        handles.append(unet.register_forward_pre_hook(size, with_kwargs=True))
    for module, sites in (entries or skips.entries(unet)).items():
        handles.append(module.register_forward_pre_hook(_BeforeEntry(edit, sites, size), with_kwargs=True))
    return handles


def input_of(args: tuple, kwargs: Mapping[str, Any], name: str) -> Tensor:
    """Return the noisy latents, the first argument and called `name`, among those of a U-Net's call."""
    return kwargs[name] if name in kwargs else args[0]


class _InputSize:
    """The forward pre-hook on a U-Net that notes the height and width of its input. Hooks here are classes, not
    closures, so that they can be pickled and deep-copied."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.size = (0, 0)

    def __call__(self, unet: nn.Module, args: tuple, kwargs: dict) -> None:
        self.size = tuple(input_of(args, kwargs, self.name).shape[-2:])


class _BeforeEntry:
    """The forward pre-hook on a decoder's module, which edits the skips among its arguments."""

    def __init__(self, edit: Edit, sites: list[tuple[int, Site]], input_size: _InputSize) -> None:
        self.edit = edit
        self.sites = sites
        self.input_size = input_size

    def __call__(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        argument, position = self.sites[0][1].argument, self.sites[0][1].position
        named = argument in kwargs
        value, changed = kwargs[argument] if named else args[position], False
        for index, site in self.sites:
            skip = site.take(value, self.input_size.size)
            edited = self.edit(skip, index)
            if edited is not skip:
                value, changed = site.put(value, edited), True
        if not changed:
            return None
        if named:
            return args, kwargs | {argument: value}
        return (*args[:position], value, *args[position + 1 :]), kwargs


def _kind_and_skips(unet: nn.Module) -> tuple[ModuleType, SkipMap]:
    try:
        for kind in KINDS:
            if (skips := kind.survey(unet)) and skips.sites:
                return kind, skips
    except AttributeError as error:  # blocks of others that are named alike
        raise refusal(unet, error) from error
    raise refusal(unet)

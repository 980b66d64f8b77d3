"""Skips between a transformer's blocks, of an image's patches: Hunyuan-DiT."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from scedit_cli.core.sites.site import TOKENS, Site, SkipMap, check_fit


class Patches(Site):
    """A skip of (B, h·w, C), row by row, with h and w the input's size in patches."""

    argument, position = "skip", 4

    def take(self, value: Tensor, size: tuple[int, int]) -> Tensor:
        return value.transpose(1, 2).unflatten(2, [side // self.stride for side in size])

    def put(self, value: Tensor, skip: Tensor) -> Tensor:
        return skip.flatten(2).transpose(1, 2)


def survey(unet: nn.Module) -> SkipMap | None:
    """Pair the first blocks with the last ones, which have a layer for a skip."""
    blocks = getattr(unet, "blocks", None) or ()
    if not hasattr(next(iter(blocks), None), "skip_linear") or not hasattr(unet, "pos_embed"):
        return None
    last = len(unet.blocks) - 1
    sites, taken = [], []
    for b, block in enumerate(reversed(unet.blocks)):
        if block.skip_linear is None:
            break
        channels = unet.blocks[b].ff.net[-1].out_features
        sites.append(
            Patches(f"blocks.{b}", f"blocks.{last - b}", channels, unet.pos_embed.patch_size, layout=TOKENS)
        )
        taken.append(block.skip_linear.in_features - block.skip_linear.out_features)
    check_fit(unet, [site.channels for site in sites], taken)
    return SkipMap(tuple(sites), input="hidden_states")


def parts(unet: nn.Module) -> Iterator[tuple[nn.Module, bool]]:
    for block in unet.blocks:
        if block.skip_linear is not None:
            yield block, True

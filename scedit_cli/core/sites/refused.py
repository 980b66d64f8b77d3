"""The reasons for which models that have skips cannot be edited here."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from scedit_cli.utils.errors import SceditError


def refusal(unet: nn.Module, missing: AttributeError | None = None) -> SceditError:
    """Return the error for a model whose skips cannot be edited.

    Args:
        unet: the model.
        missing: the attribute that its blocks lack, if it seemed to be of a kind that can be edited.
    """
    name = type(unet).__name__
    for is_so, reason, hint in _REASONS:
        if is_so(unet):
            return SceditError(reason.format(name), hint=hint)
    if missing:
        return SceditError(
            f"{name} has up or down blocks of a kind that is not known here: {missing}",
            hint="blocks made of resnets, as in SD1.5, SD2.1 and SDXL, can be edited",
        )
    return SceditError(
        f"no skip connections are found in {name}",
        hint="SCEdit needs a U-Net with down_blocks and up_blocks, such as those of SD1.5, SD2.1 and SDXL",
    )


def _has_k_blocks(unet: nn.Module) -> bool:
    return any(type(block).__name__.startswith("K") for block in getattr(unet, "up_blocks", ()))


def _is_a_sequence(unet: nn.Module) -> bool:
    return any(isinstance(layer, nn.Conv1d) for block in getattr(unet, "up_blocks", ()) for layer in block.modules())


_REASONS: tuple[tuple[Callable[[nn.Module], bool], str, str], ...] = (
    (
        _has_k_blocks,
        "{} has K-blocks, which drop all skips but their level's last; sites for them are not written",
        "give a U-Net whose up blocks consume every skip",
    ),
    (
        _is_a_sequence,
        "the skips of {} are sequences of (batch, channels, length), and tuners edit images",
        "give a U-Net of images or video",
    ),
    (
        lambda unet: hasattr(unet, "ctrl_conv_in"),
        "{} gives its decoder skips of its control network beside its own, and tuners edit one kind of skip",
        "attach tuners to the U-Net alone, without ControlNet-XS",
    ),
    (
        lambda unet: hasattr(getattr(unet, "transformer", unet), "transformer_out_blocks"),
        "the skips of {} hold the tokens of texts beside those of the image, and tuners edit images",
        "give a U-Net of images or video",
    ),
)

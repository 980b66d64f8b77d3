"""The tuners of SCEdit (Jiang et al., CVPR 2024, arXiv 2312.11392): SC-Tuner, CSC-Tuner and its hint encoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scedit_cli.core.recompute import run_again
from scedit_cli.core.skips import survey
from scedit_cli.utils.errors import SceditError

T = TypeVar("T", bound=nn.Module)

STEM_WIDTHS = (16, 32, 96)
HINT_SCALE = 8  # the stem's three strides of 2: a hint is this many times the latents' size


class SkipMLP(nn.Module):
    """The map T(x) = W_up·GELU(W_down·x + b_down) + b_up at every pixel of (B, channels, H, W), with the exact (erf)
    GELU; zero when new."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, hidden, 1)
        self.up = nn.Conv2d(hidden, channels, 1)
        _zero(self.up)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(F.gelu(self.down(x)))


class HintEncoder(nn.Module):
    """Cascade dense convolution, which encodes a hint to one feature per skip.

    A stem of seven 3×3 convolutions brings the hint to the latents' size. A chain of k×k convolutions follows, with one
    link per skip in encoder order, each fed by the one before; all links are zero when new.

    Args:
        channels: channels of the skips, in encoder order.
        in_channels: channels of the hint.
        hint_channels: channels between stem and chain.
        kernel: k of the chain, odd.
        widths: the stem's widths at full, half and quarter resolution.
    """

    def __init__(
        self,
        channels: Sequence[int],
        in_channels: int = 3,
        hint_channels: int = 256,
        kernel: int = 1,
        widths: Sequence[int] = STEM_WIDTHS,
    ) -> None:
        super().__init__()
        full, half, quarter = widths
        plan = [(full, 1), (full, 1), (half, 2), (half, 1), (quarter, 2), (quarter, 1), (hint_channels, 2)]
        stem: list[nn.Module] = []
        previous = in_channels
        for width, stride in plan:
            stem += [_variance_kept(nn.Conv2d(previous, width, 3, stride=stride, padding=1)), nn.SiLU()]
            previous = width
        self.stem = nn.Sequential(*stem[:-1])
        self.chain = nn.ModuleList()
        for width in channels:
            self.chain.append(_zero(nn.Conv2d(previous, width, kernel, padding=kernel // 2)))
            previous = width

    def forward(self, hint: Tensor, strides: Sequence[int], lean: bool = False) -> list[Tensor]:
        """Return the feature c_i of every skip, in encoder order.

        Args:
            hint: (B, in_channels, 8h, 8w) in [0, 1], for latents of h × w.
            strides: the factor by which each skip is smaller than the latents, as `survey` gives them.
            lean: whether the SiLUs' outputs are computed again in the backward pass instead of being kept.
        """
        convolved = partial(run_again, _after_silu) if lean else _after_silu
        first, *others = self.stem[::2]
        x = first(hint)
        for convolution in others:
            x = convolved(x, convolution, convolution.stride[0])
        features, before = [], 1
        for link, stride in zip(self.chain, strides, strict=True):
            x = convolved(x, link, stride // before)
            features.append(x)
            before = stride
        return features


class Tuner(nn.Module):
    """The common base of both tuners: one pixel-wise map per skip, in encoder order.

    Attributes:
        kind: "sc" or "csc".
        condition: the kind of hint it takes, None for an SC-Tuner.
        channels: channels of the skips it edits, in encoder order.
        hidden: the maps' hidden widths, in encoder order.
        up_blocks: the number of skips that each up block of its U-Net consumes, in decoder order; None if unknown.
        metadata: the facts in its file's header (base, recipe, steps, …); empty for a new tuner.
    """

    kind: str
    condition: str | None = None

    def __init__(self, channels: Sequence[int], hidden: Sequence[int] | None = None) -> None:
        super().__init__()
        self.channels = tuple(channels)
        self.hidden = self.channels if hidden is None else tuple(hidden)
        self.maps = nn.ModuleList(SkipMLP(c, h) for c, h in zip(self.channels, self.hidden, strict=True))
        self.up_blocks: tuple[int, ...] | None = None
        self.metadata: dict[str, str] = {}

    @property
    def sizes(self) -> dict[str, int | list[int]]:
        """The constructor's arguments that rebuild this tuner's shapes."""
        return {"channels": list(self.channels), "hidden": list(self.hidden)}

    @property
    def dtype(self) -> torch.dtype:
        return self.maps[0].down.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.maps[0].down.weight.device

    def __str__(self) -> str:
        return f"{self.condition} tuner" if self.condition else "SC-Tuner"


class SCTuner(Tuner):
    """SC-Tuner: skip x becomes x + α·T(x) (equation 5).

    Args:
        channels: channels of the skips, in encoder order.
        hidden: the maps' hidden widths; the channels themselves by default.
    """

    kind = "sc"

    @classmethod
    def for_unet(cls, unet: nn.Module, down_ratio: float = 1.0) -> SCTuner:
        """Return a new float32 tuner for `unet`, on its device; hidden widths are `int(channels · down_ratio)`."""
        skips = survey(unet)
        with _initialised_for(unet) as device:
            tuner = cls(skips.channels, _hidden(skips.channels, down_ratio)).to(device, torch.float32)
        tuner.up_blocks = skips.up_blocks
        return tuner

    def forward(self, skip: Tensor, index: int) -> Tensor:
        """Return the edit T(x) of skip `index` (encoder order), in the tuner's own dtype."""
        return self.maps[index](skip.to(self.dtype))


class CSCTuner(Tuner):
    """CSC-Tuner: skip x becomes x + α·(T(x + c) + c), with c the hint's feature there (equation 6).

    Args:
        channels: channels of the skips, in encoder order.
        hidden: the maps' hidden widths; the channels themselves by default.
        condition: the kind of hint it takes ("canny", "depth", …).
        in_channels: channels of the hint.
        hint_channels: channels between the hint encoder's stem and chain.
        hint_kernel: the chain's kernel size.
        hint_widths: the stem's three widths.
    """

    kind = "csc"

    def __init__(
        self,
        channels: Sequence[int],
        hidden: Sequence[int] | None = None,
        *,
        condition: str,
        in_channels: int = 3,
        hint_channels: int = 256,
        hint_kernel: int = 1,
        hint_widths: Sequence[int] = STEM_WIDTHS,
    ) -> None:
        if not condition:
            raise SceditError("a CSC-Tuner needs the name of its condition", hint='for example condition="canny"')
        if hint_kernel < 1 or hint_kernel % 2 == 0:
            raise SceditError(f"hint_kernel is {hint_kernel}", hint="give an odd size, such as 1 or 3")
        if min(in_channels, hint_channels, *hint_widths) < 1:
            raise SceditError("a hint encoder needs at least one channel everywhere", hint="raise hint_width")
        super().__init__(channels, hidden)
        self.condition = condition
        self.in_channels = in_channels
        self.hint_channels = hint_channels
        self.hint_kernel = hint_kernel
        self.hint_widths = tuple(hint_widths)
        self.encoder = HintEncoder(channels, in_channels, hint_channels, hint_kernel, hint_widths)

    @classmethod
    def for_unet(
        cls,
        unet: nn.Module,
        condition: str,
        hint_kernel: int = 1,
        hint_channels: int = 256,
        hint_width: float = 1.0,
        down_ratio: float = 1.0,
        in_channels: int = 3,
    ) -> CSCTuner:
        """Return a new float32 tuner for `unet`, on its device.

        The defaults are the paper's sizes; `hint_width` scales the stem (16, 32 and 96 channels at 1.0).
        """
        skips = survey(unet)
        hidden = _hidden(skips.channels, down_ratio)
        widths = [int(width * hint_width) for width in STEM_WIDTHS]
        with _initialised_for(unet) as device:
            tuner = cls(
                skips.channels,
                hidden,
                condition=condition,
                in_channels=in_channels,
                hint_channels=hint_channels,
                hint_kernel=hint_kernel,
                hint_widths=widths,
            ).to(device, torch.float32)
        tuner.up_blocks = skips.up_blocks
        return tuner

    @property
    def sizes(self) -> dict[str, int | list[int]]:
        return super().sizes | {
            "in_channels": self.in_channels,
            "hint_channels": self.hint_channels,
            "hint_kernel": self.hint_kernel,
            "hint_widths": list(self.hint_widths),
        }

    def forward(self, skip: Tensor, index: int, feature: Tensor) -> Tensor:
        """Return the edit T(x + c) + c of skip `index` (encoder order), in the tuner's own dtype.

        `feature` is c, with the skip's batch or a batch of one.
        """
        return self.maps[index](skip.to(self.dtype) + feature) + feature


def undrawn(kind: type[T], *sizes: Any, dtype: torch.dtype, device: torch.device | str = "cpu") -> T:
    """Return a new `kind(*sizes)` whose weights are to be set yet; no random numbers are drawn for them."""
    with torch.device("meta"):
        made = kind(*sizes).to(dtype)
    return made.to_empty(device=device)


def _hidden(channels: Sequence[int], down_ratio: float) -> list[int]:
    hidden = [int(c * down_ratio) for c in channels]
    if min(hidden) < 1:
        raise SceditError(f"down_ratio is {down_ratio}", hint="it must leave every map at least one hidden channel")
    return hidden


def _after_silu(x: Tensor, convolution: nn.Conv2d, stride: int) -> Tensor:
    return F.conv2d(F.silu(x), convolution.weight, convolution.bias, stride=stride, padding=convolution.padding)


def _variance_kept(convolution: nn.Conv2d) -> nn.Conv2d:
    # With PyTorch's default, the difference between two hints leaves the stem a hundred times weaker, and training has
    # to undo that first. This is He initialisation (arXiv 1502.01852) with SiLU's gain, 1 / sqrt(E[silu(z)^2]).
    fan_in = convolution.weight[0].numel()
    if not convolution.weight.is_meta:  # nothing is drawn there, and asking for it would import torch._dynamo: seconds
        nn.init.normal_(convolution.weight, std=1.676 / fan_in**0.5)
    nn.init.zeros_(convolution.bias)
    return convolution


def _zero(convolution: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(convolution.weight)
    nn.init.zeros_(convolution.bias)
    return convolution


@contextmanager
def _initialised_for(unet: nn.Module) -> Iterator[torch.device]:
    """Draw new weights on the CPU inside the block, so that a seed gives the same tuner on every device; yield the
    U-Net's device."""
    device = next(unet.parameters()).device
    with torch.device("meta" if device.type == "meta" else "cpu"):
        yield device

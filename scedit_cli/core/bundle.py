"""Several tuners as one thing, and the scales they are summed with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real

from torch import nn

from scedit_cli.core.skips import in_words
from scedit_cli.core.tuners import Tuner
from scedit_cli.utils.errors import SceditError

_WRAPPED = ("_orig_mod", "module")  # what wrappers call the module inside


class Bundle(nn.Module):
    """Several tuners that belong together, each with its scale α; attaches like one tuner.

    Args:
        tuners: SC- and CSC-Tuners for the same skips, at most one per condition.
        scales: one real number per tuner; 1 by default.
    """

    kind = "bundle"

    def __init__(self, tuners: Sequence[Tuner], scales: Sequence[float] | None = None) -> None:
        super().__init__()
        check_together(tuners)
        self.tuners = nn.ModuleList(tuners)
        self.scales = checked_scales(scales, len(tuners))
        self.metadata: dict[str, str] = {}


def unwrapped(tuner: nn.Module) -> Tuner | Bundle:
    """The tuner itself, out of what torch.compile or DistributedDataParallel has wrapped around it: the names of a
    wrapper's weights are not the tuner's.

    Raises:
        SceditError: it is no tuner.
    """
    while not isinstance(tuner, (Tuner, Bundle)):
        inside = next((each for name in _WRAPPED if (each := getattr(tuner, name, None)) is not None), None)
        if inside is None:
            raise SceditError(f"{type(tuner).__name__} is no tuner", hint="scedit.load_tuner reads one from a file")
        tuner = inside
    return tuner


def check_together(tuners: Sequence[Tuner]) -> None:
    """Checks that tuners edit the same skips and take different conditions.

    Raises:
        SceditError: they do not, or there are none.
    """
    if not tuners:
        raise SceditError("there are no tuners", hint="give at least one")
    first = tuners[0]
    for tuner in tuners:
        if tuner.channels != first.channels:
            raise SceditError(
                f"the {tuner} edits skips of {in_words(tuner.channels)} channels, "
                f"the {first} of {in_words(first.channels)}",
                hint="only tuners for the same kind of base go together",
            )
    conditions = [tuner.condition for tuner in tuners if tuner.condition]
    for condition in conditions:
        if conditions.count(condition) > 1:
            raise SceditError(
                f"two tuners take the condition {condition!r}",
                hint="leave one out, or rename it with tuner.condition",
            )


def checked_scales(scales: Sequence[float] | float | None, count: int) -> tuple[float, ...]:
    """`count` finite real numbers; None is all ones, one number is the scale of every tuner.

    Raises:
        SceditError: another number of scales, or one that is no finite real number.
    """
    if scales is None:
        return (1.0,) * count
    values = [scales] * count if isinstance(scales, Real) else list(scales)
    if len(values) != count:
        raise SceditError(f"{len(values)} scales for {count} tuners", hint="give one scale per tuner, in their order")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
            raise SceditError(f"a scale is {value!r}", hint="scales are real numbers; 0 leaves the base as it is")
    return tuple(float(value) for value in values)

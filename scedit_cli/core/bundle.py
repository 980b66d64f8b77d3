"""Bundles of several tuners, and the scales with which their edits are summed."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real

from torch import nn

from scedit_cli.core.skips import in_words
from scedit_cli.core.tuners import Tuner
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.fields import is_finite

_WRAPPED = ("_orig_mod", "module")  # the wrappers' attributes that hold the wrapped module


class Bundle(nn.Module):
    """Several tuners that belong together, with their scales α; it can be attached like one tuner.

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

    def __str__(self) -> str:
        return f"Bundle of {', '.join(map(str, self.tuners))}"


def tuners_of(tuner: Tuner | Bundle) -> list[Tuner]:
    """Return the tuners of a bundle, or a single tuner, as a list."""
    return list(tuner.tuners) if isinstance(tuner, Bundle) else [tuner]


def parts_of(tuner: Tuner | Bundle) -> list[tuple[Tuner, float]]:
    """Return the tuners of a bundle with their scales, or the one tuner with 1."""
    return list(zip(tuner.tuners, tuner.scales, strict=True)) if isinstance(tuner, Bundle) else [(tuner, 1.0)]


def unwrapped(tuner: nn.Module) -> Tuner | Bundle:
    """Return the tuner itself, without wrappers of torch.compile or DistributedDataParallel, which rename the weights.

    Raises:
        SceditError: there is no tuner inside.
    """
    while not isinstance(tuner, (Tuner, Bundle)):
        inside = next((each for name in _WRAPPED if (each := getattr(tuner, name, None)) is not None), None)
        if inside is None:
            raise SceditError(f"{type(tuner).__name__} is no tuner", hint="scedit.load_tuner reads one from a file")
        tuner = inside
    return tuner


def check_together(tuners: Sequence[Tuner]) -> None:
    """Check that tuners edit the same skips and take different conditions.

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
    """Return `scales` as `count` finite numbers; None means 1 for every tuner, and one number is every tuner's scale.

    Raises:
        SceditError: there are more or fewer scales, or one is no finite real number.
    """
    if scales is None:
        return (1.0,) * count
    values = [scales] * count if isinstance(scales, Real) else list(scales)
    if len(values) != count:
        raise SceditError(f"{len(values)} scales for {count} tuners", hint="give one scale per tuner, in their order")
    for value in values:
        if not is_finite(value):
            raise SceditError(f"a scale is {value!r}", hint="scales are real numbers; 0 leaves the base as it is")
    return tuple(float(value) for value in values)

"""Checks of the arguments that a caller passes; each error names the field."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

from scedit_cli.utils.errors import SceditError

_MOST = 2**31 - 1


def is_finite(value: Any) -> bool:
    """Return whether `value` is a number, no bool, that a float holds: neither NaN, infinite nor too large."""
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def check_number(
    value: Any, field: str, least: float | None = None, most: float | None = None, whole: bool = False
) -> None:
    """Raise SceditError unless `value` is a finite number, from `least` to `most` where these are given."""
    good = isinstance(value, Integral if whole else Real) and is_finite(value)
    if good and most is None and value > _MOST:
        most = _MOST
    if good and (least is None or least <= value) and (most is None or value <= most):
        return
    if most is not None and least is None:
        hint = f"give {most} or less"
    elif most is not None:
        hint = f"give a number from {least} to {most}"
    else:
        hint = "give a number" if least is None else f"give {least} or more"
    raise SceditError(f"{field} is {value if isinstance(value, Real) else repr(value)}", hint, field)


def check_choice(value: Any, field: str, choices: Iterable[str]) -> None:
    """Raise SceditError unless `value` is one of `choices`."""
    if value not in tuple(choices):
        raise SceditError(f"{field} {value}: not known", f"choose one of {', '.join(choices)}", field)


def check_type(value: Any, field: str, types: type | tuple[type, ...], wanted: str) -> None:
    """Raise SceditError unless `value` is of one of `types`; `wanted` completes "give …"."""
    if not isinstance(value, types):
        raise SceditError(f"{field} is of type {type(value).__name__}", f"give {wanted}", field)


def check_switches(settings: Any, field: str, names: Iterable[str]) -> None:
    """Raise SceditError unless the attributes `names` of `settings` are True or False."""
    for name in names:
        check_type(getattr(settings, name), f"{field}.{name}", bool, "True or False")


def is_a(value: Any, module: str, name: str) -> bool:
    """Return whether `value` is an instance of the class `name` of `module`, which is not imported for that."""
    return (loaded := sys.modules.get(module)) is not None and isinstance(value, getattr(loaded, name))

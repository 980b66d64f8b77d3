"""The names of the training methods that `bench` compares."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from scedit_cli.utils.errors import SceditError

METHODS = (
    "sc", "csc", "csc-k3", "sc-checkpoint", "csc-checkpoint", "sc-plain", "csc-plain", "csc-k3-plain", "lora",
    "lora-lean", "full", "controlnet", "controlnet-lean", "t2i-adapter", "controlnet-xs",
)  # fmt: skip
DEFAULT_METHODS = ("sc", "csc", "lora", "full", "controlnet")
BASE = "base"  # a method whose quality is measured: the embedded base itself


def check_methods(methods: Iterable[str], known: Sequence[str] = METHODS) -> None:
    """Raise SceditError if a method is not among `known`."""
    for name in methods:
        if name not in known:
            guess = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {guess[0]}?" if guess else f"choose of {', '.join(known)}"
            raise SceditError(f"`methods` {name}: not known", hint, "methods")


def check_rates(rates: Iterable[str], methods: Sequence[str]) -> None:
    """Raise SceditError if a learning rate is for an unknown method or for one that is not among these."""
    for name in rates:
        if name not in METHODS:
            told, hint = f"`learning_rates` {name}: no method", f"choose of {', '.join(METHODS)}"
            raise SceditError(told, hint, "learning_rates")
        if not any(f"{method}-".startswith(f"{name}-") for method in methods):
            told, hint = f"`learning_rates` {name}: not among the methods", f"here are {', '.join(methods)}"
            raise SceditError(told, hint, "learning_rates")

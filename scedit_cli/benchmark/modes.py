"""The names of the training methods that `bench` compares."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.names import QUANTIZERS

METHODS = (
    "sc", "csc", "csc-k3", "sc-checkpoint", "csc-checkpoint", "sc-plain", "csc-plain", "csc-k3-plain", "lora",
    "lora-lean", "lora-checkpoint", "full", "controlnet", "controlnet-lean", "t2i-adapter", "controlnet-xs",
)  # fmt: skip
DEFAULT_METHODS = ("sc", "csc", "lora", "full", "controlnet")
COUNTED = ("vae", "text", "reserve")  # what an estimate can count besides a step's tensors
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


def check_storage(quantize: str, offload: str, beside: Iterable[str]) -> None:
    """Raise SceditError for an unknown storage of the base's weights, or for what an estimate cannot count."""
    for name, value, known in (("quantize", quantize, tuple(QUANTIZERS)), ("offload", offload, ("encoder",))):
        if value not in ("none", *known):
            raise SceditError(f"`{name}` {value}: not known", f"choose one of {', '.join(known)}", name)
    for part in beside:
        if part not in COUNTED:
            raise SceditError(f"`beside` {part}: not known", f"choose of {', '.join(COUNTED)}", "beside")

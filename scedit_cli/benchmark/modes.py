"""The modes of `bench`, and the options of each."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.names import QUANTIZERS

METHODS = (
    "sc", "csc", "csc-k3", "sc-checkpoint", "csc-checkpoint", "sc-plain", "csc-plain", "csc-k3-plain", "lora",
    "lora-lean", "lora-checkpoint", "full", "controlnet", "controlnet-lean", "t2i-adapter", "controlnet-xs",
)  # fmt: skip
COUNTED = ("vae", "text", "reserve")  # what an estimate can count besides a step's tensors
DEFAULT_METHODS = ("sc", "csc", "lora", "full", "controlnet")
BASE = "base"  # a method of --quality: the figures of the embedded base itself
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?")
_QUESTIONS = ("estimate", "sampling", "skips", "quality", "show")
_SIZES = "lora_rank lora_feed_forward down_ratio"
_STORED = "quantize offload"
_MODES = {
    "": f"base methods batch resolution dtype device steps rounds compiled {_SIZES} {_STORED} fits batches plot baseline",
    "--estimate": f"base methods batch resolution dtype device {_SIZES} {_STORED} beside fits batches plot baseline",
    "--sampling": "base resolution dtype device steps",
    "--skips": "base prediction resolution dtype device steps scenes skip_scale skip_noise plot",
    "--quality": f"methods device batch steps seconds seeds scenes learning_rates {_SIZES} keep plot baseline",
    "--quality --tuner": "base prediction dtype device tuners scenes baseline",
    "--show": "plot baseline",
}
_NAMES = {"compiled": "--compile", "beside": "--with", "tuners": "--tuner", "learning_rates": "--learning-rate"}


def mode_of(given: Mapping[str, Any]) -> str:
    """Return the mode that the options choose; "" measures the costs of methods.

    Raises:
        SceditError: two modes are chosen, or an option has no effect.
    """
    if len(asked := [f"--{name}" for name in _QUESTIONS if name in given]) > 1:
        raise SceditError(f"{' and '.join(asked)} are two questions", hint="run bench once for each")
    if "tuners" in given and "quality" not in given:
        raise SceditError(f"--tuner {given['tuners'][0]}: only --quality measures tuners", hint="add --quality")
    mode = "--quality --tuner" if "tuners" in given else asked[0] if asked else ""
    for name in given:
        if name in (*_QUESTIONS, "tolerance", "out", "reporter") or name in _MODES[mode].split():
            continue
        option = _NAMES.get(name, f"--{name.replace('_', '-')}")
        takers = [f"scedit bench {other}".strip() for other, known in _MODES.items() if name in known.split()]
        raise SceditError(
            f"{option} does nothing {f'with {mode}' if mode else 'where costs are measured'}",
            hint=f"it belongs to {' and '.join(takers)}",
        )
    return mode


def check_use(given: Mapping[str, Any], methods: Sequence[str], mode: str) -> None:
    """Raise SceditError if an option belongs to methods that are not among these, or to another mode."""
    uses = {
        ("tolerance",): ("baseline" in given, "--baseline"),
        ("lora_rank", "lora_feed_forward"): (_has(methods, "lora"), "--methods lora"),
        ("down_ratio",): (_has(methods, "sc", "csc"), "--methods sc or csc"),
    }
    if mode == "--quality" and set(methods) == {BASE}:
        uses["steps", "seconds", "seeds", "batch"] = False, "a method that is trained"
    for names, (is_used, by) in uses.items():
        if (name := next((each for each in names if each in given), None)) and not is_used:
            raise SceditError(
                f"--{name.replace('_', '-')} does nothing without {by}", hint=f"add {by}, or leave the option out"
            )


def _has(methods: Sequence[str], *kinds: str) -> bool:
    return any(name.split("-")[0] in kinds for name in methods)


def known_methods(methods: Sequence[str], mode: str) -> list[str]:
    """Return `methods` without duplicates, by default DEFAULT_METHODS; none in a mode that compares no methods."""
    if "methods" not in _MODES[mode].split():
        return []
    known = [BASE, *METHODS] if mode == "--quality" else list(METHODS)
    for name in methods:
        if name not in known:
            guess = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {guess[0]}?" if guess else f"choose of {', '.join(known)}"
            raise SceditError(f"--methods {name}: not known", hint)
    return list(dict.fromkeys(methods or DEFAULT_METHODS))


def check_storage(given: Mapping[str, Any]) -> None:
    """Raise SceditError for an unknown storage of the base's weights, or for what an estimate cannot count."""
    for name, option, known in (("quantize", "--quantize", QUANTIZERS), ("offload", "--offload", ("encoder",))):
        if name in given and given[name] not in known:
            raise SceditError(f"{option} {given[name]}: not known", hint=f"choose one of {', '.join(known)}")
    for part in given.get("beside", ()):
        if part not in COUNTED:
            raise SceditError(f"--with {part}: not known", hint=f"choose of {', '.join(COUNTED)}")


def read_tolerance(text: str) -> float:
    """Return the share that "0.05" or "5%" means.

    Raises:
        SceditError: `text` is not such a share.
    """
    number, percent = text.strip().removesuffix("%"), text.strip().endswith("%")
    try:
        value = float(number) / (100 if percent else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise SceditError(f"--tolerance {text}: no share of a figure", hint="write it as 5% or 0.05")
    return value


def read_size(text: str) -> int:
    """Return the bytes that "12GiB", "12GB" or a plain number means.

    Raises:
        SceditError: `text` is not a plausible size of memory.
    """
    found = _SIZE.fullmatch(text.strip())
    number, prefix, binary = found.groups() if found else ("0", None, None)
    size = int(float(number) * (1024 if binary else 1000) ** "_KMGT".index(prefix or "_"))
    if size < 2**20:  # probably a number whose unit is missing, such as 12
        raise SceditError(f"--fits {text}: no size of a memory", hint="write it as 12GiB")
    return size


def check_rates(rates: Iterable[str], methods: Sequence[str]) -> None:
    """Raise SceditError if a learning rate is for an unknown method or for one that is not among these."""
    if unknown := [name for name in rates if name not in METHODS]:
        raise SceditError(f"--learning-rate {unknown[0]}: no method", hint=f"choose of {', '.join(METHODS)}")
    if idle := [name for name in rates if not any(f"{method}-".startswith(f"{name}-") for method in methods)]:
        raise SceditError(f"--learning-rate {idle[0]}: not among the methods", hint=f"here are {', '.join(methods)}")

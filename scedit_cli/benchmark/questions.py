"""What `bench` is asked, and which options belong to which question."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from scedit_cli.benchmark.methods import METHODS
from scedit_cli.errors import SceditError

DEFAULT_METHODS = ("sc", "csc", "lora", "full", "controlnet")
BASE = "base"  # as a method of --quality: the embedded base's own figures
_QUESTIONS = ("estimate", "sampling", "skips", "quality", "show")
_SIZES = "lora_rank lora_feed_forward down_ratio"
_MODES = {
    "": f"base methods batch resolution dtype device steps rounds compiled {_SIZES} fits batches plot baseline",
    "--estimate": f"base methods batch resolution dtype device {_SIZES} fits batches plot baseline",
    "--sampling": "base resolution dtype device steps",
    "--skips": "base prediction resolution dtype device steps scenes skip_scale skip_noise plot",
    "--quality": f"methods device batch steps seconds seeds scenes learning_rates {_SIZES} keep plot baseline",
    "--quality --tuner": "base prediction dtype device tuners scenes baseline",
    "--show": "plot baseline",
}
_NAMES = {"compiled": "--compile", "tuners": "--tuner", "learning_rates": "--learning-rate"}


def mode_of(given: Mapping[str, Any]) -> str:
    """The question that the options ask; "" where methods are to be measured.

    Raises:
        SceditError: two questions, or an option that would do nothing.
    """
    if len(asked := [f"--{name}" for name in _QUESTIONS if name in given]) > 1:
        raise SceditError(f"{' and '.join(asked)} are two questions", hint="run bench once for each")
    if "tuners" in given and "quality" not in given:
        raise SceditError(f"--tuner {given['tuners'][0]}: only --quality measures tuners", hint="add --quality")
    mode = "--quality --tuner" if "tuners" in given else asked[0] if asked else ""
    for name in given:
        if name in (*_QUESTIONS, "tolerance", "out", "on_event") or name in _MODES[mode].split():
            continue
        option = _NAMES.get(name, f"--{name.replace('_', '-')}")
        takers = [f"scedit bench {other}".strip() for other, known in _MODES.items() if name in known.split()]
        raise SceditError(
            f"{option} does nothing {f'with {mode}' if mode else 'where costs are measured'}",
            hint=f"it belongs to {' and '.join(takers)}",
        )
    return mode


def check_use(given: Mapping[str, Any], methods: Sequence[str], mode: str) -> None:
    """Raises SceditError where an option is for methods that are not among these, or for what is not asked."""
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
    """`methods`, by default DEFAULT_METHODS, each once; none where the question is not about them."""
    if "methods" not in _MODES[mode].split():
        return []
    known = [BASE, *METHODS] if mode == "--quality" else list(METHODS)
    for name in methods:
        if name not in known:
            guess = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {guess[0]}?" if guess else f"choose of {', '.join(known)}"
            raise SceditError(f"--methods {name}: not known", hint)
    return list(dict.fromkeys(methods or DEFAULT_METHODS))

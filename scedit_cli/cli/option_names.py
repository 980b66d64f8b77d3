"""The options that set the fields of the library's objects, and the library's messages in the command line's words."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

# The options of those fields whose last part is not their option's name. Indices in brackets count for nothing.
_OPTIONS = {
    "prompts": "--prompt", "seeds": "--seed", "tuners": "--tuner", "controls": "--cond",
    "controls.photo": "--cond-from",
    "controls.params": "--param", "controls.weights": "--weights", "controls.mask": "--mask", "base.model": "--base",
    "base.fingerprint": "--from", "overrides.scales": "--scale", "overrides.sweeps": "--sweep",
    "overrides.masks": "--mask", "init": "--image", "init.strength": "--strength", "init.mask": "--inpaint",
    "init.margins": "--outpaint", "sampler.batch_size": "--batch", "batch_size": "--batch", "out.path": "--out",
    "params": "--param", "kinds": "--cond", "conditions": "--cond", "scales": "--scale", "source": "--from",
    "compiled": "--compile", "beside": "--with", "learning_rates": "--learning-rate",
    "skips.scale": "--skip-scale", "skips.noise": "--skip-noise",
}  # fmt: skip
_QUOTED = re.compile(r"`([a-z_][a-z_.]*)(?:=([^`]+)|\(([^`]*)\))?`")
_CALLS = {"explain": "train --explain"}  # functions that the command line calls otherwise
_RECIPE = ("tuner", "data", "train", "checkpoints", "samples", "validation", "tracking", "score")  # base is a field too
# What only a file of prompts can give a prompt, and how its lines call that where it is not by the field's name.
_OF_PROMPT = re.compile(r"prompts\[(\d+)\]\.(\w+)(?:\['([^']*)'\])?.*")
_KEYS = {"controls": "conditions", "seeds": "seed"}
_CONTROL = re.compile(r"`Control\('([^'`]*)', (image|photo)\)`")


def option_of(field: str) -> str:
    """Return the option that sets a field such as "controls[0].scale"; a recipe's key has none and stays as it is."""
    if field.startswith("-") or _is_key(field):
        return field
    if _OF_PROMPT.fullmatch(field):
        return "--prompts"
    parts = re.sub(r"\[[^]]*\]", "", field).split(".")
    for end in range(len(parts), 0, -1):
        if option := _OPTIONS.get(".".join(parts[:end])):
            return option
    return f"--{parts[-1].replace('_', '-')}"


def in_options(text: Any, field: str | None = None) -> Any:
    """Return a message of the library, or a document of texts, with options in place of fields and of arguments in
    backquotes: `up_blocks` becomes --up-blocks, `strict=True` --strict, `train.steps=9` --set train.steps=9, and
    `annotate(DIR, kinds=canny)` scedit annotate DIR --cond canny.

    Args:
        field: the field that the message may begin with.
    """
    if isinstance(text, dict):
        return {key: in_options(value) for key, value in text.items()}
    if isinstance(text, list | tuple):
        return type(text)(map(in_options, text))
    if not isinstance(text, str):
        return text
    if field and re.match(rf"{re.escape(field)}(?![^\s:])", text):  # a path may begin with the same letters
        text = _place_of(field) + text.removeprefix(field)
    text = _CONTROL.sub(lambda found: f"--cond{'-from' * (found[2] == 'photo')} {found[1]}={found[2].upper()}", text)
    text = text.replace("=IMAGE", "=FILE") if "--cond " in text else text
    return _QUOTED.sub(lambda found: _quoted(*found.groups()) or found[0], text)


def _place_of(field: str) -> str:
    """Return the option that sets a field, and where in a file of prompts that is."""
    if not (found := _OF_PROMPT.fullmatch(field)):
        return option_of(field)
    number, part, name = found.groups()
    return f"--prompts, prompt {int(number) + 1}, {_KEYS.get(part, part)}{f' {name}' if name else ''}"


def _is_key(field: str) -> bool:
    section, dot, _ = field.partition(".")
    return bool(dot) and section in _RECIPE or field == "base.quantize"


@cache
def _known() -> frozenset[str]:
    """Return the names of all commands and options: texts of others may hold words in backquotes too."""
    from typer.main import get_command

    from scedit_cli.cli import app

    commands = get_command(app).commands
    return frozenset(commands) | {name for each in commands.values() for option in each.params for name in option.opts}


def _quoted(name: str, value: str | None, arguments: str | None) -> str | None:
    """Return what stands for `name`, `name=value` or `name(arguments)`; None where the command line has nothing."""
    if arguments is not None:
        if name not in _CALLS and name not in _known():
            return None
        place, *others = re.split(r"(?:^|, )(?=[a-z_]+=)", arguments)
        options = (_quoted(*each.split("=", 1), None) or each for each in others)
        return " ".join(("scedit", _CALLS.get(name, name), *filter(None, (place, *options))))
    if _is_key(name):
        return name if value is None else f"--set {name}={value}"
    option = option_of(name)
    if option not in _known():
        return None
    return option if value in (None, "True") else f"{option} {value}"

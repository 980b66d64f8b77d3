"""The translation of sentences about a job's arguments into sentences about the command's options."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from scedit_cli.utils.errors import SceditError

_ARGUMENT = re.compile(r"`([a-z_][\w.]*)(?:=([^`]*)|\(([^`]*)\))?`")
_OPTIONS = {"conditions": "--cond", "kinds": "--cond", "params": "--param", "tuners": "--tuner"}  # called otherwise than the arguments
_CALLS = {"explain": "train --explain"}  # functions that are called otherwise on the command line


@contextmanager
def as_options(names: Mapping[str, str] | None = None) -> Iterator[None]:
    """Translate the SceditErrors of the block by `in_options`."""
    try:
        yield
    except SceditError as error:
        error.message = in_options(error.message, names)
        error.hint = error.hint and in_options(error.hint, names)
        error.args = (error.message,)
        raise


def in_options(said: Any, names: Mapping[str, str] | None = None) -> Any:
    """Replace the arguments that `said` names in backticks, a text or a document of texts, by the command line's words.

    `up_blocks` becomes --up-blocks, `size=64` --size 64, `strict=True` --strict, `train.steps=9` --set train.steps=9,
    and `annotate(DIR, kinds=canny)` scedit annotate DIR --cond canny. An argument among `names` becomes its option.
    """
    if isinstance(said, str):
        return _ARGUMENT.sub(lambda found: _option(*found.groups(), names or {}), said)
    if isinstance(said, dict):
        return {key: in_options(value, names) for key, value in said.items()}
    if isinstance(said, list | tuple):
        return [in_options(each, names) for each in said]
    return said


def _option(name: str, value: str | None, arguments: str | None, names: Mapping[str, str]) -> str:
    if arguments is not None:
        place, *others = re.split(r"(?:^|, )(?=[a-z_]+=)", arguments)
        options = (_option(*each.split("=", 1), None, {}) for each in others)
        return " ".join(("scedit", _CALLS.get(name, name), *filter(None, (place, *options))))
    if "." in name:
        return name if value is None else f"--set {name}={value}"
    option = {**_OPTIONS, **names}.get(name, f"--{name.replace('_', '-')}")
    return option if value in (None, "True") else f"{option} {value}"

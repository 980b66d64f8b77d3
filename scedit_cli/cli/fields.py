"""The translation of errors about a job's arguments into errors about the command's options."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from scedit_cli.utils.errors import SceditError

_ARGUMENT = re.compile("`([a-z_]+)`")


@contextmanager
def as_options(names: Mapping[str, str] | None = None) -> Iterator[None]:
    """Replace the arguments that an error's sentences name in backticks by options: `up_blocks` becomes --up-blocks,
    and an argument among `names` becomes its option there."""
    try:
        yield
    except SceditError as error:
        error.message = _translated(error.message, names or {})
        error.hint = error.hint and _translated(error.hint, names or {})
        error.args = (error.message,)
        raise


def _translated(text: str, names: Mapping[str, str]) -> str:
    return _ARGUMENT.sub(lambda found: names.get(found[1], f"--{found[1].replace('_', '-')}"), text)

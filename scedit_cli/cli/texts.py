"""The command line's texts that name tuners, as objects."""

from __future__ import annotations

import os
import re

from scedit_cli.inference.ingredients import Ingredient
from scedit_cli.utils.io import expanded
from scedit_cli.utils.specs import parse_tuner

_NAMED = re.compile(r"([a-z][a-z0-9_-]*(?:,[a-z][a-z0-9_-]*)*)=(.+)", re.DOTALL)


def parse_ingredient(text: str, option: str = "tuner") -> Ingredient:
    """Parse `[KIND,KIND=]FILE[:SCALE]`, a tuner to merge or to evaluate.

    Raises:
        SceditError: the scale is no number.
    """
    names: tuple[str, ...] = ()
    if not os.path.exists(expanded(text)) and (named := _NAMED.fullmatch(text)):
        names, text = tuple(named[1].split(",")), named[2]
    spec = parse_tuner(text, option)
    return Ingredient(spec.name, spec.scale, names)

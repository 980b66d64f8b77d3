"""The reading of a recipe from a TOML file and the command line's changes."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from os.path import exists, isdir, isfile  # pathlib's versions raise errors at names that are too long
from pathlib import Path
from typing import Any

from scedit_cli.recipe.builtin import builtin_recipes
from scedit_cli.recipe.schema import Recipe
from scedit_cli.recipe.validation_errors import guess
from scedit_cli.utils.errors import SceditError, shortened
from scedit_cli.utils.io import expanded

_SHOWN = 80  # longest quotation of a user's text in a message


def load_recipe(name: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Return the recipe in the file `name`, else the built-in recipe of that name ("canny.toml" or "canny").

    `extends = "other.toml"` above a recipe's sections inherits every key of the other recipe that it does not set
    itself; the name is that of a file beside it, else of a built-in recipe. `overrides` are "section.key=value", where
    the value is TOML or, failing that, plain text. Relative paths, those of the working folder, become absolute.

    Raises:
        SceditError: the recipe does not exist, is not TOML, is part of a circle of `extends`, or has mistakes, all of
            which the message lists.
    """
    path = _find(name)
    values = _read(path)
    for override in overrides:
        _override(values, override)
    for section, key in (("base", "model"), ("base", "vae"), ("data", "path")):
        _make_absolute(values.get(section), key)
    recipe = Recipe.from_dict(values, source=str(name))
    # runs/canny/recipe.toml, the recipe of an earlier run, has the name canny.
    recipe._name = path.resolve().parent.name if path.name == "recipe.toml" else path.stem
    return recipe


def settings_of_made(text: str) -> list[str]:
    """Return `data.params` in the text of a recipe, such as a tuner's file contains, or [] if it cannot be read."""
    try:
        params = tomllib.loads(text)["data"]["params"]
    except (tomllib.TOMLDecodeError, RecursionError, KeyError, TypeError):
        return []
    return params if isinstance(params, list) and all(isinstance(each, str) for each in params) else []


def _read(path: Path, heirs: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return the keys of the recipe at `path` and of those that it extends; `heirs` are the recipes that extend it."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # Windows' editors write a byte order mark
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SceditError(f"{path} is not valid TOML: {error}", hint="a recipe is a TOML file") from None
    except OSError as error:
        raise SceditError(f"{path} cannot be read: {error.strerror}", hint="name a file you can read") from None
    if (parent := values.pop("extends", None)) is None:
        return values
    if not isinstance(parent, str) or not parent:
        said = shortened(repr(parent), _SHOWN)
        raise SceditError(f"{path}: extends: expected the name of a recipe, not {said}", 'as extends = "canny.toml"')
    beside = expanded(path.parent / expanded(parent))
    try:
        source = (beside if isfile(beside) else _find(parent)).resolve()
    except SceditError as error:
        raise SceditError(f"{path}: extends: {error.message}", error.hint) from None
    lineage = (*heirs, path.resolve())
    if source in lineage:
        circle = " -> ".join(file.name for file in (*lineage, source))
        raise SceditError(f"{path}: extends: {circle} is a circle", hint="let the last one extend nothing")
    inherited = _read(source, lineage)
    for section, keys in values.items():
        both_are_sections = isinstance(keys, dict) and isinstance(inherited.get(section), dict)
        inherited[section] = inherited[section] | keys if both_are_sections else keys
    return inherited


def _find(name: str | Path) -> Path:
    path = expanded(name)
    if isfile(path):
        return path
    builtin = builtin_recipes()
    if path.name == str(path) and path.suffix in ("", ".toml") and path.stem in builtin:
        return builtin[path.stem]
    if isdir(path):
        raise SceditError(f"{path} is a folder, not a recipe", hint=f"name a file, or one of {', '.join(builtin)}")
    meant = guess(path.stem, builtin)
    raise SceditError(f"there is no recipe {name}{meant}", hint=f"name a file, or one of {', '.join(builtin)}")


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    *sections, last = key.strip().split(".")
    if not equals or not sections or not all((*sections, last)):
        raise SceditError(
            f"--set {override[:_SHOWN]}: expected SECTION.KEY=VALUE", hint="for example --set train.steps=200"
        )
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise SceditError(
                f"--set {override[:_SHOWN]}: {section[:_SHOWN]} is no section", hint="for example --set train.steps=200"
            )
    values[last] = _value(text.strip())


def _value(text: str) -> Any:
    """Return `text` read as a TOML value; dates, and text that is not TOML, are returned as text."""
    try:
        read = tomllib.loads(f"value = {text}")
    except (tomllib.TOMLDecodeError, RecursionError):  # RecursionError: deeply nested brackets
        return text
    value = read.pop("value")
    return value if not read and isinstance(value, bool | int | float | str | list) else text


def _make_absolute(section: Any, key: str) -> None:
    """Make a path that exists, or a pattern in an existing folder, absolute, so that the resolved recipe runs from any
    folder. Hub ids and URLs stay unchanged."""
    value = section.get(key) if isinstance(section, dict) else None
    if not isinstance(value, str) or not value or (key, value) == ("model", "scenes"):  # the embedded base
        return
    path = expanded(value)
    if exists(path) or ("{" in path.name and "://" not in value and isdir(path.parent)):
        section[key] = str(path.resolve())

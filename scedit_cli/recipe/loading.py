"""The reading of a recipe from a TOML file or from values, with changes."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Collection, Mapping
from os.path import exists, isdir, isfile  # pathlib's versions raise errors at names that are too long
from pathlib import Path
from typing import Any

from scedit_cli.recipe.builtin import builtin_recipes
from scedit_cli.recipe.schema import Recipe
from scedit_cli.recipe.validation_errors import guess
from scedit_cli.utils.errors import SceditError, reason, shortened
from scedit_cli.utils.io import expanded
from scedit_cli.utils.names import TUNER_SUFFIXES

_SHOWN = 80  # longest quotation of a user's text in a message


def load_recipe(recipe: str | Path | Mapping[str, Any] | Recipe, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Return a recipe: that in a file, else the built-in one of that name ("canny.toml" or "canny"), or the one with
    these values (section -> key -> value), or this one; all with `overrides`, such as {"train.steps": 200}.

    `extends = "other.toml"` above a recipe's sections inherits every key of the other recipe that it does not set
    itself; the name is that of a file beside it, else of a built-in recipe. Relative paths, those of the working
    folder, become absolute.

    Raises:
        SceditError: the recipe does not exist, is not TOML, is part of a circle of `extends`, or has mistakes, all of
            which the message lists.
    """
    if isinstance(recipe, Recipe):
        if not overrides:
            return recipe
        name, values = recipe.name, recipe.model_dump(exclude_none=True)
    elif isinstance(recipe, Mapping):
        name, values = "recipe", copy.deepcopy(dict(recipe))
    else:
        path = _find(recipe)
        # runs/canny/recipe.toml, the recipe of an earlier run, has the name canny.
        name = path.resolve().parent.name if path.name == "recipe.toml" else path.stem
        values = _read(path)
    if isinstance(values.get("tuner"), dict):
        _make_way(values["tuner"], {key.removeprefix("tuner.") for key in overrides or ()})
    for key, value in (overrides or {}).items():
        _override(values, key, value)
    for section, key in (("base", "model"), ("base", "vae"), ("tuner", "weights"), ("data", "path")):
        _make_absolute(values.get(section), key)
    made = Recipe.from_dict(values, source=str(recipe) if isinstance(recipe, str | Path) else name)
    made._name = name
    return made


def without_folders(recipe: Recipe) -> Recipe:
    """Return the recipe with its paths shortened to names, to be shown to others."""
    base, tuner, data = recipe.base, recipe.tuner, recipe.data
    named = {
        "base": base.model_copy(update={"model": without_folder(base.model), "vae": without_folder(base.vae)}),
        "tuner": tuner.model_copy(update={"weights": without_folder(tuner.weights)}),
        "data": data.model_copy(update={"path": without_folder(data.path)}),
    }
    return recipe.model_copy(update=named)


def without_folder(place: str | None) -> str | None:
    """Return the last part of a path; return a hub id or a URL unchanged."""
    is_path = place is not None and (place.startswith(("/", ".", "~")) or exists(place))
    return Path(place).name if is_path else place


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
        raise SceditError(f"{path} is not valid TOML: {reason(error)}", hint="a recipe is a TOML file") from None
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
        hint = "let the last one extend nothing"
        if source == path.resolve():
            hint = f"a recipe cannot extend itself: rename {path.name}, if it extends another recipe of that name"
        raise SceditError(f"{path}: extends: {circle} is a circle", hint)
    inherited = _read(source, lineage)
    for section, keys in values.items():
        both_are_sections = isinstance(keys, dict) and isinstance(inherited.get(section), dict)
        if both_are_sections and section == "tuner":
            _make_way(inherited[section], keys)
        inherited[section] = inherited[section] | keys if both_are_sections else keys
    return inherited


def _make_way(tuner: dict[str, Any], keys: Collection[str]) -> None:
    """Remove the condition of `tuner` for the conditions among `keys` that are to take its place, or these for it."""
    for key, other in (("condition", "conditions"), ("conditions", "condition")):
        if key in keys and other not in keys:
            tuner.pop(other, None)


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


def _override(values: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    if not sections or not all((*sections, last)):
        said = shortened(key, _SHOWN)
        raise SceditError(f"overrides: {said} is no SECTION.KEY", 'as {"train.steps": 200}', "overrides")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            said = shortened(f"{key}={value}", _SHOWN)
            message = f"`{said}`: {shortened(section, _SHOWN)} is no section"
            raise SceditError(message, "for example `train.steps=200`", "overrides")
    values[last] = value


def toml_value(text: str) -> Any:
    """Return `text` read as a TOML value; dates, and text that is not TOML, are returned as text."""
    try:
        read = tomllib.loads(f"value = {text}")
    except (tomllib.TOMLDecodeError, RecursionError):  # RecursionError: deeply nested brackets
        return text
    value = read.pop("value")
    return value if not read and isinstance(value, bool | int | float | str | list | dict) else text


def _make_absolute(section: Any, key: str) -> None:
    """Make a path that exists, or a pattern in an existing folder, absolute, so that the resolved recipe runs from any
    folder. Hub ids and URLs stay unchanged."""
    value = section.get(key) if isinstance(section, dict) else None
    if not isinstance(value, str) or not value or (key, value) == ("model", "scenes"):  # the embedded base
        return
    path = expanded(value)
    is_file = key == "weights" and path.suffix in TUNER_SUFFIXES  # which a run that goes on does without
    if is_file or exists(path) or ("{" in path.name and "://" not in value and isdir(path.parent)):
        section[key] = str(path.resolve())

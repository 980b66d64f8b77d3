"""Mistakes in a recipe, as sentences that name the key and suggest the intended one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails, PydanticCustomError

from scedit_cli.utils.errors import shortened

_LONGEST = 80  # longest quotation of a user's text
_OPTION = 3  # parts of the name of an optimizer's option; pydantic appends the type that it tried
_NOT = {  # pydantic's types of errors
    "dict_type": "no table, such as {name = 0.5}",
    "list_type": 'no list, such as ["a", "b"]',
    **dict.fromkeys(("bool_type", "bool_parsing"), "neither true nor false"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "no whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "no number"),
}
_INPUT = re.compile("^(Input|String|List|Dictionary) should")


def invalid(key: str, what: str) -> PydanticCustomError:
    """Return an error for a validator to raise: `what` is wrong with `key`."""
    return PydanticCustomError("mistake", "{key}: {what}", {"key": key, "what": what})


def sentences(recipe: type[BaseModel], details: Iterable[ErrorDetails]) -> list[str]:
    """Return pydantic's errors about a `recipe`, each as a line "section.key: what is wrong". For a value of several
    allowed types pydantic gives one error per type; they are joined into one."""
    alike: dict[tuple[int | str, ...], list[ErrorDetails]] = {}
    for detail in details:
        alike.setdefault(detail["loc"][:_OPTION], []).append(detail)
    return [_sentence(recipe, first).replace("\n", "\\n") for first, *_ in alike.values()]


def _sentence(recipe: type[BaseModel], detail: ErrorDetails) -> str:
    location, value, message = detail["loc"][:_OPTION], detail["input"], detail["msg"]
    key, said = shortened(".".join(map(str, location)), _LONGEST), shortened(repr(value), _LONGEST)
    if len(detail["loc"]) > _OPTION:
        return f"{key}: {said} is no number, text, true or false, or list of numbers"
    match detail["type"]:
        case "mistake":
            return message
        case "missing":
            return f"{key}: missing"
        case "extra_forbidden":
            return f"{key}: unknown{_guess_key(recipe, location)}"
        case "literal_error":
            choices = [str(choice) for choice in _choices(_annotation(recipe, location))]
            return f"{key}: {said} is none of {', '.join(choices)}{guess(str(value), choices)}"
        case kind if kind in _NOT:
            return f"{key}: {said} is {_NOT[kind]}"
        case "string_type" if isinstance(value, list | dict):
            return f"{key}: expected text, not {said}"
        case "string_type":
            return f'{key}: expected text, not {said}; quote it: {key} = "{shortened(str(value), _LONGEST)}"'
        case "model_type" | "model_attributes_type":
            return f"{key}: expected a section [{key}] with keys, not {said}"
        case _:
            return f"{key}: {said} {_INPUT.sub('should', message)}"


def guess(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean …?" with the closest known word, or "" where none is close."""
    close = get_close_matches(word[:_LONGEST], list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _annotation(recipe: type[BaseModel], location: tuple[int | str, ...]) -> Any:
    section, key = location[:2]
    return recipe.model_fields[section].annotation.model_fields[key].annotation


def _choices(annotation: Any) -> tuple:
    """Return the values of a Literal, or of the Literal inside a list's type."""
    return get_args(annotation) if get_origin(annotation) is Literal else _choices(get_args(annotation)[0])


def _guess_key(recipe: type[BaseModel], location: tuple[int | str, ...]) -> str:
    """Suggest a similar key of the same section or the same key of another one, or for a section a similar section."""
    if len(location) == 1:
        return guess(str(location[0]), recipe.model_fields)
    section, key = map(str, location[:2])
    fields = {name: list(field.annotation.model_fields) for name, field in recipe.model_fields.items()}
    elsewhere = [f"{name}.{key}" for name, keys in fields.items() if key in keys]
    return f"; did you mean {elsewhere[0]}?" if elsewhere else guess(key, fields[section])

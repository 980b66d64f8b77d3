"""The explanation of recipe keys, made from the schema."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from inspect import cleandoc
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from scedit_cli.recipe.schema import Recipe
from scedit_cli.recipe.validation_errors import guess
from scedit_cli.utils.errors import SceditError

_SIGNS = {"gt": "> {}", "ge": "≥ {}", "lt": "< {}", "le": "≤ {}", "pattern": "like `{}`"}
_WORDS = {bool: "true or false", int: "integer", float: "number", str: "text", dict: "table"}


@dataclass(frozen=True)
class Explanation:
    """The explanation of one key: its name `section.key`, its allowed values, its default in TOML and its meaning."""

    key: str
    takes: str
    default: str
    meaning: str

    @property
    def values(self) -> str:
        return f"{self.takes}; default {self.default}" if self.default else self.takes


def explain(name: str) -> list[Explanation]:
    """Explain a key `section.key`, all keys of a `section`, or `all`.

    Raises:
        SceditError: no key or section has this name.
    """
    known = list(_explanations())
    if found := [each for each in known if name == "all" or each.key == name or each.key.split(".")[0] == name]:
        return found
    names = [each.key for each in known]
    alone = [key for key in names if key.split(".")[1] == name]
    meant = f"; did you mean {' or '.join(alone)}?" if alone else guess(name, [*names, *Recipe.model_fields])
    raise SceditError(f"`explain` {name}: no key of a recipe{meant}", f"name one of {', '.join(Recipe.model_fields)}")


def reference() -> str:
    """Return all keys as Markdown, with a table for each section."""
    lines: list[str] = []
    for section, field in Recipe.model_fields.items():
        lines += [f"## [{section}]", "", cleandoc(_section(field).__doc__), "", "| key | takes | default | meaning |"]
        lines.append("|---|---|---|---|")
        for each in explain(section):
            default = each.default and f"`{each.default}`"
            lines.append(f"| `{each.key.split('.')[1]}` | {each.takes} | {default} | {each.meaning} |")
        lines.append("")
    return "\n".join(lines)


def _explanations() -> Iterator[Explanation]:
    for section, outer in Recipe.model_fields.items():
        for key, field in _section(outer).model_fields.items():
            meaning = " ".join(field.description.split())
            yield Explanation(f"{section}.{key}", _takes(field.annotation, field.metadata), _default(field), meaning)


def _section(field: FieldInfo) -> Any:
    return field.annotation


def _default(field: FieldInfo) -> str:
    """Return the default in TOML, or "" where the key is left out by default or is required."""
    import tomlkit

    if field.is_required() or field.default is None:
        return ""
    return "{}" if field.default == {} else tomlkit.item(field.default).as_string()


def _takes(annotation: Any, metadata: Any = ()) -> str:
    """Return the allowed values as text, such as "number > 0, ≤ 8" or "one of lean, plain"."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        constraints = [each for info in inner[1:] for each in getattr(info, "metadata", [info])]
        return _takes(inner[0], [*constraints, *metadata])
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}"
    if origin in (Union, UnionType):
        kinds = [_takes(each, metadata) for each in inner if each is not NoneType]
        return " or ".join(kinds)
    if origin is list:
        lengths = {getattr(info, "max_length", None) for info in metadata} - {None}
        return f"list of {f'{lengths.pop()} ' if lengths else ''}{_takes(inner[0])}"
    values = [(sign, getattr(info, name, None)) for info in metadata for name, sign in _SIGNS.items()]
    bounds = [sign.format(value) for sign, value in values if value is not None]
    return " ".join([_WORDS[origin or annotation], ", ".join(bounds)]).strip()

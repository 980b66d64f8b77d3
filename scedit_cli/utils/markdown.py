"""Untrusted texts in Markdown: shown letter by letter, never as markup or HTML."""

from __future__ import annotations

import html
import re

_MARKS = re.compile(
    r"([\\`*_\[\]|#!~$@]"  # also formulas, and names and addresses that become links
    r"|:(?=[\w+-]+:|//)|(?<=www)\."  # emoji codes, bare links
    r"|^[-+=]|(?:(?<=^\d)|(?<=^\d\d))[.)](?= ))"  # the beginning of a list, or a title's underline
)


def plain(text: str) -> str:
    """Return `text` on one line, for a paragraph or a table's cell."""
    return _MARKS.sub(r"\\\1", html.escape(" ".join(text.split()), quote=False))


def span(text: str) -> str:
    """Return `text` on one line as code; backticks in it become apostrophes."""
    return f"`{' '.join(text.split()).replace('`', chr(39))}`"


def block(text: str, language: str = "") -> str:
    """Return `text` as a block of code, between fences that do not occur in it."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"

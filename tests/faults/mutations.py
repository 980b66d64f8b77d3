"""Seeded damage: to bytes, and to values such as JSON and TOML hold."""

from __future__ import annotations

import copy
import random
from typing import Any

ESCAPES = "\x1b[31mred\x1b]0;title\x07\x1b[2J"
MARKUP = "[red]text[/red] [/] [link=file:///etc/passwd]x[/link]"
HTML = "<img src=x onerror=alert(1)><script>alert(1)</script>"
MARKDOWN = "](http://evil) ![x](http://evil/x.png)\n---\n# owned\n```\n| a | b |"
NESTED = "[" * 100_000
TEXTS = (
    "", " ", "\n", "\x00", "../../etc/passwd", "/etc/passwd", "C:\\x", "a\nb", "ä" * 50, "x" * 100_000, "NaN", "1e999",
    "true", "null", "[]", "{}", "\ud7ff", "\u202e", ESCAPES, MARKUP, HTML, MARKDOWN, NESTED,
)  # fmt: skip
NUMBERS = (
    0, 1, -1, 2, 3, 7, 255, 1.5, -0.0, 1e308, float("inf"), float("-inf"), float("nan"), 2**31, 2**32 + 1, 2**53 + 1,
    2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**30, 10**400, -(2**63) - 1,
)  # fmt: skip
OTHERS = (None, True, False, [], {}, [[]], [None], {"": None}, [[[[[[[1]]]]]]], {"a": {"b": {"c": [{}]}}})
NASTY = TEXTS + NUMBERS + OTHERS


def damaged(data: bytes, rng: random.Random) -> bytes:
    """`data` with one or a few kinds of damage: bits flipped, bytes cut, doubled, moved, overwritten or appended."""
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(damaged) + 1)
        length = rng.choice((1, 2, 4, 16, 256))
        match rng.randrange(6):
            case 0 if damaged:
                for _ in range(rng.choice((1, 1, 8, 64))):
                    damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
            case 1:
                del damaged[at:]
            case 2:
                del damaged[at : at + length]
            case 3:
                damaged[at:at] = damaged[at : at + length] * rng.choice((1, 1, 50))
            case 4:
                damaged[at : at + length] = rng.choice((b"\x00", b"\xff", b"\x7f", b"\x80")) * length
            case 5:
                damaged += rng.randbytes(length)
    return bytes(damaged)


def changed(value: Any, rng: random.Random) -> Any:
    """A copy of a nested `value` in which a few nodes are removed, renamed, doubled or replaced by nasty ones."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if nodes := list(_nodes(value)):
            node, key = rng.choice(nodes)
            _change(node, key, rng)
    return value


def _change(node: Any, key: Any, rng: random.Random) -> None:
    number = type(node[key]) in (int, float)
    match rng.randrange(6 if number else 5):
        case 0:
            del node[key]
        case 1 if isinstance(node, dict):
            node[rng.choice([text for text in TEXTS if len(text) < 1000] + [f"{key}2", str(key).upper()])] = node[key]
        case 2 if isinstance(node, list):
            node.insert(0, node[key])
        case 5:
            step = rng.choice((1, -1, 8, 2**31, 0.5))
            node[key] += step if abs(node[key]) < 2**1000 else int(step)  # which no float holds
        case _:
            node[key] = copy.deepcopy(rng.choice(NASTY))


def _nodes(value: Any):
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield value, key
        yield from _nodes(inner)

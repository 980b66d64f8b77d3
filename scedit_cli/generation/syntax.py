"""Syntax in prompts for other programs, which is read as plain words here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

# Pattern -> advice, for the syntax of A1111's web UI, ComfyUI, kohya's scripts and Midjourney.
_OTHERS = {
    re.compile(r"<(?:lora|lyco|hypernet):[^>]*>"): "it loads nothing; `tuners` attaches tuners",
    re.compile(r"\([^()]*:\s*[\d.]+\s*\)"): "with `weighted`, weights are written (red)1.3",
    re.compile(r"\[[^\[\]]*:[^\[\]]*:\s*[\d.]+\s*\]"): "prompts do not change on the way",
    re.compile(r"(?:(?<=\s)|^)--[a-z][a-z_]*(?=\s|$)"): "options stand on the command line, or in a .jsonl",
    re.compile(r"\bBREAK\b|(?<=[a-z,] )AND(?= )"): "prompts are not composed of parts",
    re.compile(r"(?<!\w)__[\w/-]+__(?!\w)|\{[^{}]*\|[^{}]*\}"): "nothing is put in its place; write a prompt for each",
    re.compile(r"\bembedding:\w+"): "it loads nothing; textual inversions are not read",
}
_COMPEL = re.compile(r"\([^()]*\)\d*\.\d+")


def foreign_syntax(prompts: Iterable[str], weighted: bool) -> Iterator[str]:
    """Yield a sentence for each kind of syntax in the prompts that is not read.

    Args:
        weighted: whether compel's weights are read.
    """
    prompts = list(prompts)
    others = _OTHERS if weighted else _OTHERS | {_COMPEL: "`weighted` reads weights"}
    for pattern, instead in others.items():
        if found := next(filter(None, map(pattern.search, prompts)), None):
            yield f"{found[0]!r} in a prompt is read as plain words: {instead}"

"""Words on the command line that no option takes, and the option that was probably meant for each."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import PurePath

from scedit_cli.utils.errors import SceditError

_STRAY = re.compile(r"unexpected extra argument\S* \((.*)\)", re.DOTALL)
_MEANT = {  # command -> suffix of the word -> option; "" stands for every other word
    "train": {"": "--recipe"},
    "generate": {
        **dict.fromkeys((".png", ".jpg", ".jpeg", ".webp"), "--cond canny="),
        **dict.fromkeys((".safetensors", ".bin"), "--tuner"),
        "": "--prompt",
    },
    "prepare": {"": "--out"},
    "annotate": {"": "--cond"},
    "bench": {".safetensors": "--quality --tuner", ".json": "--show", "": "--methods"},
}


def stray_words(error: BaseException, args: Sequence[str]) -> SceditError | None:
    """Return the error with the probable option for a usage error about stray words, None for every other error."""
    context = getattr(error, "ctx", None)
    found = _STRAY.search(str(getattr(error, "message", "")))
    options = _MEANT.get(context.info_name) if context and found else None
    if options is None:
        return None
    words, command = found[1], context.command_path
    message = f"{command}: no option takes {words}"
    if {"--prompt", "-p"} & set(args):
        return SceditError(message, 'put a prompt of several words in quotes: --prompt "a red cube"')
    option = options.get(PurePath(words).suffix.lower(), options[""])
    return SceditError(message, f"write {option}{'' if option.endswith('=') else ' '}{shlex.quote(words)}")

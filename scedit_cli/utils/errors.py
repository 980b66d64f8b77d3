"""The errors that users are meant to read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

_LONGEST = 200  # letters of others' words in a sentence
_SENTENCE = 800  # letters that anybody reads; what strangers' files hold may be far longer


class SceditError(Exception):
    """Bad input or usage: one sentence naming the file and field, and what to do about it.

    Args:
        message: what is wrong, as one sentence.
        hint: what to do, or None where the message already says it.
    """

    exit_code = 2

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = shortened(message, _SENTENCE)
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def __reduce__(self):
        return type(self), (self.message, self.hint)


def reason(error: BaseException, whole: bool = False) -> str:
    """What a library's error says, its first line or the `whole` of it, as one line that fits into a sentence."""
    said = str(error).strip() or type(error).__name__
    return (" ".join(said.split()) if whole else said.splitlines()[0])[:_LONGEST]


def shortened(text: str, letters: int = _LONGEST) -> str:
    """What somebody else wrote, no longer than fits into a sentence."""
    return text if len(text) <= letters else f"{text[:letters]}…"


class WorkFailed(SceditError):
    """The input was fine and the work still failed: out of memory, disk full, lost weights."""

    exit_code = 1


class NotInstalled(SceditError):
    """A library is missing, which the hint says how to get."""


def not_installed(what: str, library: str, extra: str, otherwise: str = "") -> NotInstalled:
    """That `what` needs a library which an extra of this package brings; or else one does what `otherwise` says."""
    return NotInstalled(
        f"{what} needs {library}, which is not installed",
        hint=f"python -m pip install 'scedit-cli[{extra}]'{otherwise and f', or {otherwise}'}",
    )


_STARVED = (
    "out of memory|(can't|cannot) allocate memory|(not enough|insufficient) memory|STATUS_ALLOC_FAILED"
    "|failed to cuda calloc"
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on whatever device; libraries tell it in their own words."""
    said = re.search(_STARVED, str(error), re.IGNORECASE)
    return isinstance(error, MemoryError) or said is not None


def not_loaded(error: BaseException, said: str, hint: str, whole: bool = False) -> SceditError:
    """What is `said` of something that a library could not load, with the library's reason and what to do; or that
    only memory lacked for it, as it does too where a damaged configuration asks for sizes that no model has."""
    if is_out_of_memory(error):
        told = f"{said}: memory ran out: {reason(error, whole)}"
        return WorkFailed(told, "end other programs; if it asks for far too much, it is damaged: get it anew")
    return SceditError(f"{said}: {reason(error, whole)}", hint)


@contextmanager
def memory_told(during: str, hint: str) -> Iterator[None]:
    """Within, memory that runs out becomes a WorkFailed, `during` what and with what to do about it."""
    try:
        yield
    except SceditError:
        raise
    except Exception as error:  # each library's own kind
        if not is_out_of_memory(error):
            raise
        raise WorkFailed(f"memory ran out while {during}", hint) from error

"""Errors that are written for users."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

_LONGEST = 200  # characters of a quoted text in a sentence
_SENTENCE = 800  # characters of message and hint that are still readable; quoted contents of files may be far longer


class SceditError(Exception):
    """An error in input or usage.

    Args:
        message: one sentence that says what is wrong, naming the file and field.
        hint: advice what to do, or None where the message already says it.
        field: the argument that is wrong, such as "controls[0].scale"; None where no single one is.

    In message and hint, arguments of the library's functions stand in backquotes, `steps=4`; the command line shows its
    options in their place.
    """

    exit_code = 2

    def __init__(self, message: str, hint: str | None = None, field: str | None = None) -> None:
        super().__init__(message)
        self.message = shortened(message, max(_LONGEST, _SENTENCE - len(hint or "")))
        self.hint = hint
        self.field = field

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def __reduce__(self):
        return type(self), (self.message, self.hint, self.field)


@contextmanager
def in_field(field: str, hint: str | None = None, named: bool = True) -> Iterator[None]:
    """Name the `field` in a SceditError of the block that names none, also in front of its message if `named`; `hint`
    is the advice of an error that has none."""
    try:
        yield
    except SceditError as error:
        if error.field:
            raise
        message = f"{field}: {error.message}" if named else error.message
        raise type(error)(message, error.hint or hint, field) from error


def reason(error: BaseException, whole: bool = False) -> str:
    """Return a library error's first line, or its `whole` text on one line, cut to fit into a sentence. The system's
    errors lose their number and file, and bytes that are no text are called so."""
    said = str(error).strip() or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        said = error.strerror
    if isinstance(error, UnicodeDecodeError):
        said = f"it holds bytes that are no text in {error.encoding.upper()}, from position {error.start} on"
    return (" ".join(said.split()) if whole else said.splitlines()[0])[:_LONGEST]


def shortened(text: str, letters: int = _LONGEST) -> str:
    """Return a quoted text, cut to the length that fits into a sentence."""
    return text if len(text) <= letters else f"{text[:letters]}…"


class WorkFailed(SceditError):
    """An error in the work although the input was fine: out of memory, disk full, lost weights."""

    exit_code = 1


class NotInstalled(SceditError):
    """An error about a missing library; the hint says how to install it."""


def not_installed(what: str, library: str, extra: str, otherwise: str = "") -> NotInstalled:
    """Return the error that `what` needs `library`, which the `extra` installs; `otherwise` is alternative advice."""
    return NotInstalled(
        f"{what} needs {library}, which is not installed",
        hint=f"python -m pip install 'scedit-cli[{extra}]'{otherwise and f', or {otherwise}'}",
    )


_STARVED = (
    "out of memory|(can't|cannot) allocate memory|(not enough|insufficient) memory|STATUS_ALLOC_FAILED"
    "|failed to cuda calloc"
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out, on any device, by the words in which libraries report it."""
    said = re.search(_STARVED, str(error), re.IGNORECASE)
    return isinstance(error, MemoryError) or said is not None


def not_loaded(error: BaseException, said: str, hint: str, whole: bool = False) -> SceditError:
    """Return the error for something that a library could not load: `said`, the library's reason and the hint. If
    memory ran out, it is a WorkFailed; a damaged configuration with absurd sizes causes that too."""
    if is_out_of_memory(error):
        told = f"{said}: memory ran out: {reason(error, whole)}"
        return WorkFailed(told, "end other programs; if it asks for far too much, it is damaged: get it again")
    return SceditError(f"{said}: {reason(error, whole)}", hint)


@contextmanager
def memory_told(during: str, hint: str) -> Iterator[None]:
    """Turn running out of memory inside the block into a WorkFailed; `during` completes "memory ran out while …"."""
    try:
        yield
    except SceditError:
        raise
    except Exception as error:  # libraries raise exceptions of their own kinds
        if not is_out_of_memory(error):
            raise
        raise WorkFailed(f"memory ran out while {during}", hint) from error

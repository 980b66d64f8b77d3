"""The display of a running job: progress and notes on stderr, the result on stdout."""

from __future__ import annotations

import errno
import re
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from scedit_cli.cli.option_names import in_options
from scedit_cli.utils.errors import SceditError, WorkFailed, is_out_of_memory
from scedit_cli.utils.io import as_json
from scedit_cli.utils.quieting import quiet_imports
from scedit_cli.utils.reporter import Reporter
from scedit_cli.utils.threads import waiting

_SECONDS_BETWEEN_LINES = 10.0  # progress lines replace the bar where stderr is no terminal
_WIDTH_OF_A_PIPE = 200  # in columns, for tables that have no terminal to fit into


class Screen(Reporter):
    """The display of one job, and its reporter inside the `with` block; `result`, `table` or `fail` end it. It prints
    `Text`, in which rich interprets no markup, emoji codes or links.

    Args:
        as_json: whether stdout carries one JSON document and nothing else.
        quiet: whether progress, notes and summary are hidden; errors and the JSON document remain.
        debug: whether tracebacks and the libraries' warnings are shown.
    """

    def __init__(self, as_json: bool = False, quiet: bool = False, debug: bool = False) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self.debug = debug
        plain = {"soft_wrap": True, "highlight": False, "markup": False, "emoji": False}
        self.out = Console(width=None if sys.stdout.isatty() else _WIDTH_OF_A_PIPE, **plain)
        self.err = Console(stderr=True, **plain)
        self._bars = _bars(self.err)
        self._tasks: dict[str, TaskID] = {}
        self._began: dict[str, tuple[float, int]] = {}  # stage -> (time, step) of its first step
        self._spoke = time.monotonic()
        self._stack = ExitStack()

    def __enter__(self) -> Screen:
        if self.debug:
            self.warn(f"PyTorch's threads wait for each other: {waiting()}")
        else:
            self._stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            self._stack.enter_context(quiet_imports())
        if self.as_json:  # a library that prints would break the document
            self._stack.enter_context(redirect_stdout(sys.stderr))
        if self.err.is_terminal and not self.quiet:
            self._stack.enter_context(self._bars)
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def progress(self, step: int, total: int, stage: str = "", values: Mapping[str, float] = {}) -> None:
        if not self.quiet:
            (self._draw if self.err.is_terminal else self._say)(step, total, stage, values)

    def note(self, text: str) -> None:
        if not self.quiet:
            self.warn(in_options(text))

    def result(self, document: dict[str, Any], summary: list[tuple[str, str]], verbatim: bool = False) -> None:
        """Show a job's result: `document` under --json, else the rows of `summary`. Options take the place of arguments
        in backquotes unless `verbatim`: texts of users, such as prompts, may hold backquotes too."""
        if not verbatim:
            document, summary = in_options([document, summary])
        if self.as_json:
            self._write(document)
        elif not self.quiet:
            width = max((len(name) for name, _ in summary), default=0)
            with _to_stdout():
                for name, value in summary:
                    self.out.print(Text.assemble((_seen(name.ljust(width)), "bold"), "  ", _seen_in_line(value)))

    def table(self, document: dict[str, Any], header: Sequence[str], rows: list[list[str]], texts: int = 1) -> None:
        """Show a result of many rows, whose first `texts` columns are text and the others figures."""
        if self.as_json:
            self._write(document)
        elif not self.quiet:
            table = Table(box=None, pad_edge=False, header_style="bold")
            for index, name in enumerate(header):
                justify = "left" if index < texts else "right"
                table.add_column(Text(_seen_in_line(name)), justify=justify, overflow="fold")
            for row in rows:
                table.add_row(*(Text(_seen_in_line(cell)) for cell in row))
            with _to_stdout():
                self.out.print(table, soft_wrap=False)

    def text(self, document: dict[str, Any], text: str) -> None:
        """Show a result that is a text, even under --quiet; under --json, show `document`."""
        if self.as_json:
            self._write(document)
        else:
            with _to_stdout():
                self.out.print(Text(_harmless(text.rstrip())))

    def warn(self, text: str) -> None:
        """Show a sentence on stderr, even under --quiet."""
        self._tell(Text(_seen(text)))

    def fail(self, error: Exception) -> int:
        """Show why the job failed and what to do about it; return the exit code. Where stdout takes no document, as on
        a full disk, the sentence goes to stderr."""
        if self.debug:
            self._tell(Text(_harmless("".join(traceback.format_exception(error)))))
        message, hint, code = _explained(error)
        if self.as_json:
            with suppress(WorkFailed, BrokenPipeError):
                self._write({"error": {"message": message, "hint": hint}})
                return code
        self._tell(Text.assemble(("error:", "bold red"), " ", _seen(message)))
        if hint:
            self._tell(Text.assemble(("hint:", "dim"), " ", _seen(hint)))
        return code

    def _write(self, document: dict[str, Any]) -> None:
        with _to_stdout():
            sys.stdout.write(as_json(document))
            sys.stdout.flush()

    def _tell(self, text: Text) -> None:
        """Write to stderr; a failure to write, as on a full disk, does not stop the work."""
        with suppress(OSError):
            self.err.print(text)

    def _draw(self, step: int, total: int, stage: str, values: Mapping[str, float]) -> None:
        if self._begins(step, stage):
            if stage in self._tasks:
                self._bars.reset(self._tasks[stage])
            else:
                self._tasks[stage] = self._bars.add_task(_seen_in_line(stage), values="")
        shown = _seen_in_line(" · ".join(_figures(values)))
        self._bars.update(self._tasks[stage], completed=step, total=total, values=shown)

    def _begins(self, step: int, stage: str) -> bool:
        """Return whether a stage begins with this step, for the first time or again."""
        _, first = self._began.get(stage, (0.0, step))
        if step <= first:
            self._began[stage] = (time.monotonic(), step)
        return step <= first

    def _say(self, step: int, total: int, stage: str, values: Mapping[str, float]) -> None:
        self._begins(step, stage)
        now, (began, first) = time.monotonic(), self._began[stage]
        if step < total and now - self._spoke < _SECONDS_BETWEEN_LINES:
            return
        self._spoke = now
        parts = [f"{stage} {step}/{total}", *_figures(values)]
        if first < step < total:
            left = round((now - began) / (step - first) * (total - step))
            parts.append(f"{left // 60}:{left % 60:02d} left")
        self.warn(" · ".join(parts))


@contextmanager
def _to_stdout() -> Iterator[None]:
    """Turn a failure to write to stdout into WorkFailed; a reader that closes the pipe early is no failure."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise WorkFailed(f"stdout could not be written: {error.strerror}", hint="see to where it goes") from error


def _harmless(text: str) -> str:
    """Return `text` with control and unencodable characters escaped: names and metadata come from strangers and could
    steer the terminal."""
    return "".join(each if each.isprintable() or each == "\n" else ascii(each)[1:-1] for each in text)


def _seen(text: str) -> str:
    """Return `text` escaped, with its further lines indented so that none looks like one of the program's own."""
    return re.sub(r"\n\s*", "\n  ", _harmless(text))


def _seen_in_line(text: str) -> str:
    return _harmless(text).replace("\n", "\\n")


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[values]}", markup=False),
        console=console,
    )


def _explained(error: Exception) -> tuple[str, str | None, int]:
    """Return the sentence, the hint and the exit code for an exception."""
    if isinstance(error, SceditError):
        return in_options(error.message, error.field), error.hint and in_options(error.hint), error.exit_code
    if hasattr(error, "format_message"):  # Typer's usage errors, whose class is not public in every release
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "scedit"
        message = re.sub(r"\s*\n\s*", " ", error.format_message()).strip()
        return message, f"{command} --help shows how it is called", error.exit_code
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full: {error}", "make room and try again", 1
    if is_out_of_memory(error):
        return "out of memory", "take a smaller batch, resolution or number of images", 1
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}", "name a file or folder that can be used", 2
    return f"unexpected {type(error).__name__}: {error}", "--debug shows where it came from", 1


def _figures(values: Mapping[str, float]) -> list[str]:
    """Return values as texts, such as ["loss 0.08312", "images/s 31.2"]."""
    return [f"{name} {value:{'.0f' if abs(value) >= 1000 else '.4g'}}" for name, value in values.items()]

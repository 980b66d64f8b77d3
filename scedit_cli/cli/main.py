"""The end of every command: one sentence and an exit code."""

from __future__ import annotations

import io
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

from scedit_cli.cli.options import screen_for
from scedit_cli.cli.words import stray_words
from scedit_cli.utils.errors import SceditError, WorkFailed
from scedit_cli.utils.malloc import keep_freed_memory
from scedit_cli.utils.threads import choose_waiting

_ASIDE = {"--dry-run", "--fit", "--list", "--show", "--explain"}  # options with which `train` makes no step
_IS_WINDOWS = sys.platform == "win32"


class Terminated(KeyboardInterrupt):
    """SIGTERM as an exception. Jobs handle it as they handle Ctrl-C, and save their state."""


class Program(TyperGroup):
    """The group of commands. Every failure ends in one sentence and an exit code: 1 the work failed, 2 bad input or
    usage, 130 Ctrl-C, 143 SIGTERM. Only --debug shows the traceback."""

    def main(self, args: list[str] | None = None, **extra: Any) -> None:
        args = list(sys.argv[1:] if args is None else args) or ["--help"]
        for name in ("stdout", "stderr"):
            if (stream := getattr(sys, name)) is None:  # the stream was closed before the program began
                setattr(sys, name, open(os.devnull, "w"))
            elif isinstance(stream, io.TextIOWrapper):  # file names may hold characters that a terminal cannot show
                stream.reconfigure(errors="backslashreplace")
        self._trains = not _ASIDE & {each.partition("=")[0] for each in args}
        extra |= {"prog_name": "scedit", "standalone_mode": False}
        try:
            with _stoppable() as self._heard, _ended_by_the_second():
                code = super().main(args, **extra)
        except (Exception, KeyboardInterrupt) as error:
            code = failed(error, args)
        sys.exit(code or 0)

    def invoke(self, ctx: typer.Context) -> Any:
        if _IS_WINDOWS:
            raise SceditError(
                "Windows cannot lock, flush and signal as this program needs it",
                hint="run it in Linux on Windows: wsl --install",
            )
        choose_waiting()
        keep_freed_memory()
        try:
            return super().invoke(ctx)
        except (Exception, KeyboardInterrupt) as error:
            if stop := _interruption(error, self._heard):
                raise _stopped(stop, ctx.invoked_subcommand == "train" and self._trains) from error
            raise


def _interruption(error: BaseException, heard: list[KeyboardInterrupt]) -> KeyboardInterrupt | None:
    """Return the Ctrl-C or SIGTERM behind `error`: a signal already `heard`, or one in the chain of causes, since
    libraries turn it into failures of their own. WorkFailed, raised while the state is saved, remains a failure."""
    if isinstance(error, (WorkFailed, typer.Exit)):
        return None
    if heard:
        return heard[0]
    seen: set[int] = set()  # two errors may be each other's cause and context
    while error and id(error) not in seen:
        if isinstance(error, KeyboardInterrupt):
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def _stopped(stop: KeyboardInterrupt, resumes: bool = False) -> SceditError:
    by, code = ("SIGTERM", 143) if isinstance(stop, Terminated) else ("Ctrl-C", 130)
    hint = "the same command with --resume continues it" if resumes else None
    stopped = SceditError(f"stopped by {by}", hint)
    stopped.exit_code = code
    return stopped


def failed(error: Exception | KeyboardInterrupt, args: list[str]) -> int:
    """Show why the program ends where no command has a screen to do it; return the exit code."""
    told = _stopped(error) if isinstance(error, KeyboardInterrupt) else stray_words(error, args) or error
    # An error in parsing the arguments comes before any option is known, so the arguments are searched.
    return screen_for("--json" in args, debug="--debug" in args).fail(told)


@contextmanager
def _stoppable() -> Iterator[list[KeyboardInterrupt]]:
    """Raise KeyboardInterrupt at Ctrl-C and Terminated at SIGTERM, and list them; SIGTERM ends forked workers quietly.
    A handler of Ctrl-C that is not Python's own stays, as in a background job, which ignores Ctrl-C."""
    heard: list[KeyboardInterrupt] = []
    if threading.current_thread() is not threading.main_thread():
        yield heard
        return
    here = os.getpid()

    def stop(number: int, _: object) -> None:
        if number == signal.SIGTERM and os.getpid() != here:
            os._exit(143)
        heard.append(Terminated() if number == signal.SIGTERM else KeyboardInterrupt())
        raise heard[-1]

    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, stop)}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        before[signal.SIGINT] = signal.signal(signal.SIGINT, stop)
    try:
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _ended_by_the_second() -> Iterator[None]:
    """End the process at once at a second Ctrl-C or SIGTERM: a thread listens, so that no call delays it. Launchers
    pass signals on, so that one may arrive twice; under them the second is handled as the first."""
    if threading.current_thread() is not threading.main_thread() or "WORLD_SIZE" in os.environ:
        yield
        return
    heard, tell = socket.socketpair()
    tell.setblocking(False)  # signal.set_wakeup_fd requires a non-blocking descriptor
    before = signal.set_wakeup_fd(tell.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_end_at_the_second, args=(heard,), name="second signal", daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        tell.close()


def _end_at_the_second(heard: socket.socket) -> None:
    count = 0
    while numbers := heard.recv(64):
        for number in numbers:
            count += number in (signal.SIGINT, signal.SIGTERM)
            if count == 2:
                os.write(2, b"\x1b[?25h\nstopped at once\n" if os.isatty(2) else b"stopped at once\n")  # cursor on
                os._exit(128 + number)
    heard.close()

"""Measurement in a process of its own, so that no method inherits another's memory."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, ExitStack, nullcontext
from multiprocessing import get_context
from multiprocessing.connection import Connection

from scedit_cli.benchmark.config import BenchConfig
from scedit_cli.benchmark.measure import Measured, measure
from scedit_cli.utils.errors import SceditError, WorkFailed, reason
from scedit_cli.utils.quieting import quiet_imports
from scedit_cli.utils.reporter import Reporter
from scedit_cli.utils.workers import serve_parent, starting


def measure_apart(
    method: str,
    wanted: BenchConfig,
    reporter: Reporter,
    device: str | None = None,
    turn: AbstractContextManager[object] = nullcontext(),
) -> Measured:
    """Run `measure` in a process of its own, so that no method inherits another's memory.

    Args:
        method, wanted, reporter, device: as for `measure`.
        turn: what is held while the process uses the device; a lock lets others estimate meanwhile.

    Raises:
        SceditError: the base or the configuration is invalid.
        WorkFailed: the method could not be measured, mostly for lack of memory.
    """
    spawn = get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_work, args=(theirs, method, wanted, device), daemon=True)
    with starting():
        process.start()
    theirs.close()
    with ExitStack() as held:
        held.callback(ours.close)
        try:
            while True:
                kind, content = ours.recv()
                if kind == "ready":
                    held.enter_context(turn)
                    ours.send("go")
                elif kind == "step":
                    reporter.progress(*content)
                elif kind == "error":
                    raise content
                else:
                    return content
        except EOFError:
            process.join()
            raise WorkFailed(
                f"the process that measured {method} ended with code {process.exitcode}",
                hint="it may have run out of memory: take a smaller batch or resolution",
            ) from None
        finally:
            process.kill()
            process.join()


class _Sender(Reporter):
    """A reporter that sends its progress to the parent process, and asks it for the device."""

    def __init__(self, sender: Connection) -> None:
        self._sender = sender

    def wait_for_turn(self) -> None:
        self._sender.send(("ready", None))
        self._sender.recv()

    def progress(self, step: int, total: int, *_: object) -> None:
        self._sender.send(("step", (step, total)))


def _work(sender: Connection, method: str, wanted: BenchConfig, device: str | None) -> None:
    """Measure in the new process: send ("step", (done, total)), then "result" or "error"."""
    serve_parent()
    os.dup2(2, 1)  # The parent's stdout may have to carry one JSON document only.
    try:
        with quiet_imports():
            parent = _Sender(sender)
            result = measure(method, wanted, parent, device, parent.wait_for_turn)
    except SceditError as error:
        sender.send(("error", error))
    except Exception as error:  # Each method's library has its own errors.
        sender.send(("error", WorkFailed(f"{method} could not be measured: {reason(error)}")))
    else:
        sender.send(("result", result))

"""How every command ends: its sentence, its exit code, and what signals do to it."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
import time

import pytest

from scedit_cli.app.program import Terminated
from scedit_cli.errors import SceditError, WorkFailed
from tests.test_app import ROOT, call, fake


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (SceditError("a.png is no picture", "name a picture"), 2, "a.png is no picture"),
        (WorkFailed("lost weights"), 1, "lost weights"),
        (OSError(errno.ENOSPC, "No space left on device", "x.png"), 1, "the disk is full"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "x.png"), 2, "x.png: No such file or directory"),
        (MemoryError(), 1, "out of memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), 1, "out of memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), 1, "out of memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), 1, "out of memory"),
        (ZeroDivisionError("division by zero"), 1, "unexpected ZeroDivisionError: division by zero"),
        (KeyboardInterrupt(), 130, "stopped by Ctrl-C"),
        (Terminated(), 143, "stopped by SIGTERM"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_failures_are_a_sentence_and_an_exit_code(
    error: BaseException, code: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*args: object, **kwargs: object) -> object:
        raise error

    fake(monkeypatch, "train", work)
    answer = call("train")
    assert answer.exit_code == code and answer.stdout == ""
    assert answer.stderr.startswith(f"error: {message}") and "Traceback" not in answer.stderr
    answer = call("train", "--json")
    assert answer.exit_code == code and answer.stderr == ""
    document = json.loads(answer.stdout)
    assert set(document) == {"error"} and set(document["error"]) == {"message", "hint"}
    assert document["error"]["message"].startswith(message)
    assert ("--resume" in str(document["error"]["hint"])) == (code > 128)
    if code < 128:
        assert "Traceback" in call("train", "--debug").stderr


def test_an_interruption_that_a_library_swallows_is_still_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(*args: object, **kwargs: object) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise RuntimeError("the library failed") from error

    fake(monkeypatch, "train", work)
    assert call("train").exit_code == 130


def test_errors_that_are_each_others_cause_end_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(*args: object, **kwargs: object) -> None:
        first, second = SceditError("a.png is no picture", "name a picture"), OSError("unreadable")
        first.__cause__, second.__context__ = second, first
        raise first

    fake(monkeypatch, "train", work)
    answer = call("train")
    assert answer.exit_code == 2 and answer.stderr.startswith("error: a.png is no picture")


SLEEPER = """
import sys, time, types
import scedit_cli.jobs
from scedit_cli.app import main

def train(recipe, **options):
    try:
        print("working", flush=True)
        time.sleep(30)
    except KeyboardInterrupt:
        print("saved", flush=True)
        raise

scedit_cli.jobs.train = types.SimpleNamespace(train=train)
sys.argv = ["scedit", "train", "--recipe", "canny.toml"]
main()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_second_signal_ends_the_program_at_once(number: int, code: int) -> None:
    """Even in a call that hears none."""
    endless = SLEEPER.replace('print("saved", flush=True)', "hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)")
    program = endless.replace("import sys", "import hashlib, sys")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", program], **pipes, cwd=ROOT)
    assert process.stdout.readline() == b"working\n"
    process.send_signal(number)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == code and b"stopped at once" in err and b"Traceback" not in err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_that_is_put_off_is_still_one(number: int, code: int) -> None:
    """Heard at the end of a training step, it must not count as the second, which would end the program unsaved."""
    within = "with __import__('scedit_cli.training.interrupts').training.interrupts.undisturbed(): time.sleep(1)"
    program = SLEEPER.replace("time.sleep(30)", within)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", program], **pipes, cwd=ROOT)
    assert process.stdout.readline() == b"working\n"
    time.sleep(0.3)
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (code, b"saved\n") and b"stopped by" in err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_let_the_job_save_and_end_with_their_code(number: int, code: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SLEEPER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout.readline() == "working\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (code, "saved\n")
    assert "stopped by" in err and "--resume" in err and "Traceback" not in err

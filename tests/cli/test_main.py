"""How every command ends: its sentence, its exit code, and what signals do to it."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from typer.main import get_command

from scedit_cli.cli import app
from scedit_cli.cli.main import Terminated
from scedit_cli.utils.errors import SceditError, WorkFailed
from tests.cli.test_app import COMMANDS, MINIMAL, ROOT, call, fake, result


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (SceditError("a.png is no image", "name an image"), 2, "a.png is no image"),
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


@pytest.mark.parametrize(("more", "resumes"), [((), True), (("--dry-run",), False), (("--fit",), False)])
def test_only_a_stopped_training_resumes(monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...], resumes: bool) -> None:
    def work(*args: object, **kwargs: object) -> None:
        raise Terminated

    fake(monkeypatch, "train", work)
    assert ("--resume" in call("train", *more).stderr) == resumes


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_of_which_a_library_leaves_no_trace(monkeypatch: pytest.MonkeyPatch, number, code) -> None:
    def work(*args: object, **kwargs: object) -> None:
        with suppress(KeyboardInterrupt):
            signal.raise_signal(number)
        raise SceditError("a.safetensors cannot be read", "get it again")

    monkeypatch.setattr(signal, "default_int_handler", signal.getsignal(signal.SIGINT))  # whatever the tests run in
    fake(monkeypatch, "generate", work)
    answer = call("generate")
    assert answer.exit_code == code and answer.stderr.startswith("error: stopped by ")


def test_errors_that_are_each_others_cause_end_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(*args: object, **kwargs: object) -> None:
        first, second = SceditError("a.png is no image", "name an image"), OSError("unreadable")
        first.__cause__, second.__context__ = second, first
        raise first

    fake(monkeypatch, "train", work)
    answer = call("train")
    assert answer.exit_code == 2 and answer.stderr.startswith("error: a.png is no image")


FULL = Path("/dev/full")
NOT_WRITTEN = "error: stdout could not be written: No space left on device\nhint: see to where it goes\n"
needs_full = pytest.mark.skipif(not FULL.exists(), reason="this system has no device that is full")


@needs_full
@pytest.mark.parametrize("options", [[], ["--json"]], ids=["rows", "json"])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_result_that_stdout_does_not_take(name: str, options: list[str], monkeypatch, capsys) -> None:
    fake(monkeypatch, name, lambda *args, **kwargs: result())
    monkeypatch.setattr(sys, "stdout", stdout := FULL.open("w"))
    with pytest.raises(SystemExit) as ended:
        get_command(app).main([name, *MINIMAL[name], *options])
    with suppress(OSError):
        stdout.close()
    assert ended.value.code == 1 and capsys.readouterr().err == NOT_WRITTEN


@needs_full
@pytest.mark.parametrize(
    ("arguments", "streams", "code", "said"),
    [
        ("train --list --json", "> /dev/full", 1, NOT_WRITTEN),
        ("train --list", "> /dev/full", 1, NOT_WRITTEN),
        ("merge a --out b --json", "> /dev/full", 2, "error: --out b: a tuner"),
        ("merge a --out b --json", "| head -c 0", 2, "error: --out b: a tuner"),
        ("train --list --json", "| head -c 0", 1, ""),  # the reader has had enough
        ("merge a --out b", ">&-", 2, "error: --out b: a tuner"),
        ("train --list --json", ">&-", 0, ""),
        ("merge a --out b --json", "2> /dev/full", 2, ""),
        ("merge a --out b", "2> /dev/full", 2, ""),
        ("merge a --out b", "2>&-", 2, ""),
    ],
)
def test_streams_that_are_full_closed_or_left(arguments: str, streams: str, code: int, said: str) -> None:
    line = f"set -o pipefail; {sys.executable} -m scedit_cli {arguments} {streams}"
    answer = subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert answer.returncode == code and "Traceback" not in answer.stderr
    assert answer.stderr.startswith(said) if said else not answer.stderr


@needs_full
def test_notes_that_stderr_does_not_take_stop_no_work(monkeypatch) -> None:
    def work(*args: object, reporter, **kwargs: object) -> object:
        reporter.note("a note")
        reporter.progress(1, 1, "training")
        return result()

    fake(monkeypatch, "train", work)
    monkeypatch.setattr(sys, "stderr", stderr := FULL.open("w"))
    with pytest.raises(SystemExit) as ended:
        get_command(app).main(["train", *MINIMAL["train"]])
    with suppress(OSError):
        stderr.close()
    assert ended.value.code == 0


SLEEPER = """
import sys, time, types
import scedit_cli.jobs
from scedit_cli.cli import main

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
    _, err = process.communicate(timeout=120)
    assert process.returncode == code and b"stopped at once" in err and b"Traceback" not in err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_that_is_put_off_is_still_one(number: int, code: int) -> None:
    """Heard at the end of a training step, it must not count as the second, which would end the program unsaved."""
    within = "with __import__('scedit_cli.training.signals').training.signals.undisturbed(): time.sleep(1)"
    program = SLEEPER.replace("time.sleep(30)", within)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", program], **pipes, cwd=ROOT)
    assert process.stdout.readline() == b"working\n"
    time.sleep(0.3)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (code, b"saved\n") and b"stopped by" in err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_let_the_job_save_and_end_with_their_code(number: int, code: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SLEEPER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout.readline() == "working\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (code, "saved\n")
    assert "stopped by" in err and "--resume" in err and "Traceback" not in err

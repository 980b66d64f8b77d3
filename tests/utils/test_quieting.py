"""What is quiet, and that what others do meanwhile is left alone."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest

from scedit_cli.conditions.quiet import silent
from scedit_cli.models.loading import quiet

ROOT = Path(__file__).parents[2]


def in_a_thread(work) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def test_the_environment_of_other_threads_is_left_alone(monkeypatch):
    monkeypatch.setenv("SCEDIT_TEST_GOES", "1")
    monkeypatch.setenv("SCEDIT_TEST_CHANGES", "1")
    monkeypatch.delenv("SCEDIT_TEST_COMES", raising=False)

    def others() -> None:
        os.environ["SCEDIT_TEST_COMES"] = "mine"
        os.environ["SCEDIT_TEST_CHANGES"] = "2"
        del os.environ["SCEDIT_TEST_GOES"]

    with silent():
        in_a_thread(others)
    found = {name: os.environ.get(f"SCEDIT_TEST_{name}") for name in ("COMES", "CHANGES", "GOES")}
    monkeypatch.setenv("SCEDIT_TEST_COMES", "")  # so that it goes with the test
    assert found == {"COMES": "mine", "CHANGES": "2", "GOES": None}


@pytest.mark.parametrize("before", [None, "FALSE"])
def test_what_an_annotators_library_sets_is_put_back(monkeypatch, before):
    name = "KMP_DUPLICATE_LIB_OK"  # which lets two OpenMP libraries corrupt each other's results without a word
    monkeypatch.setenv(name, before or "")
    if before is None:
        monkeypatch.delenv(name)
    for module in [name for name in sys.modules if name.startswith("controlnet_aux.dwpose")]:
        monkeypatch.delitem(sys.modules, module)
    with silent():
        import controlnet_aux.dwpose  # noqa: F401

        assert os.environ[name] == "TRUE"
    assert os.environ.get(name) == before


def test_threads_that_are_quiet_at_once_leave_all_as_it_was():
    """One comes while another is in, and stays longer: it must not take the other's quiet for how things were."""
    import diffusers.utils.logging as log

    verbosity, filters, bars = log.get_verbosity(), warnings.filters[:], log.is_progress_bar_enabled()
    entered, leave = threading.Event(), threading.Event()

    def second() -> None:
        with quiet():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=second)
    with quiet():
        thread.start()
        assert entered.wait(10)
        assert log.get_verbosity() == log.ERROR
    assert log.get_verbosity() == log.ERROR and not log.is_progress_bar_enabled()  # for the second, still
    leave.set()
    thread.join()
    assert (log.get_verbosity(), warnings.filters[:], log.is_progress_bar_enabled()) == (verbosity, filters, bars)


@pytest.mark.skipif(find_spec("torchao") is None, reason="torchao is not installed")
@pytest.mark.parametrize(
    ("words", "is_quiet"),
    [
        ("generate --steps 1 --quiet --out {}/a.png", True),
        ("bench --methods sc --base scenes --batch 1 --steps 1 --quiet --plot {}/a.png", True),
        ("bench --estimate --methods sc --base scenes --with vae --quiet --out {}/a.json --plot {}/a.png", True),
        ("bench --sampling --resolution 64 --steps 1 --quiet --out {}/a.json", True),
        ("bench --sampling --resolution 64 --steps 1 --debug --out {}/a.json", False),
    ],
)
def test_what_torchao_and_diffusers_log_on_import_is_for_debug_alone(tmp_path, words, is_quiet):
    answer = subprocess.run(
        [sys.executable, "-m", "scedit_cli", *words.replace("{}", str(tmp_path)).split()],
        capture_output=True, text=True, cwd=ROOT, timeout=300,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    assert (answer.stderr == "") if is_quiet else ("KernelPreference" in answer.stderr)  # of torchao

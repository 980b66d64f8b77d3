"""How PyTorch's threads wait: chosen from the machine's load before PyTorch starts, never against the user."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from scedit_cli.utils import threads

NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS", "LOCAL_WORLD_SIZE")


@pytest.fixture
def choose(monkeypatch):
    """Return a function that chooses for a machine, and gives the variables that it set and the sentence."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(4), raising=False)
    monkeypatch.delitem(sys.modules, "torch", raising=False)

    def chosen(quota=None, pressure=0.0, others=0, **given):
        monkeypatch.setattr(threads, "_quota", lambda: quota)
        monkeypatch.setattr(threads, "pressure", lambda: pressure)
        monkeypatch.setattr(threads, "others_running", lambda: others)
        monkeypatch.setattr(os, "environ", dict(given))
        threads.choose_waiting()
        return {name: value for name, value in os.environ.items() if name not in given}, threads.waiting()

    return chosen


def test_threads_spin_shortly_on_a_quiet_machine(choose):
    assert choose() == ({"GOMP_SPINCOUNT": "10000"}, "a short spin, then asleep")


@pytest.mark.parametrize(
    "machine, why",
    [
        ({"others": 4}, "4 others run on 4 processors"),
        ({"pressure": 60.0}, "60 % of the last seconds"),
        ({"LOCAL_WORLD_SIZE": "2"}, "2 ranks on this machine"),
    ],
)
def test_threads_sleep_on_a_shared_machine(choose, machine, why):
    chosen, sentence = choose(**machine)
    assert chosen == {"OMP_WAIT_POLICY": "PASSIVE"}
    assert sentence.startswith("asleep (") and why in sentence


def test_a_container_has_no_more_threads_than_processors(choose):
    chosen, sentence = choose(quota=2.5)
    assert chosen == {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "2"}
    assert "2.5 of 4 processors" in sentence


def test_what_the_user_has_set_stays(choose):
    assert choose(others=4, GOMP_SPINCOUNT="7") == ({}, "GOMP_SPINCOUNT=7, set in the environment")
    assert choose(quota=1.0, OMP_NUM_THREADS="3")[0] == {"OMP_WAIT_POLICY": "PASSIVE"}


def test_nothing_changes_once_pytorch_has_started(choose, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", sys)
    assert choose(others=4)[0] == {}


def test_a_command_chooses_before_it_starts_pytorch():
    environment = {name: value for name, value in os.environ.items() if name not in NAMES}
    command = [sys.executable, "-m", "scedit_cli", "annotate", "missing.png", "--cond", "canny", "--debug"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert "threads wait for each other: a" in done.stderr  # a short spin, or asleep

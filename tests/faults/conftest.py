"""The fault harness: what breaks things on purpose, marked `faults`, and how many cases it tried."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
import torch

from tests.faults.small import Small, make_small

_TRIED = pytest.StashKey[Counter]()


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Threads do not survive a fork, so nothing here has any when it forks."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    # After a fork PyTorch makes its pool of threads anew at first use, which fails where two threads do so at once.
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


@pytest.fixture
def tried(request) -> Callable[[str, int], None]:
    """Counts cases for the summary: `tried("kills at a file operation of a save", 270)`."""
    counts = request.config.stash.setdefault(_TRIED, Counter())
    return lambda kind, count=1: counts.update({kind: count})


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Small:
    """The smallest of everything, made and called once, so that forked processes begin where the work begins."""
    return make_small(tmp_path_factory.mktemp("small"))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node) -> None:
    """Of a process of pytest-xdist that has ended, whose counts are added to those of this one."""
    counts = getattr(node, "workeroutput", {}).get("tried", {})
    node.config.stash.setdefault(_TRIED, Counter()).update(counts)


def pytest_sessionfinish(session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["tried"] = dict(session.config.stash.get(_TRIED, {}))


def pytest_terminal_summary(terminalreporter, config) -> None:
    if counts := config.stash.get(_TRIED, None):
        terminalreporter.section("faults tried")
        for kind, count in sorted(counts.items()):
            terminalreporter.write_line(f"{count:7,}  {kind}")
        terminalreporter.write_line(f"{sum(counts.values()):7,}  in all")


def pytest_collection_modifyitems(items) -> None:
    """Every test of this folder is one of the harness."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.faults)

"""`prepare`, `annotate` and `merge`, killed at their file operations: what they make is complete or absent, and a
second call finishes the work."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from scedit_cli.core.weights import load_tuner
from scedit_cli.data.dataset import open_dataset
from scedit_cli.data.shards import count_samples, write_shards
from tests.faults.commands import COMMANDS, Command
from tests.faults.ends import files_in, told
from tests.faults.forked import each, points, run
from tests.faults.shim import BROKEN_DISK, Shim, die
from tests.faults.small import Small

MOST = {"prepare": 20, "annotate": 20, "merge": 1000, "shards again": 12}


def _sharded(small: Small, place: Path) -> None:
    shutil.copytree(small.prepared, place / "data", ignore=shutil.ignore_patterns("cache"))
    write_shards(open_dataset(place / "data"), place / "data" / "shards", 3)


EVERY = COMMANDS | {
    "shards again": Command(
        _sharded, lambda small, place: ["prepare", "--out", place / "data", "--shards", "5"], ("data",)
    )
}


@pytest.mark.parametrize("name", MOST)
def test_a_second_call_finishes_what_was_killed(small: Small, tmp_path: Path, tried, name: str) -> None:
    command = EVERY[name]
    whole, count = undisturbed(command, small, tmp_path / "whole")  # files tell names, so all are of one length
    cases = [(at, act) for act in (die, BROKEN_DISK) for at in points(count, MOST[name])]

    def scenario(number: int) -> None:
        at, act = cases[number]
        place = command.made(small, tmp_path / f"{number:05}")
        ended = run(command.work(small, place, Shim(place, at, act)))
        if act is die and ended.code == 0:  # threads make folders at once: some runs have an operation less
            assert at > count - 3, ended
        elif act is die:
            assert ended.code == -9, ended
        elif ended.code:
            told(ended, 1)
        complete = is_complete(name, place)
        again = run(command.work(small, place))
        assert again.code == 0 or (complete and again.code == 2 and "exists already" in again.out), again
        assert command.content(place) == whole
        assert not [path for path in place.rglob(".*") if path.is_file()]
        shutil.rmtree(place)

    each(scenario, range(len(cases)))
    tried(f"{name}, killed or failed at a file operation", len(cases))


def undisturbed(command: Command, small: Small, place: Path) -> tuple[dict[str, bytes], int]:
    """What the command makes, and by how many file operations."""
    command.made(small, place)
    shim = Shim(place)

    def work() -> int:
        try:
            command.work(small, place, shim)()
        except SystemExit as left:
            assert not left.code
        return shim.count

    ended = run(work)
    assert ended.code == 0, ended
    return command.content(place), ended.value


def is_complete(name: str, place: Path) -> bool:
    """Whether the output is there; a part of it must not be."""
    if name == "merge":
        file = place / "combo.safetensors"
        return file.exists() and load_tuner(file).kind == "bundle"
    folder = place / "data"
    if not folder.exists():
        assert name == "prepare"
        return False
    assert len(open_dataset(folder)) == 5
    if (shards := folder / "shards").exists():
        sizes = json.loads((shards / "sizes.json").read_text())
        assert sizes == {path.name: count_samples(path) for path in shards.glob("*.tar")} and sum(sizes.values()) == 5
    assert name != "prepare" or {"report.json", "overview.png"} <= files_in(folder).keys()
    return False  # caches, columns and all shards may still be missing

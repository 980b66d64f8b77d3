"""Disks that are full, read-only, gone or forbidden: a sentence, exit code 1 or 2, and what was there is as it was."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import time
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from scedit_cli.training.checkpoints import newest_checkpoint
from tests.faults.commands import COMMANDS, SHOW, Command, tuners
from tests.faults.disks import forbid, mounted, why_not
from tests.faults.ends import files_in, told
from tests.faults.forked import Child, Ended, each, points, run
from tests.faults.shim import FULL, Shim
from tests.faults.small import Small
from tests.faults.test_commands_killed import undisturbed
from tests.faults.test_moments import logged

POINTS = 20
# What goes on being replaced, and whether the new one is whole, beside the old one.
WHOLE = {
    "run/recipe.toml": lambda new, old: tomllib.loads(new).keys() == tomllib.loads(old).keys(),
    "run/loss.png": lambda new, old: re.fullmatch(r".+: \d+ lines", new),  # as small.py draws it
    "run/README.md": lambda new, old: new.startswith("---\n") and new.count("\n## ") == old.count("\n## "),
    "data/metadata.jsonl": lambda new, old: names_in(new) == names_in(old),
}
GROWING = ("log.jsonl", "scores.jsonl", "contents.json")  # of a run that goes on, and a memory of what was read


def _merged(small: Small, place: Path) -> None:
    tuners(small, place)
    shutil.copy(place / "style.safetensors", place / "combo.safetensors")


def _shown(small: Small, place: Path) -> None:
    SHOW.make(small, place)
    for name in SHOW.output:
        (place / name).write_text("of an earlier call")


ALL = COMMANDS | {"bench": SHOW}
OVER = {
    "merge over a file": replace(
        COMMANDS["merge"],
        make=_merged,
        arguments=lambda small, place: [*COMMANDS["merge"].arguments(small, place), "--overwrite"],
    ),
    "bench over files": replace(SHOW, make=_shown),
}


@pytest.mark.parametrize("name", ALL)
def test_a_disk_that_is_full_from_some_operation_on(small: Small, tmp_path: Path, tried, name: str) -> None:
    command = ALL[name]
    whole, count = undisturbed(command, small, tmp_path / "whole")

    def scenario(at: int) -> None:
        place = command.made(small, tmp_path / f"{at:05}")
        before = files_in(place)
        ended = filling_up(command, small, place, at)
        # The last operation removes something, which needs no room; threads may save one before it.
        if ended.code or at < count - 2:
            assert "No space left on device" in told_full(ended, keeps=command.output == SHOW.output)
        assert_intact(place, before)
        again = run(command.work(small, place))
        assert again.code == 0 or (ended.code == 0 or name == "merge") and again.code == 2, again
        assert name in ("generate", "bench") or command.content(place) == whole
        shutil.rmtree(place)

    tried(f"{name} on a disk that fills up", at_points(scenario, count))


@pytest.mark.parametrize("name", OVER)
def test_what_is_replaced_is_old_or_new(small: Small, tmp_path: Path, tried, name: str) -> None:
    """Of outputs of an earlier call, on a disk that fills up: each is what it was, or what it is to become."""
    command = OVER[name]
    whole, count = undisturbed(command, small, tmp_path / "whole")

    def scenario(at: int) -> None:
        place = command.made(small, tmp_path / f"{at:05}")
        before = command.content(place)
        assert before and all(before[file] != data for file, data in whole.items()), "nothing of it would change"
        ended = filling_up(command, small, place, at)
        if ended.code:
            told_full(ended, keeps=command.output == SHOW.output)
        now = command.content(place)
        assert now.keys() == before.keys() and all(data in (before[file], whole[file]) for file, data in now.items())
        again = run(command.work(small, place))
        assert again.code == 0 and command.content(place) == whole, again
        shutil.rmtree(place)

    tried(f"{name} on a disk that fills up", at_points(scenario, count))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_small_disk(small: Small, tmp_path: Path, tried, name: str) -> None:
    """A real one, with less and less room on it."""
    if reason := why_not():  # asked here, for it mounts one: not while tests are collected
        pytest.skip(reason)
    command, disk = COMMANDS[name], tmp_path / "disk"
    disk.mkdir()

    def scenario(left: int) -> int:
        mounted(disk)
        place = command.made(small, disk / "place")
        before = files_in(place)
        leave(disk, left)
        ended = run(command.work(small, place))
        if ended.code:
            assert "No space left on device" in told(ended, 1)
        assert_intact(place, before)
        (disk / "ballast").unlink()
        again = run(command.work(small, place))
        assert again.code == 0 or ended.code == 0 and again.code == 2, again
        return ended.code

    codes = each(scenario, [0, 4, 16, 64], at_once=1)  # KiB
    assert codes[0] == 1
    tried(f"{name} on a small disk that is full", len(codes))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_place_that_cannot_be_written_to(small: Small, tmp_path: Path, tried, name: str) -> None:
    """Read-only disks, and folders without permission for whoever is no administrator."""
    command = COMMANDS[name]

    def scenario(way: str) -> None:
        place = tmp_path / way
        place.mkdir()
        if way == "read-only":
            mounted(place)
        inner = command.made(small, place / "inner")
        before = files_in(inner)
        if way == "read-only":
            mounted(place, "remount,ro")
        else:
            for folder in (inner, *(path for path in inner.rglob("*") if path.is_dir())):
                folder.chmod(0o555)
            forbid()
        ended = run(command.work(small, inner))
        said = told(ended, 1, 2)
        assert ("Read-only file system" if way == "read-only" else "Permission denied") in said, said
        assert files_in(inner) == before

    ways = ["forbidden"] + (["read-only"] if why_not() is None else [])
    each(scenario, ways)
    tried(f"{name} where nothing can be written", len(ways))


@pytest.mark.parametrize("name", ["prepare", "annotate", "generate", "merge"])
def test_a_folder_that_vanishes(small: Small, tmp_path: Path, tried, name: str) -> None:
    """Renamed at half of the operations in it, as when its disk is gone: a sentence, and what was there is as it was.
    `merge` has read all it needs, and may make the folder again. The command is called again when it is back."""
    command, place, gone = COMMANDS[name], tmp_path / "place", tmp_path / "gone"
    whole, count = undisturbed(command, small, tmp_path / "whole")
    command.made(small, place)
    before = files_in(place)
    ended = run(command.work(small, place, Shim(place, count // 2, lambda *_: place.exists() and place.rename(gone))))
    if name == "merge" and ended.code == 0:
        assert command.content(place) == whole and len(files_in(place)) == 1
    else:
        told(ended, 1, 2)
        assert not (place.exists() and files_in(place))
    shutil.rmtree(place, ignore_errors=True)  # made anew
    kept = files_in(gone)
    assert all(kept[file] == data for file, data in before.items() if not file.endswith("metadata.jsonl"))
    gone.rename(place)
    again = run(command.work(small, place))
    assert again.code == 0, again
    if name != "generate":  # which adds to what the first call has finished
        assert {file.replace("whole", "place") for file in whole} == set(command.content(place))
    tried(f"{name} in a folder that vanishes")


def test_a_run_whose_folder_vanishes(small: Small, tmp_path: Path, tried) -> None:
    """Removed, or another one in its place, as when its disk is gone: told at the next save, and nothing is written to
    what is there now."""

    def scenario(way: str) -> None:
        out = tmp_path / way
        child = Child(small.train(out, sets=["train.steps=5000", "train.checkpoint_every=40"]))
        while len(logged(out)) < 45:
            assert child.is_running()
            time.sleep(0.01)
        child.kill(signal.SIGSTOP)
        kept = out.rename(tmp_path / f"{way}-kept")
        if way == "replaced":
            out.mkdir()
        child.kill(signal.SIGCONT)
        ended = child.end()
        assert "gone" in told(ended, 1)
        assert list(out.rglob("*")) == [] if way == "replaced" else not out.exists()
        newest, torn = newest_checkpoint(kept / "checkpoints")
        assert newest and not torn

    each(scenario, ["removed", "replaced"])
    tried("runs whose folder vanishes", 2)


def filling_up(command: Command, small: Small, place: Path, at: int) -> Ended:
    """The command's end where its disk is full from this operation on."""
    return run(command.work(small, place, Shim(place, at, FULL, onward=True)))


def at_points(scenario: Callable[[int], None], count: int) -> int:
    """The scenario at operations spread over all `count`; returns at how many."""
    cases = points(count, POINTS)
    each(scenario, cases)
    return len(cases)


def told_full(ended: Ended, keeps: bool) -> str:
    """What is said of a file that cannot be written; a command that `keeps` its figures may say it beside them."""
    if not keeps or "error" in json.loads(ended.out):
        return told(ended, 1)
    assert ended.code == 1 and "Traceback" not in ended.err and json.loads(ended.out)["quality"], ended
    return ended.err


def names_in(metadata: str) -> list[str]:
    return [json.loads(line)["file_name"] for line in metadata.splitlines()]


def leave(disk: Path, kilobytes: int) -> None:
    """Fills the disk but for so much."""
    room = os.statvfs(disk)
    size = room.f_bavail * room.f_frsize - 1024 * kilobytes
    with (disk / "ballast").open("wb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            assert error.errno == errno.ENOSPC


def assert_intact(place: Path, before: dict[str, bytes]) -> None:
    """What was there is there, unchanged but for what grows, or again and whole; of a run, a checkpoint that can be
    read; no leftovers."""
    now = files_in(place)
    for file, data in before.items():
        if file.startswith("run/checkpoints") or file.endswith(GROWING):
            continue
        assert now[file] == data or file in WHOLE and WHOLE[file](now[file].decode(), data.decode()), file
    if (place / "run").exists():
        newest, torn = newest_checkpoint(place / "run" / "checkpoints")
        assert newest.step >= 4 and not torn
    assert not [file for file in now if "~" in file], now.keys()

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from scedit_cli.utils import io
from scedit_cli.utils.errors import SceditError, WorkFailed
from scedit_cli.utils.io import whole, whole_folder, write_new, write_whole


def test_a_file_is_replaced_in_one_step(tmp_path):
    path = tmp_path / "deep" / "log.jsonl"
    write_whole(path, "ä")
    assert path.read_text(encoding="utf-8") == "ä"
    with whole(path) as part:
        part.write_text("new")
        assert part.suffix == path.suffix and path.read_text(encoding="utf-8") == "ä"
    assert path.read_text() == "new"
    assert os.listdir(path.parent) == ["log.jsonl"]


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "tuner.bin"
    write_whole(path, b"old")
    with pytest.raises(KeyboardInterrupt), whole(path) as part:
        part.write_bytes(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["tuner.bin"]


def test_a_folder_appears_whole(tmp_path):
    with whole_folder(tmp_path / "world") as part:
        (part / "unet").mkdir()
        (part / "unet" / "config.json").write_text("{}")
        assert not (tmp_path / "world").exists()
    assert (tmp_path / "world" / "unet" / "config.json").read_text() == "{}"
    with pytest.raises(SceditError, match="world exists already"), whole_folder(tmp_path / "world"):
        pytest.fail("entered")
    with pytest.raises(ValueError), whole_folder(tmp_path / "other"):
        raise ValueError
    assert os.listdir(tmp_path) == ["world"]


def test_a_folder_is_replaced_when_the_new_one_is_complete(tmp_path, monkeypatch):
    def replaced(text: str) -> None:
        with whole_folder(tmp_path / "shards", replace=True) as part:
            (part / "sizes.json").write_text(text)
            assert text == "first" or (tmp_path / "shards" / "sizes.json").read_text() == "first"

    replaced("first")
    rename = os.replace

    def fails(source: Path, to: Path) -> None:
        if source.name == "new":
            raise OSError(errno.EIO, os.strerror(errno.EIO), source)
        rename(source, to)

    monkeypatch.setattr(io.os, "replace", fails)
    with pytest.raises(WorkFailed, match="shards could not be written"):
        replaced("second")
    assert (tmp_path / "shards" / "sizes.json").read_text() == "first"
    monkeypatch.undo()
    replaced("second")
    assert (tmp_path / "shards" / "sizes.json").read_text() == "second" and os.listdir(tmp_path) == ["shards"]


def test_names_may_be_as_long_as_the_file_system_takes_them(tmp_path):
    for name in ("a" * 244 + ".safetensors"[:11], "ä" * 122 + ".safetensor"):
        write_whole(tmp_path / name, b"x")
        assert write_new(tmp_path / name, b"y") is False and (tmp_path / name).read_bytes() == b"x"
    with whole_folder(tmp_path / ("b" * 255)) as part:
        part.joinpath("x").touch()
    assert len(os.listdir(tmp_path)) == 3
    with pytest.raises(SceditError, match="no text in UTF-8"):  # JSON, TOML and safetensors could not name it
        write_whole(tmp_path / os.fsdecode(b"caf\xe9"), b"")
    with pytest.raises(SceditError, match="File name too long"):
        write_whole(tmp_path / ("c" * 256), b"")


def test_threads_that_write_one_file_write_it_whole(tmp_path):
    path = tmp_path / "x.png"
    with whole(path) as one:
        one.write_bytes(b"one")
        with whole(path) as other:
            other.write_bytes(b"other")
        assert path.read_bytes() == b"other" and os.listdir(tmp_path) != ["x.png"]
    assert path.read_bytes() == b"one" and os.listdir(tmp_path) == ["x.png"]
    (tmp_path / "new").mkdir()
    for number in range(20):
        with ThreadPoolExecutor(4) as threads:
            path, ready = tmp_path / "new" / f"{number}.png", Barrier(4)
            parts = [bytes([each]) * 10000 for each in range(4)]
            written = list(threads.map(lambda data: ready.wait() >= 0 and write_new(path, data), parts))  # noqa: B023
        assert written.count(True) == 1 and path.read_bytes() == parts[written.index(True)]


def test_leftovers_are_those_of_processes_that_live_no_more(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    mark = io._machine()
    left = [f".{gone.pid}-{mark}~a.png", f".{os.getpid()}-{mark}~b.png", f".{gone.pid}-ffffff~old.png"]
    kept = [f".{os.getppid()}-{mark}~c.png", f".{gone.pid}-ffffff~new.png", ".hidden", "d.png"]
    for name in left + kept:
        (tmp_path / name).touch()
    (tmp_path / f".{gone.pid}-{mark}~step").mkdir()
    (tmp_path / f".{gone.pid}-{mark}~step" / "x").touch()
    os.utime(tmp_path / left[2], (0, 0))
    with whole(tmp_path / "mine.png") as part:
        io.sweep(tmp_path)
        part.touch()
    assert sorted(os.listdir(tmp_path)) == sorted([*kept, "mine.png"])


def test_a_folder_goes_in_one_step(tmp_path, monkeypatch):
    (tmp_path / "step").mkdir()
    (tmp_path / "step" / "x").touch()
    monkeypatch.setattr(io.shutil, "rmtree", lambda *args, **kwargs: None)  # killed, as it were
    io.discard(tmp_path / "step")
    assert [name.startswith(".") for name in os.listdir(tmp_path)] == [True]
    monkeypatch.undo()
    io.sweep(tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_place_that_vanishes_and_a_disk_that_breaks_are_failed_work(tmp_path):
    with pytest.raises(WorkFailed, match="deep is gone"), whole(tmp_path / "deep" / "x") as part:
        part.parent.rmdir()
        part.touch()
    with pytest.raises(WorkFailed, match="Input/output error") as broken, whole(tmp_path / "x"):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    assert "room" not in broken.value.hint


def test_a_link_to_a_folder_is_followed(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    with whole_folder(tmp_path / "link") as part:
        part.joinpath("x").touch()
    assert (tmp_path / "link").is_symlink() and os.listdir(tmp_path / "there") == ["x"]
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(SceditError, match="loop could not be written"), whole_folder(tmp_path / "loop") as part:
        part.joinpath("x").touch()


def test_errors_in_writing_become_sentences(tmp_path):
    with pytest.raises(WorkFailed, match="x could not be written: No space left") as full, whole(tmp_path / "x"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert full.value.exit_code == 1
    (tmp_path / "file").write_text("")
    with pytest.raises(SceditError, match="could not be written") as bad:
        write_whole(tmp_path / "file" / "x", b"")
    assert bad.value.exit_code == 2
    with pytest.raises(FileNotFoundError), whole(tmp_path / "x"):
        open(tmp_path / "another file")  # not about x, so not ours to explain


def test_errors_survive_a_process_boundary():
    error = pickle.loads(pickle.dumps(WorkFailed("out of memory", hint="lower the batch")))
    assert type(error) is WorkFailed and (error.message, error.hint) == ("out of memory", "lower the batch")


def test_a_new_file_never_replaces_another(tmp_path):
    assert write_new(tmp_path / "a" / "x.png", b"first")
    assert not write_new(tmp_path / "a" / "x.png", b"second")
    assert (tmp_path / "a" / "x.png").read_bytes() == b"first"
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["x.png"]


def test_a_file_that_appears_meanwhile_is_left_alone(tmp_path, monkeypatch):
    def intrude(path):
        (tmp_path / "x.png").write_bytes(b"mine")

    monkeypatch.setattr(io, "_flush", intrude)
    assert not write_new(tmp_path / "x.png", b"theirs")
    assert (tmp_path / "x.png").read_bytes() == b"mine" and len(list(tmp_path.iterdir())) == 1


@pytest.fixture(params=[errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EINVAL, errno.EACCES])
def no_links(request, monkeypatch) -> None:
    """A file system without hard links, as FAT and some network shares are."""

    def fails(source, to):
        raise OSError(request.param, os.strerror(request.param), source, None, to)

    monkeypatch.setattr(io.os, "link", fails)


def test_without_links_a_new_file_never_replaces_another(tmp_path, monkeypatch, no_links):
    assert write_new(tmp_path / "x.png", b"first") and not write_new(tmp_path / "x.png", b"second")
    assert (tmp_path / "x.png").read_bytes() == b"first" and os.listdir(tmp_path) == ["x.png"]

    def intrude(path):
        (tmp_path / "y.png").write_bytes(b"theirs")

    monkeypatch.setattr(io, "_flush", intrude)
    assert not write_new(tmp_path / "y.png", b"mine")
    with pytest.raises(SceditError, match="y.png exists already"), whole(tmp_path / "y.png", replace=False) as part:
        part.write_bytes(b"mine")
    assert (tmp_path / "y.png").read_bytes() == b"theirs" and sorted(os.listdir(tmp_path)) == ["x.png", "y.png"]


def test_without_links_a_failure_leaves_nothing(tmp_path, monkeypatch, no_links):
    def fails(source, to):
        raise OSError(errno.EIO, os.strerror(errno.EIO), source)

    monkeypatch.setattr(io.os, "replace", fails)
    with pytest.raises(WorkFailed, match="x.png could not be written"):
        write_new(tmp_path / "x.png", b"first")
    assert os.listdir(tmp_path) == []
    with pytest.raises(WorkFailed, match="deep is gone"), whole(tmp_path / "deep" / "x", replace=False) as part:
        part.touch()
        monkeypatch.setattr(io, "_flush", lambda _: part.unlink() or part.parent.rmdir())


_RACE = """
import os, sys, time
from scedit_cli.utils import io
def fails(*names):
    raise OSError(1, "Operation not permitted", *names[:1])
io.os.link = fails
me, folder = sys.argv[1], sys.argv[2]
open(f"{folder}/ready-{me}", "w").close()
while len(os.listdir(folder)) < 3:
    time.sleep(0.001)
print(*[number for number in range(300) if io.write_new(f"{folder}/files/{number:03d}", (me * 99).encode())])
"""


def test_of_two_processes_one_makes_each_new_file_even_without_links(tmp_path):
    (tmp_path / "files").mkdir()
    racers = [
        subprocess.Popen([sys.executable, "-c", _RACE, name, tmp_path], stdout=subprocess.PIPE, text=True)
        for name in "ab"
    ]
    won = [list(map(int, racer.communicate(timeout=60)[0].split())) for racer in racers]
    assert sorted(won[0] + won[1]) == list(range(300))
    for name, numbers in zip("ab", won, strict=True):
        assert all((tmp_path / "files" / f"{number:03d}").read_text() == name * 99 for number in numbers)
    assert len(os.listdir(tmp_path / "files")) == 300


def test_nobodys_home_is_told_and_nothing_else_looks_for_one():
    assert io.expanded("~/a") == Path.home() / "a" and io.expanded("b/~c") == Path("b/~c")
    with pytest.raises(SceditError, match="~no-such-user/a: ~no-such-user is nobody's home folder here"):
        io.expanded("~no-such-user/a")
    places = (Path(__file__).parents[2] / "scedit_cli").rglob("*.py")
    assert [path.name for path in places if ".expanduser(" in path.read_text("utf-8")] == ["io.py"]

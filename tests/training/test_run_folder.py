from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from scedit_cli.training.run_folder import RunFolder, choose_run, claimed
from scedit_cli.utils.errors import SceditError


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def begin(folder: str) -> None:
    Path(folder).mkdir(parents=True)
    for name in ("log.jsonl", "recipe.toml"):
        Path(folder, name).touch()


@pytest.mark.parametrize(
    "there, options, chosen",
    [
        ((), {}, "canny"),
        (("canny",), {}, "canny-2"),
        (("canny", "canny-2", "canny-10"), {}, "canny-11"),
        (("canny-2",), {}, "canny-3"),
        (("canny-edges", "canny-1", "depth"), {}, "canny"),
        ((), {"resume": True}, "canny"),
        (("canny", "canny-2"), {"resume": True}, "canny-2"),
        (("canny", "canny-2"), {"overwrite": True}, "canny"),
    ],
)
def test_runs_are_called_after_their_recipe(there, options, chosen):
    for name in there:
        begin(f"runs/{name}")
    assert choose_run("canny", None, **options).folder == Path("runs", chosen)


def test_a_folder_that_holds_a_run_is_refused_unless_told_otherwise():
    begin("mine")
    with pytest.raises(SceditError, match="already holds a run") as refused:
        choose_run("canny", "mine")
    assert "`resume`" in refused.value.hint and "`overwrite`" in refused.value.hint
    for told in ("resume", "overwrite"):
        assert choose_run("canny", "mine", **{told: True}).folder == Path("mine")
    with pytest.raises(SceditError, match="give one of them"):
        choose_run("canny", "mine", resume=True, overwrite=True)


def test_a_folder_with_other_things_is_no_run():
    Path("notes").mkdir()
    Path("notes/todo.txt").touch()
    assert not choose_run("canny", "notes").is_begun
    with pytest.raises(SceditError, match="is a file"):
        choose_run("canny", "notes/todo.txt")


@pytest.mark.parametrize("names", [["README.md"], ["recipe.toml", "samples/mine.png"], ["log.jsonl", "README.md"],
                                   ["README.md", "checkpoints/model.pt"]])  # fmt: skip
@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
def test_a_folder_of_somebody_else_is_left_alone(names, options):
    for place in ("mine", "runs/canny"):
        for name in names:
            Path(place, name).parent.mkdir(parents=True, exist_ok=True)
            Path(place, name).touch()
    with pytest.raises(SceditError, match=f"mine is no run's folder, and holds .*{names[0]}"):
        choose_run("canny", "mine", **options)
    if options:
        with pytest.raises(SceditError, match="runs/canny is no run's folder"):
            choose_run("canny", None, **options)


def test_a_run_is_known_as_one_until_it_is_gone(monkeypatch):
    """Killed at any moment of being removed, it can be overwritten again."""
    run = RunFolder(Path("run"))
    begin("run")
    for name in ("README.md", "tuner.safetensors", "samples/a.png", "checkpoints/step-000002/manifest.json"):
        Path("run", name).parent.mkdir(parents=True, exist_ok=True)
        Path("run", name).touch()
    unlink, seen = Path.unlink, []
    monkeypatch.setattr(Path, "unlink", lambda path, **options: (seen.append(run.is_strange), unlink(path, **options)))
    run.clear()
    assert len(seen) > 3 and not any(seen) and not run.is_begun


def test_a_claim_that_came_to_nothing_leaves_nothing():
    with claimed(RunFolder(Path("a/b/run"))) as run:
        assert json.loads((run.folder / ".lock").read_text())["pid"] == os.getpid()
    assert not Path("a").exists()
    with claimed(run):
        run.recipe.touch()
    assert [path.name for path in run.folder.iterdir()] == ["recipe.toml"]


def test_the_second_who_claims_a_run_is_told_who_holds_it():
    run = RunFolder(Path("run"))
    with claimed(run), pytest.raises(SceditError, match=f"in use by process {os.getpid()}"), claimed(run):
        pass
    assert not run.folder.exists()


def lock(**changes: object) -> None:
    me = {"pid": os.getpid(), "host": socket.gethostname(), "started": psutil.Process().create_time()}
    Path("run").mkdir()
    Path("run/.lock").write_text(json.dumps(me | changes))


def test_the_lock_of_a_process_that_is_gone_is_stale():
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    lock(pid=gone.pid)
    with claimed(RunFolder(Path("run"))):
        assert json.loads(Path("run/.lock").read_text())["pid"] == os.getpid()


def test_the_lock_of_an_earlier_process_of_the_same_number_is_stale():
    lock(started=psutil.Process().create_time() - 3600)
    with claimed(RunFolder(Path("run"))):
        pass


def test_locks_that_cannot_be_judged_are_respected():
    lock(host="elsewhere")
    with pytest.raises(SceditError, match="on elsewhere"), claimed(RunFolder(Path("run"))):
        pass
    Path("run/.lock").write_text("")
    with pytest.raises(SceditError, match="another process") as refused, claimed(RunFolder(Path("run"))):
        pass
    assert ".lock" in refused.value.hint


def test_clearing_takes_the_run_alone():
    begin("run")
    Path("run/checkpoints/step-000001").mkdir(parents=True)
    Path("run/mine.txt").touch()
    RunFolder(Path("run")).clear()
    assert [path.name for path in Path("run").iterdir()] == ["mine.txt"]

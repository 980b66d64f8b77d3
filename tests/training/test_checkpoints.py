from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scedit_cli.training.checkpoints import Checkpoint, newest_checkpoint, prune, save_checkpoint


def checkpoint(step: int) -> Checkpoint:
    return Checkpoint(step, {"tuner": {"w": torch.full((3,), float(step))}}, {"seconds": 0.1 * step})


def steps_in(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_saved_is_read_back(tmp_path):
    save_checkpoint(tmp_path / "c", checkpoint(7))
    read, torn = newest_checkpoint(tmp_path / "c")
    assert torn == [] and (read.step, read.state) == (7, checkpoint(7).state)
    assert torch.equal(read.tensors["tuner"]["w"], torch.full((3,), 7.0))


def test_the_two_newest_are_kept(tmp_path):
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, checkpoint(step))
    assert steps_in(tmp_path) == ["step-000002", "step-000003"]


def test_what_is_too_old_goes_on_resuming_too(tmp_path):
    for step in (1, 2, 3, 9):
        save_checkpoint(tmp_path, checkpoint(step), keep=9)
    prune(tmp_path, 3)
    assert steps_in(tmp_path) == ["step-000002", "step-000003", "step-000009"]


def test_those_of_a_run_that_was_given_up_go(tmp_path):
    for step in (2, 4):
        save_checkpoint(tmp_path, checkpoint(step))
    (tmp_path / "notes").mkdir()
    save_checkpoint(tmp_path, checkpoint(3))
    assert steps_in(tmp_path) == ["notes", "step-000002", "step-000003"]


def cut(path):
    file = path / "tuner.safetensors"
    file.write_bytes(file.read_bytes()[:-4])


def flip(path):
    file = path / "state.json"
    file.write_text(file.read_text().replace("0.2", "0.3"))


def lose(path):
    (path / "tuner.safetensors").unlink()


def unlist(path):
    (path / "manifest.json").unlink()


def empty(path):
    (path / "manifest.json").write_text("[]")


def of_another_time(path):
    manifest = path / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": "scedit-checkpoint/9"}))


@pytest.mark.parametrize("tear", [cut, flip, lose, unlist, empty, of_another_time])
def test_torn_ones_are_named_and_passed_over(tmp_path, tear):
    for step in (1, 2):
        save_checkpoint(tmp_path, checkpoint(step))
    tear(tmp_path / "step-000002")
    read, torn = newest_checkpoint(tmp_path)
    assert read.step == 1
    assert len(torn) == 1 and str(tmp_path / "step-000002") in torn[0]
    save_checkpoint(tmp_path, checkpoint(2))
    assert newest_checkpoint(tmp_path)[0].step == 2


def test_what_a_killed_process_was_writing_is_removed(tmp_path):
    save_checkpoint(tmp_path, checkpoint(1))
    gone = subprocess.run(
        [sys.executable, "-c", _KILLED, str(tmp_path)], capture_output=True, cwd=Path(__file__).parents[2], check=False
    )
    assert gone.returncode == -9 and len(steps_in(tmp_path)) == 2
    assert newest_checkpoint(tmp_path)[0].step == 1
    assert steps_in(tmp_path) == ["step-000001"]


_KILLED = """
import os, pathlib, sys
from scedit_cli.utils.io import whole_folder
with whole_folder(pathlib.Path(sys.argv[1]) / "step-000002") as part:
    (part / "tuner.safetensors").write_bytes(b"half")
    os.kill(os.getpid(), 9)
"""


def test_nothing_is_found_where_nothing_is(tmp_path):
    assert newest_checkpoint(tmp_path / "nowhere") == (None, [])

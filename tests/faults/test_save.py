"""A save of the training state that fails or is killed at any of its file operations."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from scedit_cli.training.checkpoints import read_checkpoint
from scedit_cli.training.loop import Loop
from tests.faults.ends import assert_same_end, told
from tests.faults.forked import each, run
from tests.faults.shim import BROKEN_DISK, Shim, die
from tests.faults.small import EVERY, STEPS, Small

SAVES = range(1, STEPS // EVERY + 1)


def test_every_file_operation_of_a_save(small: Small, tmp_path: Path, tried) -> None:
    """Each of them fails, and each of them is killed, in the first, the second and the third save of a run. Then the
    run goes on from this save or from the one before, and comes to what it comes to undisturbed."""

    def count(save: int) -> int:
        return len(run(saving(small, tmp_path / f"count-{save}", save, Shim(tmp_path), ends=True)).value)

    operations = {save: count(save) for save in SAVES}
    assert all(number > 20 for number in operations.values())

    def scenario(case: tuple[int, int, str]) -> None:
        save, at, how = case
        place = tmp_path / f"{how}-{save}-{at}"
        ended = run(saving(small, place / "run", save, Shim(place, at, die if how == "kill" else BROKEN_DISK)))
        if how == "kill":
            assert ended.code == -9, ended
        else:
            assert ended.code == 0 or told(ended, 1)
        found = {STEPS} if ended.code == 0 else {(save - 1) * EVERY, save * EVERY}
        assert_goes_on(small, place, found)
        shutil.rmtree(place)

    cases = [(save, at, how) for save in SAVES for at in range(1, operations[save] + 1) for how in ("kill", "fail")]
    each(scenario, cases)
    tried("saves killed or failed at a file operation", len(cases))


def test_what_gets_its_name_is_on_the_disk(small: Small, tmp_path: Path, tried) -> None:
    """All that is written is flushed before the renaming, and the folder right after it."""
    seen = run(saving(small, tmp_path / "run", 2, Shim(tmp_path), ends=True)).value
    named = [at for at, operation in enumerate(seen) if operation.startswith("os.rename ") and "~" in operation]
    for at in named:
        part = Path(seen[at].removeprefix("os.rename "))
        written = {each.removeprefix("write ") for each in seen[:at] if each.startswith(f"write {part}")}
        for file in written:
            assert f"fsync {file}" in seen[seen.index(f"write {file}") : at], (file, seen)
        is_folder = part.name == "new"
        if is_folder:
            assert f"fsync {part}" in seen[:at] and len(written) > 3
        assert written and seen[at + 1] == f"fsync {part.parent.parent if is_folder else part.parent}"
    assert len(named) == 2  # the checkpoint and the picture of the loss
    tried("files that are flushed before they get their names", len(named))


def saving(small: Small, out: Path, save: int, shim: Shim, ends: bool = False):
    """A run whose save of this number, and what belongs to it, is under the shim. With `ends`, it stops after it and
    gives the operations."""
    train, due, seen = small.train(out), Loop._save_what_is_due, iter(range(1, 100))

    def watched(loop: Loop) -> None:
        if not loop._is_due(EVERY):
            return
        shim.is_counting = next(seen) == save
        due(loop)
        ended, shim.is_counting = ends and shim.is_counting, False
        if ended:
            raise SystemExit

    def work() -> list[str]:
        shim.is_counting = False
        shim.arm()
        Loop._save_what_is_due = watched
        try:
            train()
        except SystemExit as done:
            if not ends:
                raise
            assert not done.code
        return shim.seen

    return work


def assert_goes_on(small: Small, place: Path, found: set[int] | range) -> None:
    """The run in `place` / run holds nothing unreadable; resumed, it goes on from one of these steps, ends as the
    undisturbed one in every bit, and leaves nothing else behind."""
    out = place / "run"
    for path in (out / "checkpoints").glob("step-*"):
        read_checkpoint(path)
    resumed = run(small.train(out, "--resume"))
    assert resumed.code == 0, resumed
    assert (json.loads(resumed.out)["resumed_at"] or 0) in found, resumed
    assert_same_end(small.finished, out)
    assert [path.name for path in place.iterdir()] == ["run"]

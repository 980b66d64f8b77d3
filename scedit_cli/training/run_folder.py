"""Run folders: their names, their files, and the lock that lets one process at a time work on a run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from scedit_cli.utils.errors import SceditError, WorkFailed
from scedit_cli.utils.io import discard, expanded
from scedit_cli.utils.locks import check_free, held, is_mine

RUNS = Path("runs")
_LOCK = ".lock"
_ANOTHER = "name another folder with `out`"


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run, which need not exist yet, and the paths of the files in it."""

    folder: Path

    @property
    def tuner(self) -> Path:
        return self.folder / "tuner.safetensors"

    @property
    def recipe(self) -> Path:
        return self.folder / "recipe.toml"

    @property
    def log(self) -> Path:
        return self.folder / "log.jsonl"

    @property
    def curve(self) -> Path:
        return self.folder / "loss.png"

    @property
    def samples(self) -> Path:
        return self.folder / "samples"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def scores(self) -> Path:
        return self.folder / "validation.jsonl"

    @property
    def score_curve(self) -> Path:
        return self.folder / "validation.png"

    @property
    def best(self) -> Path:
        return self.folder / "best.safetensors"

    @property
    def card(self) -> Path:
        return self.folder / "README.md"

    @property
    def tensorboard(self) -> Path:
        return self.folder / "tensorboard"

    @property
    def wandb(self) -> Path:
        return self.folder / "wandb"

    @property
    def _parts(self) -> tuple[Path, ...]:
        files = self.tuner, self.recipe, self.log, self.curve, self.card
        files = *files, self.scores, self.score_curve, self.best
        return *files, self.samples, self.checkpoints, self.tensorboard, self.wandb

    @property
    def is_begun(self) -> bool:
        """Whether the folder holds a run or a part of one."""
        return bool(self._there)

    @property
    def is_strange(self) -> bool:
        """Whether files with a run's names belong to something else, such as a project's README.md. A run writes its
        log first and removes it last; it also has its recipe, unless the user removed that."""
        has_log = self.log.exists() and (self.recipe.exists() or self._there == [self.log])
        return self.is_begun and not has_log and not any(self.checkpoints.glob("step-*/manifest.json"))

    @property
    def _there(self) -> list[Path]:
        return [part for part in self._parts if part.exists()]

    def clear(self) -> None:
        """Remove the run's files and nothing else. Checkpoints go first, so that a half-removed run is never resumed;
        the log goes last, so that the folder is still recognised as a run."""
        first, last = [self.checkpoints], [self.recipe, self.log]
        for part in (*first, *(part for part in self._parts if part not in first + last), *last):
            discard(part) if part.is_dir() else part.unlink(missing_ok=True)

    def check_own(self) -> None:
        """Check that the folder holds a run or none of a run's files.

        Raises:
            SceditError: files with a run's names are not those of a run.
        """
        if self.is_strange:
            names = ", ".join(part.name for part in self._there)
            raise SceditError(f"{self.folder} is no run's folder, and holds {names}", hint=_ANOTHER)

    def check_claim(self) -> None:
        """Check that this process still holds the folder's lock.

        Raises:
            WorkFailed: the folder is gone, or another process holds it now.
        """
        if not is_mine(self.folder / _LOCK):
            raise WorkFailed(
                f"{self.folder} is gone, or another process has taken it over", hint="see whether its disk is there"
            )


def choose_run(name: str, out: str | Path | None, resume: bool = False, overwrite: bool = False) -> RunFolder:
    """Return the run of a recipe called `name`: `out`, else the next free one of runs/NAME, runs/NAME-2, ….

    With `resume` it is the last existing one, with `overwrite` the first.

    Raises:
        SceditError: `out` is a file, or already holds a run and neither `resume` nor `overwrite` is given (the message
            names the process that works on it, if there is one); or the folder's files are not those of a run.
    """
    if resume and overwrite:
        raise SceditError("`resume` continues a run and `overwrite` replaces it", "give one of them", "resume")
    if out is not None:
        run = RunFolder(expanded(out))
        if run.folder.exists() and not run.folder.is_dir():
            raise SceditError(f"`out` {out} is a file", "name a folder", "out")
        run.check_own()
        if run.is_begun and not (resume or overwrite):
            check_free(run.folder / _LOCK, run.folder, _ANOTHER)
            raise SceditError(
                f"`out` {out} already holds a run",
                "name another folder, continue it by `resume`, or replace it by `overwrite`",
                "out",
            )
        return run
    numbered = re.compile(rf"{re.escape(name)}(?:-([2-9]|[1-9]\d+))?")
    folders = RUNS.iterdir() if RUNS.is_dir() else ()
    last = max((int(found[1] or 1) for folder in folders if (found := numbered.fullmatch(folder.name))), default=0)
    number = 1 if overwrite else max(last, 1) if resume else last + 1
    run = RunFolder(RUNS / (f"{name}-{number}" if number > 1 else name))
    run.check_own()
    return run


@contextmanager
def claimed(run: RunFolder) -> Iterator[RunFolder]:
    """Hold the run for this process alone, by a lock file in its folder that names this process.

    Afterwards the lock is removed, and so are the folders made for it, if they are empty.

    Raises:
        SceditError: another process works on the run, or the folder cannot be made.
    """
    with held(run.folder / _LOCK, run.folder, _ANOTHER):
        yield run

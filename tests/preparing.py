"""`prepare` and `open_source` with flat options, whose errors name the command line's options."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scedit_cli.cli.option_names import in_options
from scedit_cli.cli.prepare import request_of
from scedit_cli.data import sources
from scedit_cli.jobs import prepare as job
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.reporter import Reporter

_LEFT_OUT: Mapping[str, Any] = {
    "conditions": {}, "columns": {}, "split": None, "subset": None, "revision": None, "scenes": None, "seed": 0,
    "look": "plain", "held_out": False, "size": None, "square": False, "upscale": False, "strict": False,
    "allow_captionless": False, "drop_duplicates": False, "cache": (), "base": "scenes", "vae": None,
    "precision": None, "device": None, "shards": None,
}  # fmt: skip


@contextmanager
def as_options() -> Iterator[None]:
    """Translate the errors of the block as the screen does."""
    try:
        yield
    except SceditError as error:
        raise type(error)(in_options(error.message, error.field), in_options(error.hint), error.field) from error


def prepare(
    src: str | Path | None, out: str | Path, *, reporter: Reporter | None = None, **options: Any
) -> job.PrepareResult:
    with as_options():
        return job.prepare(**vars(request_of(src, Path(out), {**_LEFT_OUT, **options})), reporter=reporter)


def open_source(src: str | Path, **options: Any) -> sources.Source:
    with as_options():
        return sources.open_source(sources.Images(src, **options))

"""Drawing by the texts of the command line in this process; reading and comparing the images that `generate` draws."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from scedit_cli.cli.generate_request import generation_config
from scedit_cli.cli.option_names import in_options
from scedit_cli.conditions.annotation_spec import parameters_of
from scedit_cli.conditions.config import AnnotatorConfig
from scedit_cli.jobs import annotate as annotating
from scedit_cli.jobs import generate as job
from scedit_cli.utils.errors import SceditError
from scedit_cli.utils.reporter import SILENT, Reporter


class _InOptions(Reporter):
    """A reporter whose notes are those of the command line."""

    def __init__(self, reporter: Reporter) -> None:
        self.progress = reporter.progress
        self.note = lambda text: reporter.note(in_options(text))


@contextmanager
def told_in_options():
    """Errors in the block are told as the command line tells them."""
    try:
        yield
    except SceditError as error:
        raise type(error)(in_options(error.message, error.field), error.hint and in_options(error.hint)) from error


def annotate(src, kinds, out=None, params=(), sheet=None, preview=None, overwrite=False, reporter=None, **config):
    """The result of `scedit annotate` with these options."""
    kinds = [kinds] if isinstance(kinds, str) else kinds
    with told_in_options():
        given = parameters_of(kinds, params, "--param")
        options = {"out": out, "sheet": sheet, "preview": preview, "overwrite": overwrite, "reporter": reporter}
        return annotating.annotate(src, kinds, config=AnnotatorConfig(**config), **options, **given)


def draw(loaded=None, reporter=SILENT, **options):
    """The result of `scedit generate` with these options, by the names of its function's parameters; messages are those
    of the command line. A `loaded` base stands for the one that is named."""
    with told_in_options():
        config = generation_config(options)
        if loaded:
            as_it_is = dict.fromkeys(("vae", "prediction", "dtype", "device"))
            config = replace(config, base=replace(config.base, model=loaded, **as_it_is))
        return job.generate(**vars(config), reporter=_InOptions(reporter))


def pixels(path: str | Path) -> np.ndarray:
    """(H, W, 3), signed, so that differences are themselves."""
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def same(one: str | Path, other: str | Path) -> bool:
    return np.array_equal(pixels(one), pixels(other))


def near(one: str | Path, other: str | Path) -> bool:
    """To one level of rounding."""
    return np.abs(pixels(one) - pixels(other)).max() <= 1


def settings(path: str | Path) -> dict:
    """What a PNG says of how it was made."""
    return json.loads(Image.open(path).text["scedit"])

"""The smallest of everything that the commands take, and the base in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from scedit_cli.data.scenes import write_scenes
from scedit_cli.jobs import generate, prepare, train
from scedit_cli.models import base as bases
from scedit_cli.models.loading import quiet
from scedit_cli.recipe import Recipe
from scedit_cli.training import builders, loop
from scedit_cli.training.memory import Forecast
from scedit_cli.utils import io
from scedit_cli.utils.io import write_whole
from tests import tiny
from tests.faults.forked import program, run

PICTURES, STEPS, EVERY = 6, 6, 2
FORETOLD = 3 * 2**30  # bytes

_bases = cache(bases.load_base)


def load_once(model: str | Path, **options) -> bases.Base:
    """`load_base`, from memory after the first time."""
    return _bases(str(model), **options)


@dataclass(frozen=True)
class Small:
    """
    Attributes:
        data: a dataset folder of scenes with edges, its latents and texts cached.
        prepared: one of five pictures without conditions, as `prepare` writes it.
        base: a diffusers folder of a tiny SD2.1 whose U-Net is tinier still.
        recipe: a file: six steps, a checkpoint and a held-out loss after every second one, a scored grid after the
            fourth and the last, and a moving average.
        finished: the run that it comes to when nothing goes wrong.
    """

    folder: Path
    data: Path
    prepared: Path
    base: Path
    recipe: Path
    finished: Path

    def train(self, out: Path, *more: object, sets: Sequence[str] = ()) -> Callable[[], None]:
        """The program, training into `out`."""
        return self.program(*self.training(out, *more, sets=sets), "--json")

    def training(self, out: Path, *more: object, sets: Sequence[str] = ()) -> list[object]:
        options = [word for each in sets for word in ("--set", each)]
        return ["train", "--recipe", self.recipe, "--out", out, *options, *more]

    def program(self, *arguments: object) -> Callable[[], None]:
        """The program, as work for a forked process. The base is there already, the memory is foretold, and the
        picture of the loss is a line of text, which takes as many file operations."""
        command = program(*arguments)

        def work() -> None:
            builders.load_base = prepare.load_base = generate.load_base = load_once
            io._sweep_once.cache_clear()  # a process of its own has swept nothing yet
            train.forecast = lambda *about: Forecast({"foretold": FORETOLD})
            loop.draw_curve = lambda path, lines, title: write_whole(path, f"{title}: {len(lines)} lines")
            command()

        return work


def make_small(folder: Path) -> Small:
    names = ("data", "prepared", "small.toml", "finished")
    data, prepared, recipe_file, finished = (folder / name for name in names)
    small = Small(folder, data, prepared, folder / "base", recipe_file, finished)
    with quiet():
        tiny.pipeline(tiny.SMALLEST).save_pretrained(small.base)
    write_scenes(data, PICTURES, size=64, kinds=("canny",))
    write_scenes(prepared, 5, size=64, kinds=())
    recipe = {
        "base": {"model": str(small.base)},
        "tuner": {"kind": "csc", "condition": "canny", "hint_channels": 8, "hint_width": 0.25, "down_ratio": 0.25},
        "data": {"path": str(small.data), "caption_dropout": 0.3},
        "train": {
            "steps": STEPS, "batch_size": 2, "learning_rate": 0.01, "checkpoint_every": EVERY, "ema_decay": 0.5,
            "precision": "fp32",
        },
        "samples": {"every": 2 * EVERY, "count": 1, "steps": 1},
        "validation": {"pictures": 1, "every": EVERY, "timesteps": 1},
    }  # fmt: skip
    small.recipe.write_text(Recipe.from_dict(recipe).to_toml())
    _warm_up(small)
    first = run(small.train(small.finished))
    assert first.code == 0, first
    return small


def _warm_up(small: Small) -> None:
    """What a process does but once: imports, the base, the first backward pass."""
    before = builders.load_base, prepare.load_base, generate.load_base, loop.draw_curve, train.forecast
    try:
        small.train(small.folder / "warm")()
    except SystemExit as done:
        assert not done.code
    finally:
        builders.load_base, prepare.load_base, generate.load_base, loop.draw_curve, train.forecast = before

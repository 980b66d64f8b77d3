"""The functions of training that take a recipe's sections, for tests that have the whole recipe."""

from __future__ import annotations

from collections.abc import Mapping

from scedit_cli.core.tuners import Tuner
from scedit_cli.data.cache import Cache
from scedit_cli.data.dataset import Dataset
from scedit_cli.data.scenes import Example
from scedit_cli.models.base import Base
from scedit_cli.recipe import Recipe, without_folders
from scedit_cli.training import builders, memory, model_card
from scedit_cli.training.run_folder import RunFolder
from scedit_cli.utils.devices import training_precision
from scedit_cli.utils.distributed import Processes


def open_base(recipe: Recipe) -> Base:
    train = recipe.train
    if train.precision == "auto":  # `train` settles it first
        train = train.model_copy(update={"precision": training_precision()})
    return builders.open_base(recipe.base, train, recipe.samples)


def fresh_tuner(recipe: Recipe, base: Base) -> Tuner:
    return builders.fresh_tuner(recipe.tuner, recipe.train, base)


def examples(recipe: Recipe, dataset: Dataset) -> list[Example]:
    data = recipe.data
    kinds, specs = builders.kinds_read(recipe.tuner, data), builders.specs_of(data, recipe.train.seed)
    return builders.examples(recipe.samples, data, kinds, specs, dataset)


def forecast(recipe: Recipe, base: Base, cache: Cache, processes: Processes = Processes()) -> memory.Forecast:
    sections = recipe.tuner, recipe.train, recipe.data
    return memory.forecast(base, *sections, cache, processes, quantized=recipe.base.quantize)


def write_card(run: RunFolder, recipe: Recipe, base: Base, facts: Mapping[str, str], score: float | None) -> None:
    shown = without_folders(recipe).to_toml()
    model_card.write_card(run, shown, recipe.name, recipe.tuner, base, facts, score)

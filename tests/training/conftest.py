from __future__ import annotations

from collections.abc import Callable

import pytest
from PIL import Image

from scedit_cli.data.cache import Cache, cache_latents_and_text
from scedit_cli.data.dataset import Dataset, open_dataset, row_of, write_rows
from scedit_cli.data.scenes import write_scenes
from scedit_cli.models.base import Base, load_base
from scedit_cli.recipe import Recipe
from scedit_cli.training.trainer import Trainer
from tests import by_recipe, tiny

PICTURES, BATCH = 6, 4  # an epoch ends in the middle of the second batch


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> Dataset:
    """Scenes of 64 x 64 pixels with their edges."""
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(folder, PICTURES, size=64, kinds=("canny",))
    return open_dataset(folder)


@pytest.fixture(scope="session")
def mixed(tmp_path_factory) -> Dataset:
    """Pictures of three sizes with conditions, those of one size not side by side; SDXL is told where from."""
    folder = tmp_path_factory.mktemp("data") / "mixed"
    sizes = [(64, 64), (128, 64), (64, 64), (64, 128), (64, 64), (128, 64), (64, 64)]
    for place in ("images", "conditions/canny"):
        (folder / place).mkdir(parents=True)
        for index, size in enumerate(sizes):
            Image.effect_noise(size, 90 + index).convert("RGB").save(folder / place / f"{index}.png")
    rows = [row_of(f"{index}.png", f"picture {index}", ("canny",)) for index in range(len(sizes))]
    write_rows(folder, [row | {"original_width": 500, "original_height": 900 + i} for i, row in enumerate(rows)])
    return open_dataset(folder)


@pytest.fixture(scope="session")
def base() -> Base:
    return load_base(tiny.pipeline_folder("sd21"))


@pytest.fixture(scope="session")
def cache(dataset, base) -> Cache:
    return cache_latents_and_text(dataset, base, ["canny"])


@pytest.fixture(scope="session")
def make_trainer(base, dataset, cache) -> Callable[..., Trainer]:
    """Makes a trainer of a fresh tuner, always the same one, from options of [train], and `data`'s of [data]."""

    def make(data: dict | None = None, cache: Cache = cache, **options) -> Trainer:
        plain = {"steps": 4, "batch_size": BATCH, "learning_rate": 0.01, "precision": "fp32"}
        sections = {
            "tuner": {"kind": "csc", "condition": "canny", "hint_channels": 16},
            "data": {"path": str(dataset.path), "caption_dropout": 0.3} | (data or {}),
            "train": plain | options,
        }
        recipe = Recipe.from_dict(sections)
        tuner = by_recipe.fresh_tuner(recipe, base)
        return Trainer(base, tuner, cache, recipe.train, recipe.data)

    return make

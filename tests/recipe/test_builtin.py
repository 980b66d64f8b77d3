"""The recipes that come with scedit."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from scedit_cli.recipe import Recipe, builtin_recipes, load_recipe
from tests.recipe.test_schema import ROOT, keys

NAMES = ("canny", "color", "depth", "gradient", "inpaint", "normal", "seg", "style")  # of the embedded base
TASKS = ("canny", "color", "depth", "hed", "inpaint", "pose", "seg", "style")
FAMILIES = ("sd15", "sd21", "sdxl")
DEFAULT = keys(Recipe.from_dict({"tuner": {"kind": "sc"}}))
del DEFAULT["tuner.kind"]  # has none


def test_these_are_built_in() -> None:
    names = sorted((*NAMES, *(f"{base}-{task}" for base in FAMILIES for task in TASKS)))
    assert sorted(builtin_recipes()) == names
    assert f"has {len(names)} of them" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [f"{base}-{task}" for base in FAMILIES for task in TASKS])
def test_a_recipe_names_its_base_and_task(name: str) -> None:
    recipe = load_recipe(name)
    base, _, task = name.partition("-")
    assert {"sd15": "v1-5", "sd21": "2-1", "sdxl": "xl-base"}[base] in recipe.base.model
    assert (recipe.tuner.kind, recipe.tuner.condition) == (("sc", None) if task == "style" else ("csc", task))
    sizes = (320, 2.0) if base == "sdxl" and task != "style" else (256, 1.0)  # as the authors made them
    assert (recipe.tuner.hint_channels, recipe.tuner.hint_width) == sizes
    assert (recipe.train.optimizer, recipe.train.learning_rate, recipe.train.weight_decay) == ("adamw", 1e-4, 1e-2)


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").rglob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_shows_what_it_decides_and_nothing_else(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    recipe = load_recipe(path)
    assert f"scedit train --recipe {path.name}" in text
    assert recipe.name == path.stem
    assert len(text.splitlines()) <= 25
    written = tomllib.loads(text)
    inherited = keys(load_recipe(written.pop("extends"))) if "extends" in written else DEFAULT
    for section, pairs in written.items():
        for key, value in pairs.items():
            assert inherited.get(f"{section}.{key}") != value, f"{section}.{key} is this already"


@pytest.mark.parametrize("name", NAMES)
def test_the_shipped_recipes_train_on_the_embedded_base(name: str) -> None:
    recipe = load_recipe(f"{name}.toml")
    assert recipe.base.model == "scenes" and recipe.data.path is None
    assert (recipe.tuner.kind, recipe.tuner.condition) == (("sc", None) if name == "style" else ("csc", name))


@pytest.mark.parametrize("name", NAMES)
def test_a_resolved_built_in_reads_back_the_same(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    file = tmp_path / "again.toml"
    file.write_text(recipe.to_toml(), encoding="utf-8")
    assert keys(load_recipe(file)) == keys(recipe)


def test_the_mark_that_windows_editors_begin_a_file_with(tmp_path):
    text = builtin_recipes()["canny"].read_bytes().replace(b"\n", b"\r\n")
    (tmp_path / "canny.toml").write_bytes(b"\xef\xbb\xbf" + text)
    assert load_recipe(tmp_path / "canny.toml") == load_recipe("canny")

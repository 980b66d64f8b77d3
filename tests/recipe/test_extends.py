"""Recipes that take over the keys of another one."""

from __future__ import annotations

from pathlib import Path

import pytest

from scedit_cli.cli.train import settings
from scedit_cli.recipe import load_recipe
from scedit_cli.utils.errors import SceditError


def write(folder: Path, **recipes: str) -> Path:
    """The first of these files, all of them in `folder`."""
    for name, text in recipes.items():
        (folder / f"{name}.toml").write_text(text, encoding="utf-8")
    return folder / f"{next(iter(recipes))}.toml"


def test_keys_of_the_heir_win_and_the_others_are_inherited(tmp_path: Path) -> None:
    mine = write(
        tmp_path,
        mine='extends = "middle.toml"\ntrain.steps = 7\n',
        middle='extends = "canny.toml"\n[train]\nsteps = 5\nwarmup = 2\n[samples]\ncount = 1\n',
    )
    recipe, canny = load_recipe(mine), load_recipe("canny")
    assert (recipe.train.steps, recipe.train.warmup, recipe.samples.count) == (7, 2, 1)
    assert recipe.train.learning_rate == canny.train.learning_rate == 3e-3, "the default is 1e-3"
    assert (recipe.tuner, recipe.data, recipe.name) == (canny.tuner, canny.data, "mine")
    assert load_recipe(mine, settings(["train.steps=9"])).train.steps == 9


def test_a_file_beside_it_comes_before_the_built_in_and_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    write(elsewhere, canny='tuner.kind = "sc"\ntrain.steps = 2\n')
    monkeypatch.chdir(elsewhere)
    heir = write(tmp_path, heir='extends = "canny.toml"\n')
    assert load_recipe(heir).train.steps == 2, "none beside the heir: as --recipe finds it"
    write(tmp_path, canny='tuner.kind = "sc"\ntrain.steps = 3\n')
    assert load_recipe(heir).train.steps == 3


def test_conditions_take_the_place_of_an_inherited_one(tmp_path: Path) -> None:
    heir = write(tmp_path, heir='extends = "canny.toml"\ntuner.conditions = ["canny", "color"]\n')
    both = {"tuner.conditions": ["canny", "color"]}
    for recipe in (load_recipe(heir), load_recipe("canny", both), load_recipe(load_recipe("canny"), both)):
        assert (recipe.tuner.condition, recipe.tuner.conditions) == (None, ["canny", "color"])
        assert recipe.tuner.hint_kernel == 3, "all else is inherited"
    alone = load_recipe(heir, {"tuner.condition": "depth"})
    assert (alone.tuner.condition, alone.tuner.conditions) == ("depth", [])
    with pytest.raises(SceditError, match="they take the place of tuner.condition"):
        load_recipe("canny", both | {"tuner.condition": "canny"})


def test_the_resolved_recipe_extends_nothing_and_reads_back_the_same(tmp_path: Path) -> None:
    recipe = load_recipe("sdxl-depth")
    again = write(tmp_path, again=recipe.to_toml())
    assert "extends" not in recipe.to_toml()
    assert load_recipe(again).model_dump() == recipe.model_dump()


def test_mistakes_of_the_inherited_recipe_are_told_with_those_of_the_heir(tmp_path: Path) -> None:
    parent = 'tuner.kind = "sc"\ntrain.warmpu = 1\n'
    heir = write(tmp_path, heir='extends = "parent.toml"\ntrain.stps = 3\n', parent=parent)
    with pytest.raises(SceditError) as caught:
        load_recipe(heir)
    assert "train.stps: unknown; did you mean steps?" in caught.value.message
    assert "train.warmpu: unknown; did you mean warmup?" in caught.value.message


@pytest.mark.parametrize(
    ("recipes", "told"),
    [
        ({"a": "extends = 3\n"}, "a.toml: extends: expected the name of a recipe, not 3"),
        ({"a": 'extends = ""\n'}, "a.toml: extends: expected the name of a recipe, not ''"),
        ({"a": "[extends]\nx = 1\n"}, "a.toml: extends: expected the name of a recipe"),
        ({"a": 'extends = "cany"\n'}, "a.toml: extends: there is no recipe cany; did you mean canny?"),
        ({"a": 'extends = "a.toml"\n'}, "a.toml: extends: a.toml -> a.toml is a circle (a recipe cannot extend itself: rename a"),
        ({"a": 'extends = "b.toml"\n', "b": 'extends = "a.toml"\n'}, "a.toml -> b.toml -> a.toml is a circle (let the last"),
        ({"a": 'extends = "b.toml"\n', "b": "[train\n"}, "b.toml is not valid TOML"),
        ({"a": 'extends = "b.toml"\ntrain.steps = 3\n', "b": "train = 3\ntuner.kind = 'sc'"}, None),
        ({"a": 'extends = "b.toml"\ntrain = 3\n', "b": "tuner.kind = 'sc'"}, "train: expected a section [train]"),
    ],
)
def test_what_cannot_be_extended_is_told(tmp_path: Path, recipes: dict[str, str], told: str | None) -> None:
    heir = write(tmp_path, **recipes)
    if told is None:
        assert load_recipe(heir).train.steps == 3, "the heir's section replaces what is none"
        return
    with pytest.raises(SceditError) as caught:
        load_recipe(heir)
    assert told in str(caught.value) and caught.value.exit_code == 2 and caught.value.hint

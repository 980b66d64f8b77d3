from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from scedit_cli.recipe import Recipe, builtin_recipes, load_recipe
from scedit_cli.training.model_card import _LICENCES
from scedit_cli.training.run_folder import RunFolder
from tests import by_recipe

RECIPE = Recipe.from_dict(
    {"base": {"model": "some/base"}, "tuner": {"kind": "csc", "condition": "canny"}, "data": {"path": "dataset"}}
)


def test_the_card_says_what_the_hub_asks_for(base, tmp_path):
    run = RunFolder(tmp_path)
    run.samples.mkdir()
    for step in (200, 400):
        (run.samples / f"step-{step:06d}.png").touch()
    by_recipe.write_card(run, RECIPE, base, {"run": "runs/canny", "steps": "600 in 1:00 min"}, 0.75)
    card = ModelCard.load(run.card)
    assert card.data.license == "other" and card.data.pipeline_tag == "image-to-image"
    assert {"scedit", "csc-tuner", "canny"} <= set(card.data.tags)
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value) == ("control_score", 0.75)
    assert "| steps | 600 in 1:00 min |" in card.content and "runs/canny" not in card.content
    assert "samples/step-000400.png" in card.content and RECIPE.to_toml().strip() in card.content
    assert "--cond canny=condition.png" in card.content and base.fingerprint in card.content


@pytest.mark.parametrize(
    ("name", "licence"),
    [
        ("scenes", "apache-2.0"),
        ("stabilityai/stable-diffusion-xl-base-1.0", "openrail++"),
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", "creativeml-openrail-m"),
        ("segmind/SSD-1B", "apache-2.0"),
        ("stabilityai/sdxl-turbo", "other"),
    ],
)
def test_the_licence_is_that_of_a_base_known_by_name(base, tmp_path, name, licence):
    by_recipe.write_card(RunFolder(tmp_path), RECIPE, replace(base, name=name), {}, None)
    data = ModelCard.load(tmp_path / "README.md").data
    assert data.license == licence and data.base_model == (None if name == "scenes" else name)


def test_every_built_in_base_is_known_by_name():
    assert {load_recipe(name).base.model for name in builtin_recipes()} <= _LICENCES.keys()


def test_a_card_shows_no_folders_of_this_machine(base, tmp_path):
    mine = {"model": base.name, "vae": "/home/me/vae"}
    recipe = Recipe.from_dict({"base": mine, "tuner": {"kind": "sc"}, "data": {"path": "/home/me/cats"}})
    by_recipe.write_card(RunFolder(tmp_path), recipe, base, {}, None)
    card = ModelCard.load(tmp_path / "README.md")
    folder = Path(base.name)
    assert str(folder.parent) not in card.content and "/home/me" not in card.content
    assert f"--base {folder.name}" in card.content and f'model = "{folder.name}"' in card.content
    assert 'path = "cats"' in card.content and card.data.base_model is None


def test_a_card_without_score_and_samples(base, tmp_path):
    style = Recipe.from_dict({"tuner": {"kind": "sc"}})
    by_recipe.write_card(RunFolder(tmp_path), style, base, {}, None)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.pipeline_tag == "text-to-image" and not card.data.eval_results
    assert "samples/" not in card.content and "--cond" not in card.content

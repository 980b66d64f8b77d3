"""`train --explain`, and the page that is made from the schema."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from scedit_cli.cli import app
from scedit_cli.recipe import Recipe, load_recipe
from scedit_cli.recipe.explain import explain, reference
from scedit_cli.utils.errors import SceditError
from tests.recipe.test_schema import ROOT, keys


def test_every_key_is_explained_once() -> None:
    assert [each.key for each in explain("all")] == list(keys(load_recipe("canny")))
    for each in explain("all"):
        assert each.meaning.endswith(".") and each.takes, each.key


def test_what_a_key_takes_is_what_the_schema_checks() -> None:
    [shift] = explain("train.timestep_shift")
    assert (shift.takes, shift.default) == ("number > 0, ≤ 100", "3.0")
    [memory] = explain("train.memory")
    assert (memory.takes, memory.default) == ("one of plain, lean, checkpoint", '"lean"')
    [size] = explain("data.size")
    assert (size.takes, size.default) == ("list of 2 integer ≥ 8, ≤ 8192", "")
    assert {each.key.split(".")[0] for each in explain("samples")} == {"samples"}


@pytest.mark.parametrize(
    ("name", "meant"),
    [("train.stesp", "train.steps"), ("seed", "data.seed or train.seed"), ("trian", "train"), ("look", "data.look")],
)
def test_an_unknown_key_is_told_with_a_guess(name: str, meant: str) -> None:
    with pytest.raises(SceditError, match=f"`explain` {name}: .*did you mean {meant}") as caught:
        explain(name)
    assert all(section in caught.value.hint for section in Recipe.model_fields)


def test_the_command_explains() -> None:
    shown = CliRunner().invoke(app, ["train", "--explain", "train.ema_decay"])
    assert shown.exit_code == 0
    assert "moving average" in shown.output and "number ≥ 0, < 1; default 0.0" in shown.output
    document = json.loads(CliRunner().invoke(app, ["train", "--explain", "score", "--json"]).stdout)
    assert [each["key"] for each in document["keys"]] == ["score.scenes"]


def test_the_page_beside_the_recipes_is_what_the_schema_says() -> None:
    page = (ROOT / "recipes" / "README.md").read_text("utf-8")
    assert page.endswith(reference()), "put what scedit_cli.recipe.explain.reference() returns there"

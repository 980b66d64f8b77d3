"""What a base cannot do is told before the training for it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from scedit_cli.recipe import Recipe
from scedit_cli.utils.errors import SceditError
from tests import by_recipe, tiny


def _recipe(family: str, folder: Path | None = None, **samples) -> Recipe:
    base = {"model": str(folder or tiny.pipeline_folder(family))}
    data = {"path": "dataset"}
    return Recipe.from_dict({"base": base, "data": data, "tuner": {"kind": "sc"}, "samples": samples})


@pytest.mark.parametrize(("family", "steps"), [("lcm", 60), ("sd21", 1000)])
def test_steps_that_the_grids_cannot_have_are_told_before_training(family, steps):
    with pytest.raises(SceditError, match=f"samples.steps is {steps}: scheduler .* cannot take {steps} steps"):
        by_recipe.open_base(_recipe(family, steps=steps))


def test_guidance_that_the_grids_cannot_have_is_told_by_its_key(tmp_path):
    folder = shutil.copytree(tiny.pipeline_folder("sd15"), tmp_path / "base")
    config = json.loads((folder / "unet/config.json").read_text())
    [file] = (folder / "unet").glob("*.safetensors")
    weights = load_file(file)
    width = config["block_out_channels"][0]
    save_file(weights | {"time_embedding.cond_proj.weight": torch.zeros(width, 8)}, file, {"format": "pt"})
    (folder / "unet/config.json").write_text(json.dumps(config | {"time_cond_proj_dim": 8}))
    assert by_recipe.open_base(_recipe("sd15", folder)).family == "sd15"
    with pytest.raises(SceditError, match="samples.control_guidance is 2: base .* has guidance built in"):
        by_recipe.open_base(_recipe("sd15", folder, control_guidance=2))


def test_grids_that_are_not_drawn_need_no_steps():
    assert by_recipe.open_base(_recipe("lcm", steps=60, every=0)).family == "sd15"
    assert by_recipe.open_base(_recipe("lcm", steps=50)).family == "sd15"


@pytest.mark.parametrize(
    ("part", "value"), [("unet", torch.nan), ("unet", torch.inf), ("vae", torch.nan), ("text_encoder", torch.nan)]
)
def test_a_base_whose_weights_are_not_numbers_is_told_before_training(tmp_path, part, value):
    folder = shutil.copytree(tiny.pipeline_folder("sd15"), tmp_path / "base")
    [file] = (folder / part).glob("*.safetensors")
    weights = load_file(file)
    next(iter(weights.values())).view(-1)[0] = value
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(SceditError, match=f"base {folder}: .* of its {part} holds values that are not numbers") as told:
        by_recipe.open_base(_recipe("sd15", folder))
    assert told.value.exit_code == 2

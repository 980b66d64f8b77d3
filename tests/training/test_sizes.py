"""Pictures of several sizes in one run: every batch is of one of them."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from scedit_cli.data.cache import cache_latents_and_text
from scedit_cli.data.dataset import open_dataset, row_of, write_rows
from scedit_cli.models.base import load_base
from scedit_cli.recipe import Recipe, ValidationSection
from scedit_cli.training import builders
from scedit_cli.training.checkpoints import newest_checkpoint, save_checkpoint
from scedit_cli.training.datasets import check_dataset
from scedit_cli.training.trainer import Trainer
from scedit_cli.training.validation import HeldOut
from scedit_cli.utils.distributed import Processes
from scedit_cli.utils.errors import SceditError
from tests import by_recipe, tiny


@pytest.fixture(scope="module")
def xl():
    return load_base(tiny.pipeline_folder("sdxl"))


@pytest.fixture
def make(xl, mixed):
    """Makes a trainer on pictures of several sizes, in parts of two, without the last picture."""
    recipe = Recipe.from_dict(
        {
            "base": {"model": str(tiny.pipeline_folder("sdxl"))},
            "tuner": {"kind": "csc", "condition": "canny", "hint_channels": 16},
            "data": {"path": str(mixed.path), "caption_dropout": 0.3},
            "train": {"steps": 6, "batch_size": 3, "micro_batch_size": 2, "learning_rate": 0.01, "precision": "fp32"},
        }
    )
    cache = cache_latents_and_text(mixed, xl, ["canny"])
    return lambda: Trainer(xl, by_recipe.fresh_tuner(recipe, xl), cache, recipe.train, recipe.data, indices=range(6))


def test_batches_are_of_one_size_which_the_unet_is_told(make, mixed, xl, monkeypatch):
    told, original = [], type(xl).unet_arguments

    def spy(base, text, height, width, sizes):
        told.append((height, width, sizes.tolist()))
        return original(base, text, height, width, sizes)

    monkeypatch.setattr(type(xl), "unet_arguments", spy)
    seen, steps = [], 6
    with make() as trainer:
        for _ in range(steps):
            indices = trainer.advance().indices
            assert len({mixed.sizes[index] for index in indices}) == 1
            seen += [[900 + i, 500, 0, 0, *mixed.sizes[i][::-1]] for i in indices]
    assert [size for _, _, sizes in told for size in sizes] == seen
    assert {(height, width) for height, width, _ in told} == {(64, 64), (64, 128), (128, 64)}
    assert len(told) == 2 * steps and all([height, width] == sizes[0][4:] for height, width, sizes in told)


def test_a_run_that_was_stopped_ends_with_the_same_bits(make, tmp_path):
    def ended(trainer: Trainer, steps: int) -> list[torch.Tensor]:
        while trainer.step < steps:
            trainer.advance()
        return [each.clone() for each in trainer.tuner.state_dict().values()]

    with make() as whole:
        wanted = ended(whole, 6)
    for stop in (2, 5, 6):
        with make() as part:
            if stop > 2:
                part.restore(newest_checkpoint(tmp_path)[0])
            weights = ended(part, stop)
            save_checkpoint(tmp_path, part.checkpoint())
    assert all(torch.equal(a, b) for a, b in zip(weights, wanted, strict=True))


def test_held_out_pictures_of_all_sizes_count_alike(make, monkeypatch):
    options = ValidationSection(pictures=3, timesteps=2)
    with make() as trainer:
        alone = [HeldOut([index], options, Processes()).loss(trainer) for index in (1, 3, 6)]
        sizes, original = [], trainer.output
        monkeypatch.setattr(trainer, "output", lambda *args: sizes.append(len(args[0].indices)) or original(*args))
        assert HeldOut([1, 3, 6], options, Processes()).loss(trainer) == pytest.approx(sum(alone) / 3, rel=1e-5)
    assert sizes == [1, 1, 1, 1, 1, 1]


def test_samples_are_of_the_most_frequent_size(mixed, xl):
    recipe = Recipe.from_dict(
        {
            "base": {"model": "b"},
            "tuner": {"kind": "csc", "condition": "canny"},
            "data": {"path": str(mixed.path)},
            "samples": {"count": 5},
        }
    )
    shown = by_recipe.examples(recipe, mixed)
    assert [each.text for each in shown] == ["picture 0", "picture 2", "picture 4", "picture 6"]
    assert {each.image.size for each in shown} == {(64, 64)}
    assert builders.facts(recipe.base, recipe.train, "", xl, mixed, 1)["modelspec.resolution"] == "64x64"


def test_a_size_that_the_base_cannot_take_is_told(mixed, base, tmp_path):
    (tmp_path / "images").mkdir()
    for index, size in enumerate([(64, 64), (64, 64), (64, 96)]):
        Image.new("RGB", size).save(tmp_path / "images" / f"{index}.png")
    write_rows(tmp_path, [row_of(f"{index}.png", "", ()) for index in range(3)])
    check_dataset(mixed, base, ["canny"])
    with pytest.raises(SceditError, match="64x96 pixels; the sides .* multiples of 64"):
        check_dataset(open_dataset(tmp_path), base, [])

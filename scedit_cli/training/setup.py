"""From a recipe to the things that it names."""

from __future__ import annotations

import torch

from scedit_cli.base import Base, load_base
from scedit_cli.conditions import channels_of
from scedit_cli.conditions.orders import Order, orders_of
from scedit_cli.core.tuners import CSCTuner, SCTuner, Tuner
from scedit_cli.data.dataset import Dataset, open_dataset
from scedit_cli.data.rendered import SCENE_KINDS, Example
from scedit_cli.errors import SceditError
from scedit_cli.recipe import Recipe
from scedit_cli.training.material import OnStep, check_dataset, first_pictures, held_out_scenes, rendered_scenes
from scedit_cli.training.trainer import PRECISIONS

_LAYOUT = torch.channels_last  # a step takes a seventh less on a CPU; no value changes


def kinds(recipe: Recipe) -> list[str]:
    """The conditions that the tuner takes: one, or none for an SC-Tuner."""
    return [recipe.tuner.condition] if recipe.tuner.condition else []


def kinds_read(recipe: Recipe) -> list[str]:
    """Those of which the dataset has pictures."""
    return [kind for kind in kinds(recipe) if kind not in recipe.data.make]


def orders(recipe: Recipe) -> list[Order]:
    """For those that are made while training.

    Raises:
        SceditError: one that needs weights, an unknown one, or settings that cannot be.
    """
    made = orders_of(recipe.data.make, recipe.data.params, seed=recipe.train.seed, option="data.params:")
    for order in made:
        if order.annotator.weights:
            raise SceditError(
                f"data.make: {order.kind} needs a network for every picture, and is not made while training",
                hint=f"scedit annotate DATASET --cond {order.kind} makes it once",
            )
    return made


def open_base(recipe: Recipe) -> Base:
    """The base, in the precision to train in.

    Raises:
        SceditError: it cannot be loaded, or is no text-to-image model.
    """
    base = load_base(recipe.base.model, dtype=PRECISIONS[recipe.train.precision], revision=recipe.base.revision)
    if base.unet.config.in_channels != base.vae.config.latent_channels:
        raise SceditError(
            f"base.model {base.name}: its U-Net takes {base.unet.config.in_channels} channels, more than latents have",
            hint="name a text-to-image base, not one for inpainting",
        )
    base.unet.to(memory_format=_LAYOUT)
    return base


def find_dataset(recipe: Recipe, base: Base, on_step: OnStep | None = None) -> Dataset:
    """The pictures to learn from, rendered where the recipe names no dataset folder.

    Raises:
        SceditError: no such folder or condition, or pictures that `base` cannot learn.
    """
    data, wanted = recipe.data, kinds_read(recipe)
    if data.path:
        dataset = open_dataset(data.path)
    elif unknown := set(wanted) - set(SCENE_KINDS):
        raise SceditError(
            f"tuner.condition is {unknown.pop()}, which rendered scenes do not have",
            hint=f"choose one of {', '.join(SCENE_KINDS)}, or name a dataset folder with data.path",
        )
    else:
        dataset = rendered_scenes(data.scenes, data.seed, data.look, wanted, on_step)
    check_dataset(dataset, base, wanted)
    return dataset


def fresh_tuner(recipe: Recipe, base: Base) -> Tuner:
    """The tuner before its first step, the same for the same `train.seed`."""
    options = recipe.tuner
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.train.seed)
        if options.kind == "sc":
            tuner = SCTuner.for_unet(base.unet, options.down_ratio)
        else:
            tuner = CSCTuner.for_unet(
                base.unet,
                options.condition,
                hint_kernel=options.hint_kernel,
                hint_channels=options.hint_channels,
                hint_width=options.hint_width,
                down_ratio=options.down_ratio,
                in_channels=channels_of(options.condition),
            )
    return tuner.to(memory_format=_LAYOUT)


def examples(recipe: Recipe, dataset: Dataset) -> list[Example]:
    """What the grids show: held-out scenes, or the first pictures of a dataset folder."""
    samples, data = recipe.samples, recipe.data
    if data.path:
        shown = first_pictures(dataset, samples.count, kinds_read(recipe))
    else:
        shown = held_out_scenes(samples.count, samples.seed, kinds_read(recipe), dataset.size[0], data.look)
    for order in orders(recipe):
        for number, each in enumerate(shown):
            each.conditions[order.kind] = order.load(order.settings(str(number)))([each.image])[0]
    return shown


def facts(recipe: Recipe, base: Base, dataset: Dataset) -> dict[str, str]:
    """What the tuner file says about how it was made."""
    known = {
        "base": base.name,
        "base_revision": base.revision,
        "base_fingerprint": base.fingerprint,
        "prediction_type": base.prediction_type,
        "recipe": recipe.to_toml(),
        "steps": str(recipe.train.steps),
        "modelspec.resolution": "x".join(map(str, dataset.size)),
    }
    return {key: value for key, value in known.items() if value is not None}

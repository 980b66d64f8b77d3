"""`train --fit`: settings are tried from the cheapest to the leanest, until one fits the device."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from diffusers import UNet2DConditionModel

from scedit_cli.data.cache import cache_latents_and_text
from scedit_cli.models.base import load_base
from scedit_cli.recipe import Recipe
from scedit_cli.training import fitting, memory
from scedit_cli.utils.distributed import Processes
from scedit_cli.utils.errors import SceditError
from tests import tiny


@pytest.fixture(scope="module")
def recipe(dataset) -> Recipe:
    return Recipe.from_dict(
        {
            "base": {"model": str(tiny.pipeline_folder("sd15"))},
            "tuner": {"kind": "csc", "condition": "canny", "hint_channels": 16},
            "data": {"path": str(dataset.path)},
            "train": {"batch_size": 2, "precision": "fp32", "memory": "lean", "micro_batch_size": 3},
        }
    )


class OnCard:
    """A base that says that it is on a card, so that its forecasts are those of a card."""

    device = torch.device("cuda")

    def __init__(self, base):
        self._base = base

    def __getattr__(self, name):
        return getattr(self._base, name)

    def __copy__(self):
        return copy.copy(self._base)


@pytest.fixture(scope="module")
def base():
    """A U-Net of few and wide layers: every rung makes a step on fake tensors, and four bits need groups of weights."""
    base = load_base(tiny.pipeline_folder("sd15"))
    small = UNet2DConditionModel(**{**tiny.one_block().config, "block_out_channels": (64,)})
    base._loaded.register_modules(unet=small.requires_grad_(False).eval())
    del base.skips
    return base


@pytest.fixture(scope="module")
def cache(dataset, base):
    return cache_latents_and_text(dataset, base, ["canny"])


@pytest.fixture(scope="module")
def forecasts():
    return {}


@pytest.fixture(autouse=True)
def _no_card_is_needed(monkeypatch, forecasts):
    """The optimizer's state is measured on the CPU; the rest of a forecast asks for the device's name only. No forecast
    is made twice."""
    of_device, made = memory._state_bytes, fitting.forecast
    monkeypatch.setattr(memory, "_state_bytes", lambda options, shape, _: of_device(options, shape, torch.device("cpu")))

    def once(base, options, train, *others):
        key = train.model_dump_json(), base.device, others[-1]
        if key not in forecasts:
            forecasts[key] = made(base, options, train, *others)
        return forecasts[key]

    monkeypatch.setattr(fitting, "forecast", once)


def ladder(monkeypatch, recipe, base, cache, here: int) -> fitting.Ladder:
    monkeypatch.setattr(fitting, "memory_of", lambda device: here)
    return fitting.least_change(base, recipe.tuner, recipe.train, recipe.data, cache)


def forecast(recipe, base, cache, settings):
    train, storage = fitting.changed(recipe.train, settings), settings.get("base.quantize", "none")
    return fitting.forecast(base, recipe.tuner, train, recipe.data, cache, Processes(), False, storage)


def test_rungs_go_from_plain_to_four_bits_each_with_less_memory(monkeypatch, recipe, base, cache):
    card = OnCard(base)
    with pytest.raises(SceditError, match="nothing fits the 0 GiB on this cuda") as told:
        ladder(monkeypatch, recipe, card, cache, 0)
    least = re.search(r": (.*) needs", told.value.message)[1]
    assert "train.offload=encoder" in least and "base.quantize=int4" in least and "that works on" in told.value.hint
    needed = []
    for settings in fitting._rungs(2, "cuda", Processes()):
        needed.append((settings, forecast(recipe, card, cache, settings)))
    names = [[*settings.values()] for settings, _ in needed]
    assert names == [
        ["plain"], ["lean"], ["checkpoint"], ["checkpoint", 1], ["checkpoint", 1, "encoder"],
        ["checkpoint", 1, "encoder", "int8"], ["checkpoint", 1, "encoder", "int4"],
    ]  # fmt: skip
    peaks = [each.total for _, each in needed]
    assert peaks[1] < peaks[0] and peaks[2:] == sorted(peaks[2:], reverse=True)
    flops = [each.flops for _, each in needed]
    assert flops[0] <= flops[1] <= flops[2] and flops[2:4] == pytest.approx([flops[2]] * 2, rel=0.01)
    crossed = [each.transfers for _, each in needed]
    assert crossed[:4] == [0] * 4 and crossed[4] > crossed[5] > crossed[6] > 0
    whole = sum(each.nbytes for each in base.unet.down_blocks.parameters())
    assert crossed[4] == 2 * whole, "the encoder crosses once for each of two images"


def test_the_first_that_fits_ends_the_search(monkeypatch, recipe, base, cache):
    card = OnCard(base)
    lean = forecast(recipe, card, cache, {"train.memory": "lean"})
    found = ladder(monkeypatch, recipe, card, cache, lean.total + fitting.CONTEXT)
    assert found.document()["fit"]["train.memory"] == "lean" and [each.fits for each in found.rungs] == [False, True]
    rows = found.summary()
    assert rows[0][0] == "memory" and rows[-1][0] == "`train.memory=lean`" and rows[-1][1].endswith(": fits")
    assert ladder(monkeypatch, recipe, card, cache, 2**40).document()["fit"] == {"train.memory": "plain"}


def test_a_cpu_has_nothing_to_offload_from():
    rungs = [*fitting._rungs(2, "cpu", Processes())]
    assert not any("train.offload" in rung for rung in rungs) and rungs[-1]["base.quantize"] == "int4"

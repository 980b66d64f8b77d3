from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from scedit_cli.data.cache import cache_latents_and_text
from scedit_cli.data.dataset import open_dataset
from scedit_cli.data.scenes import write_scenes
from scedit_cli.models import quantization
from scedit_cli.models.base import load_base
from scedit_cli.recipe import Recipe
from scedit_cli.training.memory_tracker import LiveStorages
from scedit_cli.training.trainer import Trainer
from scedit_cli.utils.distributed import Processes
from scedit_cli.utils.errors import SceditError
from tests import by_recipe, tiny


@pytest.fixture(scope="module")
def base():
    return load_base(tiny.pipeline_folder("sd21"))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    write_scenes(folder, 2, size=64, kinds=("canny",))
    return folder


@pytest.fixture(scope="module")
def cache(base, data):
    return cache_latents_and_text(open_dataset(data), base, ["canny"])


def recipe(data: Path, **train) -> Recipe:
    return Recipe.from_dict(
        {
            "base": {"model": str(tiny.pipeline_folder("sd21"))},
            "tuner": {"kind": "csc", "condition": "canny", "hint_channels": 16},
            "data": {"path": str(data)},
            "train": {"batch_size": 4, "precision": "fp32"} | train,
        }
    )


@pytest.mark.parametrize(
    ("train", "quantize"),
    [
        ({"ema_decay": 0.5}, "none"),
        ({"micro_batch_size": 2, "memory": "plain", "optimizer": "adafactor"}, "none"),
        ({"memory": "checkpoint", "offload": "encoder"}, "int4"),
    ],
    ids=str,
)
def test_it_is_what_a_real_step_holds(base, data, cache, train, quantize):
    wanted = recipe(data, **train)
    if quantize != "none":
        pytest.importorskip("torchao")
        wanted = wanted.model_copy(update={"base": wanted.base.model_copy(update={"quantize": quantize})})
        base = load_base(tiny.pipeline_folder("sd21"))
        _ = base.fingerprint, base.parameter_count
        quantization.quantize(base.unet, quantize)
    foreseen = by_recipe.forecast(wanted, base, cache).peak
    assert foreseen.pop("others") > 50 * 2**20, "Python and its libraries"
    tuner = by_recipe.fresh_tuner(wanted, base)
    with Trainer(base, tuner, cache, wanted.train, wanted.data) as trainer:
        trainer.advance()
        learned = [*tuner.parameters(), *(trainer.average.shadow_params if trainer.average else ())]
        with LiveStorages("activations") as live:
            if trainer.offload:
                trainer.offload.bring = lambda host: [live.own("weights", [(here := host.clone())]), here][1]
            live.own("weights", [*base.unet.parameters(), *base.unet.buffers(), *learned])
            state = [each for kept in trainer.optimizer.state.values() for each in kept.values()]
            live.own("optimizer", [each for each in state if isinstance(each, Tensor)])
            live.own_gradients(tuner.parameters())
            live.forget_peak()
            trainer.advance()
    assert sum(foreseen.values()) == pytest.approx(live.peak, rel=0.02)
    assert foreseen["activations"] == pytest.approx(live.at_peak["activations"], rel=0.05)


def test_a_process_needs_what_its_share_does(base, data, cache):
    shares = [
        by_recipe.forecast(recipe(data, batch_size=count), base, cache, processes).peak["activations"]
        for count, processes in ((2, Processes()), (4, Processes(0, 2)), (4, Processes()))
    ]
    assert shares[0] == shares[1] < shares[2]


def test_what_cannot_be_told_says_why(base, data, cache, monkeypatch):
    wanted = recipe(data)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(SceditError, match="a part of the base"):
        by_recipe.forecast(wanted, base, cache, Processes(0, 2))


def test_nothing_is_left_on_the_base(base, data, cache):
    before, state = torch.get_rng_state(), dict(vars(base.unet))
    unet = base.unet
    by_recipe.forecast(recipe(data), base, cache)
    assert base.unet is unet and dict(vars(unet)) == state and torch.equal(torch.get_rng_state(), before)
    assert all(type(weight) is torch.nn.Parameter for weight in unet.parameters())

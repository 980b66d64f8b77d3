"""`generate --compile` for real, and what `--offload` asks of diffusers; neither changes the image."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from diffusers import DiffusionPipeline
from PIL import Image

from scedit_cli.core.attach import attached
from scedit_cli.core.tuners import CSCTuner, SCTuner
from scedit_cli.core.weights import save_tuner
from scedit_cli.generation import runner
from scedit_cli.generation.config import BaseConfig
from scedit_cli.jobs import generate as job
from scedit_cli.models.base import DTYPES, load_base
from scedit_cli.utils.errors import SceditError
from tests import tiny
from tests.jobs.drawn import draw, near, same


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A base that compiles quickly, its tuners and their conditions."""
    folder = tmp_path_factory.mktemp("small")
    pipeline, draw = tiny.pipeline("sd15"), torch.Generator().manual_seed(0)
    pipeline.register_modules(unet=tiny.one_block())
    tiny.trained(pipeline.unet)
    pipeline.save_pretrained(folder / "base")
    base = load_base(folder / "base")
    tuners = [CSCTuner.for_unet(base.unet, kind, hint_channels=8) for kind in ("canny", "color")]
    for tuner in (*tuners, SCTuner.for_unet(base.unet)):
        save_tuner(tiny.trained(tuner), folder / f"{tuner.condition or 'style'}.safetensors")
        noise = torch.randint(0, 256, (64, 64, 3), generator=draw).numpy().astype(np.uint8)
        Image.fromarray(noise).save(folder / f"{tuner.condition or 'style'}.png")
    options = {
        "base": base.name,
        "conds": [f"{folder}/canny.png", f"{folder}/color.png:0.7"],
        "tuners": [f"{folder}/{name}.safetensors" for name in ("canny", "color", "style")],
        "steps": 2,
        "guidance": 1.0,
    }
    return base, options


@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="torch.compile needs a C++ compiler")
def test_a_compiled_picture_is_the_eager_one(small, tmp_path, monkeypatch):
    base, options = small
    hooked, compile_ = [], torch.nn.Module.compile

    def seen(module):
        hooked.append(attached(base.unet) is not None)
        compile_(module)

    monkeypatch.setattr(torch.nn.Module, "compile", seen)
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    eager = draw(**options, out=tmp_path / "eager.png", loaded=base).images[0].path
    assert not torch._dynamo.utils.counters["stats"]
    made = draw(**options, compile=True, out=tmp_path / "made.png", loaded=base).images[0].path
    counted = torch._dynamo.utils.counters
    assert counted["stats"]["unique_graphs"] >= 1 and not counted["graph_break"] and counted["inductor"]
    assert near(made, eager)
    assert hooked == [True] and base.unet._compiled_call_impl is None and attached(base.unet) is None
    bare = draw(base=base.name, steps=2, guidance=1.0, out=tmp_path / "bare.png", loaded=base)
    assert not near(bare.images[0].path, eager)
    torch.compiler.reset()


def test_offloading_without_an_accelerator_is_told(small, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **options: None)
    with pytest.raises(SceditError, match="--offload: there is no accelerator"):
        draw(base=small[0].name, offload="models", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_offloaded_base_waits_on_the_cpu(small, tmp_path, monkeypatch):
    """The accelerator is played by the CPU: diffusers is asked to offload to it, and does nothing."""
    loaded, asked, original = [], [], job.load_base

    def load(*args, **options):
        loaded.append(options | {"base": original(*args, **options)})
        return loaded[-1]["base"]

    monkeypatch.setattr(job, "load_base", load)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **options: torch.device("cpu"))
    monkeypatch.setattr(DiffusionPipeline, "enable_model_cpu_offload", lambda self, device: asked.append(str(device)))
    _, options = small
    plain = draw(**options, out=tmp_path / "plain.png").images[0].path
    made = draw(**options, offload="models", out=tmp_path / "made.png").images[0].path
    assert [(str(each["device"]), each["dtype"]) for each in loaded[1:]] == [("cpu", torch.float32)]
    assert asked == ["cpu"] and same(made, plain)
    assert attached(loaded[-1]["base"].unet) is None and runner.accelerator() == torch.device("cpu")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **options: None)
    again = draw(from_file=made, out=tmp_path / "again.png").images[0].path  # where there is no accelerator
    assert same(again, made)


def test_a_loaded_base_is_left_without_hooks(small, tmp_path, monkeypatch):
    """As accelerate leaves them on every model, and moves the models to the CPU."""
    base, options = small

    def hooked(pipeline, device):
        for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
            add_hook_to_module(part, ModelHook())

    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **options: torch.device("cpu"))
    monkeypatch.setattr(DiffusionPipeline, "enable_model_cpu_offload", hooked)
    draw(**options, offload="models", out=tmp_path / "made.png", loaded=base)
    parts = (base.unet, base.vae, base.pipeline().text_encoder)
    assert not any(hasattr(part, "_hf_hook") for part in parts)


@pytest.mark.parametrize(
    ("model", "dtype", "expected"), [("scenes", None, "fp32"), ("sd15", None, "bf16"), ("scenes", "fp16", "fp16")]
)
def test_an_offloaded_base_has_the_precision_that_it_would_have_on_the_accelerator(monkeypatch, model, dtype, expected):
    loaded = []
    monkeypatch.setattr(job, "load_base", lambda *args, dtype, device, **options: loaded.append((dtype, device)))
    monkeypatch.setattr(job, "accelerator", lambda name: torch.device("cuda"))
    job._load(BaseConfig(model=model, dtype=dtype, offload="models"), [])
    assert loaded == [(DTYPES[expected], "cpu")]


def test_an_offloaded_encoder_draws_the_same_image_and_the_base_is_whole_again(small, tmp_path, monkeypatch):
    """The accelerator is played by the CPU: weights that are away have no elements."""
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **options: torch.device("cpu"))
    base, options = small
    before = [(name, weight.clone()) for name, weight in base.unet.named_parameters()]
    plain = draw(**options, out=tmp_path / "plain.png", loaded=base).images[0].path
    away = []
    handle = base.unet.up_blocks[0].register_forward_pre_hook(
        lambda *_: away.append(sum(each.numel() for each in base.unet.down_blocks.parameters()))
    )
    made = draw(**options, offload="encoder", out=tmp_path / "made.png", loaded=base).images[0].path
    handle.remove()
    assert same(made, plain) and away and set(away) == {0}
    after = list(base.unet.named_parameters())
    assert [name for name, _ in after] == [name for name, _ in before]
    assert all(torch.equal(one, other) for (_, one), (_, other) in zip(before, after, strict=True))

"""Every method on a tiny U-Net: what it trains, that it learns, and that it goes without a trace."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from scedit_cli import CSCTuner, SCTuner
from scedit_cli.benchmark.architecture import architecture
from scedit_cli.benchmark.methods import METHODS, Options, prepared
from scedit_cli.benchmark.step import loss_of, new_optimizer, random_batch
from tests import tiny

SMALL = Options(hint_channels=8, hint_width=0.25)


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
@pytest.mark.parametrize("method", METHODS)
def test_a_step_changes_what_is_trained_and_nothing_else(method, family, tmp_path):
    base = architecture(str(tiny.pipeline_folder(family)))
    unet = tiny.unet(family).to(torch.bfloat16)
    inputs, noise = random_batch(base, 2, 64, torch.bfloat16, "cpu")
    with prepared(method, unet, SMALL) as trainable:
        before = {value: value.detach().clone() for part in trainable.parts for value in part.parameters()}
        told = set()  # which weights a gradient has reached: the queries of a lone token get none
        optimizer = new_optimizer(trainable, 1e-2)
        for _ in range(2):  # what is zero at first lets nothing through to what lies before it
            with torch.autocast("cpu", torch.bfloat16):
                loss_of(trainable, inputs, noise, base).backward()
            assert all(weight.grad is not None for weight in trainable.weights)
            told |= {weight for weight in trainable.weights if weight.grad.any()}
            optimizer.step()
            optimizer.zero_grad()
        assert all(weight.dtype == torch.float32 for weight in trainable.weights)
        assert len(told) > 0.9 * len(trainable.weights)
        assert not any(torch.equal(weight, before[weight]) for weight in told)
        assert all(value.requires_grad or torch.equal(value, was) for value, was in before.items())
        trainable.save(tmp_path / "weights.safetensors")
        saved = load_file(tmp_path / "weights.safetensors")
        assert sum(value.numel() for value in saved.values()) == trainable.count


def test_hooks_go_with_the_method():
    for method in ("sc", "controlnet", "t2i-adapter", "csc-plain"):
        unet = tiny.unet("sd15")
        classes = [type(module) for module in unet.modules()]
        with prepared(method, unet, SMALL):
            pass
        assert [type(module) for module in unet.modules()] == classes
        assert not any(module._forward_pre_hooks or module._forward_hooks for module in unet.modules())


@pytest.mark.parametrize("method", ["csc", "controlnet", "t2i-adapter", "controlnet-xs"])
def test_hints_reach_the_answer_and_are_repeated_for_guidance(method):
    base = architecture(str(tiny.pipeline_folder("sd15")))
    inputs, _ = random_batch(base, 2, 64, torch.float32, "cpu")
    with prepared(method, tiny.unet("sd15"), SMALL) as trainable, torch.no_grad():
        for weight in trainable.weights:
            weight.add_(0.02 * torch.randn_like(weight))
        one = trainable.predict(inputs)
        trainable.hinted.set_hints(1 - inputs.hint)
        other = trainable.unet(inputs.latents, inputs.timesteps, **inputs.text).sample
        assert not torch.allclose(one, other)
        trainable.hinted.set_hints({"hint": inputs.hint})
        twice = trainable.unet(
            inputs.latents.repeat(2, 1, 1, 1),
            inputs.timesteps.repeat(2),
            inputs.text["encoder_hidden_states"].repeat(2, 1, 1),
        ).sample
        torch.testing.assert_close(twice, one.repeat(2, 1, 1, 1))


def test_the_sizes_are_chosen():
    unet = tiny.unet("sd15")
    with prepared("sc", tiny.unet("sd15")) as trainable:
        assert trainable.count == sum(p.numel() for p in SCTuner.for_unet(unet).parameters())
    tuner = CSCTuner.for_unet(unet, "hint", hint_kernel=3, hint_channels=8, hint_width=0.25)
    with prepared("csc-k3", tiny.unet("sd15"), SMALL) as trainable:
        assert trainable.count == sum(p.numel() for p in tuner.parameters())
    tuner = CSCTuner.for_unet(unet, "hint", down_ratio=0.5, hint_channels=8, hint_width=0.25)
    with prepared("csc", tiny.unet("sd15"), replace(SMALL, down_ratio=0.5)) as trainable:
        assert trainable.count == sum(p.numel() for p in tuner.parameters())
    with prepared("sc", tiny.unet("sd15"), replace(SMALL, down_ratio=2.0)) as trainable:
        assert trainable.count == sum(p.numel() for p in SCTuner.for_unet(unet, 2.0).parameters())
    # Rank r on four maps of two attentions, of which one reads the text; and on the two maps of the feed-forward.
    widths = [
        block.norm1.normalized_shape[0]
        for name, block in unet.named_modules()
        if name.endswith("transformer_blocks.0")
    ]
    attention = sum(2 * w * 6 + 2 * (tiny.TEXT_WIDTH + w) for w in widths)
    with prepared("lora", tiny.unet("sd15"), Options(lora_rank=5)) as trainable:
        assert trainable.count == 5 * attention
    with prepared("lora", tiny.unet("sd15"), Options(lora_rank=2, lora_feed_forward=True)) as trainable:
        assert trainable.count == 2 * (attention + sum(w + 8 * w + 4 * w + w for w in widths))
    with prepared("full", tiny.unet("sd15")) as trainable:
        assert trainable.count == unet.num_parameters()

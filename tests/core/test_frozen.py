from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.models.attention import FeedForward
from peft import LoraConfig
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from scedit_cli import CSCTuner, SCTuner, attach
from scedit_cli.core import frozen
from scedit_cli.core.frozen import lean
from scedit_cli.training.memory_tracker import LiveStorages
from tests import tiny
from tests.core.frozen_unets import MODES, call, equal, fixed, frozen_unet, gradients, tuned


@pytest.fixture
def small_pieces(monkeypatch):
    """Feed-forwards run in many pieces, the last one shorter."""
    monkeypatch.setattr(frozen, "_PIECE", 3 * 128 * 8)


@pytest.mark.parametrize(("memory", "recompute"), [MODES[0], MODES[-1]])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_float64_gradients_are_the_plain_ones(family, memory, recompute, trained, small_pieces):
    unet = frozen_unet(family, torch.float64)
    tuner = trained(CSCTuner.for_unet(unet, condition="canny", hint_channels=16)).double()
    plain, expected = tuned(unet, tuner)
    output, found = tuned(unet, tuner, memory, recompute)
    torch.testing.assert_close(output, plain, rtol=1e-12, atol=1e-12)
    equal(found, expected, 1e-12)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_float32_gradients_are_the_plain_ones_bit_for_bit(layout, trained):
    """In one piece, the arithmetic is the same."""
    unet = frozen_unet("sd15").to(memory_format=layout)
    tuner = trained(SCTuner.for_unet(unet)).to(memory_format=layout)
    plain, expected = tuned(unet, tuner, steps=2)
    for memory, recompute in MODES:
        output, found = tuned(unet, tuner, memory, recompute, steps=2)
        assert torch.equal(output, plain)
        equal(found, expected)


def test_in_pieces_float32_gradients_stay_close(trained, monkeypatch):
    monkeypatch.setattr(frozen, "_PIECE", 48 * 128 * 4)  # 3 pieces at the finest level, of unlike length
    unet = frozen_unet("sd21")
    tuner = trained(SCTuner.for_unet(unet))
    equal(tuned(unet, tuner, "lean")[1], tuned(unet, tuner)[1], 1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("base", ["half", "float32"])
def test_autocast(base, dtype, trained):
    def run(unet: nn.Module) -> Tensor:
        with torch.autocast("cpu", dtype):
            return call(unet)

    unet = frozen_unet("sd15", dtype if base == "half" else torch.float32)
    tuner = trained(CSCTuner.for_unet(unet, condition="canny", hint_channels=16))
    plain, expected = tuned(unet, tuner, run=run)
    for memory in ("lean", "checkpoint"):
        output, found = tuned(unet, tuner, memory, run=run)
        assert torch.equal(output, plain)
        equal(found, expected)


class NormsInFloat32(TorchFunctionMode):
    """What autocast does to normalisations on CUDA."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in (F.group_norm, F.layer_norm):
            args, kwargs = tree_map_only(Tensor, Tensor.float, (args, kwargs))
        return function(*args, **(kwargs or {}))


def in_bfloat16(unet: nn.Module) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return call(unet)


def test_norms_that_autocast_computes_in_float32_keep_their_half_precision_inputs(trained):
    def run(unet: nn.Module) -> Tensor:
        with NormsInFloat32():
            return in_bfloat16(unet)

    unet = frozen_unet("sd15", torch.bfloat16)
    tuner = trained(SCTuner.for_unet(unet))
    plain, expected = tuned(unet, tuner, run=run)
    output, found = tuned(unet, tuner, "lean", run=run)
    assert torch.equal(output, plain)
    equal(found, expected)
    assert not torch.equal(output, tuned(unet, tuner, run=in_bfloat16)[0])

    x = fixed(2, 64, 320, dtype=torch.bfloat16).requires_grad_()
    for norm in (nn.LayerNorm(320), nn.GroupNorm(8, 64)):
        norm.to(torch.bfloat16).requires_grad_(False)
        with NormsInFloat32(), lean(nn.Sequential(norm)):
            assert kept(lambda: norm(x)) < 1024 < kept(lambda: super(type(norm), norm).forward(x))


def kept(run: Callable[[], Tensor]) -> int:
    """Bytes that a forward pass keeps for its backward pass, beside what was there before it."""
    with LiveStorages() as live:
        output = run()
        held = sum(live.now.values())
    return held - output.untyped_storage().nbytes()


@pytest.mark.parametrize("memory", ["lean", "checkpoint"])
def test_beside_diffusers_own_checkpointing(memory, trained):
    unet = frozen_unet("sdxl").train()
    tuner = trained(SCTuner.for_unet(unet))
    expected = tuned(unet, tuner)[1]
    unet.enable_gradient_checkpointing()
    equal(tuned(unet, tuner, memory)[1], expected)


@pytest.mark.parametrize("memory", ["lean", "checkpoint"])
def test_compiled_in_one_graph(memory, trained):
    unet = UNet2DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=2,
        cross_attention_dim=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        mid_block_type=None,
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).requires_grad_(False)
    tuner = trained(SCTuner.for_unet(unet))
    plain, expected = tuned(unet, tuner)

    def run(unet: nn.Module) -> Tensor:
        return call(torch.compile(unet, backend="aot_eager", fullgraph=True))

    output, found = tuned(unet, tuner, memory, run=run)
    torch.testing.assert_close(output, plain, rtol=1e-5, atol=1e-6)
    equal(found, expected, 1e-5)


def test_distributed(trained, tmp_path):
    class Step(nn.Module):
        def __init__(self, unet: nn.Module, tuner: nn.Module) -> None:
            super().__init__()
            self.unet, self.tuner = unet, tuner

        def forward(self) -> Tensor:
            return call(self.unet)

    unet = frozen_unet("sd15")
    tuner = trained(SCTuner.for_unet(unet))
    expected = tuned(unet, tuner)[1]
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        for memory in ("lean", "checkpoint"):
            step = nn.parallel.DistributedDataParallel(Step(unet, tuner))
            equal(tuned(unet, tuner, memory, run=lambda _, step=step: step())[1], expected)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("checkpoint", [None, "layer"])
def test_under_lora(checkpoint):
    unet = frozen_unet("sd15")
    one = "up_blocks.1.attentions.0.transformer_blocks.0.ff.net.2"
    unet.add_adapter(LoraConfig(r=4, target_modules=["to_q", "to_v", one], init_lora_weights=False))

    def step() -> tuple[dict[str, Tensor], int]:
        with LiveStorages() as live:
            call(unet).square().sum().backward()
        return gradients(unet), live.peak

    expected, plain_peak = step()
    with lean(unet, checkpoint=checkpoint):
        found, peak = step()
    equal(found, expected)
    assert peak < 0.8 * plain_peak


def test_beside_a_controlnet():
    unet = frozen_unet("sd15")
    controlnet = ControlNetModel.from_unet(unet, conditioning_channels=3)
    for each in (*controlnet.controlnet_down_blocks, controlnet.controlnet_mid_block):
        nn.init.normal_(each.weight, std=0.1)

    def step() -> dict[str, Tensor]:
        context, times = fixed(2, 5, tiny.TEXT_WIDTH), torch.tensor([10, 500])
        down, mid = controlnet(fixed(2, 4, 8, 8), times, context, fixed(2, 3, 64, 64), return_dict=False)
        residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
        call(unet, **residuals).square().sum().backward()
        return gradients(controlnet)

    expected = step()
    with lean(unet):
        equal(step(), expected)


def test_a_norms_output_that_was_changed_has_no_origin():
    norm, act = nn.GroupNorm(4, 16).requires_grad_(False), nn.SiLU()
    x = fixed(2, 16, 5).requires_grad_()

    def gradient() -> Tensor:
        return torch.autograd.grad(act(norm(x).mul_(3)).sum(), x)[0]

    expected = gradient()
    with lean(nn.Sequential(norm, act)):
        assert torch.equal(gradient(), expected)


def test_what_a_decoder_keeps():
    """Per layer: a convolution nothing, norm and SiLU the norm's input, a feed-forward its norm's input."""
    x = fixed(2, 16, 8, 8).requires_grad_()
    conv = nn.Conv2d(16, 16, 3, padding=1).requires_grad_(False)
    block = nn.Sequential(nn.GroupNorm(4, 16), nn.SiLU(), conv).requires_grad_(False)
    one = x.untyped_storage().nbytes()
    assert kept(lambda: block(x)) >= 2 * one
    with lean(block):
        assert kept(lambda: block(x)) == 0
        assert kept(lambda: conv(x)) == 0
    y = fixed(2, 1024, 16).requires_grad_()
    forward = nn.Sequential(nn.LayerNorm(16), FeedForward(16)).requires_grad_(False)
    one = y.untyped_storage().nbytes()
    assert kept(lambda: forward(y)) >= 8 * one
    with lean(forward):
        assert kept(lambda: forward(y)) < one / 8  # the weights, which multiplying takes views of


def test_sampling_takes_the_plain_way(unet, run, trained, monkeypatch):
    tuner = trained(SCTuner.for_unet(unet))
    with attach(unet, tuner), torch.no_grad():
        plain = run(unet)
    for name in ("_Convolution", "_SiLU", "_GatedFeedForward"):
        monkeypatch.setattr(frozen, name, None)
    with attach(unet, tuner, memory="lean"), torch.inference_mode():
        assert torch.equal(run(unet), plain)


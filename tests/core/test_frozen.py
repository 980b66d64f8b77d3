from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from diffusers import ControlNetModel, UNet2DConditionModel
from peft import LoraConfig
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from scedit_cli import CSCTuner, SceditError, SCTuner, attach
from scedit_cli.benchmark.live import LiveStorages
from scedit_cli.core import frozen
from scedit_cli.core.attach import attached
from scedit_cli.core.frozen import lean
from tests import tiny

MODES = [("lean", "layer"), ("checkpoint", "transformer"), ("checkpoint", "layer"), ("checkpoint", "fine")]


def fixed(*shape: int, seed: int = 5, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def call(unet: nn.Module, size: int = 8, **more) -> Tensor:
    one = next(unet.parameters())
    if unet.config.addition_embed_type:
        embeddings = {"text_embeds": fixed(2, tiny.SECOND_WIDTH).to(one), "time_ids": fixed(2, 6).to(one)}
        more["added_cond_kwargs"] = embeddings
    context = fixed(2, 5, unet.config.cross_attention_dim).to(one)
    return unet(fixed(2, 4, size, size).to(one), torch.tensor([10, 500]), context, **more).sample


def frozen_unet(family: str, dtype: torch.dtype = torch.float32) -> UNet2DConditionModel:
    torch.manual_seed(1)
    return tiny.unet(family).to(dtype).requires_grad_(False)


def gradients(module: nn.Module) -> dict[str, Tensor]:
    found = {name: parameter.grad for name, parameter in module.named_parameters() if parameter.requires_grad}
    module.zero_grad(set_to_none=True)
    assert found and all(each is not None for each in found.values())
    return found


def tuned(unet: nn.Module, tuner, memory: str = "plain", recompute: str = "layer", steps: int = 1, run=call):
    """The output, and the gradients of a made-up loss, over `steps` accumulated passes."""
    with attach(unet, tuner, memory=memory, recompute=recompute) as edits:
        if tuner.condition:
            edits.set_hints(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(3)))
        for step in range(steps):
            output = run(unet)
            (output.float() * fixed(*output.shape, seed=step)).sum().backward()
    return output.detach(), gradients(tuner)


def equal(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 0.0) -> None:
    """To `tolerance` of each tensor's norm; 0 is bit for bit."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name] - value).norm() <= tolerance * value.norm(), name


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


@pytest.mark.parametrize(("memory", "recompute"), MODES)
def test_detaching_leaves_the_unet_as_it_was(memory, recompute, trained):
    unet = frozen_unet("sdxl")
    tuner = trained(SCTuner.for_unet(unet))
    kinds, keys, before = [type(each) for each in unet.modules()], list(unet.state_dict()), call(unet)
    attributes = [set(vars(each)) for each in unet.modules()]
    with attach(unet, tuner, memory=memory, recompute=recompute) as edits:
        assert [type(each) for each in unet.modules()] != kinds
        assert list(unet.state_dict()) == keys
        for copied in (copy.deepcopy(unet), pickle.loads(pickle.dumps(unet))):
            assert torch.equal(call(copied), call(unet))
            attached(copied).detach()
            assert [type(each) for each in copied.modules()] == kinds
            assert torch.equal(call(copied), before)
    edits.detach()
    assert [type(each) for each in unet.modules()] == kinds
    assert [set(vars(each)) for each in unet.modules()] == attributes
    assert torch.equal(call(unet), before)


def test_lean_within_lean():
    unet = frozen_unet("sd15")
    kinds = [type(each) for each in unet.modules()]
    with lean(unet):
        outer = [type(each) for each in unet.modules()]
        with pytest.raises(ValueError, match="on the way"), lean(unet, checkpoint="layer"):
            raise ValueError("on the way")
        assert [type(each) for each in unet.modules()] == outer
    assert [type(each) for each in unet.modules()] == kinds


def test_an_unknown_way_is_refused(unet):
    tuner = SCTuner.for_unet(unet)
    kinds = [type(each) for each in unet.modules()]
    with pytest.raises(SceditError, match="memory is 'leen'"):
        attach(unet, tuner, memory="leen")
    with pytest.raises(SceditError, match="'resnet' cannot be recomputed"):
        attach(unet, tuner, memory="checkpoint", recompute="resnet")
    assert [type(each) for each in unet.modules()] == kinds
    assert attached(unet) is None


def test_layers_that_learn_or_are_somebody_elses_are_left_alone():
    unet = frozen_unet("sd15")
    norms, conv = unet.up_blocks[1].attentions[0].norm.requires_grad_(True), unet.up_blocks[0].resnets[0].conv1
    conv.requires_grad_(True)
    block = unet.up_blocks[2].attentions[0].transformer_blocks[0]
    seen = []
    block.ff.net[0].register_forward_hook(lambda *_: seen.append(1))
    own = unet.up_blocks[1].resnets[0].conv2
    own.forward = lambda x: F.conv2d(x, own.weight, own.bias, padding=1) * 2
    tuner = SCTuner.for_unet(unet)
    tuned(unet, tuner)
    plain = gradients(unet)
    with lean(unet):
        assert type(own) is nn.Conv2d and "FrozenFeedForward" not in type(block.ff).__name__
        seen.clear()
        call(unet).square().sum().backward()
        assert seen
    found = gradients(unet)
    call(unet).square().sum().backward()
    equal(found, gradients(unet))
    assert plain.keys() == found.keys()
    assert norms.weight.grad is None and conv.weight.grad is None


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


def test_sampling_takes_the_plain_way(unet, run, trained, monkeypatch):
    tuner = trained(SCTuner.for_unet(unet))
    with attach(unet, tuner), torch.no_grad():
        plain = run(unet)
    for name in ("_Convolution", "_SiLU", "_GatedFeedForward"):
        monkeypatch.setattr(frozen, name, None)
    with attach(unet, tuner, memory="lean"), torch.inference_mode():
        assert torch.equal(run(unet), plain)


class Quantised(Tensor):
    """A weight in eight bits, as quantising libraries hold it: their own kind of tensor."""

    @staticmethod
    def __new__(cls, weight: Tensor) -> Quantised:
        return Tensor._make_wrapper_subclass(cls, weight.shape, dtype=weight.dtype)

    def __init__(self, weight: Tensor) -> None:
        self.scale = weight.abs().max() / 127
        self.levels = (weight / self.scale).round().to(torch.int8)

    @property
    def plain(self) -> Tensor:
        return self.levels * self.scale

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.detach.default:
            return args[0]
        return func(*tree_map_only(Quantised, lambda each: each.plain, args), **kwargs or {})


def test_layers_with_quantised_weights_are_left_alone():
    unet, same = frozen_unet("sdxl"), frozen_unet("sdxl")
    for quantised, plain in zip(unet.modules(), same.modules(), strict=True):
        if type(quantised) is nn.Linear:
            weight = Quantised(quantised.weight.detach())
            plain.weight.data = weight.plain
            quantised.weight = nn.Parameter(weight, requires_grad=False)
    with lean(unet):
        kinds = {type(module) for module in unet.modules()}
        assert frozen.FrozenConv2d in kinds and frozen.FrozenFeedForward not in kinds
    tuner = SCTuner.for_unet(unet)
    (output, found), (wanted, expected) = (tuned(each, tuner, "lean") for each in (unet, same))
    assert torch.allclose(output, wanted, atol=1e-5)
    assert all(torch.allclose(found[name], expected[name], atol=1e-5, rtol=1e-4) for name in expected)


def test_fake_weights_are_plain_ones():
    with FakeTensorMode():
        unet = tiny.unet("sd15").requires_grad_(False)
        with lean(unet):
            assert frozen.FrozenFeedForward in {type(module) for module in unet.modules()}

"""Tuners in diffusers' own pipelines, beside what else diffusers puts on a U-Net.

The reference gives the edits to an untouched U-Net by diffusers' own road: as the residuals that a ControlNet adds to
the skips.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from diffusers import (
    ControlNetModel,
    DiffusionPipeline,
    StableDiffusionAdapterPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    T2IAdapter,
)
from peft import LoraConfig
from torch import Tensor, nn

from scedit_cli import CSCTuner, SCTuner, attach
from scedit_cli.core.skips import survey
from scedit_cli.core.tuners import Tuner
from tests import tiny

SCALES = (0.7, -0.4)
LORA = ["to_q", "to_k", "to_v", "to_out.0", "conv_in", "conv1", "conv2", "conv_shortcut", "conv"]

Run = Callable[[], Tensor]


filled = partial(tiny.trained, size=0.05)


def picture(seed: int) -> Tensor:
    return torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def tuners(unet: nn.Module) -> list[Tuner]:
    return [filled(SCTuner.for_unet(unet), 1), filled(CSCTuner.for_unet(unet, "canny", hint_channels=8), 2)]


def call(pipeline: DiffusionPipeline, **more: object) -> Run:
    """Latents (1, 4, 8, 8) of a fixed seed, with guidance."""
    size = {} if "image" in more and "strength" in more else {"height": 64, "width": 64}

    def run() -> Tensor:
        pipeline.set_progress_bar_config(disable=True)
        return pipeline(
            prompt="a red cube", num_inference_steps=2, guidance_scale=4.0, output_type="latent",
            generator=torch.Generator().manual_seed(3), **size, **more,
        ).images  # fmt: skip

    return run


@contextmanager
def residuals(unet: nn.Module, added: list[Tuner], hint: Tensor) -> Iterator[None]:
    """Each call of `unet` runs twice: to see the skips, and with the edits as additional residuals."""
    forward, strides = unet.forward, survey(unet).strides

    @torch.no_grad()
    def twice(*args: object, **kwargs: object) -> object:
        skips: list[Tensor] = []

        def see(block: nn.Module, args: tuple, given: dict) -> None:
            skips[:0] = given["res_hidden_states_tuple"]

        handles = [block.register_forward_pre_hook(see, with_kwargs=True) for block in unet.up_blocks]
        # A T2I-Adapter's residuals are used up by a call.
        forward(*args, **{key: list(value) if isinstance(value, list) else value for key, value in kwargs.items()})
        for handle in handles:
            handle.remove()
        style, control = added
        features = control.encoder(hint, strides)
        edits = [SCALES[0] * style(skip, i) + SCALES[1] * control(skip, i, features[i]) for i, skip in enumerate(skips)]
        given = kwargs.pop("down_block_additional_residuals", None) or [0] * len(edits)
        middle = kwargs.pop("mid_block_additional_residual", None)
        kwargs["down_block_additional_residuals"] = [a + b for a, b in zip(given, edits, strict=True)]
        kwargs["mid_block_additional_residual"] = torch.zeros(()) if middle is None else middle
        return forward(*args, **kwargs)

    unet.forward = twice
    try:
        yield
    finally:
        del unet.forward


def check(unet: nn.Module, run: Run) -> Tensor:
    """With tuners on, `run` gives what the residuals give; without, or with fresh ones, what it gave before."""
    before = run()
    added, hint = tuners(unet), picture(9)
    with residuals(unet, added, hint):
        expected = run()
    with attach(unet, [SCTuner.for_unet(unet), CSCTuner.for_unet(unet, "canny")]) as edits:
        edits.set_hints({"canny": hint})
        assert torch.equal(run(), before)
    with attach(unet, added, SCALES) as edits:
        edits.set_hints({"canny": hint})
        edited = run()
        torch.testing.assert_close(edited, expected, rtol=0, atol=3e-5)
    assert torch.equal(run(), before)
    assert (edited - before).abs().max() > 1e-3
    return edited


@pytest.fixture
def sd15() -> StableDiffusionPipeline:
    return tiny.pipeline("sd15")


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_text_to_image(family):
    pipeline = tiny.pipeline(family)
    check(pipeline.unet, call(pipeline))


@pytest.mark.parametrize(
    ("family", "kind", "given"),
    [
        ("sd15", StableDiffusionImg2ImgPipeline, {"image": picture(4), "strength": 0.8}),
        ("sd15", StableDiffusionInpaintPipeline, {"image": picture(4), "mask_image": torch.ones(1, 1, 64, 64)}),
        ("sdxl", StableDiffusionXLImg2ImgPipeline, {"image": picture(4), "strength": 0.8}),
    ],
)
def test_other_pipelines_of_one_unet(family, kind, given):
    """The same attachment serves every pipeline that shares the U-Net."""
    text = tiny.pipeline(family)
    pipeline = kind.from_pipe(text)
    assert pipeline.unet is text.unet
    check(text.unet, call(pipeline, **given))
    assert isinstance(text, StableDiffusionPipeline | StableDiffusionXLPipeline)


def test_inpainting_unets_of_nine_channels(sd15):
    config = dict(sd15.unet.config) | {"in_channels": 9}
    torch.manual_seed(0)
    sd15.register_modules(unet=type(sd15.unet).from_config(config))
    pipeline = StableDiffusionInpaintPipeline.from_pipe(sd15)
    check(pipeline.unet, call(pipeline, image=picture(4), mask_image=torch.ones(1, 1, 64, 64)))


def test_freeu(sd15):
    run = call(sd15)
    plain = run()
    with attached(sd15.unet):
        alone = run()
    sd15.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    assert not torch.equal(check(sd15.unet, run), alone)
    with attached(sd15.unet):
        sd15.disable_freeu()
        assert torch.equal(run(), alone)
    assert torch.equal(run(), plain)


def test_lora(sd15):
    run = call(sd15)
    plain = run()
    with attached(sd15.unet):
        alone = run()
    sd15.unet.add_adapter(LoraConfig(r=2, target_modules=LORA))
    for name, parameter in sd15.unet.named_parameters():
        if "lora_" in name:
            filled(nn.ParameterList([parameter]), 6)
    both = check(sd15.unet, run)
    assert not torch.allclose(both, alone, atol=1e-3)
    sd15.unet.delete_adapters("default")
    with attached(sd15.unet):
        torch.testing.assert_close(run(), alone)
    sd15.unload_lora_weights()
    assert torch.equal(run(), plain)


def test_lora_that_comes_and_goes_while_tuners_are_on(sd15):
    run = call(sd15)
    with attached(sd15.unet):
        alone = run()
        sd15.unet.add_adapter(LoraConfig(r=2, target_modules=LORA))
        for name, parameter in sd15.unet.named_parameters():
            if "lora_" in name:
                filled(nn.ParameterList([parameter]), 6)
        both = run()
        sd15.unload_lora_weights()
        assert torch.equal(run(), alone) and not torch.equal(both, alone)


def test_ip_adapter(sd15):
    unet = sd15.unet
    alone_run = call(sd15)
    with attached(unet):
        alone = alone_run()
    draw = torch.Generator().manual_seed(7)
    projected = {}
    crossing = [name.removesuffix(".processor") for name in unet.attn_processors if "attn2" in name]
    for i, name in enumerate(crossing):
        layer = unet.get_submodule(name)
        for part in ("k", "v"):
            shape = getattr(layer, f"to_{part}").weight.shape
            projected[f"{2 * i + 1}.to_{part}_ip.weight"] = 0.3 * torch.randn(shape, generator=draw)
    projection = {
        "proj.weight": torch.randn(4 * tiny.TEXT_WIDTH, 12, generator=draw),
        "proj.bias": torch.zeros(4 * tiny.TEXT_WIDTH),
        "norm.weight": torch.ones(tiny.TEXT_WIDTH),
        "norm.bias": torch.zeros(tiny.TEXT_WIDTH),
    }
    unet._load_ip_adapter_weights([{"image_proj": projection, "ip_adapter": projected}], low_cpu_mem_usage=False)
    sd15.set_ip_adapter_scale(0.9)
    both = check(unet, call(sd15, ip_adapter_image_embeds=[torch.randn(2, 1, 12, generator=draw)]))
    assert not torch.allclose(both, alone, atol=1e-3)


def test_controlnet(sd15):
    control = filled(ControlNetModel.from_unet(sd15.unet, conditioning_channels=3), 8)
    pipeline = StableDiffusionControlNetPipeline.from_pipe(sd15, controlnet=control)
    with attached(sd15.unet):
        alone = call(sd15)()
    both = check(sd15.unet, call(pipeline, image=picture(5), controlnet_conditioning_scale=0.8))
    assert not torch.allclose(both, alone, atol=1e-3)


def test_t2i_adapter(sd15):
    adapter = filled(T2IAdapter(channels=[8, 16, 32, 32], num_res_blocks=1, adapter_type="full_adapter"), 8)
    pipeline = StableDiffusionAdapterPipeline.from_pipe(sd15, adapter=adapter)
    with attached(sd15.unet):
        alone = call(sd15)()
    both = check(sd15.unet, call(pipeline, image=picture(5)))
    assert not torch.allclose(both, alone, atol=1e-3)


def test_all_at_once(sd15):
    sd15.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    sd15.unet.add_adapter(LoraConfig(r=2, target_modules=LORA))
    for name, parameter in sd15.unet.named_parameters():
        if "lora_" in name:
            filled(nn.ParameterList([parameter]), 6)
    control = filled(ControlNetModel.from_unet(tiny.unet("sd15"), conditioning_channels=3), 8)
    pipeline = StableDiffusionControlNetPipeline.from_pipe(sd15, controlnet=control)
    check(sd15.unet, call(pipeline, image=picture(5)))


@contextmanager
def attached(unet: nn.Module) -> Iterator[None]:
    with attach(unet, tuners(unet), SCALES) as edits:
        edits.set_hints({"canny": picture(9)})
        yield
